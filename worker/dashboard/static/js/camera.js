// The page of one camera: its picture with boxes, its figures, charts, coverage, changes, and areas to
// ignore. Wires the parts together.

import { cameraPath, get, getJson, idOfPage } from "./api.js";
import { Areas } from "./areas.js";
import { missingPicture } from "./card.js";
import { charts, countsTable } from "./chart.js";
import { now } from "./clock.js";
import { coverageBar, coverageLegend, gapRows } from "./coverage.js";
import { badge, element, setText } from "./dom.js";
import { Filters } from "./filters.js";
import { clock, duration, measure, shortClock, summary } from "./format.js";
import { Live } from "./live.js";
import { Picture } from "./picture.js";
import { Shell } from "./shell.js";
import { describe, reasonText } from "./states.js";

const TICK_MS = 250;
const PICTURE_MS = 1000;
const SLOW_MS = 30000;
const AGAIN_MS = 2000;
const DAY_MS = 86400000;
const BUCKETS = 60;
const CHANGES = 50;
const FIGURES = [
  ["Frames per second", (camera) => measure(camera.fps)],
  ["Analysed per second", (camera) => measure(camera.analysed_fps)],
  ["Latency, capture to Redis", (camera) => measure(camera.latency_ms, "ms")],
  ["Frames dropped per minute", (camera) => measure(camera.dropped_per_minute)],
];

const id = idOfPage("/camera/");
const page = Object.fromEntries(
  ["title", "state", "since", "missing", "content", "picture", "seen", "filters", "figures", "area-buttons", "areas",
    "period", "charts", "coverage", "changes"].map((name) => [name, document.getElementById(name)]));
let camera = null;
let changes = [];
const timers = new Map();

const filters = new Filters(page.filters, () => picture.tick(), ["label"]);
const picture = new Picture(id, { large: true, ...filters.wanted });
const shell = new Shell(() => show());
page.picture.append(picture.element);
page.title.textContent = id;
document.title = `${id} · ssd-worker`;
new Areas(id, picture, page["area-buttons"], page.areas);

function takeCamera(found) {
  if (camera && shell.trusted && camera.state !== found.state) {
    shell.announce(`Camera ${id}: ${describe(found, true).word}`);
  }
  const isNew = camera === null;
  camera = found;
  shell.takeMalformed(found.malformed ?? 0);
  if (isNew) loadHistory();
  loadPicture();
  filters.offer("label", found.labels ?? []);
  show();
}

function takeState(state) {
  shell.takeState(state);
  const found = state.cameras.find((each) => each.id === id);
  if (!found) camera = null;
  else if (camera) loadHistory(); // connected again: what came between is not known
  if (found) takeCamera(found);
  show();
}

function show() {
  page.missing.hidden = camera !== null || !shell.trusted;
  page.content.hidden = camera === null;
  if (!camera) {
    page.state.replaceChildren();
    setText(page.since, "");
    return;
  }
  const { kind, word, text } = describe(camera, shell.trusted);
  if (page.state.textContent !== word) page.state.replaceChildren(badge(kind, word));
  setText(page.since, text);
  picture.explain(missingPicture(kind, camera));
  const current = shell.trusted && (kind === "up" || kind === "degraded");
  const values = FIGURES.map(([title, value]) => [title, current ? value(camera) : "–"]);
  values.push(["Newest event", camera.last_event ? clock(camera.last_event, now()) : "–"]);
  const key = JSON.stringify(values);
  if (key === page.figures.dataset.shown) return;
  page.figures.dataset.shown = key;
  page.figures.replaceChildren(...values.map(([title, value]) =>
    element("div", {}, element("dt", {}, title), element("dd", { class: "number" }, value))));
}

function takeDetections(event) {
  if (event.camera !== id) return;
  picture.setEvent(event);
  filters.offer("label", event.detections.map(({ label }) => label));
}

let loadingPicture = false;
async function loadPicture() {
  const { snapshot } = camera ?? {};
  const version = snapshot ? `${snapshot.epoch}/${snapshot.frame_index}` : "";
  if (!version || version === picture.version || document.hidden || loadingPicture) return;
  loadingPicture = true;
  try {
    const response = await get(cameraPath(id, "/snapshot"));
    const { headers } = response;
    await picture.setPicture(await response.blob(), headers.get("X-Captured-At"), headers.get("X-Frame"), snapshot.blurred);
  } catch {
    // None just now: the last one stays, and gets older.
  }
  loadingPicture = false;
}

