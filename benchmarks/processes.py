"""Processes under measurement: their own server, the worker, and the resources they used.

Everything has its own state directory and port, so that no server of the user is touched. A
runner's events are read back from its stream: entry ids are the server's clock in milliseconds,
the same for every runner.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from worker.servers.embedded import ensure_running, url

WORKER = [sys.executable, "-m", "worker.cli"]
"""`ssd-worker`, in the Python that runs the benchmark."""
FIRST_EVENT_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Server:
    """The Redis-compatible server of one benchmark."""

    url: str
    client: Any
    environment: dict[str, str]
    """For `ssd-worker`, so that it uses this server as the embedded one."""
    pid: int


@contextmanager
def server() -> Iterator[Server]:
    """The embedded Valkey on a free port, deleted with its data afterwards."""
    with tempfile.TemporaryDirectory() as state:
        port = free_port()
        ensure_running(Path(state), port)
        pid = int(next(Path(state).glob("valkey-*/valkey.pid")).read_text())
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SSD_WORKER_")}
        environment |= {"SSD_WORKER_STATE_DIR": state, "SSD_WORKER_EMBEDDED_PORT": str(port)}
        client = redis.Redis(port=port)
        try:
            yield Server(url(port), client, environment, pid)
        finally:
            client.close()
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.5)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Used:
    """The resources that a process used."""

    cpu_ms_per_frame: float
    """From its first event on, so start-up is excluded."""
    peak_rss_mib: int


def run_to_end(command: list[str], redis_server: Server, stream: str) -> Used:
    """Run a command that publishes to an empty stream; exit if it fails."""
    client = redis_server.client
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command, env=redis_server.environment, stdout=subprocess.DEVNULL, stderr=stderr
        )
        while not (before := int(client.xlen(stream))) and is_running(process.pid):
            time.sleep(FIRST_EVENT_POLL_SECONDS)
        at_first = cpu_seconds(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            stderr.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{stderr.read().decode()[-2000:]}")
    seconds = usage.ru_utime + usage.ru_stime - at_first
    frames = int(client.xlen(stream)) - before
    return Used(seconds / max(frames, 1) * 1e3, round(usage.ru_maxrss / 1024))


def is_running(pid: int) -> bool:
    """Whether a child of this process is still running; does not reap it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@dataclass(frozen=True)
class Published:
    """What one run published to a stream."""

    frames: int
    frames_per_second: float
    """All frames over the time from the first event to the last: start-up is excluded."""
    first_at: float
    """Unix time of the first event, in seconds."""


def published(client: Any, stream: str) -> Published:
    """Read a run back from its stream."""
    entries = client.xrange(stream)
    times = [
        int(entry_id.partition(b"-")[0])
        for entry_id, fields in entries
        if fields.get(b"type") != b"ssd.camera.v1"
    ]
    if len(times) < 2 or times[0] == times[-1]:
        sys.exit(f"{stream}: {len(times)} events are too few to compute a rate")
    # Entries of one batch have one time: those of the first batch predate the interval.
    after_first = len(times) - times.count(times[0])
    rate = after_first / (times[-1] - times[0]) * 1000
    return Published(len(times), rate, times[0] / 1000)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 after its exit."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, over all its threads; 0 after its exit."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
