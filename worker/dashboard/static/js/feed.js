// Detections and changes of state as they come, newest first. Takes events; keeps the last RECORDS of
// them, so that another filter shows what it would have shown.
//
// A camera gets a line when what is seen there changes, at most one a second, and again every ten.

import { badge, element } from "./dom.js";
import { clock, summary } from "./format.js";
import { reasonText } from "./states.js";

const RECORDS = 2000;
const LINES = 100;
const SHORTEST_MS = 1000;
const SAME_MS = 10000;

export class Feed {
  /** `filters`: which cameras and detections; `kinds()`: {detections, changes}, which lines. */
  constructor(list, filters, kinds) {
    this.list = list;
    this.filters = filters;
    this.kinds = kinds;
    this.records = [];
    this.last = new Map(); // camera -> {text, time} of its last line
    this.paused = false;
    this.waiting = 0;
  }

  /** A detections event, or a change: told apart by `state`. */
  add(record) {
    this.records.push(record);
    if (this.records.length > RECORDS) this.records.splice(0, RECORDS / 10);
    const line = this.line(record);
    if (!line) return;
    if (this.paused) this.waiting += 1;
    else this.prepend(line);
  }

  pause(paused) {
    this.paused = paused;
    if (!paused) this.render();
  }

  /** Everything anew, after another choice of what to see. */
  render() {
    this.waiting = 0;
    this.last.clear();
    this.list.replaceChildren();
    for (const record of this.records) {
      const line = this.line(record);
      if (line) this.prepend(line);
    }
  }

  prepend(line) {
    this.list.prepend(line);
    if (this.list.children.length > LINES) this.list.lastChild.remove();
  }

  line(record) {
    if (!this.filters.acceptsCamera(record.camera)) return null;
    return record.state ? this.changeLine(record) : this.detectionsLine(record);
  }

  changeLine(record) {
    if (!this.kinds().changes) return null;
    const kind = record.state;
    const word = `${record.state[0].toUpperCase()}${record.state.slice(1)}`;
    return this.item(record, [badge(kind, word), " ", reasonText(record.reason, record.detail)]);
  }

  detectionsLine(record) {
    if (!this.kinds().detections) return null;
    const found = record.detections.filter((each) => this.filters.accepts(each));
    if (!found.length) return null;
    const text = summary(found);
    const time = Date.parse(record.time) || Date.now();
    const last = this.last.get(record.camera);
    const passed = last ? time - last.time : Infinity;
    if (passed >= 0 && passed < (last?.text === text ? SAME_MS : SHORTEST_MS)) return null;
    this.last.set(record.camera, { text, time });
    const best = Math.max(...found.map(({ score }) => score));
    return this.item(record, [text, " ", element("span", { class: "quiet number" }, `best ${best.toFixed(2)}`)]);
  }

  item(record, content) {
    return element("li", {},
      element("time", { class: "number", datetime: record.time ?? false }, clock(record.time)),
      element("a", { href: `/camera/${encodeURIComponent(record.camera)}` }, record.camera),
      element("span", { class: "what" }, ...content));
  }
}
