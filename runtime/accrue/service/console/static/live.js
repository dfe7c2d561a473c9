// Live: what the camera sees, what the box calls it, and how to put that right.

import { cue, fail, say, toast, told } from "./app.js";
import { API, Away, call, get, newKey, presence, queue } from "./api.js";
import { Icon, Picker, namesOf, ranked, short } from "./picker.js";
import { Socket } from "./socket.js";
import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact-standalone.js";
import { ago, t } from "./words.js";

const place = document.getElementById("live");
const may = document.documentElement.dataset.role !== "viewer";
const socket = new Socket();
const SAY_EVERY_MS = 2000;

const remembered = () => Number(sessionStorage.getItem("camera") || 0);

function Answer({ answer, old }) {
  const verdict = answer?.verdict || "not_ready";
  const maybes = (answer?.alternatives || []).map((one) => one.label);
  const name = verdict === "unknown" ? t("state.unknown.name") : answer?.label || "–";
  const other = verdict === "maybe" ? maybes.find((one) => one !== answer.label) : null;
  return html`
    <section class=${`answer ${verdict}`} aria-label=${t("live.answer")} data-verdict=${verdict}>
      <div class="state"><${Icon} name=${verdict} /><span>${t(`state.${verdict}`)}</span></div>
      <div class=${`name ${name.length > 16 ? "long" : ""}`}><bdi>${name}</bdi></div>
      ${other && html`<div class="votes">${t("live.or")} <bdi>${other}</bdi>?</div>`}
      ${verdict === "unknown" && answer?.label && html`<div class="votes">${t("live.nearest")} <bdi>${answer.label}</bdi></div>`}
      ${verdict === "not_ready" && answer && (answer.label ? html`<div class="votes">${t("live.needs_more")}</div>`
        : may && html`<div class="votes"><a href="/teach">${t("live.teach_first")}</a></div>`)}
      <div class="votes">${answer ? t("live.votes", { votes: answer.votes, of: answer.of }) : t("live.waiting")}${old ? ` · ${t("live.old")}` : ""}</div>
    </section>`;
}

function Dialog({ title, onClose, children }) {
  const element = useRef(null);
  useEffect(() => { element.current.showModal(); }, []);
  return html`
    <dialog ref=${element} aria-labelledby="dialog-title" onClose=${onClose}>
      <header>
        <h2 id="dialog-title">${title}</h2>
        <button type="button" onClick=${() => element.current.close()} aria-label=${t("common.close")}><${Icon} name="close" /></button>
      </header>
      ${children}
    </dialog>`;
}

/** One tap on "wrong": the picture as it was then, and what it is. */
function Fix({ still, answer, classes, onClose }) {
  const [busy, setBusy] = useState(false);
  const first = answer ? [...answer.alternatives.map((one) => one.label), answer.label] : [];
  const label = answer?.verdict !== "unknown" && answer?.label;
  const names = ranked(first.filter((one) => one !== label), namesOf(classes).filter((one) => one !== label));
  const send = async (path, text) => {
    setBusy(true);
    try {
      const answer = await queue.send("POST", path, { parts: [["image", still.blob, "live.jpg"]], key: newKey() });
      told(answer, answer ? text(answer.body) : "");
      onClose();
    } catch (error) {
      fail(error);
      setBusy(false);
    }
  };
  const teach = (name) => send(`classes/${encodeURIComponent(name)}/teach`, (body) => body.receipts[0]?.skipped
    ? t("teach.skipped", { reason: t(`reason.${body.receipts[0].skipped.reason}`) }) : t("live.fixed", { name }));
  const wrong = classes.find((one) => one.name === label);
  return html`
    <${Dialog} title=${t("live.fix.title")} onClose=${onClose}>
      <img class="still" src=${still.url} alt=${t("live.still")} />
      ${label && wrong && html`
        <p></p><button type="button" class="danger whole" disabled=${busy}
          onClick=${() => send(`classes/${wrong.id}/not`, () => t("live.noted", { name: label }))}>
          <${Icon} name="close" /><span>${t("live.not_this")} <bdi>${label}</bdi></span></button>`}
      <${Picker} names=${names} onPick=${teach} busy=${busy} label=${t("live.fix.is")} />
    <//>`;
}

