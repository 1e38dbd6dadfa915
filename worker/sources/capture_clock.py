"""When a picture was captured: its arrival in, a time in UTC out.

A sender's time is used only while it is plausible: cameras whose clock was never set send 1970.
Within a connection times never run backwards.
"""

from datetime import UTC, datetime, timedelta

from worker.frames import Clock
from worker.sources.arrivals import Arrival

FURTHEST_SECONDS = 60.0
"""Maximum between a sender's clock and this host's. Further apart, one of them is wrong; with this
host's, the times of all cameras at least come from one clock."""


class CaptureClock:
    """The capture times of one connection."""

    def __init__(self) -> None:
        self._last: datetime | None = None

    def time_of(
        self, arrival: Arrival, now: datetime, now_monotonic: float
    ) -> tuple[datetime, Clock]:
        """The capture time in UTC, and its source; ``now`` and ``now_monotonic`` are one moment.

        ``rtcp``: by the sender's newest report. ``arrival``: by this host's clock, or by that of a
        sender whose clock was set in mid-connection, as it was before.
        """
        captured_at = now - timedelta(seconds=now_monotonic - arrival.captured_at)
        clock: Clock = "arrival"
        sender_seconds = arrival.sender_seconds
        # As a float: a report can contain a time that no datetime can hold.
        if sender_seconds is not None and (
            abs(sender_seconds - captured_at.timestamp()) <= FURTHEST_SECONDS
        ):
            captured_at = datetime.fromtimestamp(sender_seconds, UTC)
            clock = "arrival" if arrival.clock_was_set else "rtcp"
        if self._last is not None:  # the first report replaces a time that was later, by a frame
            captured_at = max(captured_at, self._last)
        self._last = captured_at
        return captured_at, clock
