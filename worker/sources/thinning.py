"""Which packets of a camera to decode: all, or what ``--fps`` and lag leave of them.

Takes packets in the order of their arrival, gives those to decode now. Two reasons to leave some
undecoded, which are counted apart: by choice (skipped), since the next picture that is wanted can
be decoded from a later key frame; and under overload (dropped), since pictures that come too late
are of no use. Knows neither decoders nor the picture.
"""

from dataclasses import dataclass
from typing import Literal

from worker.sources.arrivals import Arrival
from worker.sources.sampling import Sampler

LATE_SECONDS = 1.0
"""Lag from which pictures that no other depends on are not decoded."""
KEY_FRAME_SECONDS = 1.4
"""Lag from which decoding resumes at a later key frame: whatever happens to a picture afterwards,
it is published within 2 s of its capture."""
IN_TIME_SECONDS = 0.5
"""Lag at which a key frame is early enough to resume from, and all pictures are decoded again."""
MAX_HELD_BYTES = 16 << 20
KEY_FRAME_DELAY_SHARE = 0.1
"""Of the time between key frames: later than that, the next one is not waited for."""
MOST_B_FRAMES = 16
"""In a row, as x264 has it: one picture in 17 at least is a reference."""

SkipFrame = Literal["DEFAULT", "NONREF"]
"""FFmpeg's AVDiscard: decode all, or leave out what no other picture depends on."""
Gap = Literal["skipped", "dropped"]
"""Packets left undecoded by choice, or since they were late."""


@dataclass(frozen=True, slots=True)
class ToDecode:
    """Packets to decode now, in order."""

    arrivals: tuple[Arrival, ...] = ()
    gap: Gap | None = None
    """Why packets before them were left undecoded: what the decoder holds back is void."""


class Thinner:
    """The choice for one connection."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._held: list[Arrival] = []
        """Since the last key frame, undecoded: in case the next key frame comes too late."""
        self._held_bytes = 0
        self._gap: Gap | None = None
        self._is_late = self._waits_for_key_frame = False
        self._key_seconds: float | None = None
        self._key_interval_seconds: float | None = None
        self._packets_since_key = 0
        self._packet_seconds: float | None = None
        """Average time between the packets of the last group of pictures."""
        self.dropped = 0
        """Packets left undecoded because they were late, since this was last set to 0."""

    @property
    def is_late(self) -> bool:
        """Whether lag leaves something undecoded."""
        return self._is_late or self._waits_for_key_frame

    @property
    def skip_frame(self) -> SkipFrame:
        """What the decoder need not decode."""
        return "NONREF" if self._is_late or self._wants_few() else "DEFAULT"

    def take(self, arrival: Arrival, seconds: float, lag_seconds: float) -> ToDecode:
        """The packets to decode, now that this one has its turn: all that it gives.

        ``seconds``: as for the sampler. ``lag_seconds``: how long the packet waited for its turn.
        """
        is_key = bool(arrival.packet.is_keyframe)
        if is_key:
            self._key_frame(seconds)
        self._packets_since_key += 1
        if self._is_too_late(is_key, lag_seconds):
            self.dropped += 1 + len(self._held)
            self._hold_nothing()
            self._gap = "dropped"
            return ToDecode()
        if is_key and self._held:
            self._sampler.skip(len(self._held))
            self._hold_nothing()
            self._gap = self._gap or "skipped"
        if self._can_wait(is_key, seconds):
            self._held.append(arrival)
            self._held_bytes += arrival.packet.size
            return ToDecode()
        gap, self._gap = self._gap, None
        arrivals = (*self._held, arrival)
        self._hold_nothing()
        return ToDecode(arrivals, gap)

    def end(self) -> None:
        """The connection is over: what was held is not needed any more."""
        self._sampler.skip(len(self._held))
        self._hold_nothing()

    def _key_frame(self, seconds: float) -> None:
        if self._key_seconds is not None and seconds > self._key_seconds:
            self._key_interval_seconds = seconds - self._key_seconds
            self._packet_seconds = self._key_interval_seconds / self._packets_since_key
        self._key_seconds = seconds
        self._packets_since_key = 0

    def _is_too_late(self, is_key: bool, lag_seconds: float) -> bool:
        in_time = lag_seconds <= IN_TIME_SECONDS
        if self._waits_for_key_frame:
            self._waits_for_key_frame = not (is_key and in_time)
        else:
            self._waits_for_key_frame = lag_seconds > KEY_FRAME_SECONDS
        self._is_late = lag_seconds > LATE_SECONDS or (self._is_late and not in_time)
        return self._waits_for_key_frame

    def _can_wait(self, is_key: bool, seconds: float) -> bool:
        """Whether a later key frame will do for the picture that is wanted next."""
        if is_key and self._sampler.is_due(seconds, key_frame=True):
            return False
        due = self._sampler.due_seconds
        if due is None or self._key_seconds is None or self._key_interval_seconds is None:
            return False
        latest = due + self._sampler.interval_seconds / 2
        key_expected = self._key_seconds + self._key_interval_seconds
        overdue = key_expected + self._key_interval_seconds * KEY_FRAME_DELAY_SHARE
        will_come = key_expected <= latest and seconds <= min(latest, overdue)
        return will_come and self._held_bytes < MAX_HELD_BYTES

    def _wants_few(self) -> bool:
        """Whether at least one picture that others depend on lies between any two wanted ones."""
        if self._packet_seconds is None:
            return False
        return self._sampler.interval_seconds > (MOST_B_FRAMES + 1) * self._packet_seconds

    def _hold_nothing(self) -> None:
        self._held.clear()
        self._held_bytes = 0
