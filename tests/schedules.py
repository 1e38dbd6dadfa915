"""Schedules of faults, turned into a camera's events by the real event maker, with a clock of ours.

What a schedule says happened, second by second, is the truth that coverage is compared with.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from unittest import mock

from tests.events import MODEL, PERSON
from tests.frames import frame
from worker.frames import FrameBatch, StreamDown, StreamUp
from worker.keys import Keys
from worker.pipeline import event_maker
from worker.pipeline.event_maker import LATE_SECONDS, RECOVERY_SECONDS, EventMaker

T0 = datetime(2026, 11, 20, 3, tzinfo=UTC)
STEP_SECONDS = 0.5


@dataclass(frozen=True)
class Watch:
    """Frames, with detections in all of them or in none."""

    seconds: int
    is_busy: bool = True
    dropped: int = 0
    """Of every frame analysed."""
    is_redis_away: bool = False
    are_events_lost: bool = False


@dataclass(frozen=True)
class Down:
    """The camera is away."""

    seconds: int
    reason: str = "stall"


@dataclass(frozen=True)
class Gone:
    """The worker is: stopped, or killed. The next one skips this many of every frame analysed."""

    seconds: int
    is_killed: bool = False
    skipped: int = 0


def stream_of(camera_id):
    return Keys().camera(camera_id, replay=False).stream


class World:
    """A camera, the workers that watch it one after another, and the stream they publish to."""

    def __init__(self, skipped=0, camera_clock_seconds=None, camera_id="gate"):
        self.camera_id = camera_id
        self.now = 0.0
        self.events = []
        """As they stand in the stream."""
        self.truth = []
        """(seconds, state, reason) of each step."""
        self.analysed = self.dropped = 0
        self._camera_clock_seconds = camera_clock_seconds
        self._counter = count()
        self._held = []
        self._held_since = None
        self._late_until = 0.0
        self._is_losing = False
        self._begin_process(skipped)

    def monotonic(self):
        return 1000 + self.now

    def utc_now(self, _zone=None):
        return T0 + timedelta(seconds=self.now)

    def run(self, schedule):
        with (
            mock.patch.object(event_maker, "time", self),
            mock.patch.object(event_maker, "datetime", mock.Mock(now=self.utc_now)),
        ):
            for phase in schedule:
                getattr(self, f"_{type(phase).__name__.lower()}")(phase)
        return self

    def _watch(self, phase):
        self._is_losing = phase.are_events_lost
        if phase.is_redis_away or self._is_losing:
            self._held_since = self.now
        if not self._is_up:
            self._connect()
        for _ in self._steps(phase.seconds):
            self._frame(phase)
            is_late = self.now < self._late_until and not phase.are_events_lost
            reason = "late" if is_late else "dropped" if phase.dropped else ""
            reason = reason or ("skipped" if self._skipped else "")
            state = "reduced" if reason else "watched"
            if phase.are_events_lost:
                state, reason = "lost", "events_lost"
            self.truth.append((self.now, state, reason))
        self._held_since = None
        if phase.are_events_lost:
            lost, self._held = len(self._held), []
            self._to_detect = 2  # what is skipped is told between two of them
            self._publish(self._maker.lost({self.camera_id: lost}))
        self._publish([])

    def _down(self, phase):
        if self._is_up:
            self._publish_item(
                StreamDown(self.camera_id, None, "down", phase.reason, frames=self._index)
            )
        else:  # another reason; of a new worker, the first word
            epoch = self._epoch = self._epoch or self._next_epoch()
            self._publish_item(StreamDown(self.camera_id, epoch, "down", phase.reason))
        self._is_up = False
        for _ in self._steps(phase.seconds):
            self.truth.append((self.now, "down", phase.reason))

    def _gone(self, phase):
        reason = "stopped" if self._is_up and not phase.is_killed else "silent"
        if self.truth[-1][1] == "worker_down":
            reason = self.truth[-1][2]
        if not phase.is_killed:
            self._publish(self._maker.stopped())
        for _ in range(round(phase.seconds / STEP_SECONDS)):
            self.truth.append((self.now, "worker_down", reason))
            self.now += STEP_SECONDS
        self._begin_process(phase.skipped)

    def _begin_process(self, skipped):
        self._maker = EventMaker(MODEL)
        self._skipped, self._is_up, self._epoch = skipped, False, None
        self._to_detect = 2

    def _next_epoch(self):
        return round(self.utc_now().timestamp() * 1000)

    def _connect(self):
        self._epoch, self._is_up, self._index = self._next_epoch(), True, 0
        self._publish_item(StreamUp(self.camera_id, self._epoch))

    def _steps(self, seconds):
        for _ in range(round(seconds / STEP_SECONDS)):
            yield
            self._publish(self._maker.heartbeats())
            is_behind = self._held_since is not None and not self._is_losing
            behind = self.now - self._held_since if is_behind else 0.0
            if behind > LATE_SECONDS:
                self._late_until = self.now + RECOVERY_SECONDS + STEP_SECONDS
            self._publish(self._maker.behind(behind))
            self.now += STEP_SECONDS

    def _frame(self, phase):
        left_out = self._skipped + phase.dropped
        self._index += left_out + 1
        self.analysed += 1
        self.dropped += phase.dropped
        offset = self._camera_clock_seconds
        item = replace(
            frame(self.camera_id, self._index - 1, epoch=self._epoch, dropped=phase.dropped),
            skipped=self._skipped,
            captured_at=self.utc_now() + timedelta(seconds=(offset or 0) - 0.1),
            captured_monotonic=self.monotonic() - 0.1,
            clock="arrival" if offset is None else "rtcp",
        )
        found = [PERSON] if phase.is_busy or self._to_detect else []
        self._to_detect = max(self._to_detect - 1, 0)
        self._publish(self._maker.make(FrameBatch((item,)), [found]))

    def _publish_item(self, item):
        self._publish(self._maker.make(FrameBatch((item,)), []))

    def _publish(self, events):
        """Into the stream, or into the spool while Redis is away."""
        self._held += events
        if self._held_since is not None:
            return
        for event in self._held:
            milliseconds = round((self.utc_now().timestamp() + 0.05) * 1000)
            event._place = (stream_of(self.camera_id), f"{milliseconds}-{next(self._counter)}")
        self.events += self._held
        self._held = []

    def write(self, client):
        """The stream into Redis, with the times at which its events were published."""
        with client.pipeline(transaction=False) as pipeline:
            for event in self.events:
                stream, entry_id = event.place
                fields = {"id": event.id, "type": event.type, "event": event.to_json()}
                pipeline.xadd(stream, fields, id=entry_id)
            pipeline.sadd("ssd:cameras", self.camera_id)
            pipeline.execute()
        return self
