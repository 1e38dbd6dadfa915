"""`make demo-live`: a real worker and the real page, with ports and a state of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
import redis

from tests.conftest import ROOT, free_port, wait_until
from worker.snapshots import read_snapshot

pytestmark = pytest.mark.long


class Demo:
    def __init__(self, tmp_path, listen):
        self.redis_port = free_port()
        self.state = tmp_path / "state"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SSD_WORKER_")}
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "samples" / "demo_live.py", "--listen", listen],
            env=kept | {
                "SSD_WORKER_STATE_DIR": str(self.state),
                "SSD_WORKER_EMBEDDED_PORT": str(self.redis_port),
            },
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def line_with(self, words):
        line = next((line for line in self.process.stderr if words in line), None)
        assert line is not None, f"it ended without {words!r}"
        return line

    def interrupt(self):
        """As Ctrl-C in a terminal does: the whole group gets it."""
        os.killpg(self.process.pid, signal.SIGINT)
        _, said = self.process.communicate(timeout=30)
        return said

    @property
    def is_running(self):
        """Whether any process of it is left; the embedded server outlives it on purpose."""
        servers = {int(file.read_text()) for file in self.state.glob("valkey-*/valkey.pid")}
        listed = subprocess.run(
            ["ps", "-eo", "pid=,pgid="], capture_output=True, text=True, check=True
        ).stdout
        pairs = [map(int, line.split()) for line in listed.splitlines()]
        return bool({pid for pid, group in pairs if group == self.process.pid} - servers)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        for file in self.state.glob("valkey-*/valkey.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.fixture
def demo(tmp_path):
    started = []

    def start(listen):
        started.append(Demo(tmp_path, str(listen)))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_worker_and_the_page_run_together_until_ctrl_c(demo):
    port = free_port()
    running = demo(port)
    assert f"The page: http://127.0.0.1:{port} " in running.line_with("The page:")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        assert answer.status == 200
    client = redis.Redis(port=running.redis_port)
    data = wait_until(lambda: client.get("ssd:{walkway}:snapshot"), 60, "a snapshot")
    assert read_snapshot(data)[0].camera_id == "walkway"
    said = running.interrupt()
    assert running.process.returncode == 0
    assert "Traceback" not in said
    assert not running.is_running


def test_a_port_that_is_taken_is_one_line_and_nothing_is_started(demo):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = demo(address)
        _, said = refused.process.communicate(timeout=30)
    assert refused.process.returncode == 2
    assert said.splitlines() == [
        f"something listens at {address} already: choose another port, as in: "
        "make demo-live LISTEN=8081"
    ]
    assert not refused.state.exists()


def test_the_end_of_one_is_the_end_of_both(demo):
    port = free_port()
    running = demo(port)
    running.line_with("The page:")
    line = running.line_with("this is worker")
    assert line
    listed = subprocess.run(
        ["pgrep", "-g", str(running.process.pid), "-f", "run walkway="],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    os.kill(int(listed.split()[0]), signal.SIGKILL)
    running.process.communicate(timeout=30)
    assert running.process.returncode != 0
    assert not running.is_running
