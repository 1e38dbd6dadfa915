"""Batching over cameras: frames of many sources in, one batch at a time out.

Two policies with one interface. Live: latency first, each camera holds one waiting frame and a
newer one replaces it. Replay: nothing is lost, a full queue blocks the source, and batches are cut
at fixed frame indices. Knows neither how frames are decoded nor what happens to them.
"""

import math
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Protocol

from worker.frames import Frame, FrameBatch, SourceItem, StreamDown, StreamUp
from worker.observing import NOBODY, Observer


class Batcher(Protocol):
    """Between source threads and the detector."""

    def put(self, item: SourceItem) -> bool:
        """Hand over an item; False once the batcher is closed."""
        ...

    def next(self, timeout: float) -> FrameBatch | None:
        """The next batch, or None if there is none within ``timeout`` seconds."""
        ...

    def has_batch(self) -> bool:
        """Whether ``next`` would return a batch at once."""
        ...

    def close(self) -> None:
        """Take no more items, and release sources that are blocked in ``put``."""
        ...


class LatestFrameBatcher:
    """For cameras: at most one waiting frame each, first come first served.

    A batch is ready when every camera that is up has a frame in it, when it is full, or
    ``max_wait_seconds`` after its first frame arrived.
    """

    def __init__(
        self, max_batch: int, max_wait_seconds: float, observer: Observer = NOBODY
    ) -> None:
        self._max_batch = max_batch
        self._observer = observer
        self._max_wait_seconds = max_wait_seconds
        self._condition = threading.Condition()
        self._closed = False
        self._up: set[str] = set()
        # Cameras in the order of their oldest item, each with at most one frame among its items.
        # State changes are never dropped.
        self._waiting: dict[str, deque[SourceItem]] = {}
        self._frames = 0
        """Frames among the waiting items."""
        self._deadline = math.inf
        """When the batch of the waiting frames is ready at the latest; never without frames."""

    def put(self, item: SourceItem) -> bool:
        """Hand over an item; replaces the camera's waiting frame. False once closed."""
        with self._condition:
            if self._closed:
                return False
            self._observer.received(item)
            if isinstance(item, StreamUp):
                self._up.add(item.camera_id)
            elif isinstance(item, StreamDown):
                self._up.discard(item.camera_id)
            queue = self._waiting.setdefault(item.camera_id, deque())
            first = False
            if isinstance(item, Frame):
                waiting = _take_waiting(queue)
                if waiting is None:
                    self._frames += 1
                else:
                    self._observer.replaced(waiting)
                    item = _with_counts_of(waiting, item)
                first = self._deadline == math.inf
                if first:
                    self._deadline = time.monotonic() + self._max_wait_seconds
            queue.append(item)
            # Not for every frame: with 64 cameras, 1,600 times per second, the detector's thread
            # would wake and wait for the GIL only to find that the batch is not full.
            if first or self._due():
                self._condition.notify_all()
            return True

    def next(self, timeout: float) -> FrameBatch | None:
        """The next batch, or None if there is none within ``timeout`` seconds."""
        give_up = time.monotonic() + timeout
        with self._condition:
            while not self._due():
                now = time.monotonic()
                if now >= give_up:
                    return None
                self._condition.wait(min(give_up, self._deadline) - now)
            return FrameBatch(tuple(self._take()))

    def has_batch(self) -> bool:
        """Whether ``next`` would return a batch at once."""
        with self._condition:
            return self._due()

    def close(self) -> None:
        """Take no more items; those waiting can still be fetched with ``next``."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _due(self) -> bool:
        if not self._waiting:
            return False
        if self._frames == 0 or self._closed:  # state changes alone do not wait
            return True
        late = time.monotonic() >= self._deadline
        return late or self._frames >= min(self._max_batch, len(self._up))

    def _take(self) -> list[SourceItem]:
        items: list[SourceItem] = []
        frames = 0
        for camera_id in list(self._waiting):
            if frames == self._max_batch:
                break
            queue = self._waiting.pop(camera_id)
            items += queue
            frames += any(isinstance(item, Frame) for item in queue)
        self._frames -= frames
        self._deadline = time.monotonic() if self._frames else math.inf
        return items


def _take_waiting(queue: deque[SourceItem]) -> Frame | None:
    """Remove the waiting frame, if any."""
    for item in queue:
        if isinstance(item, Frame):
            queue.remove(item)
            return item
    return None


def _with_counts_of(replaced: Frame, frame: Frame) -> Frame:
    """The frame, with counts and snapshot of the one that it replaces: that one is dropped."""
    snapshot = replaced.snapshot if replaced.epoch == frame.epoch else None
    return replace(
        frame,
        dropped=frame.dropped + replaced.dropped + 1,
        skipped=frame.skipped + replaced.skipped,
        snapshot=frame.snapshot or snapshot,
    )


class LosslessBatcher:
    """For recordings: every frame, in order; a source blocks while ``max_batch * 2`` items wait.

    Every batch is full, except the one that ends a recording: results depend on the shape of a
    batch, so a resumed replay must cut the same batches.
    """

    def __init__(self, max_batch: int, observer: Observer = NOBODY) -> None:
        self._max_batch = max_batch
        self._observer = observer
        self._condition = threading.Condition()
        self._items: deque[SourceItem] = deque()
        self._closed = False

    def put(self, item: SourceItem) -> bool:
        """Hand over an item; blocks while the queue is full. False once closed."""
        with self._condition:
            while len(self._items) >= self._max_batch * 2:  # never once it is closed: it is empty
                self._condition.wait()
            if self._closed:
                return False
            self._observer.received(item)
            self._items.append(item)
            self._condition.notify_all()
            return True

    def next(self, timeout: float) -> FrameBatch | None:
        """The next batch, or None if there is none within ``timeout`` seconds."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._batch_length() > 0, timeout):
                return None
            batch = FrameBatch(tuple(self._items.popleft() for _ in range(self._batch_length())))
            self._condition.notify_all()
            return batch

    def has_batch(self) -> bool:
        """Whether ``next`` would return a batch at once."""
        with self._condition:
            return self._batch_length() > 0

    def close(self) -> None:
        """Take no more items, and drop those waiting: a resumed replay reads them again."""
        with self._condition:
            self._closed = True
            self._items.clear()
            self._condition.notify_all()

    def _batch_length(self) -> int:
        """Items up to a full batch of frames or the end of a recording; 0 if neither is waiting."""
        frames = 0
        for length, item in enumerate(self._items, start=1):
            frames += isinstance(item, Frame)
            if isinstance(item, StreamDown) or frames == self._max_batch:
                return length
        return 0
