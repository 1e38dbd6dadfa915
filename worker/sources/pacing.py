"""Plays files and playlists at their own speed: times of pictures in, waiting out.

A playlist (HLS, DASH) delivers whole segments at once, seconds apart; taken as they arrive, most of
their pictures would be dropped and the others be bunched. Knows no pictures.
"""

import math
import time
from collections.abc import Callable

FASTEST = 1.5
"""How fast a video is played that is behind its schedule, until it has caught up: late segments
become neither a burst, of which most is dropped, nor a delay for good."""
JUMP_BACK_SECONDS = 0.5
"""By less, pictures are merely out of order."""
LONGEST_GAP_SECONDS = 10.0
"""A longer gap between the pictures of a file is a jump of its clock, not a pause."""
LONGEST_PLAYLIST_GAP_SECONDS = 2.0
"""Of a playlist: its gaps are segments that were missed, or another recording that follows."""
INTERVALS_OF_A_GAP = 4
"""At least, for videos of few pictures."""


class Pace:
    """Delays pictures until they are due."""

    def __init__(
        self, wait: Callable[[float], object], interval_seconds: float, *, playlist: bool = False
    ) -> None:
        """``interval_seconds``: usual between two pictures."""
        self._wait = wait
        gap = LONGEST_PLAYLIST_GAP_SECONDS if playlist else LONGEST_GAP_SECONDS
        self._longest_gap_seconds = max(gap, INTERVALS_OF_A_GAP * interval_seconds)
        # A file that cannot be decoded fast enough goes on from where it is.
        self._latest_seconds = math.inf if playlist else LONGEST_GAP_SECONDS
        self._zero = 0.0
        """When the picture of time 0 was due, by the monotonic clock."""
        self._last: float | None = None
        self._played_at = 0.0

    def wait_for(self, seconds: float) -> None:
        """Wait until the picture of this time is due. After a jump of the times it is due at once,
        and later ones relative to it.
        """
        now = time.monotonic()
        step = math.inf if self._last is None else seconds - self._last
        late_seconds = now - (self._zero + seconds)
        if (
            not -JUMP_BACK_SECONDS <= step <= self._longest_gap_seconds
            or late_seconds > self._latest_seconds
        ):
            self._zero = now - seconds
            due = now
        else:
            due = max(self._zero + seconds, self._played_at + step / FASTEST)
        self._last = seconds
        self._played_at = max(due, now)
        self._wait(self._played_at - now)
