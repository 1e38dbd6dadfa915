"""Publishing the events of a replay: ``submit`` waits for as long as a sink is unavailable."""

import threading
import time
from collections import deque
from collections.abc import Collection, Sequence

from worker.errors import SinkUnavailable
from worker.events import Event
from worker.publishing import Sink
from worker.publishing.outage import Outage

ROOM_SECONDS = 0.1
"""Longest wait for room in the queue: short, so that the caller can look at its signals."""


class LosslessPublisher:
    """The publishing thread of a replay."""

    def __init__(self, sinks: Sequence[Sink], *, capacity: int) -> None:
        """``capacity`` bounds the events that wait."""
        self._sinks = sinks
        self._capacity = capacity
        self._condition = threading.Condition()
        self._queue: deque[Event] = deque()
        self._in_flight = 0
        self._give_up_at = float("inf")
        self._closing = False
        self.failure: Exception | None = None
        self.refused: dict[str, str] = {}
        self.held: dict[str, str] = {}
        self._steps = 0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def add_cameras(self, camera_ids: Sequence[str]) -> None:
        """Nothing is left of earlier runs: a resumed replay makes its events again."""

    def remove_cameras(self, camera_ids: Sequence[str]) -> None:
        """Nothing was added."""

    def may_watch(self, camera_id: str) -> bool:
        """A recording is read by whoever replays it."""
        return True

    def submit(self, events: Sequence[Event]) -> bool:
        """Queue events; False if the queue is full: submit them again."""
        with self._condition:
            has_room = self._condition.wait_for(
                lambda: not self._queue or len(self._queue) + len(events) <= self._capacity,
                ROOM_SECONDS,
            )
            if not has_room:
                return False
            self._queue.extend(events)
            self._condition.notify_all()
            return True

    def take_lost(self, camera_ids: Collection[str]) -> dict[str, int]:
        """Always empty: a replay loses none."""
        return {}

    @property
    def waiting(self) -> int:
        """Events that were submitted and are not published yet."""
        with self._condition:
            return len(self._queue) + self._in_flight

    @property
    def behind_seconds(self) -> float:
        """0: nobody waits for a recording's events."""
        return 0.0

    def progress(self) -> int:
        """Rises with every attempt."""
        return self._steps

    def has_work(self) -> bool:
        """Whether events wait."""
        return self.waiting > 0

    def close(self, timeout: float) -> int:
        """Publish what waits for at most ``timeout`` seconds; a resumed replay makes the rest."""
        with self._condition:
            self._closing = True
            self._give_up_at = time.monotonic() + timeout
            self._condition.notify_all()
        self._thread.join(timeout + 1)
        return 0

    def _run(self) -> None:
        try:
            while events := self._next():
                for sink in self._sinks:
                    self._publish(sink, events)
                self._in_flight = 0
        except Exception as error:  # handed to the pipeline, which ends the run with it
            self.failure = error

    def _next(self) -> list[Event]:
        """Events to publish, oldest first; empty at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._closing)
            events = list(self._queue)
            self._queue.clear()
            self._in_flight = len(events)
            self._condition.notify_all()
            return events

    def _publish(self, sink: Sink, events: list[Event]) -> None:
        outage = Outage(sink.name)
        while True:
            self._steps += 1
            try:
                sink.publish(events)
            except SinkUnavailable as error:
                if not self._sleep(outage.failed(error)):
                    raise
            else:
                outage.end()
                return

    def _sleep(self, seconds: float) -> bool:
        """Wait before the next try; False once it is time to give up."""
        with self._condition:
            left = self._give_up_at - time.monotonic()
            self._condition.wait(min(seconds, left))  # until ``close`` at the longest
            return left > 0
