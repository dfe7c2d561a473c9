// Choosing a class: what is there already comes first, and a new one is made on purpose.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact-standalone.js";
import { t } from "./words.js";

export const Icon = ({ name }) =>
  html`<svg class="icon" aria-hidden="true"><use href=${`#s-${name}`} /></svg>`;

/** The last part of a source's name. */
export const short = (name) => name.replace(/[\\/]+$/, "").split(/[\\/]/).pop();

/** Names of classes, those that are not answered last. */
export const namesOf = (classes) =>
  [...classes].sort((one, other) => one.disabled - other.disabled).map((one) => one.name);

/** Names in the order in which they help: those in question, then all the others. */
export function ranked(first, all) {
  const seen = new Set();
  return [...first, ...all].filter((name) => {
    const key = name.toLocaleLowerCase();
    return name && !seen.has(key) && seen.add(key);
  });
}

const inField = (event) => event.target.matches?.("input, textarea, select");

/**
 * @param names in order; the first nine have the keys 1 to 9.
 * @param onPick is told the name. keys: whether 1-9 and N are listened for on the whole page.
 */
export function Picker({ names, onPick, label, keys = true, busy = false }) {
  const [text, setText] = useState("");
  const field = useRef(null);
  const wanted = text.trim().toLocaleLowerCase();
  const shown = names.filter((name) => name.toLocaleLowerCase().includes(wanted)).slice(0, 30);
  const exact = names.find((name) => name.toLocaleLowerCase() === wanted);

  useEffect(() => {
    if (!keys) return undefined;
    const press = (event) => {
      if (inField(event) || event.ctrlKey || event.metaKey || event.altKey) return;
      if (/^[1-9]$/.test(event.key) && shown[event.key - 1]) {
        event.preventDefault();
        onPick(shown[event.key - 1]);
      } else if (event.key.toLowerCase() === "n") {
        event.preventDefault();
        field.current?.focus();
      }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });

  const submit = (event) => {
    event.preventDefault();
    if (exact) onPick(exact);
    else if (text.trim() && event.submitter?.name === "create") onPick(text.trim());
  };
  return html`
    <form class="picker" onSubmit=${submit}>
      <label class="over" for="picker-text">${label}</label>
      <input id="picker-text" ref=${field} type="search" dir="auto" autocomplete="off" maxlength="200"
        value=${text} placeholder=${t("pick.type")} onInput=${(event) => setText(event.target.value)} />
      ${text.trim() && !exact && html`
        <button name="create" class="primary whole create" disabled=${busy}>
          <${Icon} name="teach" /><span>${t("pick.create")} <bdi>“${text.trim()}”</bdi></span>
        </button>`}
      <ul>
        ${shown.map((name, i) => html`
          <li key=${name}>
            <button type="button" disabled=${busy} onClick=${() => onPick(name)}>
              ${keys && i < 9 && html`<kbd>${i + 1}</kbd>`}<bdi>${name}</bdi>
            </button>
          </li>`)}
      </ul>
    </form>`;
}
