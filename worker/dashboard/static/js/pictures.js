// Fetches the pictures of many cameras in one request a second, of those in view only.
// The answer: for each picture, 4 bytes big-endian length, that much JSON, and `bytes` bytes of JPEG.

import { get } from "./api.js";

const PERIOD_MS = 1000;

/** (information, JPEG) of each picture in an answer. */
export function parsePictures(buffer) {
  const view = new DataView(buffer);
  const found = [];
  for (let at = 0; at + 4 <= buffer.byteLength; ) {
    const length = view.getUint32(at);
    const header = new Uint8Array(buffer, at + 4, length);
    const info = JSON.parse(new TextDecoder().decode(header));
    const start = at + 4 + length;
    found.push([info, new Blob([new Uint8Array(buffer, start, info.bytes)], { type: "image/jpeg" })]);
    at = start + info.bytes;
  }
  return found;
}

export class PictureFetcher {
  constructor() {
    this.pictures = new Map(); // camera id -> Picture
    this.versions = new Map(); // camera id -> version of the last answer that it was asked for in
    this.visible = new Set();
    this.observer = new IntersectionObserver((entries) => this.follow(entries), { rootMargin: "100px" });
    this.run();
  }

  add(id, picture) {
    this.pictures.set(id, picture);
    picture.element.dataset.camera = id;
    this.observer.observe(picture.element);
  }

  remove(id) {
    const picture = this.pictures.get(id);
    if (picture) this.observer.unobserve(picture.element);
    for (const known of [this.pictures, this.versions, this.visible]) known.delete(id);
  }

  follow(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.visible.add(target.dataset.camera);
      else this.visible.delete(target.dataset.camera);
    }
    if ([...this.visible].some((id) => !this.versions.has(id))) this.wake();
  }

  async run() {
    for (;;) {
      const woken = new Promise((resolve) => {
        this.wake = resolve; // what has just come into view does not wait
        setTimeout(resolve, PERIOD_MS);
      });
      await woken;
      if (this.visible.size && !document.hidden) await this.fetch([...this.visible]);
    }
  }

  /** One request; a failure leaves the pictures as they are, and they get older. */
  async fetch(ids) {
    const query = new URLSearchParams(ids.map((id) => ["camera", id]));
    query.set("after", Math.min(...ids.map((id) => this.versions.get(id) ?? 0)));
    try {
      const response = await get(`/api/snapshots?${query}`);
      const version = Number(response.headers.get("X-Version"));
      const found = parsePictures(await response.arrayBuffer());
      for (const id of ids) this.versions.set(id, version);
      for (const [info, blob] of found) {
        const key = `${info.epoch}/${info.frame_index}`;
        const picture = this.pictures.get(info.id);
        if (picture && picture.version !== key) await picture.setPicture(blob, info.time, key, info.blurred);
      }
    } catch {
      // The connection's notice says what is wrong.
    }
  }
}
