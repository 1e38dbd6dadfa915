// Which cameras, labels and scores the reader wants to see. Kept in the address, so that a link keeps it.

import { element } from "./dom.js";

const TITLES = { camera: "Cameras", label: "Labels" };

export class Filters {
  /** `onchange()` after each change. Fills `form` with menus of these kinds, and the score. */
  constructor(form, onchange, kinds = ["camera", "label"]) {
    this.onchange = onchange;
    this.kinds = kinds;
    const query = new URLSearchParams(location.search);
    this.chosen = Object.fromEntries(kinds.map((kind) => [kind, new Set(query.getAll(kind))]));
    this.newest = query.get("boxes") === "newest";
    const score = Number(query.get("score"));
    this.score = score > 0 && score <= 1 ? score : 0;
    this.menus = Object.fromEntries(kinds.map((kind) => [kind, this.menu(TITLES[kind])]));
    this.reset = element("button", { type: "button", class: "plain", onclick: () => this.clear() }, "Clear filters");
    form.append(...Object.values(this.menus).map((menu) => menu.element), this.scoreField(), this.boxesField(), this.reset);
    form.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("click", (event) => this.closeOthers(event.target));
    form.addEventListener("keydown", (event) => event.key === "Escape" && this.closeFocused());
    for (const kind of kinds) this.offer(kind, []);
    this.show();
  }

  /** Whether a camera is to be seen. */
  acceptsCamera(id) {
    return !this.chosen.camera.size || this.chosen.camera.has(id);
  }

  /** Whether a detection is to be seen. */
  accepts({ label, score }) {
    return score >= this.score && (!this.chosen.label.size || this.chosen.label.has(label));
  }

  /** The names to choose from; those chosen stay, even where nothing has them at present. */
  offer(kind, names) {
    const menu = this.menus[kind];
    for (const name of [...names, ...this.chosen[kind]]) menu.names.add(name);
    const sorted = [...menu.names].sort();
    if (sorted.join("\n") === menu.offered) return;
    menu.offered = sorted.join("\n");
    menu.empty.hidden = sorted.length > 0;
    for (const name of sorted) {
      if (!menu.boxes.has(name)) menu.boxes.set(name, this.option(kind, name));
      menu.list.append(menu.boxes.get(name).closest("label"));
    }
  }

  menu(title) {
    const summary = element("summary", {});
    const list = element("div", { class: "options", role: "group", "aria-label": title });
    const empty = element("p", { class: "quiet" }, "None yet");
    const details = element("details", { class: "menu" }, summary, element("div", { class: "drop" }, empty, list));
    return { element: details, summary, list, empty, title, names: new Set(), boxes: new Map(), offered: null };
  }

  option(kind, name) {
    const box = element("input", { type: "checkbox", value: name });
    box.checked = this.chosen[kind].has(name);
    box.addEventListener("change", () => {
      if (box.checked) this.chosen[kind].add(name);
      else this.chosen[kind].delete(name);
      this.changed();
    });
    element("label", { class: "option" }, box, name);
    return box;
  }

  scoreField() {
    this.range = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: this.score, name: "score" });
    this.output = element("output", { class: "number" });
    this.range.addEventListener("input", () => {
      this.score = Number(this.range.value);
      this.changed();
    });
    return element("label", { class: "field" }, "Score from", this.range, this.output);
  }

  boxesField() {
    this.select = element("select", { name: "boxes", "aria-label": "Which boxes" },
      element("option", { value: "picture" }, "Boxes of the picture"),
      element("option", { value: "newest" }, "Newest boxes"));
    this.select.value = this.newest ? "newest" : "picture";
    this.select.addEventListener("change", () => {
      this.newest = this.select.value === "newest";
      this.changed();
    });
    return this.select;
  }

  /** What a Picture asks of its reader. */
  get wanted() {
    return { accepts: (detection) => this.accepts(detection), newest: () => this.newest };
  }

  clear() {
    for (const kind of this.kinds) {
      this.chosen[kind].clear();
      for (const box of this.menus[kind].boxes.values()) box.checked = false;
    }
    this.score = 0;
    this.range.value = 0;
    this.changed();
    this.menus[this.kinds[0]].summary.focus();
  }

  changed() {
    const query = new URLSearchParams();
    for (const kind of this.kinds) {
      for (const name of this.chosen[kind]) query.append(kind, name);
    }
    if (this.score) query.set("score", this.score);
    if (this.newest) query.set("boxes", "newest");
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
    this.show();
    this.onchange();
  }

  show() {
    for (const kind of this.kinds) {
      const { summary, title } = this.menus[kind];
      const names = [...this.chosen[kind]];
      const text = names.length === 0 ? "all" : names.length === 1 ? names[0] : `${names.length} chosen`;
      summary.textContent = `${title}: ${text}`;
    }
    this.output.textContent = this.score.toFixed(2);
    this.reset.hidden = !this.score && this.kinds.every((kind) => !this.chosen[kind].size);
  }

  closeOthers(target) {
    for (const { element: details } of Object.values(this.menus)) {
      if (!details.contains(target)) details.open = false;
    }
  }

  closeFocused() {
    for (const { element: details, summary } of Object.values(this.menus)) {
      if (details.open && details.contains(document.activeElement)) {
        details.open = false;
        summary.focus();
      }
    }
  }
}
