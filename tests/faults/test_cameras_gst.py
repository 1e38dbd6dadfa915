"""The server of many real cameras: GStreamer's, where Debian's packages are installed.

apt install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
gstreamer1.0-plugins-ugly
"""

import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.conftest import free_port, wait_until
from tests.faults.watching import BUSY_SECONDS, Watch

PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("gst_server.py")
NEEDED = "import gi; gi.require_version('GstRtspServer', '1.0')"


def is_installed():
    try:
        return subprocess.run([PYTHON, "-c", NEEDED], capture_output=True).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(
    not is_installed(), reason="GStreamer's RTSP server (gst-rtsp-server is not installed)"
)


class GstServer:
    def __init__(self, transport):
        self._transport = transport
        self.port = free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/stream"
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            [PYTHON, str(SERVER), str(self.port), self._transport],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._listens, what="GStreamer's server")

    def stop(self):
        self._process.kill()
        self._process.wait()

    def _listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(params=["tcp", "udp"])
def server(request):
    server = GstServer(request.param)
    yield server
    server.stop()


@pytest.mark.long
def test_a_server_that_restarts_is_read_again_over_tcp_and_udp(server, record_property):
    watch = Watch(server.url)
    frames = watch.wait_for_frames(60)
    times = [at for at, _ in watch.items]
    assert times[-1] - times[-31] < 4.5  # 10 a second
    assert frames[-1].clock == "rtcp"
    assert abs((datetime.now(UTC) - frames[-1].captured_at).total_seconds()) < BUSY_SECONDS
    server.stop()
    wait_until(lambda: [d.reason for d in watch.downs()][-1:] == ["refused"], 15, "the loss")
    assert watch.downs()[0].reason in ("closed", "stall")
    server.start()
    since = time.monotonic()
    seconds = watch.seconds_to_full_rate(since, rate=10)
    record_property("seconds_to_full_rate", round(seconds, 2))
    assert seconds < 6
    watch.stop()


def test_a_path_that_a_server_lacks_is_not_found(server):
    watch = Watch(server.url + "-of-another")
    assert watch.wait_for_down().reason == "not_found"
    watch.stop()
