"""What the stream of a replay says of its recording: counts along it, and the frame at a moment.

Read on demand, from its start and a part with each request; what was read stays. Blocks on Redis:
for threads, one at a time. The recording itself is not in Redis, so there are no pictures.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from worker.consuming.entries import parse_id
from worker.dashboard.cameras import describe_detections, is_plausible
from worker.dashboard.counts import Counts
from worker.dashboard.queries import Queries
from worker.dashboard.states import StateNote
from worker.events import DetectionsEvent, Event, parse_event
from worker.keys import Keys
from worker.servers.address import RedisClient

PAGE_ENTRIES = 1000
ENTRIES_PER_REQUEST = 10_000
"""About 0.6 s of a core."""
MAX_REPLAYS = 10
"""That are kept: those asked for last."""
MAX_STEPS = 20_000
"""Beyond it steps are made twice as long: from 5.5 hours on they are 2 s."""
TIMELINE_STEPS = 600
"""At most, in an answer."""
INDEX_EVERY = 25
"""Events: between two places in the index."""
MAX_SECONDS = 1e7
"""Of a recording: 115 days. A later time is a mistake of another tool."""

T = TypeVar("T")


class ReplayRecord:
    """One replay, as far as it was read."""

    def __init__(self, replay_id: str, stream: str) -> None:
        self._replay_id = replay_id
        self._stream = stream
        self._begin(None)

    def _begin(self, first: bytes | None) -> None:
        self._first = first
        self._counts = Counts()
        self._step_seconds = 1
        self._newest = "0-0"
        self._is_whole = False
        self._end = 0.0
        self._events = 0
        self._state: StateNote | None = None
        self._model: str | None = None
        self._axis = "seconds"
        self._index: list[tuple[float, str]] = []
        """Where to begin to read for a moment: seconds and entry id, in order."""

    @property
    def is_there(self) -> bool:
        """Whether the stream has any entry."""
        return self._first is not None

    def read(self, client: RedisClient) -> None:
        """Read on, so far as one request may."""
        first = client.xrange(self._stream, count=1)
        if not first or first[0][0] != self._first:  # begun again, or trimmed
            self._begin(first[0][0] if first else None)
        for _ in range(ENTRIES_PER_REQUEST // PAGE_ENTRIES):
            found = client.xrange(self._stream, _after(self._newest), "+", count=PAGE_ENTRIES)
            for entry_id, fields in found:
                self._newest = entry_id.decode()
                event = _event(fields)
                if event is not None:
                    self._take(event)
            self._is_whole = len(found) < PAGE_ENTRIES
            if self._is_whole:
                return

    def as_json(self) -> dict[str, Any]:
        """What the API shows of it."""
        steps = int(self._end // self._step_seconds) + 1
        width = -(-steps // TIMELINE_STEPS)
        series = self._counts.series(0, -(-steps // width), width)
        return {
            "id": self._replay_id,
            "state": self._state.state if self._state else "running",
            "reason": self._state.reason if self._state else "",
            "detail": self._state.detail if self._state else "",
            "complete": self._is_whole,
            "axis": self._axis,
            "duration_seconds": round(self._end, 3),
            "frames": self._counts.frames,
            "events": self._events,
            "model": self._model,
            "labels": dict(self._counts.labels.most_common()),
            "timeline": {
                "step_seconds": self._step_seconds * width,
                "frames": series.frames,
                "labels": series.labels,
            },
        }

    def at(self, client: RedisClient, seconds: float) -> dict[str, Any] | None:
        """The frame nearest to a moment; None if there is none."""
        place = bisect_right(self._index, (seconds, "\uffff")) - 1
        start = "-" if place < 0 else self._index[place][1]
        found = client.xrange(self._stream, start, "+", count=2 * INDEX_EVERY)
        frames = [
            event for _, fields in found if isinstance(event := _event(fields), DetectionsEvent)
        ]
        if not frames:
            return None
        nearest = min(frames, key=lambda frame: abs(_seconds(frame) - seconds))
        return {"pts_seconds": round(_seconds(nearest), 3), **describe_detections(nearest)}

    def _take(self, event: Event) -> None:
        self._events += 1
        if not isinstance(event, DetectionsEvent):
            self._state = StateNote.of(event, self._replay_id, 0.0)
            return
        data = event.data
        if data.pts_seconds is None:
            self._axis = "frames"
        self._model = data.model.name[:200]
        seconds = _seconds(event)
        self._end = max(self._end, seconds)
        if self._counts.frames % INDEX_EVERY == 0 and (
            not self._index or seconds >= self._index[-1][0]
        ):
            self._index.append((seconds, self._newest))
        labels = (detection.label[:200] for detection in data.detections)
        self._counts.add(int(seconds // self._step_seconds), labels)
        if len(self._counts) > MAX_STEPS:
            self._counts.merge_pairs()
            self._step_seconds *= 2


class Replays:
    """Those that were asked for last."""

    def __init__(self, queries: Queries, keys: Keys) -> None:
        self._queries = queries
        self._keys = keys
        self._held: OrderedDict[str, ReplayRecord] = OrderedDict()
        self._lock = asyncio.Lock()

    async def use(self, replay_id: str, use: Callable[[RedisClient, ReplayRecord], T]) -> T:
        """What ``use`` makes of a replay, in a thread. Raises SinkError."""
        async with self._lock:
            record = self._held.get(replay_id)
            if record is None:
                stream = self._keys.camera(replay_id, replay=True).stream
                record = ReplayRecord(replay_id, stream)
            result = await self._queries.run(lambda client: use(client, record))
            self._held[replay_id] = record
            self._held.move_to_end(replay_id)
            while len(self._held) > MAX_REPLAYS:
                self._held.popitem(last=False)
            return result


def _event(fields: dict[bytes, bytes]) -> Event | None:
    """The event of an entry; None if it holds none."""
    try:
        event = parse_event(fields.get(b"event", b""))
    except ValueError:
        return None
    return event if is_plausible(event) else None


def _seconds(event: DetectionsEvent) -> float:
    """Where a frame is in its recording; its number where the recording has no times."""
    pts_seconds = event.data.pts_seconds
    if pts_seconds is None:
        return float(min(event.data.frame_index, MAX_SECONDS))
    return min(max(pts_seconds, 0.0), MAX_SECONDS)


def _after(entry_id: str) -> str:
    milliseconds, counter = parse_id(entry_id)
    return f"{milliseconds}-{counter + 1}"
