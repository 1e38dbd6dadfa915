// A camera's last picture with live boxes over it. Takes pictures and events; shows no old one as new:
// the picture has its age on it, and is greyed beyond OLD_SECONDS; boxes vanish BOX_SECONDS after the
// moment they were seen at, by the event's own time.

import { boxLayer, drawBoxes } from "./boxes.js";
import { now, secondsSince } from "./clock.js";
import { element, setText } from "./dom.js";
import { duration } from "./format.js";

const OLD_SECONDS = 5;
const BOX_SECONDS = 2;
const FADE_SECONDS = 1;

export class Picture {
  /** `large`: with scores on the boxes. `accepts(detection)`: which boxes are wanted. */
  constructor(id, { large = false, accepts = () => true } = {}) {
    this.large = large;
    this.accepts = accepts;
    this.ignored = () => false;
    this.event = null;
    this.version = "";
    this.image = element("img", { alt: `Last picture of ${id}`, hidden: true });
    this.layer = boxLayer();
    this.stage = element("div", { class: "stage" }, this.image, this.layer);
    this.placeholder = element("p", { class: "no-picture" });
    this.age = element("span", { class: "age", hidden: true });
    this.element = element("div", { class: "frame" }, this.stage, this.placeholder, this.age);
    this.explain("");
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
    this.event = event;
    this.arrived = now();
    if (this.image.hidden) this.setShape(event.width, event.height);
    this.tick();
  }

  /** What stands in the place of a picture that there is not. */
  explain(text) {
    setText(this.placeholder, text);
  }

  /** The detections that are shown at this moment. */
  shown() {
    if (!this.event || this.boxAge() > BOX_SECONDS) return [];
    return this.event.detections.filter(this.accepts);
  }

  /** By the event's time and by when it came: a camera's clock may be ahead. */
  boxAge() {
    const since = secondsSince(this.event.time) ?? 0;
    return Math.max(since, (now() - this.arrived) / 1000);
  }

  /** What time changes: ages, and boxes that vanish. */
  tick() {
    const shown = this.shown();
    drawBoxes(this.layer, shown, { scores: this.large, ignored: this.ignored });
    if (shown.length) {
      const fading = (this.boxAge() - FADE_SECONDS) / (BOX_SECONDS - FADE_SECONDS);
      this.layer.style.opacity = 1 - 0.6 * Math.min(1, Math.max(0, fading));
    }
    if (this.image.hidden) return;
    const age = secondsSince(this.capturedAt);
    const old = age === null || age > OLD_SECONDS;
    this.element.classList.toggle("old", old);
    this.age.hidden = !old && !this.blurred && !this.large;
    const text = age === null ? "of an unknown time" : `${duration(age)} old`;
    setText(this.age, this.blurred ? `blurred · ${text}` : text);
  }
}
