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
    this.remarksElement = document.getElementById("remarks");
    this.connection = document.getElementById("connection");
    this.announcer = document.getElementById("announcer");
    this.open = null; // not known yet
    this.redis = null;
    this.told = false;
    this.malformed = 0;
    this.unreadable = 0;
    this.line = "";
    document.getElementById("logout").hidden = kept("login") === null;
    this.settle();
    this.show();
  }

  /** Connecting is no trouble unless it takes a while. */
  settle() {
    this.started = Date.now();
    setTimeout(() => this.show(), SETTLING_MS);
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

  /** Takes how many entries hold no valid event. */
  takeMalformed(count) {
    if (count === this.malformed) return;
    this.malformed = count;
    this.show();
  }

  takeRedis(redis) {
    this.redis = { since: new Date(now()).toISOString(), ...redis };
    this.show();
  }

  takeConnection(open, line) {
    if (open === this.open && (line === this.line || !line)) return;
    if (open === null) this.settle();
    else if (open !== this.open) this.since = new Date(now()).toISOString();
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
    fill(this.notices, this.problems());
    fill(this.remarksElement, this.remarks());
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
      const what = this.redis.problem ?? "Redis does not answer: check the server, and --redis-url";
      const before = this.redis.since ? ` ${clock(this.redis.since, now())}` : "";
      problems.push({
        serious: true,
        text: `${what}. What you see is from before${before}; this page continues by itself.`,
      });
    }
    return problems;
  }

  /** What is odd, and no reason to distrust the rest: not in the live region, since numbers rise. */
  remarks() {
    const remarks = [];
    if (this.malformed > 0) {
      const what = this.malformed === 1 ? "1 entry is not an event and was"
        : `${whole(this.malformed)} entries are not events and were`;
      remarks.push(`${what} skipped: does another program write to these streams?`);
    }
    if (this.unreadable > 0) {
      const what = this.unreadable === 1 ? "1 camera id is" : `${whole(this.unreadable)} camera ids are`;
      remarks.push(`${what} not UTF-8 and cannot be shown: another program registered it.`);
    }
    return remarks.map((text) => ({ serious: false, text }));
  }
}

function fill(container, notices) {
  const key = JSON.stringify(notices);
  if (key === (container.dataset.shown ?? "[]")) return;
  container.dataset.shown = key;
  container.replaceChildren(...notices.map(notice));
}

/** A box that says what is wrong and what to do. */
export function notice({ serious, text }) {
  const kind = serious ? "down" : "degraded";
  return element("div", { class: serious ? "notice serious" : "notice" }, icon(kind), element("p", {}, text));
}
