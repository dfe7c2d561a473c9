// What every page does: how it looks and sounds, what waits to be sent, forms that survive a cut.

import { Away, call, newKey, presence, queue } from "./api.js";
import { t, tellTimes } from "./words.js";

const root = document.documentElement;
const here = root.dataset;

// ---- cues ---------------------------------------------------------------------------------------

let audio = null;
const TONES = { taught: [660, 990], refused: [220, 160], shutter: [880], stop: [440], undone: [520, 390] };

/** A short sound and a vibration, where the operator wants them. */
export function cue(name) {
  if (here.vibrate === "on") navigator.vibrate?.(name === "refused" ? [120, 60, 120] : 60);
  if (here.sound !== "on") return;
  try {
    audio ??= new AudioContext();
    TONES[name].forEach((pitch, i) => {
      const tone = audio.createOscillator();
      const loud = audio.createGain();
      const from = audio.currentTime + 0.13 * i;
      tone.frequency.value = pitch;
      loud.gain.setValueAtTime(0.2, from);
      loud.gain.exponentialRampToValueAtTime(0.001, from + 0.12);
      tone.connect(loud).connect(audio.destination);
      tone.start(from);
      tone.stop(from + 0.13);
    });
  } catch {
    // a browser without sound: the cue is seen, too
  }
}

const region = document.getElementById("said");
let saidLast = "";

/** Tells a screen reader, once for each change. */
export function say(text) {
  if (!region || text === saidLast) return;
  saidLast = text;
  region.textContent = text;
}

// ---- toasts -------------------------------------------------------------------------------------

const icon = (name) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#s-${name}`);
  svg.append(use);
  return svg;
};

const button = (name, text, className, press) => {
  const made = document.createElement("button");
  made.type = "button";
  made.className = className;
  made.append(icon(name));
  if (text) made.append(text);
  made.addEventListener("click", press);
  return made;
};

/** Says what came of something; with `undo`, a number of the history, it can be taken back. */
export function toast(text, { bad = false, undo = null, wait = 12000 } = {}) {
  const box = document.getElementById("toasts");
  const made = document.createElement("div");
  made.className = bad ? "toast bad" : "toast";
  made.setAttribute("role", bad ? "alert" : "status");
  const words = document.createElement("span");
  words.className = "text";
  words.dir = "auto";
  words.textContent = text;
  made.append(icon(bad ? "bad" : "check"), words);
  if (undo !== null && undo !== undefined) {
    made.append(button("undo", t("common.undo"), "undo", () => { made.remove(); takeBack(undo); }));
  }
  const close = button("close", "", "close", () => made.remove());
  close.setAttribute("aria-label", t("common.close"));
  made.append(close);
  box.replaceChildren(made);
  setTimeout(() => made.remove(), undo === null ? wait : 2.5 * wait);
  return made;
}

/** Tells of an error: what it means, what the box said, what to do. */
export function fail(error) {
  cue("refused");
  if (error instanceof Away) toast(t("queue.away"), { bad: true });
  else toast([error.title, error.message, error.hint].filter(Boolean).join(" · "), { bad: true });
}

export async function takeBack(entry) {
  try {
    const key = newKey();
    const form = new URLSearchParams({ entry, key }).toString();  // the page's own: it answers in its language
    const answer = await queue.send("POST", "/history/undo", { form, key });
    cue("undone");
    toast(answer ? answer.body.text || t("common.undone") : t("queue.kept"));
    document.dispatchEvent(new Event("accrue:changed"));
  } catch (error) {
    fail(error);
  }
}

/** Tells of a write: done and can be undone, or waiting for the network. */
export function told(answer, text) {
  if (answer === null) {
    toast(t("queue.kept"));
    return;
  }
  cue("taught");
  toast(text, { undo: answer.body.entry?.seq ?? answer.body.entry ?? null });
}

// ---- the network --------------------------------------------------------------------------------

function showPresence() {
  const away = document.getElementById("away");
  if (away) away.hidden = presence.here;
  const waiting = document.getElementById("waiting");
  if (!waiting) return;
  waiting.hidden = queue.waiting === 0;
  waiting.querySelector(".text").textContent = t("queue.waiting", { n: queue.waiting });
}

