"""Publishing: events in, acknowledged writes to every sink, on a thread of its own.

Delivery: events go to each sink in the order in which they were submitted. A sink that is away is
tried again with the same events until it takes them; sinks drop what they have already, so nothing
is written twice. For live runs the queue is bounded and loses its oldest events, counted; a replay
waits instead. Knows nothing of what a sink is.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from worker.errors import Fenced, SinkUnavailable
from worker.events import Event

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0
EVENTS_AT_ONCE = 512
"""Upper limit of one write after an outage, so that a long queue does not stall the server."""


class Sink(Protocol):
    """Where events go."""

    name: str

    def publish(self, events: Sequence[Event]) -> None:
        """Write events, all or none per camera; return once they are written.

        Events that it has already it drops. Raises SinkUnavailable if they may be sent again, and
        any other SinkError if that is of no use.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files; what was published stays."""
        ...


class Publisher:
    """The publishing thread of one run."""

    def __init__(self, sinks: Sequence[Sink], *, capacity: int, lossless: bool) -> None:
        """``capacity`` bounds the events that wait; ``lossless`` lets ``submit`` block."""
        self._sinks = sinks
        self._capacity = capacity
        self._lossless = lossless
        self._condition = threading.Condition()
        self._queue: deque[Event] = deque()
        self._in_flight = 0
        self._lost: Counter[str] = Counter()
        self._fenced: set[str] = set()
        self._give_up_at = float("inf")
        self._closing = False
        self.failure: Exception | None = None
        """What ended the thread, if anything did."""
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def submit(self, events: Sequence[Event]) -> bool:
        """Queue events; False if a lossless publisher is full: submit them again."""
        with self._condition:
            if self._lossless and self._queue and len(self._queue) + len(events) > self._capacity:
                self._condition.wait(0.1)  # short, so that the caller can look at its signals
                if len(self._queue) + len(events) > self._capacity:
                    return False
            self._queue.extend(e for e in events if e.data.camera_id not in self._fenced)
            while not self._lossless and len(self._queue) > self._capacity:
                self._lost[self._queue.popleft().data.camera_id] += 1
            self._condition.notify_all()
            return True

    def take_lost(self) -> dict[str, int]:
        """Events lost per camera since the last call, once there is room to tell of them."""
        with self._condition:
            if not self._lost or len(self._queue) > self._capacity // 2:
                return {}
            lost, self._lost = dict(self._lost), Counter()
            return lost

    @property
    def waiting(self) -> int:
        """Events that were submitted and are not published yet."""
        with self._condition:
            return len(self._queue) + self._in_flight

    @property
    def fenced(self) -> set[str]:
        """Cameras whose streams another worker owns by now."""
        return set(self._fenced)

    def close(self, timeout: float) -> int:
        """Publish what waits for at most ``timeout`` seconds; return how many events did not go."""
        with self._condition:
            self._closing = True
            self._give_up_at = time.monotonic() + timeout
            self._condition.notify_all()
        self._thread.join(timeout + 1)
        return self.waiting

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
            limit = len(self._queue) if self._lossless else EVENTS_AT_ONCE
            events = list(islice(self._queue, limit))
            for _ in events:
                self._queue.popleft()
            self._in_flight = len(events)
            self._condition.notify_all()
            return events

    def _publish(self, sink: Sink, events: list[Event]) -> None:
        delay = FIRST_RETRY_SECONDS
        waiting_since = None
        while True:
            events = [event for event in events if event.data.camera_id not in self._fenced]
            try:
                sink.publish(events)
            except SinkUnavailable as error:
                if waiting_since is None:
                    waiting_since = time.monotonic()
                    log.warning("%s is away, events wait: %s", sink.name, error)
                if not self._sleep(delay):
                    raise
                delay = min(delay * 2, LAST_RETRY_SECONDS)
            except Fenced as error:
                if self._lossless:
                    raise
                log.error("%s", error)
                self._fenced.add(error.camera_id)
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
