"""`ssd-worker`, with a thread that states how much of its memory is in use.

    python benchmarks/watched_worker.py FILE run ...

Resident memory cannot tell a leak from the way of the heap. The worker's heap keeps what is freed
(`ssd_core/runners/heap.py`): a leak fills its holes before it shows, and without a leak it grows by
a layer's activations when none of the holes is large enough for them. So glibc is asked for the
bytes that are in use, and Python for the blocks of its own allocator, which glibc does not see.

Every `INTERVAL_SECONDS` a line is added to FILE: the least of both within the interval, because a
batch's activations come and go. Needs glibc 2.33.
"""

import ctypes
import sys
import threading
import time
from pathlib import Path

from worker.cli import main

INTERVAL_SECONDS = 2.0
READ_EVERY_SECONDS = 0.05

GLIBC = ctypes.CDLL(None)


class Mallinfo2(ctypes.Structure):
    """As malloc.h has it."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    )  # fmt: skip


def in_use() -> tuple[int, int]:
    """Bytes that malloc has given out, in its heaps and mapped; blocks of Python's allocator."""
    info = GLIBC.mallinfo2()
    return info.uordblks + info.hblkhd, sys.getallocatedblocks()


def last_in_use(path: Path) -> tuple[int, int]:
    """What such a process stated last; (0, 0) before its first line."""
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines:
        return 0, 0
    size, blocks = lines[-1].split()
    return int(size), int(blocks)


def _state(path: Path) -> None:
    with path.open("w", buffering=1) as file:
        while True:
            until = time.monotonic() + INTERVAL_SECONDS
            least = in_use()
            while time.monotonic() < until:
                time.sleep(READ_EVERY_SECONDS)
                size, blocks = in_use()
                least = min(least[0], size), min(least[1], blocks)
            file.write(f"{least[0]} {least[1]}\n")


if __name__ == "__main__":
    GLIBC.mallinfo2.restype = Mallinfo2
    threading.Thread(target=_state, args=(Path(sys.argv[1]),), daemon=True).start()
    sys.exit(main(sys.argv[2:]))
