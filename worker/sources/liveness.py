"""Whether a connection still gives pictures: what comes of it in, ConnectionLost out.

Knows the time and neither FFmpeg nor frames. Used by the thread that reads the connection.
"""

import time

from worker.sources.reasons import SILENCE_SECONDS, ConnectionLost

OPEN_SECONDS = 10.0
"""For each of the two steps of opening, the handshake and finding out what comes, and until the
first picture: cameras that are joined in mid-stream may keep one waiting for their next key frame.
"""
PICTURELESS_SECONDS = 5.0
"""The time over which packets and pictures are compared."""
WORK_SECONDS = SILENCE_SECONDS - 1
"""For what a reader does with one packet itself: decoding, converting, handing on. With the second
that the pipeline takes to be sure, a camera whose reader hangs there is down after SILENCE_SECONDS.
"""
READ_GRACE_SECONDS = 2.0
"""By how much a read may exceed the time after which FFmpeg was told to give up."""
PACKETS_A_PICTURE = 3
"""More of them, and a connection counts as lost. The two fields of an interlaced picture may be two
packets; of noise, FFmpeg makes a picture out of every tenth or so."""


class Liveness:
    """Of one connection, from its first call on."""

    def __init__(self, silence_seconds: float = SILENCE_SECONDS) -> None:
        """``silence_seconds`` without a packet make a connection a lost one."""
        self.was_up = False
        self._silence_seconds = silence_seconds
        self._heard_at = self._counted_from = time.monotonic()
        self._packets = self._pictures = 0
        """Since ``_counted_from``."""

    @property
    def silent_seconds(self) -> float:
        """Since the last packet, or since the connection was opened."""
        return time.monotonic() - self._heard_at

    def opened(self, *, looked_into: bool) -> None:
        """It was opened; ``looked_into``: what came of it tells the size of its pictures.

        Raises ConnectionLost where FFmpeg gave up looking because nothing came: reading on would
        mean as long a silence again. (Where it looked until it was stopped, something did come.)
        """
        seconds = self.silent_seconds
        self._heard_at = time.monotonic()
        if not looked_into and self._silence_seconds <= seconds < OPEN_SECONDS:
            raise _stall(seconds)

    def packet(self, *, of_video: bool) -> None:
        """A packet came. Raises ConnectionLost if none of the pictures came for too long before.

        Once a read has timed out, FFmpeg hands out the frame that it held back, and only reports
        the error after a second time of waiting: that frame is not one to go on with.
        """
        seconds = self.silent_seconds
        if seconds >= self._silence_seconds:
            raise _stall(seconds)
        if of_video:
            self._heard_at = time.monotonic()

    def decoded(self, pictures: int) -> None:
        """A packet gave so many pictures. Raises ConnectionLost if too few do for too long."""
        now = time.monotonic()
        if pictures and not self.was_up:
            self.was_up = True
            self._count_from(now)
        self._packets += 1
        self._pictures += pictures
        seconds = now - self._counted_from
        if seconds < (PICTURELESS_SECONDS if self.was_up else OPEN_SECONDS):
            return
        if self._pictures * PACKETS_A_PICTURE < self._packets:
            raise ConnectionLost(
                "invalid_data",
                f"{self._pictures} of {self._packets} packets could be decoded in {seconds:.0f} s",
            )
        self._count_from(now)

    def _count_from(self, now: float) -> None:
        self._counted_from, self._packets, self._pictures = now, 0, 0

    def handed_on(self, seconds: float) -> None:
        """The reader was busy with a picture for so long; the camera is not to blame for it."""
        self._heard_at += seconds
        self._counted_from += seconds


def _stall(seconds: float) -> ConnectionLost:
    return ConnectionLost("stall", f"nothing came for {seconds:.0f} s")
