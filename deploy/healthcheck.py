"""Whether a live worker publishes, for a container's HEALTHCHECK: `healthcheck.py [SECONDS]`.

Takes the worker's settings from the environment and its --config file (not from its command line),
and watches for at most SECONDS (20) until one of its events reaches Redis or, while Redis takes
none, the spool: a worker makes at least one event per camera every 10 s. Prints one line and exits
with 0 if there was one, else with 1.

Events of other workers do not count: the spool holds the epoch of this worker's connection to each
camera, and the producer hash in Redis the epoch of the camera's newest event. Workers that share a
state directory are one to this check. Knows nothing of the cameras' state: a worker whose cameras
are all down or late is healthy, and its events say so. Imports no PyTorch.
"""

import argparse
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from worker.errors import SinkError, SinkUnavailable, WorkerError
from worker.keys import Keys
from worker.publishing.spool import FILE_NAME
from worker.secrecy.names import fill_in
from worker.secrecy.redaction import redact
from worker.servers.address import (
    LIVE_REPLY_TIMEOUT_SECONDS,
    REDIS_ERRORS,
    RedisClient,
    connect,
    explain,
    server_of_url,
)
from worker.servers.embedded import url as embedded_url
from worker.settings.base import RedisSettings, SpoolPlace
from worker.settings.fields import COMMANDS
from worker.settings.loading import load_settings
from worker.sinks.redis_stream import RedisStreamSink

WATCH_SECONDS = 20.0
"""Two heartbeats."""
LOOK_SECONDS = 0.5
MAIN_PROCESS = Path("/proc/1/cmdline")
SPOOLED = "the spool"


class HealthSettings(RedisSettings, SpoolPlace):
    """Where the worker publishes, and spools meanwhile."""


class Progress:
    """How far the events of one worker have got."""

    def __init__(self, settings: HealthSettings) -> None:
        """Read nothing yet. Raises UsageError for settings that cannot work."""
        self._url = (
            embedded_url(settings.embedded_port)
            if settings.redis_url in (None, "embedded")
            else fill_in(settings.redis_url, settings.secrets)
        )
        self._keys = Keys(settings.key_prefix)
        self._destination = RedisStreamSink(self._url, prefix=settings.key_prefix).destination
        self._spool = settings.spool_directory / FILE_NAME
        self._client: RedisClient | None = None
        self.trouble = ""
        """Why the last look saw nothing of Redis or of the spool."""

    def look(self) -> dict[str, tuple[int, int]]:
        """Newest event per camera (epoch, seq), and the place of the newest one in the spool.

        Cameras whose newest event in Redis is another worker's are left out.
        """
        self.trouble = ""
        try:
            epochs, spooled = self._read_spool()
        except sqlite3.Error as error:
            self.trouble = f"{self._spool}: {error}: is SSD_WORKER_STATE_DIR that of the worker?"
            return {}
        seen = {SPOOLED: (spooled, 0)}
        if not epochs:
            self.trouble = (
                f"this worker has published nothing to {self._destination}: if it gets its "
                "options as flags, give them as SSD_WORKER_* variables, which this check sees too"
            )
        for camera_id, epoch in epochs.items():
            try:
                held = self._newest(camera_id)
            except SinkError as error:
                self.trouble = str(error)
                if self._client is None:
                    break
                continue  # a key of this camera is damaged
            if held[0] == epoch:
                seen[camera_id] = held
        return seen

    def _read_spool(self) -> tuple[dict[str, int], int]:
        """The latest epoch per camera, and the number of the newest event that waits."""
        address = f"file:{quote(str(self._spool))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=1)) as database:
            epochs = database.execute(
                "SELECT camera_id, epoch FROM epochs WHERE destination = ?", (self._destination,)
            ).fetchall()
            (newest,) = database.execute(
                "SELECT coalesce(max(id), 0) FROM events WHERE +destination = ?",
                (self._destination,),
            ).fetchone()
        return dict(epochs), newest

    def _newest(self, camera_id: str) -> tuple[int, int]:
        """Epoch and seq of a camera's newest event in Redis; zeros if it has none."""
        key = self._keys.camera(camera_id, replay=False).producer
        try:
            if self._client is None:
                self._client = connect(self._url, LIVE_REPLY_TIMEOUT_SECONDS)
            epoch, seq = self._client.hmget(key, "epoch", "seq")
            return int(epoch or 0), int(seq or 0)
        except ValueError as error:
            raise SinkError(f"camera {camera_id}: {key} holds no numbers: delete it") from error
        except REDIS_ERRORS as error:
            explained = explain(error, server_of_url(self._url))
            if isinstance(explained, SinkUnavailable):
                self._client = None  # connect again: another server may have its address
            raise explained from error


def watch(progress: Progress, seconds: float) -> tuple[bool, str]:
    """Whether an event went out in time, and a line that says so or why not."""
    first: dict[str, tuple[int, int]] = {}
    began = time.monotonic()
    while True:
        moved = _moved(first, progress.look())
        if moved == [SPOOLED]:
            return True, f"healthy: events are spooled{_because(progress.trouble)}"
        if moved:
            return True, f"healthy: published events of {', '.join(moved)}"
        if time.monotonic() - began >= seconds:
            cameras = ", ".join(sorted(first.keys() - {SPOOLED})) or "any camera"
            line = f"unhealthy: no new event of {cameras} in {seconds:g} s"
            return False, line + _because(progress.trouble)
        time.sleep(LOOK_SECONDS)


def _moved(first: dict[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]) -> list[str]:
    """What is further than when it was first seen; notes what was not seen before."""
    return [name for name, place in now.items() if place > first.setdefault(name, place)]


def _because(trouble: str) -> str:
    return f" ({trouble})" if trouble else ""


def other_command(command_line: bytes) -> str | None:
    """The command that a container was started for, if not `run`: such a one ends by itself."""
    words = command_line.replace(b"\0", b" ").decode(errors="replace").split()
    command = next((word for word in words if word in COMMANDS), "run")
    return None if command == "run" else command


def main() -> int:
    """Check the worker of this container; returns the exit code."""
    parser = argparse.ArgumentParser(description="Whether a live worker publishes.")
    parser.add_argument("seconds", type=float, nargs="?", default=WATCH_SECONDS)
    seconds = parser.parse_args().seconds
    command = other_command(MAIN_PROCESS.read_bytes())
    if command is not None:
        print(f"not checked: this container runs {command}")
        return 0
    try:
        settings = load_settings(HealthSettings, "run", [])
        healthy, line = watch(Progress(settings), seconds)
    except WorkerError as error:
        healthy, line = False, f"unhealthy: {error}"
    print(redact(line))
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
