// Teach: name it, hold or tap the shutter, look through what was kept, and it is learned.

import { cue, fail, say, takeBack, toast } from "./app.js";
import { API, Away, get, newKey, presence, queue } from "./api.js";
import { Icon, Picker, namesOf, short } from "./picker.js";
import { Socket } from "./socket.js";
import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact-standalone.js";
import { t } from "./words.js";

const place = document.getElementById("teach");
const socket = new Socket();
const POLL_MS = 400;
const SHUTTER_KEYS = [" ", "PageDown", "AudioVolumeUp"];  // a clicker or a pedal is a keyboard
const SAME_PRESS_MS = 800;
const STRIP = 24;
const holds = document.documentElement.dataset.shutter === "hold";

const inField = (event) => event.target.matches?.("input, textarea, select");

function Frame({ session, frame }) {
  const text = frame.kept ? t("teach.kept_one") : t(`reason.${frame.reason}`);
  return html`
    <figure class=${frame.kept ? "" : "left-out"}>
      <img src=${`${API}/teach/${session}/frames/${frame.n}.jpg`} alt="" loading="lazy" />
      <figcaption>${frame.kept ? "✓" : "✗"} ${text}</figcaption>
    </figure>`;
}

function Counts({ view }) {
  const dropped = Object.entries(view.dropped);
  return html`
    <p class="counts" data-kept=${view.kept}><strong>${t("teach.kept", { n: view.kept })}</strong>
      ${dropped.map(([reason, n]) => html` · ${t(`dropped.${reason}`, { n })}`)}</p>`;
}

function Enough({ view }) {
  return html`<p><span class=${`pill ${view.enough ? "enough" : "needs_shots"}`}>
    <${Icon} name=${view.enough ? "check" : "not_ready"} />${t(view.enough ? "teach.enough" : "teach.not_enough")}</span></p>`;
}

function Done({ done, onAgain, onOther }) {
  return html`
    <section class="stack">
      <h2 tabindex="-1" ref=${(el) => el?.focus()}>${done.waiting ? t("teach.done.waiting") : t("teach.done.title", { name: done.name })}</h2>
      ${!done.waiting && html`<p>${t("teach.done.text", { n: done.frames })}</p>`}
      ${done.quality && html`<p><span class=${`pill ${done.quality.verdict}`}><${Icon} name=${done.quality.verdict === "enough" ? "check" : "not_ready"} />
        ${t(`quality.${done.quality.verdict}`)}</span> ${t("classes.shots", { n: done.quality.shots })}
        ${done.quality.confusable?.[0] && done.quality.verdict === "confusable" ? html` · ${t("classes.rival")} <bdi>${done.quality.confusable[0].label}</bdi>` : ""}</p>`}
      <div class="row">
        ${done.entry && html`<button type="button" class="big grow" onClick=${() => takeBack(done.entry)}><${Icon} name="undo" />${t("common.undo")}</button>`}
        <button type="button" class="primary big grow" onClick=${onAgain}><${Icon} name="teach" /><span>${t("teach.again")} <bdi>${done.name}</bdi></span></button>
        <button type="button" class="big grow" onClick=${onOther}>${t("teach.other")}</button>
      </div>
    </section>`;
}

