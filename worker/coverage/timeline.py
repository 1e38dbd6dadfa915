"""The timeline of one camera: what its events say, and what they do not, as spans.

Takes sightings in the order of the stream. What it relies on: a worker that watches a camera, or
tries to, makes an event of it every ten seconds at least, numbers them without gaps, and says when
it stops. So every event vouches for the time since the one before, unless that is too long, some
are missing between them, or the one before was the last word of a process that died.
"""

from worker.coverage.interval import Interval, State
from worker.coverage.sightings import Sighting
from worker.coverage.spans import Span, Spans, clipped

VOUCH_SECONDS = 15.0
"""A camera's events are at most this far apart: a heartbeat comes after ten quiet seconds, and a
worker may be busy with a batch."""
CLOCKS_APART_SECONDS = 60.0
"""A camera's own clock is used for the times of its pictures if it is at most this far off."""
AHEAD_SECONDS = 2.0
"""An event is not published before it is made. Its time is further ahead of that than the clocks of
two hosts are apart: it is by a clock that runs ahead."""
OFFSET_ERROR_SECONDS = 10.0
"""What is learned of how far it is off may be wrong by as much as a heartbeat takes."""
LOOP_SECONDS = 3.0
"""A connection that follows another without a word may be the next round of a looped file, which
comes within half a second. A worker takes longer to start: loading PyTorch alone does."""


