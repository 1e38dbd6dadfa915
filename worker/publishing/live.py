"""Publishing live events: to the sink, or into the spool while it is unavailable.

Delivery: events of a camera arrive in order and once. While the sink is unavailable, and until it
has caught up, every event passes through the spool, so that none overtakes another. What a sink may
have taken without confirming is sent again: sinks drop what they have. If the disk takes nothing
either, events stay in a bounded queue in memory, whose oldest are dropped and counted. A process
that is killed loses what is in that queue: the events of the moment, or, if the sink hangs, of the
seconds that an attempt takes. ``submit`` never blocks. Cameras are published, and watched, by one
worker at a time: see ``ownership``.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence

from worker.errors import CameraRefused, Fenced, SinkUnavailable, SpoolError, TakenOver
from worker.events import Event
from worker.publishing import Sink
from worker.publishing.epochs import PublishedEpochs, without_older
from worker.publishing.outage import Outage
from worker.publishing.ownership import Ownership
from worker.publishing.spool import INT64_MAX, Spool

log = logging.getLogger(__name__)

EVENTS_AT_ONCE = 512
"""Upper limit of one write, so that a long queue does not stall the server."""
DISK_RETRY_SECONDS = 1.0
"""After the spool could not be read."""


class LivePublisher:
    """The publishing thread of a live run."""

    def __init__(
        self, sink: Sink, spool: Spool, *, capacity: int, ownership: Ownership | None = None
    ) -> None:
        """``capacity`` bounds the events in memory.

        What is in the ``spool`` is published first; it serves further cameras once they are added
        and, by ``ownership``, may be watched. Without an ownership all may.
        """
        self._sink = sink
        self._ownership = ownership or Ownership(None)
        self._spool = spool
        self._capacity = capacity
        self._condition = threading.Condition()
        self._queue: deque[Event] = deque()
        self._in_flight: list[Event] = []
        self._lost: Counter[str] = Counter()
        self._added: deque[tuple[bool, str]] = deque()
        """Cameras to begin with (True), or to wait for no longer (False)."""
        self._epochs = PublishedEpochs(spool)
        self._outage = Outage(sink.name)
        self._retry_at = 0.0
        self._disk_refuses = False
        self._behind_since: float | None = None
        """Since when there is an event that was not published at once."""
        self._give_up_at = float("inf")
        self._closing = False
        self.failure: Exception | None = None
        self.refused: dict[str, str] = {}
        self._steps = 0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish, first what an earlier process left in the spool."""
        self._report_earlier(len(self._spool))
        self._thread.start()

    def add_cameras(self, camera_ids: Sequence[str]) -> None:
        """Publish for these cameras too, starting with what an earlier run left of them."""
        with self._condition:
            for camera_id in camera_ids:
                self.refused.pop(camera_id, None)
                self._added.append((True, camera_id))
            self._condition.notify_all()

    def remove_cameras(self, camera_ids: Sequence[str]) -> None:
        """Stop waiting for cameras that were added and not watched yet."""
        with self._condition:
            self._added += [(False, camera_id) for camera_id in camera_ids]
            self._condition.notify_all()

    def may_watch(self, camera_id: str) -> bool:
        """Whether an added camera may be watched: no other worker does."""
        return self._ownership.may_watch(camera_id)

    @property
    def held(self) -> dict[str, str]:
        """Cameras that other workers watch at present, and what to do about it."""
        return self._ownership.held

    def submit(self, events: Sequence[Event]) -> bool:
        """Queue events; never blocks, always True."""
        with self._condition:
            self._queue.extend(e for e in events if e.data.camera_id not in self.refused)
            if self._queue and self._behind_since is None:
                self._behind_since = time.monotonic()
            self._epochs.submitted(events)
            self._trim()
            self._condition.notify_all()
            return True

    def take_lost(self, camera_ids: Collection[str]) -> dict[str, int]:
        """Events lost of these cameras since the last call, once there is room to report them.

        Losses of other cameras, left by an earlier process for example, are kept for a later call,
        or for the next run.
        """
        with self._condition:
            if not self._lost or self._is_behind or len(self._queue) > self._capacity // 2:
                return {}
            return {name: self._lost.pop(name) for name in camera_ids if name in self._lost}

    @property
    def waiting(self) -> int:
        """Events that were submitted and are not published yet."""
        with self._condition:
            return len(self._queue) + len(self._in_flight) + len(self._spool)

    @property
    def keeps_events(self) -> bool:
        """Whether events are safe: the sink takes them, or the disk does meanwhile."""
        return not (self._outage and self._disk_refuses)

    @property
    def behind_seconds(self) -> float:
        """How long the oldest event has waited to be published; 0 if none waits."""
        since = self._behind_since
        return 0.0 if since is None else time.monotonic() - since

    def progress(self) -> int:
        """Rises with every attempt, and with every event that is kept."""
        return self._steps

    def has_work(self) -> bool:
        """Whether events wait."""
        return self.waiting > 0

    def close(self, timeout: float) -> int:
        """Publish what waits for at most ``timeout`` seconds, and keep the rest in the spool.

        Returns how many events neither took.
        """
        with self._condition:
            self._closing = True
            self._give_up_at = time.monotonic() + timeout
            self._condition.notify_all()
        self._thread.join(timeout + 1)
        self._keep_the_rest()
        self._keep_lost()
        if len(self._spool):
            log.warning("%d events are in the spool: the next run publishes them", len(self._spool))
        with self._condition:
            lost = len(self._queue) + len(self._in_flight)
        if lost:
            log.error(
                "%d events are lost: they could be neither published nor spooled: "
                "check Redis and the disk of --spool-dir",
                lost,
            )
        return lost

    def _keep_the_rest(self) -> None:
        """Spool what the thread has left, because it failed or a write takes too long."""
        with self._condition:
            left = [*self._in_flight, *self._queue]
        if not left:
            return
        try:
            if self._thread.is_alive():  # it may use the spool itself once the write returns
                self._spool.append_apart(left)
            else:
                self._spool.append(left)
        except SpoolError as error:
            log.error("cannot spool events: %s", error)
            return
        with self._condition:
            self._in_flight = []
            self._queue.clear()

    def _keep_lost(self) -> None:
        """Save the counts of lost events that could not be reported, for the next run."""
        if self._lost and not self._thread.is_alive():
            try:
                self._spool.add_lost(self._lost)
            except SpoolError as error:
                log.error(
                    "%s: cannot save the counts of lost events, so they will not be reported: %s",
                    error,
                    dict(self._lost),
                )
            self._lost.clear()

    @property
    def _is_behind(self) -> bool:
        return bool(self._outage) or len(self._spool) > 0

    def _run(self) -> None:
        try:
            while (events := self._next()) is not None:
                self._steps += 1
                self._take_over_cameras()
                self._epochs.keep(events)
                self._ownership.add_watched(events, but=self.refused)
                may_send = not self._closing and time.monotonic() >= self._retry_at
                may_send = may_send and self._keep_ownership()
                if len(self._spool) or (self._outage and not may_send):
                    self._keep(events)
                    if may_send:
                        self._catch_up()
                else:
                    self._send_or_keep(events)
                with self._condition:
                    self._in_flight = []
                    if not self._is_behind:
                        self._behind_since = time.monotonic() if self._queue else None
            if self._is_behind and not self._outage:
                self._catch_up()
            if not self._outage:
                self._ownership.give_back()
        except Exception as error:  # handed to the pipeline, which ends the run with it
            self.failure = error

    def _next(self) -> list[Event] | None:
        """The oldest events; none if there is only something else to do; None at the end."""
        with self._condition:
            nothing_takes_them = self._disk_refuses and bool(self._outage)
            self._condition.wait_for(
                lambda: self._closing or self._added or (self._queue and not nothing_takes_them),
                self._seconds_left(),
            )
            if self._closing and (not self._queue or nothing_takes_them):
                return None
            events = [self._queue.popleft() for _ in range(min(len(self._queue), EVENTS_AT_ONCE))]
            self._in_flight = events
            return events

    def _seconds_left(self) -> float | None:
        """Seconds until there is something to do without new events; None: never."""
        to_renew = self._ownership.seconds_left()
        is_waiting = self._outage and to_renew is not None
        if not len(self._spool) and not (self._is_behind and self._queue) and not is_waiting:
            return to_renew
        return max(self._retry_at - time.monotonic(), 0)

    def _send_or_keep(self, events: list[Event]) -> None:
        try:
            self._send(events)
        except SinkUnavailable as error:
            self._sink_failed(error)
            self._keep(events)
        else:
            if events and self._outage:
                self._sink_recovered()

    def _take_over_cameras(self) -> None:
        with self._condition:
            changes, self._added = [*self._added], deque()
        for is_added, camera_id in changes:
            if is_added:
                self._ownership.add([camera_id])
            else:
                self._ownership.give_back([camera_id])
        self._add_to_spool()

    def _keep_ownership(self) -> bool:
        """Ask for cameras and renew what is ours, where that is due; False if the sink is away.

        Not while a portion of the spool is on its way: it may add cameras to the spool.
        """
        try:
            for error in self._ownership.step(all_due=bool(self._outage)):
                self._refuse(error, drop_until=INT64_MAX if isinstance(error, TakenOver) else None)
        except SinkUnavailable as error:
            self._sink_failed(error)
            return False
        finally:
            self._add_to_spool()
        if self._outage and not len(self._spool) and self._ownership.seconds_left():
            self._sink_recovered()  # it answered a renewal
        return True

    def _add_to_spool(self) -> None:
        """Let the spool serve the cameras that may be watched from now on."""
        added = self._ownership.take_watchable()
        if not added:
            return
        before = len(self._spool)
        try:
            self._spool.add_cameras(added)
        except SpoolError as error:
            names = ", ".join(added)
            log.error("cannot read the spooled events of new cameras, %s: %s", names, error)
        if not before:
            self._report_earlier(len(self._spool))
        if not self._outage:
            self._take_lost()

    def _report_earlier(self, events: int) -> None:
        if events:
            log.info("%d events of an earlier run are in the spool: publishing them first", events)

    def _send(self, events: Sequence[Event]) -> None:
        """Publish, except for cameras that the sink refuses. Raises SinkUnavailable."""
        while True:
            self._steps += 1
            events = [e for e in events if e.data.camera_id not in self.refused]
            try:
                self._sink.publish(events)
            except TakenOver as error:
                self._refuse(error, drop_until=INT64_MAX)
            except Fenced as error:
                if self._epochs.are_later_than(error.camera_id, error.epoch):
                    events = without_older(events, error)
                else:
                    self._refuse(error, drop_until=error.epoch)
            except CameraRefused as error:
                self._refuse(error)
            else:
                self._ownership.give_back_ended(events, self._epochs.are_later_than)
                return

    def _catch_up(self) -> None:
        """Publish what is in the spool; new events are appended to it meanwhile."""
        while self._keep_ownership():
            if self._closing and time.monotonic() > self._give_up_at:
                return
            try:
                portion = self._spool.oldest(EVENTS_AT_ONCE)
            except SpoolError as error:
                log.error("cannot read the spool: %s", error)
                self._retry_at = time.monotonic() + DISK_RETRY_SECONDS
                return
            if not portion.rows:
                self._sink_recovered()
                return
            try:
                self._send(portion.events)
            except SinkUnavailable as error:
                self._sink_failed(error)
                return
            try:
                self._spool.forget(portion)
            except SpoolError as error:  # not read again in this process; a later one may
                log.warning("published events stay in the spool for now: %s", error)
            with self._condition:
                events = self._in_flight = list(self._queue)
                self._queue.clear()
            self._keep(events)

    def _keep(self, events: Sequence[Event]) -> None:
        """Spool events; if the disk refuses them, put them back at the front of the queue."""
        if not events:
            return
        try:
            self._spool.append(events)
        except SpoolError as error:
            if not self._disk_refuses:
                log.error("cannot spool events, the newest stay in memory: %s", error)
            self._disk_refuses = True
            with self._condition:
                self._queue.extendleft(reversed(events))
                self._in_flight = []
                self._trim()
        else:
            if self._disk_refuses:
                log.info("events can be spooled again")
            self._disk_refuses = False
            with self._condition:
                self._in_flight = []

    def _trim(self) -> None:
        while len(self._queue) > self._capacity:
            self._lost[self._queue.popleft().data.camera_id] += 1

    def _refuse(self, error: CameraRefused, drop_until: int | None = None) -> None:
        """Ignore a camera for the rest of this run.

        Its spooled events up to the epoch ``drop_until`` are dropped; the others stay for the next
        run.
        """
        log.error("%s", error)
        self.refused[error.camera_id] = str(error)
        self._ownership.lost([error.camera_id])
        try:
            if drop_until is not None:
                dropped = self._spool.drop_events(error.camera_id, drop_until)
                if dropped:
                    log.error(
                        "camera %s: %d events in the spool are dropped", error.camera_id, dropped
                    )
            self._spool.remove_camera(error.camera_id)
        except SpoolError as spool_error:
            log.error("%s", spool_error)

    def _sink_failed(self, error: SinkUnavailable) -> None:
        self._retry_at = time.monotonic() + self._outage.failed(error)

    def _sink_recovered(self) -> None:
        self._outage.end()
        self._take_lost()

    def _take_lost(self) -> None:
        """Losses that the spool has counted, of this process or an earlier one."""
        try:
            lost = self._spool.take_lost()
        except SpoolError as error:
            log.error("%s", error)
            return
        with self._condition:
            self._lost.update(lost)
