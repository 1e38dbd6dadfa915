"""The image's entrypoint.sh with the real worker: exit codes, and signals to stop it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, WALKWAY, free_port, wait_until

ENTRYPOINT = ROOT / "deploy" / "entrypoint.sh"


class Container:
    """What runs in a container: entrypoint.sh and its processes, in a session of their own."""

    def __init__(self, tmp_path, *arguments):
        self._log = tmp_path / "log.txt"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SSD_WORKER_")}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [ENTRYPOINT, *map(str, arguments)], stdout=log, stderr=log, start_new_session=True,
                env=clean | {
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                    "SSD_WORKER_STATE_DIR": str(tmp_path / "state"),
                },
            )  # fmt: skip

    @property
    def log(self):
        return self._log.read_text()

    def is_empty(self):
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def close(self):
        if not self.is_empty():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def container(tmp_path):
    started = []

    def start(*arguments):
        started.append(Container(tmp_path, *arguments))
        return started[-1]

    yield start
    for container in started:
        container.close()


def test_it_ends_with_the_exit_code_of_the_worker(container):
    found = container("models")
    assert found.process.wait(60) == 0
    assert "ssd300_vgg16" in found.log
    found = container("subscribe", "--redis-url", f"redis://127.0.0.1:{free_port()}")
    assert found.process.wait(60) == 1
    assert "no Redis answers" in found.log


def test_wrong_usage_is_said_once_and_then_it_waits_to_be_stopped(container):
    found = container("run", WALKWAY, "--max-batch", "none")
    wait_until(lambda: "not restarting after exit code 2" in found.log, 60, "the worker's end")
    assert found.log.count("--max-batch: ") == 1
    assert found.process.poll() is None
    found.process.send_signal(signal.SIGTERM)
    assert found.process.wait(60) == 2
    wait_until(found.is_empty, what="the end of its processes")


def test_sigterm_stops_the_worker_in_order(container, valkey_server):
    found = container("run", WALKWAY, "--loop", "--device", "cpu", "--redis-url", valkey_server.url)
    wait_until(lambda: "camera walkway: up" in found.log, 60, "the camera")
    found.process.send_signal(signal.SIGTERM)
    assert found.process.wait(60) == 0
    last = valkey_server.client.xrevrange("ssd:{walkway}:detections", count=1)
    assert b'"reason":"stopped"' in last[0][1][b"event"]
    wait_until(found.is_empty, what="the end of its processes")


def test_a_sigterm_that_comes_at_once_is_not_lost(container, valkey_server):
    found = container("run", WALKWAY, "--loop", "--device", "cpu", "--redis-url", valkey_server.url)
    wait_until(lambda: is_trapping(found.process.pid), what="the shell to listen")
    found.process.send_signal(signal.SIGTERM)
    assert found.process.wait(60) != 2
    wait_until(found.is_empty, what="the end of its processes")


def is_trapping(pid):
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return int(caught, 16) & 1 << (signal.SIGTERM - 1)


def test_a_worker_that_is_killed_is_not_taken_for_wrong_usage(container, valkey_server):
    found = container("run", WALKWAY, "--loop", "--device", "cpu", "--redis-url", valkey_server.url)
    wait_until(lambda: "camera walkway: up" in found.log, 60, "the camera")
    pid = found.process.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    assert found.process.wait(60) == 128 + signal.SIGKILL
