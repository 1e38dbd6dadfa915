// The part of a camera's page that makes `ignore`: the editor's buttons, its list, and the TOML to paste.
// Drafts are kept in this browser until they are cleared: a reload loses no work.

import { element, setText } from "./dom.js";
import { ShapeEditor } from "./editor.js";
import { percent } from "./format.js";
import { IGNORE, anchorOf, area, inside, problem, rounded } from "./shapes.js";
import { keep, kept } from "./storage.js";

export class Areas {
  constructor(camera, picture, buttons, panel) {
    Object.assign(this, { camera, picture });
    this.stored = `areas/${camera}`;
    this.help = element("p", { id: "drawing-help", class: "quiet" });
    this.said = element("p", { class: "said", role: "status" });
    this.list = element("ul", { class: "area-list" });
    this.output = element("textarea", { class: "code", readonly: true, rows: 5, spellcheck: "false", id: "toml" });
    this.editor = new ShapeEditor(IGNORE, { onchange: () => this.show(), say: (text) => setText(this.said, text) });
    picture.stage.append(this.editor.element);
    this.drawButton = element("button", { type: "button", "aria-pressed": "false", onclick: () => this.toggle() }, "Draw");
    this.undoButton = element("button", { type: "button", onclick: () => this.editor.undo() }, "Take back point");
    this.closeButton = element("button", { type: "button", onclick: () => this.editor.finish() }, "Close area");
    buttons.append(this.drawButton, this.undoButton, this.closeButton);
    panel.append(this.help, this.said, this.list, this.result());
    picture.ignored = (found) => this.covers(found);
    this.editor.setShapes(this.restore());
    this.show();
  }

  result() {
    this.copied = element("span", { role: "status", class: "quiet" });
    this.anchor = element("select", { onchange: () => this.show() },
      element("option", { value: "bottom" }, "the middle of its lower edge"),
      element("option", { value: "centre" }, "its centre"));
    const paste = element("label", { for: "toml" }, "Paste this into the cameras file. If it has this camera's table already, ",
      "paste only what is below the first line:");
    this.resultElement = element("div", { class: "result" },
      element("label", { class: "field" }, "A box counts by ", this.anchor), paste, this.output,
      element("div", { class: "buttons" },
        element("button", { type: "button", onclick: () => this.copy() }, "Copy"),
        element("button", { type: "button", class: "plain", onclick: () => this.clear() }, "Delete all areas"), this.copied));
    return this.resultElement;
  }

  toggle() {
    this.editor.setActive(!this.editor.active);
    this.drawButton.setAttribute("aria-pressed", this.editor.active);
    if (this.editor.active) this.picture.element.scrollIntoView({ block: "nearest" });
    this.show();
  }

  covers({ box }) {
    const point = anchorOf(box, this.anchor.value);
    return this.editor.shapes.some((points) => inside(point, points));
  }

  show() {
    const { active, shapes, draft } = this.editor;
    setText(this.drawButton, active ? "Stop drawing" : "Draw");
    this.undoButton.hidden = this.closeButton.hidden = !active;
    this.undoButton.disabled = !draft.length;
    this.closeButton.disabled = draft.length < IGNORE.minimum;
    setText(this.help, active
      ? "Press on the picture to set the corners, on the first one to close. Keys: arrows move the cross (Shift: " +
        "finer), Enter sets a corner, Enter on the first one closes, Backspace takes one back, Escape gives up."
      : "Detections in these areas of the picture are not published: reflections, a flag, a street behind the " +
        "fence. Draw them over the picture, and paste the result into the cameras file.");
    this.list.replaceChildren(...shapes.map((points, index) => this.item(points, index)));
    this.resultElement.hidden = !shapes.length;
    const good = shapes.filter((points) => !problem(IGNORE, points));
    this.output.value = IGNORE.toml(this.camera, good, { anchor: this.anchor.value });
    this.output.rows = Math.min(12, this.output.value.split("\n").length);
    setText(this.copied, "");
    this.store();
    this.picture.tick();
  }

  item(points, index) {
    const wrong = problem(IGNORE, points);
    const about = wrong || `${points.length} corners, ${percent(area(points))} of the picture`;
    return element("li", {}, element("span", {}, `Area ${index + 1}: ${about}`),
      element("button", { type: "button", class: "plain", "aria-label": `Delete area ${index + 1}`, onclick: () => this.remove(index) }, "Delete"));
  }

  remove(index) {
    this.editor.remove(index);
    this.drawButton.focus();
  }

  clear() {
    this.editor.setShapes([]);
    this.show();
    this.drawButton.focus();
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.output.value);
      setText(this.copied, "Copied");
    } catch {
      this.output.select(); // over plain HTTP from another machine browsers forbid it
      setText(this.copied, "Selected: copy it with the keyboard");
    }
  }

  store() {
    const { shapes } = this.editor;
    keep(this.stored, shapes.length ? JSON.stringify(shapes) : null);
  }

  restore() {
    try {
      const shapes = JSON.parse(kept(this.stored) ?? "[]");
      return shapes.map((points) => points.map(rounded));
    } catch {
      return [];
    }
  }
}
