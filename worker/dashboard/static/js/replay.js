// The page of a replay: detections over the recording; the moment chosen, with its boxes. Redis holds no
// pictures of a recording: the reader may open the file, which stays in the browser.

import { getJson, idOfPage } from "./api.js";
import { boxLayer, detectionRows, drawBoxes, sizeOf } from "./boxes.js";
import { countsTable } from "./chart.js";
import { badge, element, setText } from "./dom.js";
import { position, summary, whole } from "./format.js";
import { Live } from "./live.js";
import { Shell } from "./shell.js";
import { reasonText } from "./states.js";
import { Timeline } from "./timeline.js";

const AGAIN_MS = 2000;
const SEEK_SECONDS = 0.001; // past the frame's own time, which a binary fraction may fall short of
const OTHER_LENGTH_SECONDS = 1;

const id = idOfPage("/replay/");
const page = Object.fromEntries(
  ["title", "state", "about", "missing", "content", "timeline", "picture", "moment", "found", "file", "file-note",
    "back", "forward"].map((name) => [name, document.getElementById(name)]));
const path = `/api/replays/${encodeURIComponent(id)}`;
const shell = new Shell(() => shell.trusted && load());
const layer = boxLayer();
const video = element("video", { muted: true, playsinline: true, preload: "auto", hidden: true, "aria-hidden": "true" });
const stage = element("div", { class: "stage" }, video, layer);
const size = sizeOf(stage, () => drawMoment());
const placeholder = element("p", { class: "no-picture" }, "Redis holds no pictures of a recording");
const timeline = new Timeline({ onchoose: (chosen) => chooseMoment(chosen), words });
let replay = null;
let request = null;
let moment = { detections: [] };

function words(value) {
  return replay?.axis === "frames" ? `frame ${Math.round(value)}` : position(value);
}

function lengthOf(found) {
  const steps = Math.max(0, ...Object.values(found.timeline.labels).map((counts) => counts.length));
  return found.duration_seconds || steps * found.timeline.step_seconds;
}

async function load() {
  let found;
  try {
    found = await getJson(path);
  } catch (error) {
    page.missing.hidden = error.status !== 404;
    page.content.hidden = replay === null;
    return;
  }
  const first = replay === null;
  replay = found;
  page.missing.hidden = true;
  page.content.hidden = false;
  showReplay();
  if (first) chooseMoment(Number(new URLSearchParams(location.hash.slice(1)).get("at")) || 0, true);
  if (found.complete === false || found.state === "running") setTimeout(load, AGAIN_MS);
}

function showReplay() {
  const ended = replay.state === "ended";
  const word = ended ? "Whole" : replay.state === "running" ? "In progress" : "Not finished";
  const whyNot = ended && replay.reason && replay.reason !== "end_of_file";
  page.state.replaceChildren(badge(ended && !whyNot ? "up" : "degraded", whyNot ? "Ended early" : word));
  const totals = Object.entries(replay.labels).map(([label, count]) => `${whole(count)} ${label}`).join(", ");
  const frames = `${whole(replay.frames)} frames analysed`;
  const parts = [words(lengthOf(replay)), frames, totals || "nothing detected"];
  if (whyNot) parts.unshift(reasonText(replay.reason, replay.detail));
  setText(page.about, parts.join(" · "));
  const { step_seconds: step, labels } = replay.timeline;
  timeline.frame = replay.frames > 1 ? lengthOf(replay) / replay.frames : 0;
  timeline.setCounts(lengthOf(replay), step, labels);
  const open = page.timeline.querySelector("details")?.open ?? false;
  const table = countsTable(labels, { stepText: (index) => words(index * step), firstColumn: "From" });
  table.open = open;
  page.timeline.querySelector("details")?.remove();
  page.timeline.append(table);
}

/** Shows what was detected at a moment: the newest choice wins. */
async function chooseMoment(chosen, first = false) {
  timeline.choose(chosen, true);
  if (!first) history.replaceState(null, "", `#at=${chosen.toFixed(3)}`);
  request?.abort();
  request = new AbortController();
  let found;
  try {
    found = await getJson(`${path}/at?seconds=${chosen}`, { signal: request.signal });
  } catch (error) {
    if (error.name !== "AbortError") setText(page.moment, `Nothing to show: ${error.message}`);
    return;
  }
  showMoment(found);
}

function showMoment(found) {
  stage.style.setProperty("--ratio", found.width / found.height);
  moment = found;
  drawMoment();
  const where = Number.isFinite(found.pts_seconds) ? `${position(found.pts_seconds)}, ` : "";
  setText(page.moment, `${where}frame ${found.frame_index}: ${summary(found.detections) || "nothing detected"}`);
  page.found.replaceChildren(...detectionRows(found.detections));
  if (Number.isFinite(found.pts_seconds)) {
    video.currentTime = Math.max(0, found.pts_seconds - (replay.start_seconds ?? 0)) + SEEK_SECONDS;
  }
}

function drawMoment() {
  drawBoxes(layer, moment.detections, size, { scores: true });
}

function openRecording() {
  const [file] = page.file.files;
  if (!file) return;
  if (video.src) URL.revokeObjectURL(video.src);
  const at = video.currentTime;
  video.src = URL.createObjectURL(file);
  video.addEventListener("loadedmetadata", () => {
    video.currentTime = at;
    video.hidden = false;
    placeholder.hidden = true;
    const differs = Math.abs(video.duration - lengthOf(replay)) > OTHER_LENGTH_SECONDS;
    setText(page["file-note"], differs
      ? `${file.name} is ${position(video.duration)} long, the replay ${position(lengthOf(replay))}: is it the same?`
      : `${file.name}, from this computer.`);
    chooseMoment(timeline.position);
  }, { once: true });
  video.addEventListener("error", () => {
    video.hidden = true;
    placeholder.hidden = false;
    setText(page["file-note"], `This browser cannot play ${file.name}: another format, such as MP4, may work.`);
  }, { once: true });
}

page.title.textContent = id;
document.title = `${id} · ssd-worker`;
page.content.hidden = true;
page.timeline.append(timeline.element);
page.picture.append(element("div", { class: "frame" }, stage, placeholder));
page.file.addEventListener("change", openRecording);
page.back.addEventListener("click", () => timeline.choose(timeline.position - timeline.small));
page.forward.addEventListener("click", () => timeline.choose(timeline.position + timeline.small));

new Live("", {
  state: (state) => shell.takeState(state),
  redis: (redis) => shell.takeRedis(redis),
}, (open, line) => shell.takeConnection(open, line));
