// What the page asks of the box, and what waits to be sent while there is no network.

import { t } from "./words.js";

export const API = "/api/v1";
const RETRY_MS = 3000;
const TIMEOUT_MS = 20000;

/** What the box answered where it said no: a problem of RFC 9457. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || String(status));
    this.status = status;
    this.kind = body.kind || "";
    this.hint = body.hint || "";
    this.body = body;
  }

  /** In the words of the operator, then as the box said it. */
  get title() {
    if (this.status === 412 || this.status === 428) return t("problem.changed");
    const key = { 401: "paired", 403: "role", 413: "big", 429: "busy", 502: "broker", 503: "busy" }[this.status];
    if (key) return t(`problem.${key}`);
    const known = { NotFound: "gone", Conflict: "conflict", Refused: "refused" }[this.kind];
    return t(`problem.${known || "other"}`);
  }
}

/** There is no network, or the box is down. */
export class Away extends Error {}

export const newKey = () =>
  crypto.randomUUID
    ? crypto.randomUUID()
    : Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

/** One call. `json`, `parts` ([name, value, file name] each) or `form` (URLSearchParams text). */
export async function call(method, path, { json, parts, form, headers = {}, key } = {}) {
  const given = { method, headers: { Accept: "application/json", ...headers }, credentials: "same-origin" };
  if (key) given.headers["Idempotency-Key"] = key;
  if (json !== undefined) {
    given.headers["Content-Type"] = "application/json";
    given.body = JSON.stringify(json);
  } else if (parts) {
    given.body = new FormData();
    for (const [name, value, file] of parts) {
      file ? given.body.append(name, value, file) : given.body.append(name, value);
    }
  } else if (form !== undefined) {
    given.headers["Content-Type"] = "application/x-www-form-urlencoded";
    given.body = form;
  }
  given.signal = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await fetch(path.startsWith("/") ? path : `${API}/${path}`, given);
  } catch {
    presence.set(false);
    throw new Away(t("queue.away"));
  }
  presence.set(true);
  const text = await response.text();
  let body = {};
  try {
    body = text ? JSON.parse(text) : {};
  } catch {
    body = { detail: text.slice(0, 200) };
  }
  if (!response.ok) throw new Problem(response.status, body);
  return { body, etag: response.headers.get("ETag"), status: response.status };
}

export const get = async (path) => (await call("GET", path)).body;

/** Whether the box can be reached. Listen to "change". */
export const presence = new (class extends EventTarget {
  here = true;

  set(here) {
    if (here === this.here) return;
    this.here = here;
    this.dispatchEvent(new Event("change"));
    if (here) queue.flush();
  }
})();

/**
 * What was decided while the box was away. It outlives the page and is sent in order, once: each
 * write carries a key by which the box knows it again.
 */
export const queue = new (class extends EventTarget {
  waiting = 0;
  #sending = false;
  #db = null;

  #open() {
    this.#db ??= new Promise((resolve, reject) => {
      const asked = indexedDB.open("accrue", 1);
      asked.onupgradeneeded = () => asked.result.createObjectStore("writes", { autoIncrement: true });
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => reject(asked.error);
    });
    return this.#db;
  }

  async #store(mode, use) {
    const db = await this.#open();
    return new Promise((resolve, reject) => {
      const asked = use(db.transaction("writes", mode).objectStore("writes"));
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => reject(asked.error);
    });
  }

  async #count() {
    this.waiting = await this.#store("readonly", (store) => store.count());
    this.dispatchEvent(new Event("change"));
  }

  async start() {
    await this.#count();
    addEventListener("online", () => this.flush());
    setInterval(() => this.flush(), RETRY_MS);
    this.flush();
  }

  /** Sends a write now, or keeps it; the answer, or null where it waits. */
  async send(method, path, what = {}) {
    const write = { method, path, what: { ...what, key: what.key || newKey() } };
    if (!this.waiting) {
      try {
        return await call(method, path, write.what);
      } catch (error) {
        if (!(error instanceof Away)) throw error;
      }
    }
    // a cut loses the answer, not always the request: the key makes the second one harmless
    await this.#store("readwrite", (store) => store.add(write));
    await this.#count();
    return null;
  }

  /** Sends what waits; one tab at a time, where the browser can tell. */
  async flush() {
    if (this.#sending || !this.waiting) return;
    this.#sending = true;
    try {
      if (!navigator.locks) await this.#sendAll();
      else await navigator.locks.request("accrue", { ifAvailable: true }, (lock) => lock && this.#sendAll());
      await this.#count();
    } finally {
      this.#sending = false;
    }
  }

  async #sendAll() {
    for (;;) {
      const cursor = await this.#store("readonly", (store) => store.openCursor());
      if (!cursor) break;
      const { key, value } = cursor;
      let refused = null;
      try {
        await call(value.method, value.path, value.what);
      } catch (error) {
        if (error instanceof Away || error.body?.retryable || [401, 429].includes(error.status)) return;
        refused = error;
      }
      await this.#store("readwrite", (store) => store.delete(key));
      await this.#count();
      this.dispatchEvent(new CustomEvent("sent", { detail: { write: value, refused } }));
    }
    this.dispatchEvent(new Event("empty"));
  }
})();
