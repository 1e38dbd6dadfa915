"""The watchdog: ends a process whose pipeline is stuck, so that a supervisor can restart it.

Checks, from a thread of its own, whether work makes progress. A worker that hangs in a driver or a
system call cannot shut down in order, so this does not try: it dumps the stack of every thread and
exits with EXIT_CODE. A single camera whose reader hangs is for ``readers``. Knows nothing of the
work.
"""

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger(__name__)

EXIT_CODE = 70
"""EX_SOFTWARE of BSD's sysexits.h: an internal error."""
DUMP_SECONDS = 5.0
"""For dumping the stacks of the threads."""
CHECKS = 20
"""How often it checks within the time that it allows."""


class Watched(Protocol):
    """Work that can get stuck."""

    def progress(self) -> Hashable:
        """A value that changes with every step, and only then."""
        ...

    def has_work(self) -> bool:
        """Whether there should be progress now."""
        ...


@contextmanager
def watchdog(
    watched: Watched, seconds: float, end: Callable[[int], object] = os._exit
) -> Iterator[None]:
    """End the process after ``seconds`` without progress while there is work; 0: never."""
    over = threading.Event()
    if seconds > 0:
        threading.Thread(
            target=_watch, args=(watched, seconds, over, end), name="watchdog", daemon=True
        ).start()
    try:
        yield
    finally:
        over.set()


def _watch(
    watched: Watched, seconds: float, over: threading.Event, end: Callable[[int], object]
) -> None:
    seen, since, checks = watched.progress(), time.monotonic(), 0
    while not over.wait(seconds / CHECKS):
        progress = watched.progress()
        if progress != seen or not watched.has_work():
            seen, since, checks = progress, time.monotonic(), 0
            continue
        checks += 1  # a process that was stopped for an hour has not checked 20 times since
        if checks >= CHECKS and time.monotonic() - since > seconds:
            # Logging may hang, too, in a pipe that nobody reads or on a lock: exit all the same.
            last_resort = threading.Timer(DUMP_SECONDS, end, (EXIT_CODE,))
            last_resort.daemon = True
            last_resort.start()
            log.critical(
                "no progress for %.0f s with work waiting: exiting with code %d so that a "
                "supervisor can restart this worker; thread stacks follow",
                time.monotonic() - since,
                EXIT_CODE,
            )
            faulthandler.dump_traceback(file=2, all_threads=True)  # stderr, whatever became of it
            last_resort.cancel()
            end(EXIT_CODE)
            return