presence.addEventListener("change", () => {
  showPresence();
  say(t(presence.here ? "queue.back" : "queue.away"));
});
queue.addEventListener("change", showPresence);
queue.addEventListener("sent", ({ detail }) => detail.refused && fail(detail.refused));
queue.addEventListener("empty", () => {
  toast(t("queue.sent"));
  document.dispatchEvent(new Event("accrue:changed"));
});
addEventListener("offline", () => presence.set(false));
if (region) queue.start().catch(() => {});  // no IndexedDB: writes fail aloud instead of waiting

// Away is found out by whoever asks; that the box is back, by asking.
setInterval(() => {
  if (!presence.here) call("GET", "/healthz").catch(() => {});
}, 2000);

// ---- forms --------------------------------------------------------------------------------------

// A form works without this. With it, a form that changes something waits where the box is away.
for (const form of document.querySelectorAll("form[data-keep]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const data = new FormData(form, event.submitter);
    if (!data.get("key")) data.set("key", newKey());
    const body = new URLSearchParams(data).toString();
    for (const one of form.querySelectorAll("button")) one.disabled = true;
    try {
      const action = event.submitter?.getAttribute("formaction") || form.getAttribute("action");
      const answer = await queue.send("POST", action, { form: body, key: data.get("key") });
      if (answer === null) {
        toast(t("queue.kept"));
        for (const one of form.querySelectorAll("button")) one.disabled = false;
      } else {
        cue(answer.body.cue || "taught");
        if (answer.body.go === location.pathname + location.search) location.reload();
        else location.assign(answer.body.go);
      }
    } catch (error) {
      for (const one of form.querySelectorAll("button")) one.disabled = false;
      if (error.body?.go) location.assign(error.body.go);
      else fail(error);
    }
  });
}

for (const element of document.querySelectorAll("button[data-copy]")) {
  element.hidden = !navigator.clipboard;
  element.addEventListener("click", async () => {
    await navigator.clipboard.writeText(element.dataset.copy);
    toast(t("common.copied"), { wait: 3000 });
  });
}

// What was undone or taught elsewhere on this page is seen by loading a list again.
document.addEventListener("accrue:changed", () => {
  if (document.body.dataset.list === "yes") location.reload();
});

// A list says when it is old, and does not jump under a finger.
if (document.body.dataset.list === "yes" && document.body.dataset.paired === "yes") {
  import("./socket.js").then(({ Socket }) => {
    const socket = new Socket();
    const also = { fleet: ["fleet"], device: ["job", "camera", "access", "encoder"] }[document.body.dataset.page] || [];
    for (const type of ["classes", "gap", ...also]) {
      socket.addEventListener(type, () => { document.getElementById("old").hidden = false; });
    }
  }).catch(() => { document.getElementById("old").hidden = false; }); // nobody will tell: the network went
}

// Work that takes long: how far it is, and the page again when it is done.
const work = document.querySelector("[data-job][data-state=running]");
async function follow() {
  try {
    const { body } = await call("GET", `jobs/${work.dataset.job}`);
    if (body.state !== "running") return location.reload();
    const what = t(`work.${body.what}`);
    document.getElementById("job-what").textContent = what.startsWith("work.") ? body.what : what;
    document.getElementById("job-done").textContent = [body.done, body.total].filter(Boolean).join(" / ");
    const bar = document.getElementById("job-progress");
    if (body.total) { bar.max = body.total; bar.value = body.done; }
  } catch (error) {
    if (!(error instanceof Away)) return fail(error);
  }
  return setTimeout(follow, 1000);
}
if (work) follow();

const filter = document.getElementById("filter");
filter?.addEventListener("input", () => {
  const wanted = filter.value.trim().toLocaleLowerCase();
  for (const card of document.querySelectorAll("[data-name]")) {
    card.hidden = !card.dataset.name.toLocaleLowerCase().includes(wanted);
  }
});

// One popover at a time, closed with Escape.
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const open of document.querySelectorAll(".bar details[open]")) open.open = false;
});

// A code that came with the address, from the QR code or the terminal.
const code = /[#&]pair=([\w-]+)/.exec(location.hash);
const field = document.getElementById("code");
if (code && field) {
  field.value = code[1];
  history.replaceState(null, "", location.pathname);
  document.getElementById("name")?.focus();
}

const bad = document.querySelector(".banner[role=alert]");
if (bad) bad.scrollIntoView({ block: "center" });
tellTimes();
setInterval(tellTimes, 20000);
