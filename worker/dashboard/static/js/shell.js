// What every page shows of the whole: the connection, Redis, and notices in a live region.
// Takes what the stream of events says; gives `trusted`: whether what was last heard is still true.

import { now } from "./clock.js";
import { badge, element, icon } from "./dom.js";
import { clock, whole } from "./format.js";
import { kept } from "./storage.js";

const SETTLING_MS = 1500;

export class Shell {
  /** `onchange()` is called when `trusted` has changed: it is false at first. */
  constructor(onchange) {
    this.onchange = onchange;
    this.notices = document.getElementById("notices");
    this.connection = document.getElementById("connection");
    this.announcer = document.getElementById("announcer");
    this.open = null; // not known yet
    this.redis = null;
    this.told = false;
    this.malformed = 0;
    this.unreadable = 0;
    this.started = Date.now();
    this.line = "";
    document.getElementById("logout").hidden = kept("login") === null;
    setTimeout(() => this.show(), SETTLING_MS);
    this.show();
  }

  get trusted() {
    return this.open === true && this.redis !== null && this.redis.up;
  }

  /** Takes the whole state of the server. */
  takeState(state) {
    this.redis = state.redis;
    this.malformed = state.malformed ?? 0;
    this.unreadable = state.unreadable_ids ?? 0;
    this.show();
  }

  takeRedis(redis) {
    this.redis = { since: new Date(now()).toISOString(), ...redis };
    this.show();
  }

  takeConnection(open, line) {
    if (open === this.open && (line === this.line || !line)) return;
    if (open !== this.open) this.since = new Date(now()).toISOString();
    [this.open, this.line] = [open, line];
    this.show();
  }

  /** Says a sentence to screen readers, once. */
  announce(text) {
    this.announcer.textContent = text;
  }

  show() {
    const [kind, word] = this.summary();
    if (this.connection.textContent !== word) this.connection.replaceChildren(badge(kind, word));
    document.body.dataset.trusted = this.trusted;
    const notices = this.problems();
    const key = JSON.stringify(notices);
    if (key !== this.shown) {
      this.shown = key;
      this.notices.replaceChildren(...notices.map(notice));
    }
    if (this.trusted === this.told) return;
    this.told = this.trusted;
    this.onchange();
  }

  summary() {
    if (this.open === null || !this.redis) return ["unknown", "Connecting"];
    if (!this.open) return ["down", "Not connected"];
    if (this.redis && !this.redis.up) return ["down", "Redis is down"];
    return ["up", "Live"];
  }

  problems() {
    const problems = [];
    const waiting = this.open === null && Date.now() - this.started >= SETTLING_MS;
    if (this.open === false || waiting) {
      const since = this.since ? ` since ${clock(this.since, now())}` : "";
      const why = this.line || "Is ssd-worker dashboard still running?";
      problems.push({
        serious: true,
        text: `No connection to the dashboard${since}: what you see is from before. ${why} Trying again.`,
      });
    } else if (this.redis && !this.redis.up) {
      const since = this.redis.since ? ` since ${clock(this.redis.since, now())}` : "";
      const why = this.redis.problem ?? "Check the server, and the --redis-url of ssd-worker dashboard";
      problems.push({
        serious: true,
        text: `No answer from Redis${since}: what you see is from before. ${why}. This page continues by ` +
          "itself once Redis answers.",
      });
    }
    if (this.malformed > 0) {
      const entries = this.malformed === 1 ? "entry is" : "entries are";
      problems.push({
        serious: false,
        text: `${whole(this.malformed)} ${entries} not events and were skipped: does another program ` +
          "write to these streams?",
      });
    }
    if (this.unreadable > 0) {
      problems.push({
        serious: false,
        text: `${whole(this.unreadable)} camera ids are not UTF-8 and cannot be shown: another program ` +
          "registered them.",
      });
    }
    return problems;
  }
}

/** A box that says what is wrong and what to do. */
export function notice({ serious, text }) {
  const kind = serious ? "down" : "degraded";
  return element("div", { class: serious ? "notice serious" : "notice" }, icon(kind), element("p", {}, text));
}
