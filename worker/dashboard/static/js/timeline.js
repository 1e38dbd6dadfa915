// Detections over a recording, a row for each label, and the moment that was chosen in it: a slider.
// Takes the API's timeline; tells `onchoose(position)` in seconds (or frames, where there is no time).

import { bars, byTotal } from "./chart.js";
import { element } from "./dom.js";
import { whole } from "./format.js";

const PAGE_STEPS = 10;

export class Timeline {
  /** `words(position)`: a position as text. */
  constructor({ onchoose, words }) {
    Object.assign(this, { onchoose, words });
    this.position = 0;
    this.length = 0;
    this.rows = element("div", { class: "rows", "aria-hidden": "true" });
    this.needle = element("span", { class: "needle", "aria-hidden": "true" });
    this.track = element("div", {
      class: "track", role: "slider", tabindex: 0, "aria-label": "Moment of the recording",
      onkeydown: (event) => this.key(event), onpointerdown: (event) => this.press(event),
    }, this.rows, this.needle);
    this.axis = element("div", { class: "axis number", "aria-hidden": "true" });
    this.element = element("div", { class: "timeline" }, this.track, this.axis);
  }

  /** Takes how long the recording is, the step of the counts, and the counts by label. */
  setCounts(length, step, labels) {
    this.length = length;
    this.step = step;
    this.rows.replaceChildren(...byTotal(labels).map(({ label, counts, total }) => element("div", { class: "row" },
      element("span", { class: "row-label" }, `${label} `, element("span", { class: "quiet number" }, whole(total))),
      bars(label, counts, { describe: (index, count) => `${this.words(index * step)}: ${whole(count)}` }))));
    this.axis.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((part) => element("span", {}, this.words(part * length))));
    this.show();
  }

  /** Moves the needle; `quietly`: without telling. */
  choose(position, quietly = false) {
    this.position = Math.min(this.length, Math.max(0, position));
    this.show();
    if (!quietly) this.onchoose(this.position);
  }

  show() {
    this.needle.style.left = `${this.length ? (this.position / this.length) * 100 : 0}%`;
    this.track.setAttribute("aria-valuemin", 0);
    this.track.setAttribute("aria-valuemax", this.length);
    this.track.setAttribute("aria-valuenow", this.position);
    this.track.setAttribute("aria-valuetext", `${this.words(this.position)} of ${this.words(this.length)}`);
  }

  press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.track.focus();
    const follow = (moved) => {
      const { left, width } = this.track.getBoundingClientRect();
      this.choose(((moved.clientX - left) / width) * this.length);
    };
    const end = () => this.track.removeEventListener("pointermove", follow);
    this.track.setPointerCapture(event.pointerId);
    this.track.addEventListener("pointermove", follow);
    for (const name of ["pointerup", "pointercancel"]) this.track.addEventListener(name, end, { once: true });
    follow(event);
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -PAGE_STEPS, PageUp: PAGE_STEPS }[event.key];
    if (by) this.choose(this.position + by * this.small);
    else if (event.key === "Home") this.choose(0);
    else if (event.key === "End") this.choose(this.length);
    else return;
    event.preventDefault();
  }

  /** One press of an arrow: about a frame, never more than a step of the counts. */
  get small() {
    return Math.min(this.step, this.frame || this.step);
  }
}
