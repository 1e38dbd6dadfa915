"""The watchdog: ends a process whose pipeline is stuck, so that a supervisor starts it anew.

Looks from a thread of its own at what changes while there is progress. A worker that hangs in a
driver or a system call cannot end in any orderly way, so this does not try: it writes where every
thread is and exits with EXIT_CODE. Knows nothing of the work.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger(__name__)

EXIT_CODE = 70
"""EX_SOFTWARE of BSD's sysexits.h: an internal error."""
SAY_SECONDS = 5.0
"""For saying where the threads are."""
LOOKS = 20
"""How often it looks in the time that it allows."""


class Watched(Protocol):
    """Work that can get stuck."""

    def progress(self) -> Hashable:
        """Something that changes with every step, and stays while there is none."""
        ...

    def has_work(self) -> bool:
        """Whether there should be progress now."""
        ...


@contextmanager
def watchdog(
    watched: Watched, seconds: float, end: Callable[[int], object] = os._exit
) -> Iterator[None]:
    """End the process if the work makes no progress for so long though there is some; 0: never."""
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
    seen, since = watched.progress(), time.monotonic()
    while not over.wait(seconds / LOOKS):
        progress = watched.progress()
        if progress != seen or not watched.has_work():
            seen, since = progress, time.monotonic()
        elif time.monotonic() - since > seconds:
            # Should even that hang, in a pipe that nobody reads or a lock of the log: it ends.
            last_resort = threading.Timer(SAY_SECONDS, end, (EXIT_CODE,))
            last_resort.daemon = True
            last_resort.start()
            log.critical(
                "no progress for %.0f s though there is work: ending with code %d, so that this "
                "worker can be started anew",
                time.monotonic() - since,
                EXIT_CODE,
            )
            faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
            last_resort.cancel()
            end(EXIT_CODE)
            return
