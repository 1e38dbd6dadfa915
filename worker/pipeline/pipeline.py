"""The way of a frame: sources -> batcher -> detector -> events -> sinks.

One thread per source reads frames into the batcher; the calling thread detects and makes events;
the publisher's thread writes them. Data goes one way, every queue is bounded. Knows only the
protocols of its parts.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from worker.errors import SinkError, SinkUnavailable
from worker.events import Detection, Event
from worker.frames import FrameBatch, Picture, Source, StreamDown
from worker.pipeline.batching import Batcher
from worker.pipeline.event_maker import EventMaker
from worker.publishing import Publisher

log = logging.getLogger(__name__)

Found: TypeAlias = Sequence[Sequence[Detection]]
"""The detections of each image of a batch."""
Detect: TypeAlias = Callable[[list[Picture]], Callable[[], Found]]
"""Starts on a batch of images; what it gives back waits for their detections."""

POLL_SECONDS = 0.1
SOURCE_STOP_SECONDS = 1.0
PUBLISH_STOP_SECONDS = 3.0


@dataclass
class Summary:
    """What a run did."""

    frames: int = 0
    dropped: int = 0
    events: int = 0
    detections: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    interrupted: bool = False
    """Whether it was stopped before its sources ended."""
    unpublished: int = 0
    """Events that neither a sink nor the spool took before the worker had to go."""


class Pipeline:
    """One run over some sources, from start to an orderly stop."""

    def __init__(
        self,
        sources: Sequence[Source],
        batcher: Batcher,
        detect: Detect,
        events: EventMaker,
        publisher: Publisher,
        *,
        lossless: bool,
        batches_ahead: int = 0,
        on_progress: Callable[[Summary], None] = lambda summary: None,
    ) -> None:
        """``lossless``: a failing source ends the run, and a stop leaves waiting frames alone.

        ``batches_ahead``: batches to start on before the detections of one are fetched. It keeps
        the detector busy, and makes frames wait that much longer.
        """
        self._sources = sources
        self._batcher = batcher
        self._detect = detect
        self._events = events
        self._publisher = publisher
        self._lossless = lossless
        self._batches_ahead = batches_ahead
        self._started: deque[tuple[FrameBatch, Callable[[], Found]]] = deque()
        self._on_progress = on_progress
        self._stopping = False
        self._steps = 0
        self._starting = False
        self._last_arrival = self._seen_arrival = object()
        self._aside: set[str] = set()
        self._failures: list[BaseException] = []
        self.summary = Summary()

    def stop(self) -> None:
        """Ask for an orderly stop; only sets a flag, so a signal handler may call it."""
        self._stopping = True

    def progress(self) -> int:
        """For a watchdog: rises with every batch, and with every wait for a sink."""
        return self._steps

    def has_work(self) -> bool:
        """For a watchdog: whether a batch, or a camera's frame, came that is not through yet.

        Of a recording only batches count: to fill one may take long where frames are passed over,
        up to the place at which a replay goes on for example.
        """
        waits = not self._lossless and self._last_arrival is not self._seen_arrival
        return self._starting or bool(self._started) or waits

    def run(self) -> Summary:
        """Work until the sources end or ``stop`` is called. Raises what ended it, if anything."""
        started = time.monotonic()
        readers = [
            threading.Thread(
                target=self._read, args=(source,), name=f"source-{source.camera_id}", daemon=True
            )
            for source in self._sources
        ]
        self._publisher.start()
        for reader in readers:
            reader.start()
        failed = True
        try:
            while not self._stopping:
                ended = not any(reader.is_alive() for reader in readers)
                batch = self._batcher.next(0 if self._started else POLL_SECONDS)
                if batch is not None:
                    self._start(batch)
                elif self._started:
                    self._finish()
                elif ended:
                    break
                self._look_after_cameras()
                self._raise_failure()
            while self._lossless and not self._stopping and self._publisher.waiting:
                time.sleep(POLL_SECONDS)  # a replay is not done before its sinks have everything
                self._raise_failure()
            self.summary.interrupted = self._stopping
            failed = False
        finally:
            self._shut_down(readers, detect_what_waits=not failed)
            self.summary.seconds = time.monotonic() - started
        self._raise_failure()
        return self.summary

    def _read(self, source: Source) -> None:
        """Source to batcher; one thread each."""
        try:
            for item in source:
                self._last_arrival = object()
                if not self._batcher.put(item):
                    return
        except Exception as error:
            if self._lossless:
                self._failures.append(error)
            else:  # one camera never stops another
                log.exception("camera %s: its reader failed", source.camera_id)
                self._batcher.put(StreamDown(source.camera_id, None, "ended", "internal_error"))

    def _start(self, batch: FrameBatch) -> None:
        """Batch to the detector; and the oldest batch there to its end, if that is one too many."""
        self._starting = True
        images = [frame.image for frame in batch.frames]
        self._started.append((batch, self._detect(images) if images else lambda: []))
        self._starting = False
        if len(self._started) > self._batches_ahead:
            self._finish()

    def _finish(self) -> None:
        """Detections to events to the publisher, for the oldest batch at the detector."""
        batch, wait_for_detections = self._started[0]
        found = wait_for_detections()
        self._started.popleft()
        self._seen_arrival = self._last_arrival
        self._steps += 1
        self._submit(self._events.make(batch, found))
        self.summary.frames += len(batch.frames)
        self.summary.dropped += sum(frame.dropped for frame in batch.frames)
        for detections in found:
            self.summary.detections.update(detection.label for detection in detections)
        self._on_progress(self.summary)

    def _submit(self, events: list[Event]) -> None:
        while events and not self._publisher.submit(events):
            self._steps += 1
            self._raise_failure()
            if self._stopping:
                return
        self.summary.events += len(events)

    def _look_after_cameras(self) -> None:
        self._submit(self._events.heartbeats())
        self._submit(self._events.lost(self._publisher.take_lost()))
        refused = self._publisher.refused
        if len(refused) == len(self._aside):
            return
        for source in self._sources:
            if source.camera_id in refused and source.camera_id not in self._aside:
                self._aside.add(source.camera_id)
                source.stop()
                # So that no batch waits for a frame of it. Nobody is told: nobody takes its events.
                self._batcher.put(StreamDown(source.camera_id, None, "ended", "refused"))
        if all(source.camera_id in self._aside for source in self._sources):
            raise SinkError(f"there is no camera left to watch: {next(iter(refused.values()))}")

    def _raise_failure(self) -> None:
        for error in (*self._failures, self._publisher.failure):
            if error is not None and not isinstance(error, SinkUnavailable):
                raise error

    def _shut_down(self, readers: Sequence[threading.Thread], *, detect_what_waits: bool) -> None:
        """Sources first, then what waits, then the publisher."""
        for source in self._sources:
            source.stop()
        self._batcher.close()
        deadline = time.monotonic() + SOURCE_STOP_SECONDS
        for reader in readers:
            reader.join(max(deadline - time.monotonic(), 0))
        try:
            if detect_what_waits and not self._lossless:
                while (batch := self._batcher.next(0)) is not None:
                    self._start(batch)
                while self._started:
                    self._finish()
        finally:
            if self._publisher.failure is None:
                self._submit(self._events.stopped())
            self.summary.unpublished = self._publisher.close(PUBLISH_STOP_SECONDS)
            if self.summary.unpublished:
                log.error(
                    "%d events could neither be published nor spooled", self.summary.unpublished
                )
