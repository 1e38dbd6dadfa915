"""Publishing: events in, acknowledged writes to every sink, on a thread of its own.

Delivery: events go to each sink in the order in which they were submitted. A sink that is away is
tried again with the same events until it takes them; sinks drop what they have already, so nothing
is written twice. Here is what sinks and publishers promise, and the publisher of a replay, which
waits for as long as a sink is away; that of a live run is in ``live_publishing``. Knows nothing of
what a sink is.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from worker.errors import SinkUnavailable
from worker.events import Event

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0


class Sink(Protocol):
    """Where events go."""

    name: str

    def publish(self, events: Sequence[Event]) -> None:
        """Write events, all or none per camera; return once they are written.

        Events that it has already it drops. Raises SinkUnavailable if they may be sent again,
        CameraRefused if those of one camera are of no use, and any other SinkError if none are.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files; what was published stays."""
        ...


class Publisher(Protocol):
    """Takes a pipeline's events to its sinks."""

    @property
    def failure(self) -> Exception | None:
        """What ended the thread, if anything did."""
        ...

    @property
    def waiting(self) -> int:
        """Events that were submitted and are not published yet."""
        ...

    @property
    def refused(self) -> dict[str, str]:
        """Cameras whose events no sink may take any more, and why."""
        ...

    def progress(self) -> int:
        """Rises with all that the thread does, attempts that fail included."""
        ...

    def has_work(self) -> bool:
        """Whether events wait."""
        ...

    def start(self) -> None:
        """Begin to publish."""
        ...

    def submit(self, events: Sequence[Event]) -> bool:
        """Queue events; False if there is no room: submit them again."""
        ...

    def take_lost(self) -> dict[str, int]:
        """Events lost per camera since the last call, once there is room to tell of them."""
        ...

    def close(self, timeout: float) -> int:
        """Publish what waits for at most ``timeout`` seconds; return how many events are lost."""
        ...


class LosslessPublisher:
    """The publisher of a replay: ``submit`` waits where sinks are slow or away."""

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
        self._steps = 0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def submit(self, events: Sequence[Event]) -> bool:
        """Queue events; False if the queue is full: submit them again."""
        with self._condition:
            if self._queue and len(self._queue) + len(events) > self._capacity:
                self._condition.wait(0.1)  # short, so that the caller can look at its signals
                if len(self._queue) + len(events) > self._capacity:
                    return False
            self._queue.extend(events)
            self._condition.notify_all()
            return True

    def take_lost(self) -> dict[str, int]:
        """None ever are."""
        return {}

    @property
    def waiting(self) -> int:
        """Events that were submitted and are not published yet."""
        with self._condition:
            return len(self._queue) + self._in_flight

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
                with self._condition:
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
        delay = FIRST_RETRY_SECONDS
        waiting_since = None
        while True:
            self._steps += 1
            try:
                sink.publish(events)
            except SinkUnavailable as error:
                if waiting_since is None:
                    waiting_since = time.monotonic()
                    log.warning("%s is away, events wait: %s", sink.name, error)
                if not self._sleep(delay):
                    raise
                delay = min(delay * 2, LAST_RETRY_SECONDS)
            else:
                if waiting_since is not None:
                    away = time.monotonic() - waiting_since
                    log.info("%s is back after %.1f s", sink.name, away)
                return

    def _sleep(self, seconds: float) -> bool:
        """Wait before the next try; False once it is time to give up."""
        with self._condition:
            if not self._closing:
                self._condition.wait(seconds)
            left = self._give_up_at - time.monotonic()
            if self._closing and left > 0:
                self._condition.wait(min(seconds, left))
            return left > 0
