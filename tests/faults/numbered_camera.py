"""A camera whose pictures show their number, so that a test knows which one it got, and when that
one was captured.

Its RTP timestamps begin anywhere, run as fast as wanted, and count in presentation or in decoding
order; its sender reports state the true time.
"""

import random
import re
import struct
import time
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from tests.faults.rtsp_faults import NTP_OF_1970, Camera, Clip

BITS = 8
"""The number is shown modulo 256, as a row of bright and dark squares."""
SQUARE_PX = 16
CLOCK_HZ = 90_000


def picture_of(number, size, *, moving=False):
    """(H, W, 3) RGB. ``moving``: a texture wanders over it, of which each picture needs packets."""
    height, width = size
    image = np.full((height, width, 3), 90, np.uint8)
    image[:, :, 1] = np.arange(width) * 255 // width  # something to encode
    if moving:
        texture = np.random.default_rng(1).integers(0, 60, (height, width, 1), np.uint8)
        image = image // 2 + np.roll(texture, 3 * number, axis=1)
    for bit in range(BITS):
        shade = 235 if number >> bit & 1 else 20
        image[:SQUARE_PX, bit * SQUARE_PX : (bit + 1) * SQUARE_PX] = shade
    return image


def frame_of(number, size, *, moving=False):
    """The picture as an encoder takes it, at 25 pictures per second."""
    image = av.VideoFrame.from_ndarray(picture_of(number, size, moving=moving), "rgb24")
    frame = image.reformat(format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, 25)
    return frame


def number_in(image, size):
    """The number that a picture of ``size`` shows, from an image of any size; modulo 256."""
    rows, columns = image.shape[0] / size[0], image.shape[1] / size[1]
    middle = SQUARE_PX / 2
    return sum(
        int(image[int(middle * rows), int((bit * SQUARE_PX + middle) * columns)].mean() > 127)
        << bit
        for bit in range(BITS)
    )


@dataclass(frozen=True)
class NumberedClip:
    """256 pictures, as packets in decoding order with the number of each."""

    clip: Clip
    numbers: tuple[int, ...]
    size: tuple[int, int]
    reordered: int
    """By how many pictures decoding order runs ahead of presentation."""


def numbered_clip(size=(144, 192), gop=16, b_frames=0, *, moving=False):
    """H.264; ``size`` is (height, width); ``gop``: a divisor of 256."""
    height, width = size
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.max_b_frames = b_frames
    encoder.options = {
        "preset": "ultrafast", "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0",
        "x264-params": f"bframes={b_frames}:b-adapt=0:open-gop=0:b-pyramid=none:force-cfr=1",
    }  # fmt: skip
    packets = []
    for number in range(256):
        packets += encoder.encode(frame_of(number, size, moving=moving))
    packets += encoder.encode(None)
    units = tuple(
        tuple(nal for nal in re.split(rb"\x00\x00\x00?\x01", bytes(p)) if nal) for p in packets
    )
    sets = Clip.h264_parameter_sets(units[0])
    clip = Clip("H264", units, f"packetization-mode=1;sprop-parameter-sets={sets}")
    numbers = tuple(packet.pts for packet in packets)
    reordered = max(index - number for index, number in enumerate(numbers))
    return NumberedClip(clip, numbers, size, reordered)


class NumberedCamera(Camera):
    """Sends a numbered clip again and again, in real time."""

    def __init__(
        self,
        numbered,
        *,
        rate=25,
        first_timestamp=None,
        clock_speed=1.0,
        stamps="presentation",
        report_seconds=1.0,
        cached=0,
        delay=lambda seconds: 0.0,
        is_lost=lambda sequence: False,
        **options,
    ):
        """``first_timestamp``: None is random. ``clock_speed``: of the RTP clock, 1.0 is right.

        ``stamps``: ``presentation`` or ``decoding`` order. ``report_seconds``: between sender
        reports; None: none. ``cached``: pictures of before the connection that are sent at once.
        ``delay``: of a picture on its way, in seconds, by its time in the session.
        ``is_lost``: whether a packet gets lost, by how many were sent in the session.
        """
        self._is_lost = is_lost
        self._cached = cached
        self._delay = delay
        self.numbered = numbered
        self.rate = rate
        self.report_seconds = report_seconds
        self._first = random.getrandbits(32) if first_timestamp is None else first_timestamp
        self._ticks = CLOCK_HZ / rate * clock_speed
        self._stamps = stamps
        self._restart = False
        self.sent = 0
        """Packets, in the session begun last."""
        self.began_at = 0.0
        """Unix time at which picture 0 of that session was captured."""
        self.set_clock_by = 0.0
        """Seconds that sender reports are wrong by."""
        super().__init__(numbered.clip, script=self._play, **options)

    def captured_at(self, number, around):
        """Unix time at which the picture with this number, modulo 256, was captured, next to
        ``around``.
        """
        round_seconds = 256 / self.rate
        first = self.began_at + number / self.rate
        return first + round((around - first) / round_seconds) * round_seconds

    def restart_timestamps(self):
        """From the next packet on they are a minute lower."""
        self._restart = True

    def _play(self, session):
        session.drop = self._is_lost
        numbers, units = self.numbered.numbers, self.numbered.clip.units
        self.sent = 0
        self.began_at = time.time() - self._cached / self.rate
        began = time.monotonic() - self._cached / self.rate
        reported = 0.0
        while not session.gone.is_set():
            round_, index = divmod(self.sent, len(units))
            number = round_ * len(units) + numbers[index]
            stamped = number if self._stamps == "presentation" else self.sent
            if self._restart:
                self._restart = False
                self._first -= round(60 * CLOCK_HZ)
            session.timestamp = round(self._first + stamped * self._ticks)
            elapsed = self.sent / self.rate
            if self.report_seconds is not None and elapsed >= reported + self.report_seconds:
                reported = elapsed
                self._report(session, stamped)
            session.send_unit(units[index])
            self.sent += 1
            # A picture is sent when those that are decoded before it have been captured.
            captured = (self.sent + self.numbered.reordered) / self.rate
            due = began + captured + self._delay(captured)
            session.gone.wait(max(due - time.monotonic(), 0))

    def _report(self, session, stamped):
        captured = self.began_at + stamped / self.rate + self.set_clock_by + NTP_OF_1970
        seconds, fraction = int(captured), int(captured % 1 * 2**32)
        timestamp = session.timestamp & 0xFFFFFFFF
        session.send_report(
            struct.pack(">BBHIIIIII", 0x80, 200, 6, 7, seconds, fraction, timestamp, 0, 0)
        )
