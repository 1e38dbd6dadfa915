"""Takes over changes of the files that name cameras, while the worker runs.

Looks at the files every second, and at once on SIGHUP. A changed file is read once it has stayed
the same for one look, so that half-written files are not taken over. A file with a mistake changes
nothing and is one log line. Knows neither the files' format nor the pipeline.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

from worker.errors import WorkerError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


@contextmanager
def reloading(
    files: Collection[Path], taken_over: Sequence[Hashable], reload: Callable[[], object]
) -> Iterator[None]:
    """Call ``reload`` in a thread of its own when a file has changed, and on SIGHUP.

    ``taken_over``: the ``fingerprints`` of the files as they were before they were last read. A
    WorkerError of ``reload`` is logged. Without files nothing is watched, and SIGHUP ends the
    process as it does by default.
    """
    if not files:
        yield
        return
    watching = _FileWatch(files, taken_over, reload)
    before = signal.signal(signal.SIGHUP, lambda *_: watching.look_now())
    watching.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
        watching.stop()


class _FileWatch:
    """The thread that looks at the files."""

    def __init__(
        self, files: Collection[Path], taken_over: Sequence[Hashable], reload: Callable[[], object]
    ) -> None:
        self._files = files
        self._reload = reload
        self._taken_over = self._last_look = taken_over
        self._asked = False
        self._stopping = False
        # Not an Event: its lock may be held by the code that a signal handler interrupts, which may
        # be the handler of another SIGHUP.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.put(None)

    def look_now(self) -> None:
        """Read the files whether or not they have changed; callable from signal handlers."""
        self._asked = True
        self._wake.put(None)

    def _run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=LOOK_SECONDS)
                while True:  # many signals are one
                    self._wake.get_nowait()
            found = fingerprints(self._files)
            is_settled, self._last_look = found == self._last_look, found
            if self._asked or (is_settled and found != self._taken_over):
                self._asked, self._taken_over = False, found
                self._try_to_reload()

    def _try_to_reload(self) -> None:
        try:
            self._reload()
        except WorkerError as error:
            log.error("the cameras stay as they are: %s", error)
        except Exception:  # a bug must not end the watching of files
            log.exception("the cameras stay as they are: internal error: please report this")


def fingerprints(files: Collection[Path]) -> list[Hashable]:
    """What changes with the files, links followed; None for one that does not exist."""
    return [_fingerprint(path) for path in files]


def _fingerprint(path: Path) -> Hashable:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