/** Asks once more after a while, for what the server was still reading. */
function again(load) {
  clearTimeout(timers.get(load));
  timers.set(load, setTimeout(load, AGAIN_MS));
}

function loadHistory() {
  loadCounts();
  loadCoverage();
  loadChanges();
}

async function loadCounts() {
  const seconds = Number(page.period.value);
  const query = new URLSearchParams({
    from: new Date(now() - seconds * 1000).toISOString(), to: new Date(now()).toISOString(), buckets: BUCKETS,
  });
  let counts;
  try {
    counts = await getJson(cameraPath(id, `/counts?${query}`));
  } catch (error) {
    page.charts.replaceChildren(element("p", { class: "quiet" }, `No numbers: ${error.message}.`));
    return;
  }
  showCounts(counts);
  if (counts.complete === false) again(loadCounts);
}

function showCounts(counts) {
  const from = Date.parse(counts.from);
  const step = counts.step_seconds * 1000;
  const stepText = (index) => shortClock(from + index * step);
  const known = Date.parse(counts.known_from ?? "");
  const unknown = known > from ? Math.ceil((known - from) / step) : 0;
  const per = `per ${duration(counts.step_seconds)}`;
  const ends = [from, (from + Date.parse(counts.to)) / 2, Date.parse(counts.to)].map(shortClock);
  const drawn = charts(counts.labels, { unknown, stepText, ends, per });
  const open = page.charts.querySelector("details")?.open ?? false;
  const note = unknown > 0 ? [element("p", { class: "quiet" }, `Counts are known from ${clock(counts.known_from, now())} on: ` +
    (counts.complete === false ? "reading goes on." : "what was before has been trimmed from the stream."))] : [];
  page.charts.replaceChildren(
    ...note,
    ...(drawn.length ? drawn : [element("p", { class: "quiet" }, "Nothing was detected in this period.")]),
    ...(drawn.length ? [countsTable(counts.labels, { stepText, firstColumn: "From", unknown })] : []),
    element("p", { class: "quiet" }, "Each object counts once in every frame that is analysed."));
  const details = page.charts.querySelector("details");
  if (details) details.open = open;
}

async function loadCoverage() {
  const to = now();
  const query = new URLSearchParams({
    camera: id, from: new Date(to - DAY_MS).toISOString(), to: new Date(to).toISOString(),
  });
  try {
    const coverage = await getJson(`/api/coverage?${query}`);
    if (coverage.pending?.length) again(loadCoverage);
    const intervals = coverage.cameras[id];
    if (!intervals) return;
    const bounds = [Date.parse(coverage.from), Date.parse(coverage.to)];
    page.coverage.replaceChildren(coverageBar(intervals, ...bounds), coverageLegend(), gaps(intervals));
  } catch {
    // The next round brings it.
  }
}

function gaps(intervals) {
  const rows = gapRows(intervals);
  const head = ["From", "For", "State", "Why"].map((text) => element("th", { scope: "col" }, text));
  return element("details", {}, element("summary", {}, `Times other than watched: ${rows.length}`),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Gaps" },
      element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows))));
}

async function loadChanges() {
  try {
    const found = await getJson(cameraPath(id));
    changes = found.changes ?? [];
    if (found.changes_complete === false) again(loadChanges);
  } catch {
    return;
  }
  showChanges();
}

function showChanges() {
  page.changes.replaceChildren(...changes.slice(0, CHANGES).map((change) => element("tr", {},
    element("td", { class: "number" }, clock(change.time, now())),
    element("td", {}, badge(change.state, change.state)),
    element("td", {}, reasonText(change.reason, change.detail)))));
}

page.period.addEventListener("change", loadCounts);
setInterval(() => {
  if (document.hidden) return;
  picture.tick();
  setText(page.seen, summary(picture.current()) || "Nothing detected at this moment");
  if (camera) setText(page.since, describe(camera, shell.trusted).text);
}, TICK_MS);
setInterval(loadPicture, PICTURE_MS);
setInterval(() => !document.hidden && shell.trusted && camera && loadHistory(), SLOW_MS);

new Live(new URLSearchParams({ camera: id }).toString(), {
  state: takeState,
  camera: (found) => {
    if (found.id !== id) return;
    takeCamera(found);
  },
  detections: takeDetections,
  change: (change) => {
    if (change.camera !== id) return;
    changes = [change, ...changes];
    showChanges();
  },
  redis: (redis) => shell.takeRedis(redis),
  removed: (gone) => {
    if (gone.id !== id) return;
    camera = null;
    show();
  },
}, (open, line) => shell.takeConnection(open, line));
