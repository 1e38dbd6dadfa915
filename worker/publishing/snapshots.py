"""Publishing snapshots: each camera's newest, on a thread and a connection of its own.

Delivery: none is promised. A camera has one waiting snapshot, which a newer one replaces; what
could not be written is not written again, and what has become late is not written at all. So
snapshots delay no event, whatever the sink does. They expire in the sink: what can be read there is
of now. ``offer`` never blocks.
"""

import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from worker.errors import SinkUnavailable, WorkerError
from worker.snapshots import Snapshot

log = logging.getLogger(__name__)

LATE_SECONDS = 2.0
"""A snapshot that is older than this is not written: no event is made of such a picture either."""
SHORTEST_LIFE_SECONDS = 10.0
PERIODS_ALIVE = 3
"""Two snapshots in a row may be missing before there is none."""
RETRY_SECONDS = 1.0
"""After a write that failed."""
CLOSE_SECONDS = 1.0
"""How long to wait for the last write; the thread does not keep the process alive."""


def life_seconds(period_seconds: float) -> float:
    """How long a snapshot stays, from its capture on, if there is one in each period."""
    return max(SHORTEST_LIFE_SECONDS, PERIODS_ALIVE * period_seconds)


class SnapshotSink(Protocol):
    """Where snapshots go."""

    def put_snapshots(self, snapshots: Sequence[tuple[Snapshot, float]]) -> None:
        """Replace the snapshots of these cameras, each for that many seconds from now.

        A camera that belongs to another worker keeps the one that it has. Raises SinkError.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class SnapshotPublisher:
    """The thread that writes snapshots."""

    def __init__(self, sink: SnapshotSink) -> None:
        """``sink``: used by this thread alone."""
        self._sink = sink
        self._condition = threading.Condition()
        self._waiting: dict[str, Snapshot] = {}
        self._closing = False
        self._reported = ""
        """What was logged about writes that fail."""
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    def __enter__(self) -> "SnapshotPublisher":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(CLOSE_SECONDS)

    def offer(self, snapshot: Snapshot) -> None:
        """Write this one instead of any that waits; callable from any thread."""
        with self._condition:
            self._waiting[snapshot.info.camera_id] = snapshot
            self._condition.notify_all()

    def _run(self) -> None:
        try:
            while (snapshots := self._next()) is not None:
                if not self._write(snapshots):
                    with self._condition:
                        self._condition.wait_for(lambda: self._closing, RETRY_SECONDS)
        except Exception:  # pictures are not worth the run
            log.exception("internal error, no more snapshots: please report this traceback")
        finally:
            self._sink.close()

    def _next(self) -> list[Snapshot] | None:
        """The snapshots that wait; None at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return None
            snapshots = [*self._waiting.values()]
            self._waiting.clear()
            return snapshots

    def _write(self, snapshots: Sequence[Snapshot]) -> bool:
        """Whether the sink took them."""
        now = time.monotonic()
        ages = [(snapshot, now - snapshot.captured_monotonic) for snapshot in snapshots]
        in_time = [
            (snapshot, life_seconds(snapshot.period_seconds) - age)
            for snapshot, age in ages
            if age <= LATE_SECONDS
        ]
        try:
            self._sink.put_snapshots(in_time)
        except WorkerError as error:
            self._report(error)
            return False
        if self._reported and in_time:
            log.info("snapshots are published again")
            self._reported = ""
        return True

    def _report(self, error: WorkerError) -> None:
        """Log a failure, once until it is another or over."""
        if str(error) == self._reported:
            return
        self._reported = str(error)
        # An outage is reported by the publisher of events: this adds what it means for pictures.
        level = logging.INFO if isinstance(error, SinkUnavailable) else logging.WARNING
        log.log(level, "snapshots are not published: %s", error)
