"""When packets arrive and how old their pictures are by then: packets in, Arrivals out.

Two delays add up to a picture's lag. What waits here, because decoding is slower than the camera,
is known to the millisecond: packets are stamped when they arrive. What was delayed on its way shows
in the sender's timestamps: monotonic time less pts, less the least of that so far. Knows packets,
and neither decoders nor frames.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PTS_DRIFT = 0.06
"""By how much timestamps may run slower than this host's clock, as a share, without counting as
lag: cameras' timestamps were seen 5 % off."""
SENDER_DRIFT = 0.001
"""The same for the sender's wall clock, which NTP disciplines to 500 ppm or better."""
JUMP_AHEAD_SECONDS = 2.0
"""Timestamps that run ahead of their arrival by this much have jumped: between two packets of a
burst they run ahead by less."""
JUMP_BACK_SECONDS = 0.2
JUMP_BACK_REORDERED_SECONDS = 1.0
"""Timestamps that run back by this much have jumped; with B-frames they run back anyway."""
REPORT_JUMP_SECONDS = 1.0
"""Between what two sender reports say of one moment: more is a clock that was set."""
SAME_REPORT_SECONDS = 1e-3
"""Wall clock less pts is constant until the next report, but for rounding to ticks."""
FASTEST_DRIFT = 0.1
PRFT = struct.Struct("qi")
"""FFmpeg's AVProducerReferenceTime: Unix time in microseconds, flags."""


class Timeline:
    """How long packets take, by the timestamps of one clock."""

    def __init__(self, delay_seconds: float) -> None:
        self.least_delay_seconds = delay_seconds
        """Arrival less timestamp, of the packet that was delayed least."""

    def add(self, delay_seconds: float, drift_seconds: float) -> None:
        """The next packet; the clock may have lost ``drift_seconds`` since the last one."""
        self.least_delay_seconds = min(self.least_delay_seconds + drift_seconds, delay_seconds)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet of video, and when it arrived."""

    packet: Any
    at: float
    """By the monotonic clock."""
    pts: int | None = None
    """In ticks of the stream; None if it has none."""
    seconds: float | None = None
    """``pts`` in seconds."""
    sender_seconds: float | None = None
    """Unix time of its capture by the newest RTCP report; None before the first."""
    clock_was_set: bool = False
    """Whether the sender's clock was set in this connection: ``sender_seconds`` then continues by
    the clock before that."""
    run: int = 0
    """Of timestamps without a jump, from 0."""
    timeline: Timeline | None = None
    """None if nothing is known about how long it took."""
    delay_seconds: float = 0.0
    """Arrival less timestamp."""

    @property
    def captured_at(self) -> float:
        """By the monotonic clock: when it arrived, less what it was delayed more than others."""
        if self.timeline is None:
            return self.at
        return self.at - max(self.delay_seconds - self.timeline.least_delay_seconds, 0.0)

    def lag_seconds(self, now: float) -> float:
        """The age of its picture, beyond what the fastest packet took to arrive."""
        return now - self.captured_at


class ArrivalClock:
    """Dates the packets of one connection, in the order of their arrival."""

    def __init__(self, *, timed: bool, has_b_frames: Callable[[], bool] = lambda: True) -> None:
        """``timed``: timestamps are the camera's own, not FFmpeg's guess."""
        self._timed = timed
        self._has_b_frames = has_b_frames
        self._sender = SenderClock()
        self._run = 0
        self._timeline: Timeline | None = None
        self._sender_ahead: float | None = None
        """Sender's wall clock less pts, at the first packet with a report."""
        self._last_at = self._last_seconds = self._last_lag = 0.0

    def date(self, packet: Any, at: float) -> Arrival:
        """The packet with what its timestamps say; ``at``: when it arrived, by monotonic clock."""
        pts, time_base = packet.pts, packet.time_base
        if pts is None and self._timed and self._timeline is None:
            pts = 0  # FFmpeg states none for the first packet of a camera, from which it counts
        if pts is None or time_base is None:
            return Arrival(packet, at)
        seconds = float(pts * time_base)
        if not self._timed:
            return Arrival(packet, at, pts, seconds)
        if self._timeline is not None and self._has_jumped(seconds, at):
            self._timeline = None
            self._run += 1
            self._sender_ahead = None
            self._sender = SenderClock(stale_offset=self._sender.offset)
        sender_seconds = self._sender.seconds_of(seconds, _wall_clock_of(packet))
        if sender_seconds is None:
            delay, drift = at - seconds, PTS_DRIFT
        else:
            if self._sender_ahead is None:  # what was late by pts is late by the reports
                self._sender_ahead = sender_seconds - seconds
            delay, drift = at - (sender_seconds - self._sender_ahead), SENDER_DRIFT
        if self._timeline is None:
            self._timeline = Timeline(delay)
        else:
            self._timeline.add(delay, drift * (at - self._last_at))
        self._last_at, self._last_seconds = at, seconds
        self._last_lag = delay - self._timeline.least_delay_seconds
        return Arrival(
            packet,
            at,
            pts,
            seconds,
            sender_seconds,
            self._sender.was_set,
            self._run,
            self._timeline,
            delay,
        )

    def _has_jumped(self, seconds: float, at: float) -> bool:
        ahead = (seconds - self._last_seconds) - (at - self._last_at)
        back = self._last_seconds - seconds
        most = JUMP_BACK_REORDERED_SECONDS if self._has_b_frames() else JUMP_BACK_SECONDS
        return ahead > self._last_lag + JUMP_AHEAD_SECONDS or back > most


