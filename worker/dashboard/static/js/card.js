// One camera in the grid. Takes the API's camera, events and coverage; gives an element that it keeps
// up to date.

import { coverageBar } from "./coverage.js";
import { badge, element, setText } from "./dom.js";
import { measure, summary } from "./format.js";
import { Picture } from "./picture.js";
import { describe } from "./states.js";

const FIGURES = [
  ["fps", "Frames/s", (camera) => measure(camera.fps)],
  ["latency", "Latency", (camera) => measure(camera.latency_ms, "ms")],
  ["dropped", "Dropped/min", (camera) => measure(camera.dropped_per_minute)],
];

export class CameraCard {
  /** `wanted`: see Picture. */
  constructor(camera, wanted) {
    this.picture = new Picture(camera.id, wanted);
    this.badge = element("span", {});
    this.text = element("p", { class: "since quiet" });
    this.seen = element("p", { class: "seen" });
    this.coverage = element("div", { class: "day" });
    this.figures = FIGURES.map(([, title]) => [element("dt", {}, title), element("dd", { class: "number" }, "–")]);
    const link = element("a", { href: `/camera/${encodeURIComponent(camera.id)}` }, camera.id);
    this.element = element("li", { class: "card camera" }, this.picture.element,
      element("div", { class: "body" },
        element("div", { class: "name" }, element("h2", {}, link), this.badge),
        this.text, this.seen,
        element("dl", { class: "figures" }, ...this.figures.map((pair) => element("div", {}, ...pair))),
        this.coverage));
    this.update(camera, false);
  }

  update(camera, trusted) {
    this.camera = camera;
    this.trusted = trusted;
    const { kind, word, text } = describe(camera, trusted);
    if (this.word !== word) this.badge.replaceChildren(badge(kind, word));
    this.word = word;
    this.element.dataset.state = kind;
    setText(this.text, text);
    const current = trusted && (kind === "up" || kind === "degraded");
    FIGURES.forEach(([, , value], index) => setText(this.figures[index][1], current ? value(camera) : "–"));
    this.picture.explain(missingPicture(kind, camera));
  }

  setEvent(event) {
    this.picture.setEvent(event);
    this.tick();
  }

  /** What time changes. */
  tick() {
    this.picture.tick();
    setText(this.text, describe(this.camera, this.trusted).text);
    setText(this.seen, summary(this.picture.current()) || "\u00a0");
  }

  setCoverage(intervals, from, to) {
    this.coverage.replaceChildren(coverageBar(intervals, from, to));
  }
}

/** Why there is no picture, as far as the page can know. */
export function missingPicture(kind, camera) {
  if (camera.snapshot) return "Loading the picture";
  if (kind === "up" || kind === "degraded") {
    return "No picture: workers publish them with --snapshots";
  }
  return "No picture";
}
