"""When a picture was captured: RTCP's sender time and this host's clock in, a capture time out.

A sender's time is used only while it is plausible. Cameras whose clock was never set send 1970, and
after a jump of the timestamps any time may result, because FFmpeg takes the time of pts 0 from the
first report of a connection.
"""

from datetime import UTC, datetime, timedelta

from worker.frames import Clock

FURTHEST_SECONDS = 60.0
"""Maximum between a sender's clock and this host's. Further apart, one of them is wrong; with this
host's, the times of all cameras at least come from one clock."""
LARGEST_SHIFT_SECONDS = 5.0
"""How far the sender times of one connection may move against this host's clock. Pictures delayed
by the network move by less, or the connection counts as lost."""


class CaptureClock:
    """The capture times of one connection."""

    def __init__(self) -> None:
        self._first_shift: float | None = None
        self._jumped = False

    def time_of(
        self, zero_microseconds: int | None, pts_seconds: float | None, arrived_at: datetime
    ) -> tuple[datetime, Clock]:
        """The capture time in UTC, and its source.

        ``zero_microseconds``: the sender's Unix time of pts 0; None before its first report.
        """
        if zero_microseconds is None or zero_microseconds <= 0 or pts_seconds is None:
            return arrived_at, "arrival"
        # As a float: a report can contain a time that no datetime can hold.
        shift = zero_microseconds / 1e6 + pts_seconds - arrived_at.timestamp()
        if abs(shift) > FURTHEST_SECONDS:
            return arrived_at, "arrival"
        if self._first_shift is None:
            self._first_shift = shift
        self._jumped |= abs(shift - self._first_shift) > LARGEST_SHIFT_SECONDS
        if self._jumped:
            return arrived_at, "arrival"
        return (arrived_at + timedelta(seconds=shift)).astimezone(UTC), "rtcp"