class Timeline:
    """One camera."""

    def __init__(self) -> None:
        self._spans = Spans()
        self._last: Sighting | None = None
        """The last sighting that counted."""
        self._known_from: float | None = None
        self._unknown_reason = "no_events"
        """Why nothing is known of the time before."""
        self._is_midway = False
        """Whether there were events before the first one."""
        self._is_cut = False
        """Whether the server has trimmed what follows the last sighting."""
        self._at = 0.0
        """Up to when the spans are told."""
        self._sure_at = 0.0
        """The last time by a worker's clock."""
        self._camera_offset: float | None = None
        """How far the camera's clock is ahead in this epoch, in seconds, once it is known."""
        self._state: State = "unknown"
        self._reason = "no_events"
        self._condition: str | None = None
        """``late``, ``damaged`` or "" while it is watched; None while it is not."""
        self._is_final = False
        """Whether no further event was to be expected."""
        self._holes = 0
        """Events missing since the last report of lost events."""
        self._silence: Span | None = None
        """The last time since then that no event vouches for."""
        self._frames: int | None = None
        """Decoded in the epoch up to the last sighting; None if it is not known."""
        self._dropped: int | None = None
        self._dropped_told = 0
        """Of the drops that the next analysed frame reports, those that other events reported."""
        self._moves = 0
        """States since the last analysed frame with an event that counted further frames."""
        self._stretch: float | None = None
        """Uncounted frames since the last analysed frame with an event; None if that was missed."""

    @property
    def period(self) -> tuple[float, float] | None:
        """From the first event, or what is remembered, to the last one; None before the first."""
        return None if self._known_from is None else (self._known_from, self._at)

    def begins_midway(self, *, trimmed: bool) -> None:
        """Note that there were events before the first one: not read, or ``trimmed``."""
        self._is_midway = True
        if trimmed:
            self._unknown_reason = "trimmed"

    def is_cut(self) -> None:
        """Note that the server may have removed events between the last one and the next."""
        self._is_cut = True

    def add(self, seen: Sighting) -> None:
        """Take the next event of the stream; one that is known already changes nothing."""
        last = self._last
        if last is None:
            self._begin(seen)
        elif self._is_known(last, seen):
            return
        else:
            self._follow(last, seen)
        self._last = seen
        if seen.is_frame:
            self._take_frame(seen)
        elif seen.state is not None:
            self._take_state(seen)

    def intervals(self, start: float, end: float) -> list[Interval]:
        """What is known of the time from ``start`` to ``end``, at present."""
        if self._known_from is None:
            return clipped([Span(start, end, "unknown", self._unknown_reason)], start, end)
        spans = [*self._spans]
        if self._at < end:
            spans.append(self._rest(end, spans[-1] if spans else None))
        known = clipped(spans, max(start, self._known_from), end)
        before = Span(start, self._known_from, "unknown", self._unknown_reason)
        return [*clipped([before], start, min(end, self._known_from)), *known]

    def forget_before(self, time: float) -> None:
        """Forget what was before a time; asked for it later, it is ``unknown``."""
        self._spans.forget_before(time)
        if self._known_from is not None and self._known_from < time:
            self._known_from = min(time, self._at)

    def _begin(self, seen: Sighting) -> None:
        self._at = self._sure_at = self._known_from = seen.at - _ahead_seconds(seen)
        if seen.seq == 0:
            self._frames = self._dropped = 0
            self._stretch = None if self._is_midway else 0.0

    def _follow(self, last: Sighting, seen: Sighting) -> None:
        """Tell the time up to a sighting that follows another."""
        at = self._place(last, seen)
        missing = seen.seq - (last.seq + 1 if seen.epoch == last.epoch else 0)
        is_cut, self._is_cut = self._is_cut, False
        if is_cut and (missing or seen.epoch != last.epoch):
            self._spans.pass_time(self._at, at, "unknown", "trimmed")
            self._lose_track("unknown", "trimmed")
        elif missing:
            self._miss(last, seen, at, missing)
            self._lose_track("lost", "events_lost")
        else:
            held = self._pass(last, seen, at)
            if seen.epoch != last.epoch:
                self._begin_epoch(is_new_process=self._is_final or not held)
        self._at = at
        if not seen.by_camera:
            self._sure_at = max(self._sure_at, at)

    def _is_known(self, last: Sighting, seen: Sighting) -> bool:
        """Whether an event was delivered before; an earlier epoch may be one of a later time."""
        if (seen.epoch, seen.seq) > (last.epoch, last.seq):
            return False
        return seen.epoch == last.epoch or seen.at <= self._at

    def _rest(self, end: float, told: Span | None) -> Span:
        """The time since the last event; ``told``: the last span."""
        last = self._last
        assert last is not None
        heard_at = self._at
        if last.by_camera and last.published_at is not None:
            behind = last.published_at - self._at
            heard_at += behind if 0 < behind <= CLOCKS_APART_SECONDS else 0
        if not self._is_final and end - heard_at > VOUCH_SECONDS:
            return Span(self._at, end, "worker_down", "silent")
        span = Span(self._at, end, self._state, self._reason, self._condition)
        if told is not None and self._condition is not None and told.condition is not None:
            span.state, span.reason = told.state, told.reason
        return span

    def _place(self, last: Sighting, seen: Sighting) -> float:
        """Where a sighting stands by the worker's clock, as far as it can be told.

        Time does not run backwards, but a worker's clock corrects a camera's that runs ahead.
        """
        if seen.by_camera:
            return max(seen.at - self._offset_of(last, seen), self._at)
        at = seen.at - _ahead_seconds(seen)
        earliest = max(self._sure_at, self._at - CLOCKS_APART_SECONDS)
        if earliest <= at < self._at:
            self._spans.cut_at(at)
            self._at = at
        return max(at, self._at)

    def _offset_of(self, last: Sighting, seen: Sighting) -> float:
        """How far the camera's clock is ahead of the worker's.

        Learned where a frame follows what the worker's clock has dated: at once, or at most as
        long after it as an event vouches for. And no event is published before it is made.
        """
        known = self._camera_offset if seen.epoch == last.epoch else None
        offset = max(known or 0.0, _ahead_seconds(seen)) if _ahead_seconds(seen) else known or 0.0
        if seen.epoch == last.epoch and not last.by_camera:
            apart = seen.at - offset - self._at
            is_ahead = VOUCH_SECONDS < apart <= CLOCKS_APART_SECONDS + VOUCH_SECONDS
            if -CLOCKS_APART_SECONDS <= apart < 0 or (is_ahead and known is None):
                offset += apart
        self._camera_offset = offset
        return offset

    def _miss(self, last: Sighting, seen: Sighting, at: float, missing: int) -> None:
        """Tell the time up to ``at``, in which events are missing."""
        self._holes += missing
        if seen.epoch != last.epoch:  # an epoch is the time at which it began
            begun_at = min(max(seen.epoch / 1000, self._at), at)
            self._pass(last, seen, begun_at)
            self._at = begun_at
        if at - self._at <= (missing + 1) * VOUCH_SECONDS:
            self._spans.pass_time(self._at, at, "lost", "events_lost", missing)
        else:
            self._silence = self._spans.pass_time(self._at, at, "worker_down", "silent")

    def _pass(self, last: Sighting, seen: Sighting, at: float) -> bool:
        """Tell the time up to ``at``, in which no event is missing; False: none vouches for it."""
        held = self._vouches(last, seen, at)
        if not held:
            self._silence = self._spans.pass_time(self._at, at, "worker_down", "silent")
        elif self._condition is not None:
            self._spans.watch(self._at, at, self._condition)
        else:
            self._spans.pass_time(self._at, at, self._state, self._reason)
        return held

    def _vouches(self, last: Sighting, seen: Sighting, at: float) -> bool:
        """Whether the state of the camera held from the last sighting to this one."""
        if self._is_final:
            return True
        gap = at - self._at
        if seen.epoch != last.epoch:  # while it is watched, the last word of a process that died
            return gap <= (VOUCH_SECONDS if self._condition is None else LOOP_SECONDS)
        if last.by_camera and not seen.by_camera:
            is_known = self._camera_offset is not None
            return gap <= (
                VOUCH_SECONDS + (OFFSET_ERROR_SECONDS if is_known else CLOCKS_APART_SECONDS)
            )
        return gap <= VOUCH_SECONDS

    def _take_state(self, seen: Sighting) -> None:
        self._count_until(seen)
        if seen.reason == "events_lost":  # the camera itself stays as it was
            self._report_lost(seen.dropped)
            return
        self._is_final = seen.state == "ended" or seen.reason == "stopped"
        if seen.state in ("up", "degraded"):
            self._state, self._reason = "watched", ""
            self._condition = seen.reason if seen.state == "degraded" else ""
            return
        self._state = "worker_down" if seen.reason == "stopped" else "down"
        self._reason, self._condition = seen.reason, None

    def _report_lost(self, events: int) -> None:
        """The worker tells how many events it has lost: the holes, or a silence that they fill."""
        unseen, silence = events - self._holes, self._silence
        self._holes, self._silence = 0, None
        if unseen <= 0 or silence is None:
            return
        if silence.end - silence.start <= (unseen + 1) * VOUCH_SECONDS:
            silence.state, silence.reason, silence.lost = "lost", "events_lost", unseen

    # Counting

    def _lose_track(self, state: State, reason: str) -> None:
        """Events are missing, with their counts, and with what they said of the camera."""
        self._state, self._reason, self._condition = state, reason, None
        self._is_final = False
        self._spans.settle()
        self._frames = self._dropped = self._stretch = None
        self._dropped_told = self._moves = 0

    def _begin_epoch(self, *, is_new_process: bool) -> None:
        """Frames and drops count from 0; what a process has not reported outlives its epochs."""
        self._frames = self._dropped = 0
        if is_new_process:
            self._spans.settle()
            self._stretch, self._dropped_told, self._moves = 0.0, 0, 0

    def _count_until(self, seen: Sighting) -> None:
        """Add the frames of the time before a state, whose skipped ones it does not tell."""
        is_up = seen.state in ("up", "degraded")
        frames = dropped = 0
        # A change may be reported in the middle of a frame, whose drops are not counted yet.
        if not is_up or seen.reason in ("heartbeat", self._condition):
            frames = max(seen.frames - self._frames, 0) if self._frames is not None else 0
            self._frames = seen.frames
        if seen.reason != "events_lost":
            dropped = max(seen.dropped - self._dropped, 0) if self._dropped is not None else 0
            self._dropped = seen.dropped
        if self._condition is None or not (frames or dropped):
            return
        uncounted = max(frames - dropped, 1 if frames and is_up else 0)
        span = self._spans.watch(self._at, self._at, self._condition)
        span.dropped += dropped
        span.uncounted += uncounted
        self._dropped_told += dropped
        self._moves += 1 if uncounted else 0
        if self._stretch is not None:
            self._stretch += uncounted

    def _take_frame(self, seen: Sighting) -> None:
        """Add an analysed frame, and what it says about those since the last one with an event."""
        self._state, self._reason, self._is_final = "watched", "", False
        self._condition = self._condition or ""
        span = self._spans.watch(self._at, self._at, self._condition)
        stretch, frames, told, moves = self._stretch, self._frames, self._dropped_told, self._moves
        self._stretch, self._frames, self._dropped_told, self._moves = 0.0, seen.frames, 0, 0
        if stretch is None or frames is None:
            span.analysed += 1
            self._dropped = None
            return
        dropped = max(seen.dropped - told, 0)
        decoded = max(seen.frames - frames - dropped, 1)
        span.dropped += dropped
        span.uncounted += decoded
        if self._dropped is not None:
            self._dropped += dropped
        uncounted = stretch + decoded
        self._spans.count(max(uncounted - seen.skipped, moves + 1), seen.skipped, uncounted)


def _ahead_seconds(seen: Sighting) -> float:
    """How far a clock is ahead at least, by when its event was published; 0 if it may be right."""
    ahead = 0.0 if seen.published_at is None else seen.at - seen.published_at
    return ahead if ahead > AHEAD_SECONDS else 0.0
