"""When a picture was captured: its arrival in, a time in UTC out.

A sender's time is used only while it is plausible: cameras whose clock was never set send 1970.
Within a connection times never run backwards, and where they would halt instead, the sender's time
is not taken up.
"""

from datetime import UTC, datetime, timedelta

from worker.frames import Clock
from worker.sources.arrivals import Arrival

FURTHEST_SECONDS = 60.0
"""Maximum between a sender's clock and this host's. Further apart, one of them is wrong; with this
host's, the times of all cameras at least come from one clock."""
LONGEST_HALT_SECONDS = 1.0
"""For how long times may stay as they are rather than run backwards: the first report takes a
picture's time back by as many frames as FFmpeg and a decoder hold back."""


class CaptureClock:
    """The capture times of one connection."""

    def __init__(self) -> None:
        self._last: datetime | None = None
        self._last_clock: Clock | None = None
        self._sender_is_given_up = False

    def time_of(
        self, arrival: Arrival, now: datetime, now_monotonic: float
    ) -> tuple[datetime, Clock]:
        """The capture time in UTC, and its source; ``now`` and ``now_monotonic`` are one moment.

        ``rtcp``: by the sender's newest report. ``arrival``: by this host's clock, or by that of a
        sender whose clock was right and was set in mid-connection, as it was before.
        """
        captured_at, clock = self._plain_time_of(arrival, now, now_monotonic)
        if self._last is not None:
            captured_at = max(captured_at, self._last)
        self._last, self._last_clock = captured_at, clock
        return captured_at, clock

    def runs_back(self, arrival: Arrival, now: datetime, now_monotonic: float) -> bool:
        """Whether a picture's time is far before the last one's: this host's clock was set, or a
        sender's that ran ahead was given up.
        """
        captured_at, _ = self._plain_time_of(arrival, now, now_monotonic)
        return self._seconds_back(captured_at.timestamp()) > LONGEST_HALT_SECONDS

    def _plain_time_of(
        self, arrival: Arrival, now: datetime, now_monotonic: float
    ) -> tuple[datetime, Clock]:
        captured_at = now - timedelta(seconds=now_monotonic - arrival.captured_at)
        sender_seconds = arrival.sender_seconds
        if sender_seconds is None or self._sender_is_given_up:
            return captured_at, "arrival"
        # As a float: a report can contain a time that no datetime can hold.
        off = abs(sender_seconds - captured_at.timestamp())
        if off > (
            LONGEST_HALT_SECONDS if arrival.clock_was_set else FURTHEST_SECONDS
        ) or self._would_halt(
            sender_seconds
        ):  # for good: to change between two clocks again and again is worse than either
            self._sender_is_given_up = True
            return captured_at, "arrival"
        clock: Clock = "arrival" if arrival.clock_was_set else "rtcp"
        return datetime.fromtimestamp(sender_seconds, UTC), clock

    def _would_halt(self, sender_seconds: float) -> bool:
        """Whether a report that is the first one would take the time back too far."""
        return (
            self._last_clock == "arrival"
            and self._seconds_back(sender_seconds) > LONGEST_HALT_SECONDS
        )

    def _seconds_back(self, unix_seconds: float) -> float:
        return 0.0 if self._last is None else self._last.timestamp() - unix_seconds