/** Why: the kept shots that spoke for the answer, each with a way to say that it is wrong. */
function Why({ still, classes, onClose }) {
  const [found, setFound] = useState(null);
  const [wrong, setWrong] = useState(null);
  useEffect(() => {
    call("POST", "why", { parts: [["image", still.blob, "live.jpg"]] })
      .then(({ body }) => setFound(body.answers[0]))
      .catch((error) => { fail(error); onClose(); });
  }, []);
  const move = async (name) => {
    try {
      told(await queue.send("POST", "shots/relabel", { json: { shots: [wrong.id], class: name } }), t("live.moved", { name }));
      onClose();
    } catch (error) {
      fail(error);
    }
  };
  return html`
    <${Dialog} title=${wrong ? t("live.wrong.title") : t("live.why.title")} onClose=${onClose}>
      ${!found && html`<p>${t("common.wait")}</p>`}
      ${wrong && html`<${Picker} names=${namesOf(classes).filter((one) => one !== wrong.label)} onPick=${move} label=${t("live.wrong.is")} />`}
      ${found && !wrong && found.reasons.length === 0 && html`<p>${t("live.why.none")}</p>`}
      ${found && !wrong && found.reasons.map((reason) => html`
        <h3><bdi>${reason.label}</bdi></h3>
        <div class="thumbs">
          ${reason.shots.map((near) => html`
            <figure>
              ${near.shot.has_thumb
                ? html`<img src=${`${API}/shots/${near.shot.id}/thumb.jpg`} alt=${t("live.shot_of", { name: reason.label })} />`
                : html`<div class="no-picture">${t("common.no_picture")}</div>`}
              <figcaption>${Math.round(100 * near.cosine)} % · ${ago(near.shot.at)}<br /><bdi>${near.shot.actor}</bdi></figcaption>
              ${may && html`<button type="button" class="whole" onClick=${() => setWrong({ ...near.shot, label: reason.label })}>${t("live.shot_wrong")}</button>`}
            </figure>`)}
        </div>`)}
    <//>`;
}

