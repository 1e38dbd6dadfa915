"""What the streams of cameras say of the last hours: counts per label, and state changes.

Read on demand, the newest first and a part with each request, since a stream may hold 100,000
entries; what was read stays, and the next request reads only what is new. Blocks on Redis: for
threads, one at a time.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from worker.consuming.entries import id_before, parse_id
from worker.dashboard.cameras import MAX_CHANGES, MAX_TEXT, is_plausible
from worker.dashboard.counts import Counts
from worker.dashboard.queries import Queries
from worker.dashboard.states import StateNote, without_repetitions
from worker.dashboard.times import iso, seconds_of
from worker.events import DetectionsEvent, parse_event
from worker.keys import Keys
from worker.servers.address import RedisClient

PAGE_ENTRIES = 1000
ENTRIES_PER_REQUEST = 10_000
"""About 0.3 s of a core."""
MAX_CAMERAS = 20
"""Whose history is kept: those asked for last."""
STEP_SECONDS = 60
MAX_SPAN_SECONDS = 7 * 24 * 3600

T = TypeVar("T")


class CameraHistory:
    """One camera's, as far as it was read."""

    def __init__(self, camera_id: str, stream: str) -> None:
        self._camera_id = camera_id
        self._stream = stream
        self._begin()

    def _begin(self) -> None:
        self.counts = Counts()
        self._notes: list[StateNote] = []
        self._newest = "0-0"
        self._oldest: str | None = None
        """The entries from here to ``_newest`` were read."""
        self._reached_start = False
        self._trimmed = False

    def read(self, client: RedisClient, start: float) -> None:
        """Read what is new, then further back towards ``start``, so far as one request may."""
        info = client.xinfo_stream(self._stream) if client.exists(self._stream) else None
        if info is None or parse_id(info["last-generated-id"]) < parse_id(self._newest):
            self._begin()  # deleted, or another one
        if info is None or not info["length"]:
            self._reached_start = True
            return
        self._reached_start = self._reached_start and self._oldest is not None
        # A server before Redis 7 does not say it.
        self._trimmed = info.get("entries-added", info["length"] + 1) > info["length"]
        self.counts.forget_before(int((time.time() - MAX_SPAN_SECONDS) // STEP_SECONDS))
        left = ENTRIES_PER_REQUEST
        if self._oldest is not None:
            left -= self._read_new(client, left)
        if left > 0:
            self._read_back(client, start, left)

    def is_whole_from(self, start: float) -> bool:
        """Whether all entries since then were read."""
        return self._reached_start or (
            self._oldest is not None and parse_id(self._oldest)[0] < start * 1000
        )

    def known_from(self, start: float) -> float | None:
        """From when on the counts are whole, if it is later than ``start``."""
        oldest = None if self._oldest is None else parse_id(self._oldest)[0] / 1000
        if oldest is None or oldest < start or (self._reached_start and not self._trimmed):
            return None
        return oldest

    def changes(self) -> list[dict[str, Any]]:
        """The state changes, newest first."""
        found = [note.as_json() for note in self._notes if note.reason != "heartbeat"]
        return found[: -MAX_CHANGES - 1 : -1]

    @property
    def has_all_changes(self) -> bool:
        """Whether reading further back would change ``changes``."""
        return self._reached_start or len(self.changes()) >= MAX_CHANGES

    def _read_new(self, client: RedisClient, limit: int) -> int:
        """From the newest entry on. After a long pause, all between is left out and read again."""
        milliseconds, counter = parse_id(self._newest)
        found = client.xrange(self._stream, f"{milliseconds}-{counter + 1}", "+", count=limit)
        if len(found) == limit:
            self._begin()
            return 0
        self._take(found)
        return len(found)

    def _read_back(self, client: RedisClient, start: float, limit: int) -> None:
        while limit > 0 and not self.is_whole_from(start):
            before = "+" if self._oldest is None else id_before(self._oldest)
            count = min(limit, PAGE_ENTRIES)
            found = client.xrevrange(self._stream, before, "-", count=count)
            self._take(found[::-1])
            self._reached_start = len(found) < count
            limit -= count

    def _take(self, entries: list[Any]) -> None:
        """Entries in order that follow, or precede, all that were read."""
        if not entries:
            return
        first, last = entries[0][0].decode(), entries[-1][0].decode()
        notes = [note for entry_id, fields in entries if (note := self._note(entry_id, fields))]
        is_newer = self._oldest is None or parse_id(first) > parse_id(self._newest)
        self._notes = without_repetitions(
            [*self._notes, *notes] if is_newer else [*notes, *self._notes]
        )[-4 * MAX_CHANGES :]
        if is_newer:
            self._newest = last
        if self._oldest is None or not is_newer:
            self._oldest = first

    def _note(self, entry_id: bytes, fields: dict[bytes, bytes]) -> StateNote | None:
        """Count an entry; the state in it, if it is a camera event."""
        try:
            event = parse_event(fields.get(b"event", b""))
        except ValueError:
            return None
        if not is_plausible(event):
            return None
        published = parse_id(entry_id)[0] / 1000
        if not isinstance(event, DetectionsEvent):
            return StateNote.of(event, self._camera_id, published)
        captured = seconds_of(event.time) or published
        labels = (detection.label[:MAX_TEXT] for detection in event.data.detections)
        self.counts.add(int(captured // STEP_SECONDS), labels)
        return None


class Histories:
    """Those of the cameras that were asked for last."""

    def __init__(self, queries: Queries, keys: Keys) -> None:
        self._queries = queries
        self._keys = keys
        self._held: OrderedDict[str, CameraHistory] = OrderedDict()
        self._lock = asyncio.Lock()

    async def read(self, camera_id: str, start: float, use: Callable[[CameraHistory], T]) -> T:
        """What ``use`` makes of a camera's history, read on towards ``start``. Raises SinkError."""
        async with self._lock:
            history = self._held.get(camera_id)
            if history is None:
                stream = self._keys.camera(camera_id, replay=False).stream
                history = CameraHistory(camera_id, stream)
            await self._queries.run(lambda client: history.read(client, start))
            self._held[camera_id] = history
            self._held.move_to_end(camera_id)
            while len(self._held) > MAX_CAMERAS:
                self._held.popitem(last=False)
            return use(history)


def counts_json(history: CameraHistory, start: float, end: float, buckets: int) -> dict[str, Any]:
    """The counts between two times, as the API shows them."""
    width = max(1, -(-round(end - start) // (buckets * STEP_SECONDS)))
    after = int(end // STEP_SECONDS) + 1
    count = min(buckets, -(-(after - int(start // STEP_SECONDS)) // width))
    first = after - count * width  # whole steps up to the last one, which goes on
    series = history.counts.series(first, count, width)
    return {
        "from": iso(first * STEP_SECONDS),
        "to": iso((first + count * width) * STEP_SECONDS),
        "step_seconds": width * STEP_SECONDS,
        "known_from": iso(history.known_from(start)),
        "complete": history.is_whole_from(start),
        "frames": series.frames,
        "labels": series.labels,
    }
