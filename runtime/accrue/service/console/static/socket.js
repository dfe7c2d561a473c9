// The one connection of this tab: events as text, preview frames as binary.

import { fail } from "./app.js";
import { Problem, get, presence } from "./api.js";

const FIRST_MS = 500;
const LONGEST_MS = 8000;

/** A socket does not say why it was not let in: the device is away, or this screen is let out. */
const askWhy = () =>
  get("device").catch((error) => {
    if (error.status === 401) location.assign("/pair");
  });

export class Socket extends EventTarget {
  #socket = null;
  #wait = FIRST_MS;
  #last = null;
  #watching = { watch: null };
  #url = null;

  /** `after`: the newest event that the page knew of when it was made. */
  constructor(after = Number(document.body.dataset.event)) {
    super();
    this.#last = after;
    this.#connect();
    document.addEventListener("visibilitychange", () => this.#tellWatch());
    addEventListener("online", () => this.#socket || this.#connect());
    addEventListener("pagehide", () => this.#socket?.close());
  }

  /** Asks for frames of a camera; null for none. A hidden tab asks for none. */
  watch(camera, fps = 8) {
    this.#watching = { watch: camera, fps };
    this.#tellWatch();
  }

  #tellWatch() {
    const none = document.hidden || this.#watching.watch === null;
    this.#tell(none ? { watch: null } : this.#watching);
  }

  #tell(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/api/v1/live`);
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#wait = FIRST_MS;
      presence.set(true);
      if (this.#last !== null) this.#tell({ after: this.#last });
      this.#tellWatch();
      this.dispatchEvent(new Event("open"));
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.#event(data) : this.#frame(data));
    socket.onclose = (event) => {
      this.#socket = null;
      if (event.code !== 1001) askWhy();
      setTimeout(() => this.#socket || this.#connect(), this.#wait);
      this.#wait = Math.min(2 * this.#wait, LONGEST_MS);
    };
  }

  #event(text) {
    const event = JSON.parse(text);
    if (event.id !== undefined) this.#last = event.id;
    if (event.type === "error") fail(new Problem(event.problem.status, event.problem));
    this.dispatchEvent(new CustomEvent(event.type, { detail: event }));
  }

  /** Shows a frame where somebody listens, and asks for the next one when it is shown. */
  #frame(data) {
    const camera = new Uint8Array(data, 0, 1)[0];
    const url = URL.createObjectURL(new Blob([new Uint8Array(data, 1)], { type: "image/jpeg" }));
    const shown = () => {
      if (this.#url && this.#url !== url) URL.revokeObjectURL(this.#url);
      this.#url = url;
      this.#tell({ ready: true });
    };
    this.dispatchEvent(new CustomEvent("frame", { detail: { camera, url, shown } }));
  }
}