function Teach() {
  const [name, setName] = useState(place.dataset.name || sessionStorage.getItem("teaching") || "");
  const [choosing, setChoosing] = useState(!(place.dataset.name || sessionStorage.getItem("teaching")));
  const [classes, setClasses] = useState([]);
  const [cameras, setCameras] = useState([]);
  const [camera, setCamera] = useState(Number(sessionStorage.getItem("camera") || 0));
  const [view, setView] = useState(null);
  const [chosen, setKeep] = useState(null);  // by hand; until then what the box keeps
  const [done, setDone] = useState(null);
  const [busy, setBusy] = useState(false);
  const [here, setHere] = useState(presence.here);
  const picture = useRef(null);
  const showing = useRef(camera);
  const session = useRef(null);
  const starting = useRef(null);
  const gone = useRef(false);
  const hinted = useRef("");
  const keyed = useRef(0);
  showing.current = camera;

  const look = async () => {
    if (!session.current) return;
    try {
      const found = await get(`teach/${session.current}`);
      if (found.id !== session.current) return;
      setView(found);
      if (found.hint && found.hint !== hinted.current && found.state === "recording") say(t(`hint.${found.hint}`));
      hinted.current = found.hint;
      if (found.state === "expired" || found.state === "cancelled") {
        session.current = null;
        setView(null);
        setKeep(null);
        if (found.state === "expired") toast(t("teach.expired"), { bad: true });
      }
    } catch (error) {
      if (error.status === 404) { session.current = null; setView(null); setKeep(null); toast(t("teach.expired"), { bad: true }); }
      else if (!(error instanceof Away)) fail(error);
    }
  };

  useEffect(() => {
    const load = async () => {
      try {
        const [seen, known] = await Promise.all([get("cameras"), get("classes")]);
        setCameras(seen.cameras);
        setClasses(known.classes);
      } catch (error) {
        if (!(error instanceof Away)) fail(error);
      }
    };
    load();
    socket.addEventListener("open", () => { load(); look(); });
    socket.addEventListener("classes", load);
    socket.addEventListener("teach", ({ detail }) => detail.session === session.current && look());
    socket.addEventListener("frame", ({ detail }) => {
      if (detail.camera !== showing.current || !picture.current) return detail.shown();
      picture.current.onload = picture.current.onerror = detail.shown;
      picture.current.src = detail.url;
      picture.current.hidden = false;
      return undefined;
    });
    presence.addEventListener("change", () => { setHere(presence.here); if (presence.here) look(); });
    const every = setInterval(() => session.current && look(), POLL_MS);
    return () => clearInterval(every);
  }, []);
  useEffect(() => {
    sessionStorage.setItem("camera", camera);
    socket.watch(choosing ? null : camera);
  }, [camera, choosing]);

  const keep = chosen || view?.frames.filter((one) => one.kept).map((one) => one.n);
  const recording = view?.state === "recording";
  const reviewing = view?.state === "review";

  const begin = async () => {
    if (busy || session.current || starting.current) return;
    gone.current = false;
    cue("shutter");
    starting.current = (async () => {
      try {
        const answer = await queue.send("POST", "teach", { json: { class: name, camera } });
        if (answer === null) { toast(t("queue.no_burst"), { bad: true }); return; }
        session.current = answer.body.id;
        setDone(null);
        setKeep(null);
        setView({ frames: [], dropped: {}, kept: 0, hint: "", enough: false, ...answer.body });
      } catch (error) {
        fail(error);
      } finally {
        starting.current = null;
      }
    })();
    await starting.current;
    if (gone.current) end();  // let go before the box had begun
  };
  const end = async () => {
    gone.current = true;
    if (starting.current || !session.current) return;
    cue("stop");
    setView((old) => old && { ...old, state: "stopping" });
    try {
      await queue.send("POST", `teach/${session.current}/stop`, { json: {} });
    } catch (error) {
      fail(error);
    }
    look();
  };
  const commit = async () => {
    const id = session.current;
    if (!id || busy || !keep?.length) return;
    setBusy(true);
    try {
      const answer = await queue.send("POST", `teach/${id}/commit`, { json: { keep }, key: newKey() });
      const body = answer?.body;
      if (body && !body.shot) {
        cue("refused");
        toast(t("teach.skipped", { reason: t(`reason.${body.skipped?.reason || "near-duplicate"}`) }), { bad: true });
      } else {
        if (body) cue("taught");
        const taught = body?.class || name;
        setDone({ name: taught, frames: keep.length, waiting: !body, entry: body?.entry?.seq, quality: body?.quality });
        say(body ? t("teach.done.title", { name: taught }) : t("queue.kept"));
        session.current = null;
        setView(null);
        setKeep(null);
      }
    } catch (error) {
      fail(error);
    }
    setBusy(false);
  };
  const discard = async () => {
    const id = session.current;
    session.current = null;
    setView(null);
    setKeep(null);
    if (id) await queue.send("DELETE", `teach/${id}`).catch(fail);
  };
  const press = () => (recording ? end() : begin());

  useEffect(() => {
    const down = (event) => {
      if (inField(event) || choosing || document.querySelector("dialog[open]")) return;
      const key = SHUTTER_KEYS.includes(event.key);
      if (key) keyed.current = Date.now();
      if (key && event.key === " " && event.target.matches?.("button:not(.shutter), a, summary")) return;
      if (reviewing) {
        if (event.key === "Enter" && !event.target.matches?.("button, a, summary")) { event.preventDefault(); commit(); }
        return;
      }
      if (key && !done) {
        event.preventDefault();
        if (event.repeat) return;
        if (holds) begin(); else press();
      } else if (key && done) { event.preventDefault(); setDone(null); }
    };
    const up = (event) => {
      if (SHUTTER_KEYS.includes(event.key)) keyed.current = Date.now();
      if (holds && SHUTTER_KEYS.includes(event.key) && !inField(event)) { event.preventDefault(); end(); }
    };
    addEventListener("keydown", down);
    addEventListener("keyup", up);
    return () => { removeEventListener("keydown", down); removeEventListener("keyup", up); };
  });

  const choose = (chosen) => {
    setName(chosen);
    sessionStorage.setItem("teaching", chosen);
    setChoosing(false);
    setDone(null);
  };
  if (choosing) {
    return html`<section><${Picker} names=${namesOf(classes)} onPick=${choose} label=${t("teach.what")} /></section>`;
  }
  const status = cameras[camera];
  const pressing = holds
    ? { onPointerDown: (event) => { event.preventDefault(); event.target.setPointerCapture?.(event.pointerId); begin(); },
        onPointerUp: end, onPointerCancel: end, onContextMenu: (event) => event.preventDefault() }
    : { onClick: (event) => event.detail !== 0 && press() };
  // Enter and screen readers press without a pointer; what the space bar adds was heard already
  const point = pressing.onClick;
  pressing.onClick = (event) => {
    if (event.detail !== 0) point?.(event);
    else if (Date.now() - keyed.current > SAME_PRESS_MS) press();
  };
  return html`
    <div class="row tight">
      <p class="grow"><span>${t("teach.teaching")}</span> <strong class="teaching"><bdi>${name}</bdi></strong></p>
      <button type="button" class="change" disabled=${!!view} onClick=${() => setChoosing(true)}><${Icon} name="fix" />${t("teach.change")}</button>
    </div>
    ${classes.some((one) => one.disabled && one.name === name) && html`<div class="banner"><${Icon} name="close" />${t("teach.disabled")}</div>`}
    ${cameras.length > 1 && !view && html`
      <div class="cameras" role="group" aria-label=${t("live.cameras")}>
        ${cameras.map((one, i) => html`<button type="button" aria-pressed=${i === camera} ref=${(el) => el && i === camera && el.scrollIntoView?.({ block: "nearest", inline: "nearest" })} onClick=${() => setCamera(i)}><bdi>${short(one.name)}</bdi></button>`)}
      </div>`}
    ${!here && html`<div class="banner" role="status"><${Icon} name="waiting" />${t(session.current ? "teach.away" : "queue.away")}</div>`}
    ${done && html`<${Done} done=${done} onAgain=${() => setDone(null)} onOther=${() => { setDone(null); setChoosing(true); }} />`}
    ${!done && !reviewing && html`
      <div class="stage">
        <div class="preview"><img ref=${picture} alt=${t("live.picture", { name: short(status?.name || "") })} hidden />
          <div class="note">${recording ? html`<span class="rec">●</span> ${t("teach.recording")}` : status ? t(`camera.${status.state}`) : t("common.wait")}</div></div>
        <div aria-live="polite" class="stack">
          ${view ? html`
            ${view.hint ? html`<p class="hint">${t(`hint.${view.hint}`)}</p>` : html`<p class="hint">${t("teach.go_on")}</p>`}
            <${Counts} view=${view} /><${Enough} view=${view} />`
          : html`<p class="hint">${t(holds ? "teach.how.hold" : "teach.how.toggle")}</p>`}
        </div>
        ${view && html`<div class="strip" tabindex="0" role="region" aria-label=${t("teach.strip")}>${view.frames.slice(-STRIP).reverse().map((frame) => html`<${Frame} key=${frame.n} session=${view.id} frame=${frame} />`)}</div>`}
      </div>
      <div class="shutter-place">
        <p class="beside">${view && !recording ? t("common.wait") : holds ? t("teach.key.hold") : t("teach.key.toggle")} <kbd>␣</kbd></p>
        <button type="button" class="shutter" aria-pressed=${recording} aria-label=${t(recording ? "teach.stop" : "teach.start")} ...${pressing}>
          <${Icon} name=${recording ? "stop" : "record"} />${t(recording ? "teach.stop_word" : "teach.start_word")}</button>
      </div>`}
    ${reviewing && html`
      <section class="stack">
        <h2 tabindex="-1" ref=${(el) => el && !el.dataset.seen && (el.dataset.seen = "1", el.focus())}>${t("teach.review")}</h2>
        <${Counts} view=${view} />
        <p>${t("teach.review.how")}</p>
        <div class="review">
          ${view.frames.filter((one) => one.choosable || one.kept).map((frame) => html`
            <button type="button" key=${frame.n} aria-pressed=${keep?.includes(frame.n) || false} aria-label=${t("teach.frame", { number: frame.n + 1 })}
              onClick=${() => setKeep(keep.includes(frame.n) ? keep.filter((n) => n !== frame.n) : [...keep, frame.n].sort((a, b) => a - b))}>
              <img src=${`${API}/teach/${view.id}/frames/${frame.n}.jpg`} alt="" />
              <span>${keep?.includes(frame.n) ? `✓ ${t("teach.kept_one")}` : `✗ ${frame.reason ? t(`reason.${frame.reason}`) : t("teach.left_out")}`}</span>
            </button>`)}
        </div>
        ${view.kept === 0 && html`<p class="hint">${t("teach.nothing")} ${view.hint && t(`hint.${view.hint}`)}</p>`}
        <div class="shutter-place">
          <button type="button" class="big danger" onClick=${discard} disabled=${busy}><${Icon} name="close" />${t("teach.discard")}</button>
          <button type="button" class="big primary beside" onClick=${commit} disabled=${busy || !keep?.length}><${Icon} name="check" />${t("teach.commit", { n: keep?.length || 0 })}</button>
        </div>
      </section>`}`;
}

if (place) {
  place.replaceChildren();
  render(html`<${Teach} />`, place);
}
