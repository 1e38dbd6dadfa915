"""Which events of a spool a running worker has in use.

A worker holds a shared lock on one byte of a file beside the database for each camera and server
that it serves; whoever purges events takes the same byte for itself first. The system gives a lock
back when its process ends, however it ends, and needs no room on the disk. POSIX locks belong to a
process, and all are gone once it closes the file anywhere: a worker looks at the contents of its
spool only before it begins to use it. Knows no SQLite.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

FILE_NAME = "in-use.lock"
PLACES = 1 << 62
"""Bytes that may be locked, so many that two cameras never meet; the file stays empty."""


class SpoolUse:
    """What this process has in use. One for each process and directory: closing it ends all."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self._file = (directory / FILE_NAME).open("a+b")

    def begin(self, destination: str, camera_id: str) -> None:
        """Serve a camera; waits for as long as its events are being purged. Raises OSError."""
        fcntl.lockf(self._file, fcntl.LOCK_SH, 1, _place(destination, camera_id))

    def end(self, destination: str, camera_id: str) -> None:
        """Serve a camera no longer."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(destination, camera_id))

    @contextmanager
    def alone(self, destination: str, camera_id: str) -> Iterator[bool]:
        """Whether no worker has a camera in use; then none begins to until this is over."""
        place = _place(destination, camera_id)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def close(self) -> None:
        """End the use of everything."""
        self._file.close()


def _place(destination: str, camera_id: str) -> int:
    name = f"{destination}\n{camera_id}".encode()
    return int.from_bytes(sha256(name).digest()[:8], "big") % PLACES
