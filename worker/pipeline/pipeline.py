"""A frame's path: sources -> batcher -> detector -> events -> sinks.

One thread per source reads frames into the batcher; the calling thread detects and makes events;
the publisher's thread writes them. Data goes one way, every queue is bounded. Knows only the
protocols of its parts.
"""

import time
from collections.abc import Callable, Sequence

from worker.errors import SinkUnavailable
from worker.events import Event
from worker.frames import FrameBatch
from worker.observing import NOBODY, Observer
from worker.pipeline.batching import Batcher
from worker.pipeline.cameras import Camera
from worker.pipeline.event_maker import EventMaker
from worker.pipeline.in_flight import Detect, InFlight
from worker.pipeline.readers import Readers
from worker.pipeline.summary import Summary
from worker.publishing import Publisher
from worker.snapshots import Snapshot

POLL_SECONDS = 0.1
SOURCE_STOP_SECONDS = 1.0
PUBLISH_STOP_SECONDS = 3.0


class Pipeline:
    """One run over some cameras, from start to an orderly stop."""

    def __init__(
        self,
        cameras: Sequence[Camera],
        batcher: Batcher,
        detect: Detect,
        events: EventMaker,
        publisher: Publisher,
        *,
        lossless: bool,
        batches_ahead: int = 0,
        waits_for_cameras: bool = False,
        observer: Observer = NOBODY,
        on_progress: Callable[[Summary], None] = lambda summary: None,
        on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None,
    ) -> None:
        """``lossless``: a failing source ends the run, and a stop leaves waiting frames alone.

        ``batches_ahead``: see InFlight. ``waits_for_cameras``: without any, keep running until
        ``watch`` brings some. ``on_snapshot`` gets what frames bring for people to look at; it
        must not block.
        """
        self._batcher = batcher
        self._readers = Readers(batcher, publisher, events.records, lossless=lossless)
        self._readers.watch(cameras)
        self._in_flight = InFlight(detect, batches_ahead)
        self._events = events
        self._publisher = publisher
        self._lossless = lossless
        self._waits_for_cameras = waits_for_cameras
        self._observer = observer
        self._on_progress = on_progress
        self._on_snapshot = on_snapshot
        self._stopping = False
        self._steps = 0
        self.summary = Summary()

    def stop(self) -> None:
        """Ask for an orderly stop; only sets a flag, so a signal handler may call it."""
        self._stopping = True

    def watch(self, cameras: Sequence[Camera]) -> None:
        """Watch these cameras from now on, and no others; callable from any thread.

        A camera that is already watched with the same settings continues undisturbed.
        """
        self._readers.watch(cameras)

    def progress(self) -> int:
        """For a watchdog: rises with every batch, and with every wait for a sink."""
        return self._steps

    def has_work(self) -> bool:
        """For a watchdog: whether there is a batch that is not through yet."""
        return self._in_flight.has_work or self._batcher.has_batch()

    def run(self) -> Summary:
        """Work until the sources end or ``stop`` is called. Raises what ended it, if anything."""
        started = time.monotonic()
        self._publisher.start()
        failed = True
        try:
            while not self._stopping:
                self._readers.look_after()
                ended = self._readers.have_ended and not self._waits_for_cameras
                batch = self._batcher.next(0 if self._in_flight else POLL_SECONDS)
                if batch is not None:
                    self._start(batch)
                elif self._in_flight:
                    self._finish()
                elif ended:
                    break
                self._submit(self._events.heartbeats())
                self._submit(self._events.behind(self._publisher.behind_seconds))
                self._submit(self._events.lost(self._publisher.take_lost(self._events.reported())))
                self._raise_failure()
            while self._lossless and not self._stopping and self._publisher.waiting:
                time.sleep(POLL_SECONDS)  # a replay is not done before its sinks have everything
                self._raise_failure()
            self.summary.interrupted = self._stopping
            failed = False
        finally:
            self._shut_down(detect_what_waits=not failed)
            self.summary.seconds = time.monotonic() - started
        self._raise_failure()
        return self.summary

    def _start(self, batch: FrameBatch) -> None:
        """Batch to the detector; and the oldest batch there to its end, if that is one too many."""
        self._observer.started(batch)
        self._in_flight.start(batch, self._events.filters(batch))
        if self._in_flight.is_full:
            self._finish()

    def _finish(self) -> None:
        """Detections to events to the publisher, for the oldest batch at the detector."""
        batch, found = self._in_flight.finish()
        self._steps += 1
        self._observer.finished(batch, found)
        self._submit(self._events.make(batch, found))
        for frame in batch.frames:
            if frame.snapshot is not None:
                self._on_snapshot(frame.snapshot)
        self.summary.add(batch, found)
        self._on_progress(self.summary)

    def _submit(self, events: list[Event]) -> None:
        while events and not self._publisher.submit(events):
            self._steps += 1
            self._raise_failure()
            if self._stopping:
                return
        self.summary.events += len(events)

    def _raise_failure(self) -> None:
        for error in (self._readers.failure, self._publisher.failure):
            if error is not None and not isinstance(error, SinkUnavailable):
                raise error

    def _shut_down(self, *, detect_what_waits: bool) -> None:
        """Sources first, then what waits, then the publisher."""
        self._readers.stop(SOURCE_STOP_SECONDS)
        try:
            if detect_what_waits and not self._lossless:
                while (batch := self._batcher.next(0)) is not None:
                    self._start(batch)
                while self._in_flight:
                    self._finish()
        finally:
            if self._publisher.failure is None:
                self._submit(self._events.stopped())
            self.summary.unpublished = self._publisher.close(PUBLISH_STOP_SECONDS)
