// The stream of server-sent events, reconnected whenever it ends. Takes handlers by event name; tells
// `onconnection` (null: trying) whether it is open, so that the page never shows old things as new.
//
// The server sends `time` after five seconds without news. A stream that is quiet for SILENCE_MS is dead
// without a sign, as behind a router that forgot the connection: it is opened again. A page that
// nobody sees has none: browsers allow six connections to a server, over all tabs.

import { get } from "./api.js";
import { setServerTime } from "./clock.js";

const SILENCE_MS = 12000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;
const NAMES = ["state", "camera", "detections", "change", "redis", "replays", "removed", "time"];

export class Live {
  /** `handlers`: functions of the data by event name; `onconnection(open, line)`: null while it tries. */
  constructor(query, handlers, onconnection) {
    this.url = `/api/events${query ? `?${query}` : ""}`;
    this.handlers = handlers;
    this.onconnection = onconnection;
    this.pause = FIRST_PAUSE_MS;
    this.open();
    this.watch = setInterval(() => this.checkSilence(), 1000);
    window.addEventListener("online", () => this.reopen());
    window.addEventListener("pagehide", () => this.close());
    window.addEventListener("pageshow", (event) => event.persisted && this.reopen());
    document.addEventListener("visibilitychange", () => this.follow());
  }

  open() {
    this.heard = Date.now();
    this.source = new EventSource(this.url);
    for (const name of NAMES) {
      this.source.addEventListener(name, (event) => this.receive(name, event.data));
    }
    this.source.onerror = () => this.failed();
  }

  close() {
    clearTimeout(this.retry);
    this.source.close();
  }

  reopen() {
    this.close();
    this.onconnection(null, ""); // what is shown is old until the state comes
    this.open();
  }

  follow() {
    if (document.hidden) this.close();
    else this.reopen();
  }

  receive(name, text) {
    this.heard = Date.now();
    let data;
    try {
      data = JSON.parse(text);
    } catch {
      return; // a record cut short by the end of the connection
    }
    if (name === "time" || name === "state") {
      setServerTime(data.time);
      this.pause = FIRST_PAUSE_MS;
      this.onconnection(true, "");
    }
    this.handlers[name]?.(data);
  }

  /** EventSource does not try again by itself after an answer such as 503: this does, more slowly. */
  failed() {
    this.close();
    this.onconnection(false, "");
    this.explain();
    if (document.hidden) return;
    this.retry = setTimeout(() => this.open(), this.pause);
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS);
  }

  /** EventSource hides why it was refused: the same request says it in words (or asks for a login). */
  async explain() {
    const request = new AbortController();
    try {
      await get(this.url, { signal: request.signal });
    } catch (error) {
      if (error.status) this.onconnection(false, error.message);
    }
    request.abort();
  }

  checkSilence() {
    const open = this.source.readyState === EventSource.OPEN;
    if (open && Date.now() - this.heard > SILENCE_MS) this.failed();
  }
}
