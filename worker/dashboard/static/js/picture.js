// A camera's last picture with boxes over it. Takes pictures and events; shows no old one as new.
//
// Pictures come once a second, events more often. While a picture is in time, the boxes are those of its
// own frame, or of the nearest within NEAR_SECONDS: those of a later one would stand beside the objects.
// Without such a picture, and if the reader wants the newest, they are those of the newest event, and
// vanish BOX_SECONDS after the moment that they show. A picture older than OLD_SECONDS is greyed and has
// its age on it.

import { boxLayer, drawBoxes, sizeOf } from "./boxes.js";
import { now, secondsSince } from "./clock.js";
import { element, setText } from "./dom.js";
import { duration } from "./format.js";

const OLD_SECONDS = 5;
const BOX_SECONDS = 2;
const FADE_SECONDS = 1;
const NEAR_SECONDS = 0.25;
const KEPT_EVENTS = 40; // of the last eight seconds: the server sends five a second

export class Picture {
  /** `large`: with scores on the boxes. `accepts(detection)`, `newest()`: what the reader wants to see. */
  constructor(id, { large = false, accepts = () => true, newest = () => false } = {}) {
    Object.assign(this, { large, accepts, newest });
    this.ignored = () => false;
    this.events = [];
    this.version = "";
    this.image = element("img", { alt: `Last picture of ${id}`, hidden: true });
    this.layer = boxLayer();
    this.stage = element("div", { class: "stage" }, this.image, this.layer);
    this.placeholder = element("p", { class: "no-picture" });
    this.age = element("span", { class: "age", hidden: true });
    this.element = element("div", { class: "frame" }, this.stage, this.placeholder, this.age);
    this.size = sizeOf(this.stage, () => this.tick());
  }

  /** Takes a JPEG, when it was captured, and (epoch, frame) as text that tells pictures apart. */
  async setPicture(blob, capturedAt, version, blurred = false) {
    const url = URL.createObjectURL(blob);
    const fresh = new Image();
    fresh.src = url;
    try {
      await fresh.decode();
    } catch {
      URL.revokeObjectURL(url);
      return; // not a picture: the last one stays, and gets older
    }
    const previous = this.image.src;
    this.image.src = url;
    if (previous) URL.revokeObjectURL(previous);
    Object.assign(this, { capturedAt, version, blurred });
    this.setShape(fresh.naturalWidth, fresh.naturalHeight);
    this.image.hidden = false;
    this.placeholder.hidden = true;
    this.tick();
  }

  setShape(width, height) {
    if (width > 0 && height > 0) this.stage.style.setProperty("--ratio", width / height);
  }

  /** Takes an event of type detections. */
  setEvent(event) {
    this.events.push({ ...event, arrived: now() });
    if (this.events.length > KEPT_EVENTS) this.events.shift();
    if (this.image.hidden) this.setShape(event.width, event.height);
    this.tick();
  }

  /** What stands in the place of a picture that there is not. */
  explain(text) {
    setText(this.placeholder, text);
  }

  /** What is detected at this moment, as far as it is wanted: of the newest event, if it is not over. */
  current() {
    const event = this.events.at(-1);
    return event && ageOf(event) <= BOX_SECONDS ? event.detections.filter(this.accepts) : [];
  }

  /** The event whose boxes belong over what is shown, or undefined. */
  eventToDraw() {
    const newest = this.events.at(-1);
    if (this.newest() || !this.isInTime()) return newest && ageOf(newest) <= BOX_SECONDS ? newest : undefined;
    const captured = Date.parse(this.capturedAt);
    const distance = (event) => Math.abs(Date.parse(event.time) - captured) / 1000;
    const same = this.events.find(({ epoch, frame_index: frame }) => `${epoch}/${frame}` === this.version);
    if (same) return same;
    const [nearest] = this.events.filter((event) => distance(event) <= NEAR_SECONDS)
      .sort((a, b) => distance(a) - distance(b));
    return nearest;
  }

  isInTime() {
    const age = this.image.hidden ? null : secondsSince(this.capturedAt);
    return age !== null && age <= OLD_SECONDS;
  }

  /** What time changes: ages, and boxes that vanish. */
  tick() {
    const event = this.eventToDraw();
    const shown = event?.detections.filter(this.accepts) ?? [];
    drawBoxes(this.layer, shown, this.size, { scores: this.large, ignored: this.ignored });
    const fades = event && (this.newest() || !this.isInTime());
    const faded = fades ? (ageOf(event) - FADE_SECONDS) / (BOX_SECONDS - FADE_SECONDS) : 0;
    this.layer.style.opacity = 1 - 0.6 * Math.min(1, Math.max(0, faded));
    if (!this.image.hidden) this.showAge();
  }

  showAge() {
    const age = secondsSince(this.capturedAt);
    const old = !this.isInTime();
    this.element.classList.toggle("old", old);
    this.age.hidden = !old && !this.blurred && !this.large;
    const text = age === null ? "of an unknown time" : `${duration(age)} old`;
    setText(this.age, this.blurred ? `blurred · ${text}` : text);
  }
}

/** Seconds since the moment of an event: by its time and by when it came, as a camera's clock may be ahead. */
function ageOf({ time, arrived }) {
  return Math.max(secondsSince(time) ?? 0, (now() - arrived) / 1000);
}
