"""Plays files and playlists at their own speed: times of pictures in, waiting out.

A playlist (HLS, DASH) delivers whole segments at once, seconds apart; taken as they arrive, most of
their pictures would be dropped and the others be bunched.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from worker.sources.streams import rate_of

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
POLL_SECONDS = 0.2
"""How often a wait looks whether the camera was stopped."""


def wait_until(due: float, is_stopped: Callable[[], bool]) -> bool:
    """Sleep until ``due`` by the monotonic clock, or until stopped; whether it was not stopped."""
    while (seconds := due - time.monotonic()) > 0 and not is_stopped():
        time.sleep(min(seconds, POLL_SECONDS))
    return not is_stopped()


class Pace:
    """Delays pictures until they are due."""

    def __init__(
        self,
        wait: Callable[[float], object],
        interval_seconds: float,
        longest_gap_seconds: float = LONGEST_GAP_SECONDS,
        latest_seconds: float = LONGEST_GAP_SECONDS,
    ) -> None:
        """``interval_seconds``: usual between two pictures.

        ``longest_gap_seconds``: a longer one between two times is a jump. ``latest_seconds``: what
        is later than this goes on from where it is, without catching up.
        """
        self._wait = wait
        self._longest_gap_seconds = max(longest_gap_seconds, INTERVALS_OF_A_GAP * interval_seconds)
        self._latest_seconds = latest_seconds
        self._zero = 0.0
        """When the picture of time 0 was due, by the monotonic clock."""
        self._last: float | None = None
        self.played_at = 0.0
        """When the last picture was due or, if it was late, came; by the monotonic clock."""

    def wait_for(self, seconds: float) -> None:
        """Wait until the picture of this time is due: after a jump of the times at once, and then
        relative to the one after the jump.
        """
        now = time.monotonic()
        step = math.inf if self._last is None else seconds - self._last
        due = max(self._zero + seconds, self.played_at + step / FASTEST)
        if (
            not -JUMP_BACK_SECONDS <= step <= self._longest_gap_seconds
            or now - (self._zero + seconds) > self._latest_seconds
        ):
            self._zero = now - seconds
            due = now
        self._last = seconds
        self.played_at = max(due, now)
        self._wait(self.played_at - now)


class PlaylistPace:
    """Passes the packets of a playlist on when they are due.

    It reads no further than it plays, so what waits is on the server. A playlist may list minutes,
    and FFmpeg begins three segments before its end; it is played as far behind as that. What the
    network delays is caught up, and where segments have expired meanwhile, playing goes on with the
    next one there is.
    """

    def __init__(self, stream: Any, *, is_stopped: Callable[[], bool]) -> None:
        """``stream``: of the pictures."""
        self._index = stream.index
        self._is_stopped = is_stopped
        interval_seconds = float(1 / rate_of(stream))
        self._pace = Pace(self._wait, interval_seconds, LONGEST_PLAYLIST_GAP_SECONDS, math.inf)

    @property
    def played_at(self) -> float:
        """When the last packet of the pictures was passed on, by the monotonic clock."""
        return self._pace.played_at

    def of(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets, those of the pictures when they are due."""
        for packet in packets:
            if packet.stream_index == self._index and packet.dts is not None:
                self._pace.wait_for(float(packet.dts * packet.time_base))
            yield packet

    def _wait(self, seconds: float) -> None:
        wait_until(time.monotonic() + seconds, self._is_stopped)
