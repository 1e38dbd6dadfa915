"""Whether a connection still delivers pictures: packets and pictures in, ConnectionLost out.

Depends on the time, and on neither FFmpeg nor frames. Used by the thread that decodes.
"""

import time

from worker.sources.reasons import SILENCE_SECONDS, ConnectionLost

OPEN_SECONDS = 10.0
"""For each of the two steps of opening, handshake and probing, and until the first picture: a
camera that is joined in mid-stream sends its next key frame only after a while."""
PICTURELESS_SECONDS = 5.0
"""The time over which packets and pictures are compared."""
WORK_SECONDS = SILENCE_SECONDS - 1
"""For what a reader itself does with one packet: decoding, converting, handing on. The pipeline
takes a second to be sure, so that a camera whose reader hangs there is down after SILENCE_SECONDS.
"""
READ_GRACE_SECONDS = 2.0
"""By how much a read may exceed the timeout that FFmpeg was given."""
PACKETS_A_PICTURE = 3
"""With more, a connection counts as lost. The two fields of an interlaced picture may be two
packets; from noise, FFmpeg makes a picture out of every tenth packet or so."""


class Liveness:
    """The liveness of one connection, measured from the start of the attempt."""

    def __init__(self, silence_seconds: float = SILENCE_SECONDS) -> None:
        """After ``silence_seconds`` without a packet a connection counts as lost."""
        self.was_up = False
        self._silence_seconds = silence_seconds
        self._began_at = self._counted_from = time.monotonic()
        self._waited_seconds = 0.0
        """For packets, since the last one of video."""
        self._is_open = False
        self._packets = self._pictures = 0
        """Since ``_counted_from``."""

    def silent_seconds(self, read_seconds: float = 0.0) -> float:
        """Since the last packet, or since the start of the attempt; ``read_seconds``: the time that
        a read in progress has taken.
        """
        if self._is_open:
            return self._waited_seconds + read_seconds
        return time.monotonic() - self._began_at

    def allow_silence(self, seconds: float) -> None:
        """A packet may take so long from now on."""
        self._silence_seconds = seconds

    def opened(self, *, looked_into: bool) -> None:
        """It was opened; ``looked_into``: FFmpeg has found the size of its pictures.

        Raises ConnectionLost if FFmpeg stopped probing because nothing arrived: reading on would
        mean as long a silence again. (If it probed until its timeout, something did arrive.)
        """
        seconds = self.silent_seconds()
        self._is_open = True
        if not looked_into and self._silence_seconds <= seconds < OPEN_SECONDS:
            raise _stall(seconds)

    def packet(self, read_seconds: float, *, of_video: bool) -> None:
        """A packet arrived, after a read of so long. Raises ConnectionLost if no video packet had
        arrived for too long before it.

        After a read has timed out, FFmpeg first returns the frame that it held back, and reports
        the error only after a second timeout: that frame does not make the connection alive.
        """
        self._waited_seconds += read_seconds
        if self._waited_seconds >= self._silence_seconds:
            raise _stall(self._waited_seconds)
        if of_video:
            self._waited_seconds = 0.0

    def decoded(self, pictures: int) -> None:
        """A packet gave this many pictures. Raises ConnectionLost if too few do for too long."""
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
        """The reader was busy with a picture for ``seconds``, which do not count."""
        self._counted_from += seconds


def _stall(seconds: float) -> ConnectionLost:
    return ConnectionLost("stall", f"nothing arrived for {seconds:.0f} s")
