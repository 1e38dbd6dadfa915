// The first page: every camera, a feed of what happens, and the replays. Wires the parts together.

import { getJson } from "./api.js";
import { CameraCard } from "./card.js";
import { now } from "./clock.js";
import { coverageLegend } from "./coverage.js";
import { element } from "./dom.js";
import { Feed } from "./feed.js";
import { Filters } from "./filters.js";
import { Live } from "./live.js";
import { PictureFetcher } from "./pictures.js";
import { Shell } from "./shell.js";
import { describe, isTrouble } from "./states.js";

const TICK_MS = 250;
const COVERAGE_MS = 60000;
const PENDING_MS = 2000;
const DAY_MS = 86400000;

const page = Object.fromEntries(
  ["cameras", "summary", "empty", "none-chosen", "feed", "filters", "pause", "show-detections", "show-changes",
    "replays", "replay-list", "legend", "feed-empty"].map((id) => [id, document.getElementById(id)]));
const cameras = new Map();
const cards = new Map();
const fetcher = new PictureFetcher();
let coverage = null;
let coverageTimer = 0;
let loaded = false;

const filters = new Filters(page.filters, () => {
  showCards();
  feed.render();
});
const feed = new Feed(page.feed, filters, () => ({
  detections: page["show-detections"].checked, changes: page["show-changes"].checked,
}));
const shell = new Shell(() => showCards());

function byId(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

function takeCamera(camera) {
  const before = cameras.get(camera.id);
  cameras.set(camera.id, camera);
  if (before && shell.trusted && before.state !== camera.state) {
    shell.announce(`Camera ${camera.id}: ${describe(camera, true).word}`);
  }
  shell.takeMalformed([...cameras.values()].reduce((sum, each) => sum + (each.malformed ?? 0), 0));
  filters.offer("camera", [camera.id]);
  filters.offer("label", camera.labels ?? []);
  if (before) cards.get(camera.id).update(camera, shell.trusted);
  else addCard(camera);
}

function addCard(camera) {
  const card = new CameraCard(camera, filters.wanted);
  cards.set(camera.id, card);
  const next = [...cards.keys()].filter((id) => id > camera.id).sort(byId)[0];
  page.cameras.insertBefore(card.element, next === undefined ? null : cards.get(next).element);
  fetcher.add(camera.id, card.picture);
  askForCoverage(0); // of this one, and of others that come with it
}

function removeCamera(id) {
  cards.get(id)?.element.remove();
  cards.delete(id);
  cameras.delete(id);
  fetcher.remove(id);
}

function takeState(state) {
  const ids = new Set(state.cameras.map(({ id }) => id));
  for (const id of [...cameras.keys()]) if (!ids.has(id)) removeCamera(id);
  shell.takeState(state);
  state.cameras.forEach(takeCamera);
  showReplays(state.replays ?? []);
  loaded = true;
  showCards();
}

function showCards() {
  for (const [id, card] of cards) {
    card.element.hidden = !filters.acceptsCamera(id);
    card.update(cameras.get(id), shell.trusted);
  }
  const shown = [...cameras.values()].filter(({ id }) => filters.acceptsCamera(id));
  page.empty.hidden = !loaded || cameras.size > 0 || !shell.trusted;
  page["none-chosen"].hidden = !cameras.size || shown.length > 0;
  page.legend.hidden = !cameras.size;
  showSummary();
}

let summaryShown = "";
function showSummary() {
  const counts = new Map();
  for (const camera of cameras.values()) {
    const { word } = describe(camera, shell.trusted);
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const text = [...counts].map(([word, count]) => `${count} ${word.toLowerCase()}`).join(", ");
  const trouble = shell.trusted ? [...cameras.values()].filter(isTrouble).map(({ id }) => id).sort(byId) : [];
  const key = `${text}|${trouble.join("|")}`;
  if (key === summaryShown) return;
  summaryShown = key;
  const links = trouble.slice(0, 5).flatMap((id, index) => [
    index ? ", " : ": ", element("a", { href: `/camera/${encodeURIComponent(id)}` }, id)]);
  if (trouble.length > 5) links.push(` and ${trouble.length - 5} more`);
  page.summary.replaceChildren(text, ...(trouble.length ? [" · look at", ...links] : []));
}

function showReplays(replays) {
  page.replays.hidden = !replays.length;
  page["replay-list"].replaceChildren(...replays.map(({ id }) =>
    element("li", {}, element("a", { class: "button", href: `/replay/${encodeURIComponent(id)}` }, id))));
}

function takeDetections(event) {
  cards.get(event.camera)?.setEvent(event);
  filters.offer("label", event.detections.map(({ label }) => label));
  addToFeed(event);
}

function addToFeed(record) {
  feed.add(record);
  page["feed-empty"].hidden = page.feed.children.length > 0;
  if (feed.paused) page.pause.textContent = feed.waiting ? `Resume (${feed.waiting} new)` : "Resume";
}

function askForCoverage(delayMs) {
  clearTimeout(coverageTimer);
  coverageTimer = setTimeout(loadCoverage, delayMs);
}

async function loadCoverage() {
  askForCoverage(COVERAGE_MS);
  if (document.hidden || !shell.trusted) return;
  const to = now();
  const query = new URLSearchParams({
    from: new Date(to - DAY_MS).toISOString(), to: new Date(to).toISOString(),
  });
  try {
    coverage = await getJson(`/api/coverage?${query}`);
  } catch {
    return; // the next minute brings it
  }
  for (const id of cards.keys()) giveCoverage(id);
  if (coverage.pending?.length) askForCoverage(PENDING_MS);
}

function giveCoverage(id) {
  const intervals = coverage.cameras[id];
  if (intervals) cards.get(id).setCoverage(intervals, Date.parse(coverage.from), Date.parse(coverage.to));
}

page.pause.addEventListener("click", () => {
  feed.pause(!feed.paused);
  page.pause.setAttribute("aria-pressed", feed.paused);
  page.pause.textContent = feed.paused ? "Resume" : "Pause";
});
for (const id of ["show-detections", "show-changes"]) {
  page[id].addEventListener("change", () => feed.render());
}
page.legend.append(coverageLegend());
setInterval(() => {
  if (!document.hidden) for (const card of cards.values()) card.tick();
}, TICK_MS);

new Live("", {
  state: takeState,
  camera: (camera) => {
    takeCamera(camera);
    showCards();
  },
  detections: takeDetections,
  change: addToFeed,
  redis: (redis) => shell.takeRedis(redis),
  removed: ({ id }) => {
    removeCamera(id);
    showCards();
  },
  replays: showReplays,
}, (open, line) => shell.takeConnection(open, line));
