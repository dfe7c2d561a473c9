// Unknown: what nobody named yet, in groups, to be named with one key.

import { cue, fail, say, toast, told } from "./app.js";
import { API, Away, get, queue } from "./api.js";
import { Icon, Picker, namesOf, ranked } from "./picker.js";
import { Socket } from "./socket.js";
import { html, render, useEffect, useState } from "./vendor/htm-preact-standalone.js";
import { ago, t } from "./words.js";

const place = document.getElementById("unknown");
const may = document.documentElement.dataset.role !== "viewer";
const socket = new Socket();
const SHOWN = 12;

function Unknown() {
  const [groups, setGroups] = useState(null);
  const [fresh, setFresh] = useState(false);
  const [classes, setClasses] = useState([]);
  const [at, setAt] = useState(0);
  const [out, setOut] = useState(new Set());
  const [busy, setBusy] = useState(false);

  const load = async () => {
    try {
      const [found, known] = await Promise.all([get("unknown"), get("classes")]);
      setGroups(found.groups);
      setClasses(namesOf(known.classes));
      setFresh(false);
      setAt(0);
      setOut(new Set());
    } catch (error) {
      if (!(error instanceof Away)) fail(error);
    }
  };
  useEffect(() => {
    load();
    let first = true;
    socket.addEventListener("open", () => setTimeout(() => { first = false; }, 700));
    socket.addEventListener("unknown", () => !first && setFresh(true));  // never under a finger
    document.addEventListener("accrue:changed", load);
  }, []);

  const group = groups?.[at];
  const chosen = group ? group.moments.filter((one) => !out.has(one.id)).map((one) => one.id) : [];
  const next = (answer) => {
    if (answer === null) setGroups((old) => old.filter((one) => one !== group));
    else load();
  };
  const name = async (label) => {
    if (!chosen.length || busy) return;
    setBusy(true);
    try {
      const answer = await queue.send("POST", "unknown/name", { json: { moments: chosen, name: label } });
      told(answer, t("unknown.named", { n: chosen.length, name: label }));
      say(t("unknown.named", { n: chosen.length, name: label }));
      next(answer);
    } catch (error) {
      fail(error);
    }
    setBusy(false);
  };
  const ignore = async () => {
    if (!chosen.length || busy) return;
    setBusy(true);
    try {
      const answer = await queue.send("POST", "unknown/ignore", { json: { moments: chosen } });
      cue("taught");
      toast(answer === null ? t("queue.kept") : t("unknown.ignored", { n: chosen.length }));
      next(answer);
    } catch (error) {
      fail(error);
    }
    setBusy(false);
  };
  const step = (by) => { setAt((old) => Math.min(groups.length - 1, Math.max(0, old + by))); setOut(new Set()); };

  useEffect(() => {
    const press = (event) => {
      if (!may || !group || event.target.matches?.("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      const act = { b: () => name(t("unknown.background_name")), x: ignore, ArrowRight: () => step(1), ArrowLeft: () => step(-1) }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (act) { event.preventDefault(); act(); }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });

  if (!groups) return html`<p>${t("common.wait")}</p>`;
  const news = fresh && html`<button type="button" class="whole" onClick=${load}><${Icon} name="unknown" />${t("unknown.fresh")}</button>`;
  if (!groups.length) return html`${news}<p class="hint">${t("unknown.none")}</p>`;
  return html`
    ${news}
    <section class="card current group" aria-label=${t("unknown.group", { number: at + 1, of: groups.length })} data-moments=${group.moments.length}>
      <h2>${t("unknown.group", { number: at + 1, of: groups.length })}</h2>
      <p class="facts"><span>${t("unknown.moments", { n: group.moments.length })}</span>
        <span>${ago(group.moments[group.moments.length - 1].last_at)}</span>
        ${group.nearest && html`<span>${t("live.nearest")} <bdi>${group.nearest}</bdi></span>`}</p>
      <div class="review">
        ${group.moments.slice(-SHOWN).reverse().map((one) => html`
          <button type="button" key=${one.id} aria-pressed=${!out.has(one.id)} aria-label=${t("unknown.moment", { number: one.id })} disabled=${!may}
            onClick=${() => setOut((old) => { const now = new Set(old); now.has(one.id) ? now.delete(one.id) : now.add(one.id); return now; })}>
            <img src=${`${API}/unknown/${one.id}/thumb.jpg`} alt="" />
            <span>${out.has(one.id) ? `✗ ${t("teach.left_out")}` : `✓ ${t("unknown.in")}`}</span>
          </button>`)}
      </div>
      ${may && html`
        <div class="verbs">
          <button type="button" onClick=${() => name(t("unknown.background_name"))} disabled=${busy}><kbd>B</kbd>${t("unknown.background")}</button>
          <button type="button" class="danger" onClick=${ignore} disabled=${busy}><kbd>X</kbd>${t("unknown.ignore")}</button>
        </div>
        <${Picker} key=${group.moments[0].id} names=${ranked([group.nearest], classes)} onPick=${name} busy=${busy} label=${t("unknown.what")} />`}
    </section>
    <div class="row">
      <button type="button" class="grow" onClick=${() => step(-1)} disabled=${at === 0}>${t("common.before")}</button>
      <button type="button" class="grow" onClick=${() => step(1)} disabled=${at >= groups.length - 1}>${t("common.next")}</button>
    </div>`;
}

if (place) {
  place.replaceChildren();
  render(html`<${Unknown} />`, place);
}
