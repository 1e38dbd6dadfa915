"""HTTP cameras that send endless data as fast as they can: memory stays bounded."""

import contextlib
import resource
import socket
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.clips import pictures
from tests.conftest import WALKWAY
from tests.faults.rtsp_faults import Clip
from tests.faults.watching import Watch
from worker.sources.limits import Limits

LIMITS = Limits(max_pixels=768 * 576, max_bytes_without_frame=1 << 24)
FLOOD_BYTES = 3 << 28
MEMORY_BYTES = 1 << 28
"""What the three may take of it: a few blocks of the limit's size. Without the limit, all of it."""
JUNK = b"\x55" * (1 << 20)


def jpeg():
    picture = next(iter(pictures(WALKWAY, 1)))
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 160, 120, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    image = picture.reformat(160, 120, "yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(image), *encoder.encode(None)])


def half_a_picture():
    whole = jpeg()
    return "video/x-mjpeg", whole * 30 + whole[: len(whole) // 2]


def half_a_slice():
    units = b"".join(b"\0\0\0\1" + unit for group in Clip.h264().units for unit in group)
    return "video/h264", units + b"\0\0\0\1\x41"


def a_part_of_two_gigabytes():
    head = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: 2000000000\r\n\r\n"
    return "multipart/x-mixed-replace; boundary=x", head + jpeg()


class Flood:
    """A server that sends every client a valid beginning and then garbage."""

    def __init__(self, content_type, beginning):
        self.sent_bytes = 0
        self._answer = f"HTTP/1.0 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode()
        self._answer += beginning
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/camera"
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._feed, args=(connection,), daemon=True).start()

    def _feed(self, connection):
        with contextlib.suppress(OSError), connection:
            connection.recv(1 << 16)
            connection.sendall(self._answer)
            while True:
                connection.sendall(JUNK)
                self.sent_bytes += len(JUNK)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.long
def test_flooding_cameras_use_no_more_memory_than_the_limits_allow():
    with contextlib.ExitStack() as stack:
        kinds = (half_a_picture, half_a_slice, a_part_of_two_gigabytes)
        cameras = [stack.enter_context(Flood(*kind())) for kind in kinds]
        before = most = resident_bytes()
        watches = [stack.enter_context(Watch(camera.url, limits=LIMITS)) for camera in cameras]
        deadline = time.monotonic() + 60
        while sum(c.sent_bytes for c in cameras) < FLOOD_BYTES and time.monotonic() < deadline:
            most = max(most, resident_bytes())
            time.sleep(0.01)
        assert sum(camera.sent_bytes for camera in cameras) >= FLOOD_BYTES
        assert most - before < MEMORY_BYTES
        for watch in watches:
            assert watch.wait_for_down().reason in ("stall", "invalid_data", "over_limit")