function Live() {
  const [cameras, setCameras] = useState([]);
  const [camera, setCamera] = useState(remembered());
  const [answers, setAnswers] = useState({});
  const [frozen, setFrozen] = useState(false);
  const [open, setOpen] = useState(null);
  const [classes, setClasses] = useState([]);
  const [here, setHere] = useState(presence.here);
  const [fps, setFps] = useState(null);
  const [, tick] = useState(0);
  const picture = useRef(null);
  const held = useRef(false);
  const showing = useRef(camera);
  const count = useRef(0);
  const lastSaid = useRef(0);
  showing.current = camera;
  held.current = frozen;

  useEffect(() => {
    const load = async () => {
      try {
        const [seen, known] = await Promise.all([get("cameras"), get("classes")]);
        setCameras(seen.cameras);
        setClasses(known.classes);
        setAnswers(Object.fromEntries(seen.cameras.map((one, i) => [i, one.answer]).filter(([, one]) => one)));
      } catch (error) {
        if (!(error instanceof Away)) fail(error);
      }
    };
    load();
    socket.addEventListener("open", load);
    socket.addEventListener("classes", load);
    socket.addEventListener("camera", load);
    document.addEventListener("accrue:changed", load);
    socket.addEventListener("answer", ({ detail }) => setAnswers((all) => ({ ...all, [detail.camera]: detail })));
    socket.addEventListener("frame", ({ detail }) => {
      if (held.current || detail.camera !== showing.current || !picture.current) return detail.shown();
      picture.current.onload = picture.current.onerror = () => { detail.shown(); count.current += 1; };
      picture.current.src = detail.url;
      picture.current.hidden = false;
      return undefined;
    });
    presence.addEventListener("change", () => setHere(presence.here));
    const every = setInterval(() => { setFps((old) => old === null && !count.current ? null : count.current); count.current = 0; tick((n) => n + 1); }, 1000);
    return () => clearInterval(every);
  }, []);
  useEffect(() => {
    sessionStorage.setItem("camera", camera);
    socket.watch(camera);
  }, [camera]);

  const answer = answers[camera];
  const age = answer ? Date.now() / 1000 - answer.at : 0;
  useEffect(() => {
    const now = Date.now();
    if (!answer || now - lastSaid.current < SAY_EVERY_MS) return;
    lastSaid.current = now;
    say(answer.verdict === "unknown" ? t("state.unknown") : `${t(`state.${answer.verdict}`)} ${answer.label}`);
  }, [answer?.label, answer?.verdict, fps]);

  const still = async () => {
    const response = await fetch(`${API}/cameras/${camera}/snapshot.jpg`, { credentials: "same-origin" }).catch(() => null);
    if (!response?.ok) return null;
    const blob = await response.blob();
    return { blob, url: URL.createObjectURL(blob) };
  };
  /** The picture that the answer was about, even where the box is away. */
  const begin = async (what) => {
    let taken = await still();
    if (!taken && picture.current?.src) {
      const blob = await fetch(picture.current.src).then((r) => r.blob()).catch(() => null);
      taken = blob && { blob, url: URL.createObjectURL(blob) };
    }
    if (!taken) return toast(t("live.no_picture"), { bad: true });
    setOpen({ what, still: taken, answer });
    return undefined;
  };
  const freeze = () => { cue("shutter"); setFrozen(!frozen); };
  useEffect(() => {
    const press = (event) => {
      if (open || event.target.matches?.("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      const key = event.key.toLowerCase();
      const act = { w: () => begin("why"), f: () => may && begin("fix"), " ": freeze }[key];
      if (key === " " && event.target.matches?.("button, a, summary")) return;
      if (act) { event.preventDefault(); act(); }
      else if (/^[1-9]$/.test(key) && cameras[key - 1]) setCamera(key - 1);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });

  const status = cameras[camera];
  const off = status && status.state !== "playing";
  return html`
    ${cameras.length > 1 && html`
      <div class="cameras" role="group" aria-label=${t("live.cameras")}>
        ${cameras.map((one, i) => html`<button type="button" aria-pressed=${i === camera} ref=${(el) => el && i === camera && el.scrollIntoView?.({ block: "nearest", inline: "nearest" })} onClick=${() => setCamera(i)}><bdi>${short(one.name)}</bdi></button>`)}
      </div>`}
    ${off && html`<div class="banner" role="status"><${Icon} name="maybe" />${t(`camera.${status.state}`)} <bdi>${status.reason}</bdi></div>`}
    <div class="stage">
      <${Answer} answer=${answer} old=${!here || age > 5} />
      <div class="preview">
        <img ref=${picture} alt=${t("live.picture", { name: short(status?.name || "") })} hidden />
        <div class="note">${frozen ? t("live.frozen") : fps === null ? t("common.wait") : here ? t("live.fps", { fps }) : t("queue.away")}</div>
      </div>
      <div class="verbs">
        <button type="button" onClick=${freeze} aria-pressed=${frozen}><${Icon} name=${frozen ? "play" : "pause"} />${t(frozen ? "live.go_on" : "live.freeze")}</button>
        <button type="button" onClick=${() => begin("why")}><${Icon} name="why" />${t("live.why")}</button>
        ${may && html`<button type="button" class="primary" onClick=${() => begin("fix")}><${Icon} name="fix" />${t("live.fix")}</button>`}
      </div>
    </div>
    ${open?.what === "fix" && html`<${Fix} still=${open.still} answer=${open.answer} classes=${classes} onClose=${() => setOpen(null)} />`}
    ${open?.what === "why" && html`<${Why} still=${open.still} classes=${classes} onClose=${() => setOpen(null)} />`}`;
}

if (place) {
  place.replaceChildren();
  render(html`<${Live} />`, place);
}
