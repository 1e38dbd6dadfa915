"""When a picture was taken: RTCP's claim and our own clock in, a capture time out.

A sender's claim is taken only while it can be true. Cameras whose clock was never set claim 1970,
and one whose timestamps jump claims what it likes from then on, because FFmpeg takes the time of
pts 0 from the first report of a connection.
"""

from datetime import UTC, datetime, timedelta

from worker.frames import Clock

FURTHEST_SECONDS = 60.0
"""Between a sender's clock and ours. Further off it is wrong, or ours is; and then the times of all
cameras are at least those of one clock."""
LARGEST_SHIFT_SECONDS = 5.0
"""How far the claims of one connection may move against our clock. Pictures that were held up by
the network move by less, or the connection counts as lost."""


class CaptureClock:
    """The capture times of one connection."""

    def __init__(self) -> None:
        self._first_shift: float | None = None
        self._jumped = False

    def time_of(
        self, zero_microseconds: int | None, pts_seconds: float | None, arrived_at: datetime
    ) -> tuple[datetime, Clock]:
        """The time in UTC, and where it comes from.

        ``zero_microseconds``: the sender's time of pts 0 since 1970; None before its first report.
        """
        if zero_microseconds is None or zero_microseconds <= 0 or pts_seconds is None:
            return arrived_at, "arrival"
        # As a float: a report can claim a time that no datetime can hold.
        shift = zero_microseconds / 1e6 + pts_seconds - arrived_at.timestamp()
        if abs(shift) > FURTHEST_SECONDS:
            return arrived_at, "arrival"
        if self._first_shift is None:
            self._first_shift = shift
        self._jumped |= abs(shift - self._first_shift) > LARGEST_SHIFT_SECONDS
        if self._jumped:
            return arrived_at, "arrival"
        return (arrived_at + timedelta(seconds=shift)).astimezone(UTC), "rtcp"
