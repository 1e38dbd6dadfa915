"""Batches that the detector has and whose detections have not been fetched yet.

Takes batches, gives each back with its detections, in the same order. Used by one thread; the
watchdog's may ask whether there is work.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from worker.events import Detection
from worker.frames import FrameBatch, Picture
from worker.pipeline.filtering import DetectionFilter

Found: TypeAlias = Sequence[Sequence[Detection]]
"""The detections of each image of a batch."""
Detect: TypeAlias = Callable[[list[Picture], list[DetectionFilter]], Callable[[], Found]]
"""Starts on a batch of images, each with its camera's filter; the function it returns waits for
their detections."""


class InFlight:
    """The detector's batches, oldest first."""

    def __init__(self, detect: Detect, batches_ahead: int) -> None:
        """``batches_ahead``: batches to start before the detections of the oldest are fetched.

        More keep the detector busy, and make frames wait that much longer.
        """
        self._detect = detect
        self._batches_ahead = batches_ahead
        self._batches: deque[tuple[FrameBatch, Callable[[], Found]]] = deque()
        self._starting = False

    def __len__(self) -> int:
        """Batches at the detector."""
        return len(self._batches)

    @property
    def is_full(self) -> bool:
        """Whether the oldest batch is to be finished before another is started."""
        return len(self._batches) > self._batches_ahead

    @property
    def has_work(self) -> bool:
        """Whether a batch is at the detector, or on its way there."""
        return self._starting or bool(self._batches)

    def start(self, batch: FrameBatch, filters: list[DetectionFilter]) -> None:
        """Hand a batch to the detector; ``filters`` has one entry per frame of it."""
        self._starting = True
        images = [frame.image for frame in batch.frames]
        self._batches.append((batch, self._detect(images, filters) if images else lambda: []))
        self._starting = False

    def finish(self) -> tuple[FrameBatch, Found]:
        """The oldest batch and its detections; waits for them."""
        batch, wait_for_detections = self._batches[0]
        found = wait_for_detections()
        self._batches.popleft()
        return batch, found
