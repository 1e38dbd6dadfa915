"""A camera of real packets that arrive, and have their turn, when a test says so: no thread, no
waiting. In the place of the Intake, whose thread would read them as fast as it can.
"""

import functools
import io
from contextlib import contextmanager

import av

from tests.clips import SOUND_HZ, silence
from tests.clocks import Clock
from tests.faults.numbered_camera import frame_of
from worker.sources import camera_pictures, liveness
from worker.sources.arrivals import Arrival

RATE = 25
SIZE = (96, 128)
BEGAN = 1000.0
"""When the first packet arrives, by the monotonic clock."""


@functools.cache
def clip(frames=50, gop=10, *, b_frames=0, pyramid=False, sound=False, file_format="mpegts"):
    """H.264, as the bytes of a file; ``sound``: half a second of it between the pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format=file_format) as container:
        stream = container.add_stream("libx264", RATE)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        x264 = f"scenecut=0:keyint={gop}:bframes={b_frames}:b-adapt=0"
        x264 += f":b-pyramid={'normal' if pyramid else 'none'}"
        stream.options = {"preset": "ultrafast", "x264-params": x264}
        audio = container.add_stream("aac", rate=SOUND_HZ) if sound else None
        for number in range(frames):
            container.mux(stream.encode(frame_of(number, SIZE, moving=True)))
            if audio is not None:
                container.mux(audio.encode(silence(number)))
        container.mux(stream.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return file.getvalue()


@contextmanager
def opened(content, change=None):
    """The container of a clip; ``change``: of the packets, each with its number."""
    with av.open(io.BytesIO(content)) as container:
        yield container if change is None else _Changed(container, change)


class _Changed:
    def __init__(self, container, change):
        self._container, self._change = container, change

    def __getattr__(self, name):
        return getattr(self._container, name)

    def demux(self):
        for number, packet in enumerate(self._container.demux()):
            if (changed := self._change(number, packet)) is not None:
                yield changed


def with_content(packet, content):
    """The packet with other bytes in it."""
    changed = av.Packet(content)
    changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
    changed.stream, changed.is_keyframe = packet.stream, packet.is_keyframe
    return changed


class Reader:
    """In the place of the thread that reads."""

    def __init__(self, clock=None):
        """``clock``: what moves when it waits."""
        self._clock = clock
        self.is_stopped = False
        self.signs = []
        """How long each next sign of life was said to take."""

    def expect_sign_within(self, seconds):
        self.signs.append(seconds)

    def wait(self, seconds):
        assert self._clock is not None, "nothing is waited for"
        self._clock.wait(seconds)


class Script:
    """When packets arrive and have their turn: each of both a frame after the one before, unless
    a test changes ``late`` and ``waits``.
    """

    def __init__(self, monkeypatch, *others):
        """``others``: more modules that take the time from its clock."""
        self.clock = Clock()
        self.clock.now = BEGAN
        for module in (camera_pictures, liveness, *others):
            monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(camera_pictures, "Intake", self._intake)
        self.late = lambda number: 0.0
        """Seconds that a packet was held up on its way."""
        self.waits = lambda number: 0.0
        """Seconds that it waits for its turn."""
        self.reads = lambda number: 1 / RATE
        """Seconds that reading it took."""
        self.left = 0
        """Packets that have arrived, and still wait at the end."""
        self._left = []
        self.ends_with = None
        """The error that ends reading."""
        self.options = {}
        self.caught_up = []

    def _intake(self, packets, date, name, **options):
        self.options = options | {"name": name}
        self._packets, self._date = packets, date
        return self

    read_seconds = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait_until_caught_up(self, seconds):
        self.caught_up.append(seconds)

    def _at(self, number):
        return BEGAN + number / RATE + self.late(number)

    def __iter__(self):
        packets = self._packets
        if self.left:
            whole = list(packets)
            packets = whole[: -self.left]
            self._left = [Arrival(packet, self.clock.now) for packet in whole[-self.left :]]
        for number, packet in enumerate(packets):
            arrival = self._date(packet, self._at(number))
            self.clock.now = max(self.clock.now, arrival.at + self.waits(number))
            yield arrival, self.reads(number)
        if self.ends_with is not None:
            raise self.ends_with

    def take_left(self):
        return self._left
