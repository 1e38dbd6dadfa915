// Draws shapes over a picture with mouse, touch or keyboard. Takes a kind (see shapes.js) and a surface
// that covers the picture; gives the shapes by `onchange`, in fractions of the picture.
//
// Pointer: press sets a point, which follows until it is let go; press the first point to close.
// Keys: arrows move the cross (with Shift finer), Enter sets a point, Enter on the first point closes,
// Backspace takes one back, Escape gives up. Every point is a button that can be dragged or moved.

import { element, svg } from "./dom.js";
import { problem, rounded } from "./shapes.js";

const STEP = 0.02;
const FINE_STEP = 0.002;
const NEAR_PX = 14;
const SAME = FINE_STEP / 2;
const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class ShapeEditor {
  /** `say(text)`: for screen readers, and those who see. */
  constructor(kind, { onchange, say }) {
    Object.assign(this, { kind, onchange, say });
    this.shapes = [];
    this.draft = [];
    this.cross = [0.5, 0.5];
    this.active = false;
    this.outlines = svg("svg", { class: "outlines", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.crossElement = element("span", { class: "cross", "aria-hidden": "true" });
    this.handles = element("div", { class: "handles" });
    this.surface = element("div", {
      class: "surface", tabindex: 0, role: "application", "aria-label": `Drawing of ${kind.noun}s over the picture`,
      "aria-describedby": "drawing-help", onpointerdown: (event) => this.press(event), onkeydown: (event) => this.key(event),
    });
    this.element = element("div", { class: "editor" }, this.outlines, this.surface, this.handles, this.crossElement);
    this.show();
  }

  setActive(active) {
    this.active = active;
    this.draft = [];
    this.show();
    if (active) this.surface.focus();
  }

  setShapes(shapes) {
    this.shapes = shapes;
    this.show();
  }

  remove(index) {
    this.shapes = this.shapes.filter((_, number) => number !== index);
    this.changed(`${this.name(index)} deleted`);
  }

  /** Takes back the last point. */
  undo() {
    this.draft.pop();
    this.show();
    this.onchange();
    this.say(`${this.draft.length} points`);
  }

  /** Makes a shape of the points set so far, or says what is missing. */
  finish() {
    const wrong = problem(this.kind, this.draft);
    if (wrong) {
      this.say(`The ${this.kind.noun} ${wrong}`);
      return;
    }
    this.shapes = [...this.shapes, this.draft];
    this.draft = [];
    this.changed(`${this.name(this.shapes.length - 1)} done`);
  }

  name(index) {
    const { noun } = this.kind;
    return `${noun[0].toUpperCase()}${noun.slice(1)} ${index + 1}`;
  }

  changed(text) {
    this.show();
    this.onchange();
    if (text) this.say(text);
  }

  set(point) {
    this.draft.push(rounded(point));
    if (this.draft.length === this.kind.maximum) this.finish();
    else this.changed(`Point ${this.draft.length} at ${inWords(point)}`);
  }

  /** The point of a pointer event. */
  at(event) {
    const { left, top, width, height } = this.surface.getBoundingClientRect();
    return rounded([(event.clientX - left) / width, (event.clientY - top) / height]);
  }

  near(event, point) {
    const { left, top, width, height } = this.surface.getBoundingClientRect();
    return point && Math.hypot(event.clientX - left - point[0] * width, event.clientY - top - point[1] * height) < NEAR_PX;
  }

  press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.surface.focus();
    const closes = this.draft.length >= this.kind.minimum &&
      (this.near(event, this.draft[0]) || this.near(event, this.draft.at(-1))); // a double click ends it, too
    if (closes) {
      this.finish();
      return;
    }
    this.set(this.at(event));
    if (this.draft.length) this.follow(event, this.surface, this.draft, this.draft.length - 1);
  }

  /** Lets a point follow the pointer until it is let go. */
  follow(event, target, points, index) {
    const move = (moved) => {
      points[index] = this.at(moved);
      this.movePoint(points, index);
    };
    const end = () => {
      target.removeEventListener("pointermove", move);
      for (const name of ["pointerup", "pointercancel"]) target.removeEventListener(name, end);
      this.changed("");
    };
    target.setPointerCapture(event.pointerId);
    target.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) target.addEventListener(name, end);
  }

  key(event) {
    const direction = DIRECTIONS[event.key];
    if (direction) this.moveCross(moved(this.cross, direction, event.shiftKey));
    else if (event.key === "Enter" || event.key === " ") this.enter();
    else if (event.key === "Backspace" && this.draft.length) this.undo();
    else if (event.key === "Escape" && this.draft.length) {
      this.draft = [];
      this.changed("Given up");
    } else return;
    event.preventDefault();
  }

  enter() {
    const same = (point) => point && Math.hypot(point[0] - this.cross[0], point[1] - this.cross[1]) < SAME;
    if (same(this.draft[0]) || same(this.draft.at(-1))) this.finish();
    else this.set(this.cross);
  }

  moveCross(point) {
    this.cross = point;
    place(this.crossElement, point);
    this.say(inWords(point));
  }

  handleKey(event, shape, index) {
    const direction = DIRECTIONS[event.key];
    const points = this.shapes[shape];
    if (direction) {
      points[index] = moved(points[index], direction, event.shiftKey);
      this.movePoint(points, index);
      this.changed(`Point ${index + 1} at ${inWords(points[index])}`);
    } else if (event.key === "Delete" || event.key === "Backspace") this.removePoint(shape, index);
    else return;
    event.preventDefault();
  }

  removePoint(shape, index) {
    if (this.shapes[shape].length <= this.kind.minimum) {
      this.say(`The ${this.kind.noun} needs its ${this.kind.minimum} points`);
      return;
    }
    this.shapes[shape].splice(index, 1);
    this.changed(`Point ${index + 1} deleted`);
    this.surface.focus();
  }

  handle(shape, index) {
    const point = this.shapes[shape][index];
    const button = element("button", {
      type: "button", class: "handle", "data-point": `${shape}/${index}`,
      "aria-label": `Point ${index + 1} of ${this.name(shape)}: ${inWords(point)}. Arrow keys move it, Delete removes it`,
      onkeydown: (event) => this.handleKey(event, shape, index),
      onpointerdown: (event) => {
        if (this.draft.length) return;
        event.preventDefault();
        button.focus();
        this.follow(event, button, this.shapes[shape], index);
      },
    });
    place(button, point);
    return button;
  }

  /** While a point moves only what shows it changes: its button has the pointer. */
  movePoint(points, index) {
    const shape = this.shapes.indexOf(points);
    const button = this.handles.querySelector(`[data-point="${shape}/${index}"]`);
    if (button) place(button, points[index]);
    this.showOutlines();
  }

  showOutlines() {
    const path = (points) => points.map((point) => point.join(",")).join(" ");
    const tag = this.kind.closed ? "polygon" : "polyline";
    this.outlines.replaceChildren(
      ...this.shapes.map((points) => svg(tag, { points: path(points), class: "shape" })),
      svg("polyline", { points: path(this.draft), class: "draft" }));
    this.dots?.forEach((dot) => dot.remove());
    this.dots = this.draft.map((point, index) => {
      const dot = element("span", { class: index ? "dot" : "dot first" });
      place(dot, point);
      return dot;
    });
    this.element.append(...this.dots);
  }

  show() {
    const focused = document.activeElement?.dataset.point;
    this.element.classList.toggle("active", this.active);
    this.surface.hidden = !this.active;
    this.crossElement.hidden = !this.active;
    place(this.crossElement, this.cross);
    this.showOutlines();
    const buttons = this.shapes.flatMap((points, shape) => points.map((_, index) => this.handle(shape, index)));
    this.handles.replaceChildren(...(this.active ? buttons : []));
    if (focused) this.handles.querySelector(`[data-point="${focused}"]`)?.focus();
  }
}

function moved([x, y], [dx, dy], fine) {
  const step = fine ? FINE_STEP : STEP;
  return rounded([x + dx * step, y + dy * step]);
}

function place(node, [x, y]) {
  node.style.left = `${x * 100}%`;
  node.style.top = `${y * 100}%`;
}

function inWords([x, y]) {
  const part = (value) => (value * 100).toFixed(1).replace(".0", "");
  return `${part(x)} % from the left, ${part(y)} % from the top`;
}