class SenderClock:
    """The sender's wall clock, by its RTCP reports, the newest of which FFmpeg applies."""

    def __init__(self, stale_offset: float | None = None) -> None:
        """``stale_offset``: of a report that a jump of the timestamps has made useless."""
        self.offset = stale_offset
        """Wall clock less pts, in seconds, by the newest report."""
        self.was_set = False
        """Whether the clock has jumped from one report to the next."""
        self._known = False
        self._last: tuple[float, float] | None = None
        """The last packet's pts and offset."""
        self._reported_at = 0.0
        """The pts at the newest report."""
        self._drift = 0.0
        """How much faster the wall clock runs than pts, as a share."""
        self._drift_seconds = 0.0
        """The time between the two reports that showed it. It is carried on for no longer: by then
        the error is as small as the difference of the two."""
        self._correction = 0.0
        """Seconds by which the clock was set, taken back."""

    def seconds_of(self, pts_seconds: float, wall_clock: float | None) -> float | None:
        """Unix time of a capture; ``wall_clock``: by the newest report, at pts' nominal rate."""
        if wall_clock is None:
            return None
        offset = wall_clock - pts_seconds
        is_new = self.offset is None or abs(offset - self.offset) > SAME_REPORT_SECONDS
        # FFmpeg's parser gives the first packet after the first report the time of the next.
        if is_new and self._is_confirmed(pts_seconds, offset):
            self._report(pts_seconds, offset)
        self._last = pts_seconds, offset
        if not self._known or self.offset is None:
            return None
        drifted = self._drift * min(pts_seconds - self._reported_at, self._drift_seconds)
        return pts_seconds + self.offset + drifted + self._correction

    def _is_confirmed(self, pts_seconds: float, offset: float) -> bool:
        """Whether the packet before has the same offset, but for a drift: reports may come with
        each packet.
        """
        if self._last is None:
            return False
        seconds, last_offset = self._last
        drifted = FASTEST_DRIFT * abs(pts_seconds - seconds)
        return abs(offset - last_offset) <= max(SAME_REPORT_SECONDS, drifted)

    def _report(self, pts_seconds: float, offset: float) -> None:
        elapsed = pts_seconds - self._reported_at
        if self._known and self.offset is not None and elapsed > 0:
            change = offset - self.offset
            expected = self._drift * elapsed
            if abs(change - expected) > max(REPORT_JUMP_SECONDS, FASTEST_DRIFT * elapsed):
                self.was_set = True
                self._correction -= change - expected
            else:
                self._drift = min(max(change / elapsed, -FASTEST_DRIFT), FASTEST_DRIFT)
                self._drift_seconds = elapsed
        self._known = True
        self.offset, self._reported_at = offset, pts_seconds


def _wall_clock_of(packet: Any) -> float | None:
    """Unix time in seconds; None without a report.

    Not ``container.start_time_realtime``, which keeps to the first report of a connection: with a
    clock that was 5 % wrong it moved by 50 ms each second, the newest report stayed within 60 ms.
    """
    side_data = packet.get_sidedata("prft")
    if side_data.buffer_size < PRFT.size:
        return None
    microseconds, _ = PRFT.unpack_from(bytes(side_data))
    return microseconds / 1e6 if microseconds > 0 else None
