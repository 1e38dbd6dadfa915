"""The spool: events on disk, until Redis takes them.

``append`` adds events, ``oldest`` returns the first of them, ``forget`` deletes what is published.
Events survive the process once ``append`` has returned (not a power cut: nothing waits for the
disk). Bounded: beyond ``max_bytes`` the oldest events are dropped, and counted per camera until
``take_lost``. One SQLite database in a directory serves any number of workers; each sees the events
of its own cameras for its own server. Used by one thread at a time. Knows nothing of Redis.
"""

import errno
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.errors import SpoolError
from worker.events import Event, parse_event
from worker.publishing.spool_use import SpoolUse

log = logging.getLogger(__name__)

FILE_NAME = "spool.sqlite3"
BUSY_SECONDS = 2.0
"""Longest wait for another worker's write to the same database."""
INT64_MAX = 2**63 - 1
ROW_BYTES = 100
"""What SQLite keeps besides the JSON of an event: row, index and page shares, rounded up."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    camera_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    event BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_camera ON events (destination, camera_id, id);
CREATE TABLE IF NOT EXISTS lost (
    destination TEXT NOT NULL,
    camera_id TEXT NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (destination, camera_id)
);
CREATE TABLE IF NOT EXISTS epochs (
    destination TEXT NOT NULL,
    camera_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (destination, camera_id)
);
"""
VACUUM_PAGES = 2048
"""Given back at once, so that others who write to the same database do not wait for long."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@dataclass(frozen=True)
class Portion:
    """Events that wait, oldest first."""

    events: tuple[Event, ...]
    last: int
    """The place of the last of them."""
    rows: int
    """Places they take; more than there are events where some could not be read."""
    size_bytes: int


class Spool:
    """The events of some cameras on their way to one server."""

    def __init__(
        self,
        directory: Path,
        destination: str,
        cameras: Collection[str],
        max_bytes: int,
        *,
        in_use: bool = False,
    ) -> None:
        """``destination`` names the server and the keys; it must hold no secret.

        ``in_use``: keep others from purging the events of these cameras; for one spool of each
        process and directory.

        Raises SpoolError if the directory cannot be used. A damaged database is moved aside.
        One that cannot be opened now, on a full disk for example, is tried again with each call.
        """
        self._directory = directory
        self._path = directory / FILE_NAME
        self._destination = destination
        self._cameras = tuple(sorted(cameras))
        self._max_bytes = max_bytes
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolError(f"{directory}: {error.strerror}") from error
        self._published = self._waiting = self._bytes = 0
        self._database = _closed_database()
        self._use: SpoolUse | None = None
        try:
            self._begin_to_use(in_use)
            self._database = self._open()
            with self._errors():
                self._waiting, self._bytes = self._count(0)
        except SpoolError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno not in NO_ROOM:
                raise
            log.error("cannot spool events for now: %s", error)

    def __len__(self) -> int:
        """How many events wait."""
        return self._waiting

    @property
    def size_bytes(self) -> int:
        """How much of ``max_bytes`` they take; like their number, it may be read in any thread."""
        return self._bytes

    def append(self, events: Sequence[Event]) -> None:
        """Add events at the end; drop the oldest beyond the limit.

        All of them or, raising SpoolError, none.
        """
        rows = [
            (self._destination, e.data.camera_id, e.data.epoch, e.to_json().encode())
            for e in events
        ]
        size = sum(len(row[-1]) + ROW_BYTES for row in rows)
        with self._errors(), self._database:
            self._database.executemany(
                "INSERT INTO events (destination, camera_id, epoch, event) VALUES (?, ?, ?, ?)",
                rows,
            )
            dropped, freed = self._drop_oldest(self._bytes + size - self._max_bytes)
        self._waiting += len(rows) - dropped
        self._bytes += size - freed

    def append_apart(self, events: Sequence[Event]) -> None:
        """``append`` over a connection of its own, while another thread may be using this one."""
        spool = Spool(self._directory, self._destination, self._cameras, self._max_bytes)
        try:
            spool.append(events)
        finally:
            spool.close()

    def oldest(self, limit: int) -> Portion:
        """The first events that wait, at most ``limit``."""
        with self._errors():
            rows = self._database.execute(
                f"SELECT id, event FROM events {self._mine} AND id > ? ORDER BY id LIMIT ?",
                (*self._names, self._published, limit),
            ).fetchall()
        if not rows:  # or another worker of the same cameras was first
            self._waiting = self._bytes = 0
            return Portion((), self._published, 0, 0)
        size = sum(len(event) + ROW_BYTES for _, event in rows)
        return Portion(tuple(_parsed(event for _, event in rows)), rows[-1][0], len(rows), size)

    def forget(self, portion: Portion) -> None:
        """Delete what ``oldest`` returned; it is not returned again, even if this fails."""
        after, self._published = self._published, portion.last
        rows, size = portion.rows, portion.size_bytes
        try:
            with self._errors(), self._database:
                rows, size = self._count(after, portion.last)  # some may be dropped by now
                self._database.execute(
                    f"DELETE FROM events {self._mine} AND id <= ?", (*self._names, portion.last)
                )
        finally:
            self._waiting = max(self._waiting - rows, 0)
            self._bytes = max(self._bytes - size, 0)
        if not self._waiting:
            self._give_back_space()

    def add_cameras(self, camera_ids: Collection[str]) -> None:
        """Serve these cameras, too, and what an earlier process left of them."""
        if set(camera_ids) <= set(self._cameras):
            return
        self._use_cameras(set(camera_ids) - set(self._cameras))
        self._cameras = tuple(sorted({*self._cameras, *camera_ids}))
        # Their events may lie before what was published of the others. What was published and
        # could not be deleted is sent again: sinks drop what they have.
        self._published = 0
        with self._errors():  # goes through the whole spool: half a second for 1 GiB
            self._waiting, self._bytes = self._count(self._published)

    def remove_camera(self, camera_id: str) -> None:
        """Ignore a camera; its events stay for a later process."""
        if self._use is not None:
            self._use.end(self._destination, camera_id)
        self._cameras = tuple(name for name in self._cameras if name != camera_id)
        with self._errors():
            self._waiting, self._bytes = self._count(self._published)

    def drop_events(self, camera_id: str, last_epoch: int) -> int:
        """Drop a camera's events up to an epoch; returns how many there were."""
        with self._errors(), self._database:
            dropped = self._database.execute(
                "DELETE FROM events "
                "WHERE destination = ? AND camera_id = ? AND epoch <= ? AND id > ?",
                (self._destination, camera_id, last_epoch, self._published),
            ).rowcount
        with self._errors():
            self._waiting, self._bytes = self._count(self._published)
        return int(dropped)

    def take_lost(self) -> dict[str, int]:
        """Events dropped per camera since the last call, in this or an earlier process."""
        with self._errors(), self._database:
            rows = self._database.execute(
                f"SELECT camera_id, events FROM lost {self._mine}", self._names
            ).fetchall()
            if rows:
                self._database.execute(f"DELETE FROM lost {self._mine}", self._names)
        return dict(rows)

    def add_lost(self, lost: Mapping[str, int]) -> None:
        """Count more events as lost, for ``take_lost`` to report."""
        with self._errors(), self._database:
            self._add_lost(lost)

    def note_epochs(self, epochs: Mapping[str, int]) -> None:
        """Keep the latest epoch of cameras, for a start at which Redis cannot be asked."""
        with self._errors(), self._database:
            self._database.executemany(
                "INSERT INTO epochs VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET epoch = max(epoch, excluded.epoch)",
                [(self._destination, camera_id, epoch) for camera_id, epoch in epochs.items()],
            )

    def last_epoch(self, camera_id: str) -> int:
        """The latest epoch of a camera that was noted or has events here; 0 if there is none."""
        with self._errors():
            (epoch,) = self._database.execute(
                "SELECT coalesce(max(epoch), 0) FROM "
                "(SELECT epoch, destination, camera_id FROM events UNION ALL "
                "SELECT epoch, destination, camera_id FROM epochs) "
                "WHERE destination = ? AND camera_id = ?",
                (self._destination, camera_id),
            ).fetchone()
        return int(epoch)

    def close(self) -> None:
        """Close the database; the events stay."""
        self._database.close()
        if self._use is not None:
            self._use.close()

    def _begin_to_use(self, in_use: bool) -> None:
        try:
            if in_use:
                self._use = SpoolUse(self._directory)
            self._use_cameras(self._cameras)
        except OSError as error:
            raise SpoolError(f"{self._directory}: {error.strerror}") from error

    def _use_cameras(self, camera_ids: Collection[str]) -> None:
        if self._use is not None:
            for camera_id in camera_ids:
                self._use.begin(self._destination, camera_id)

    def _count(self, after: int, last: int = INT64_MAX) -> tuple[int, int]:
        """Events after the place ``after``, up to ``last``, and their bytes."""
        rows, size = self._database.execute(
            f"SELECT count(*), coalesce(sum(length(event) + ?), 0) FROM events {self._mine} "
            "AND id > ? AND id <= ?",
            (ROW_BYTES, *self._names, after, last),
        ).fetchone()
        return rows, size

    @property
    def _mine(self) -> str:
        # + keeps SQLite from taking the index of cameras: it would sort the whole spool by id each
        # time, where the first rows are asked for (1.1 s of 1 GiB and 8 cameras).
        names = ", ".join("?" * len(self._cameras))
        return f"WHERE +destination = ? AND +camera_id IN ({names})"

    @property
    def _names(self) -> tuple[str, ...]:
        return self._destination, *self._cameras

    def _open(self) -> sqlite3.Connection:
        try:
            return connect_spool(self._path)
        except OSError as error:
            raise SpoolError(f"{self._path}: {error.strerror}") from error
        except sqlite3.OperationalError as error:
            raise SpoolError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            self._move_damaged(error)
        try:
            return connect_spool(self._path)
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"{self._path}: {error}") from error

    def _move_damaged(self, error: Exception) -> None:
        """Move a file that is damaged, or something else, out of the way."""
        aside = self._path.with_name(f"{FILE_NAME}.damaged-{time.time_ns()}")
        log.error("the spool %s is damaged (%s): moved to %s", self._path, error, aside)
        for ending in ("", "-wal", "-shm"):
            part = Path(f"{self._path}{ending}")
            if part.exists():
                part.rename(f"{aside}{ending}")
        self._published = self._waiting = self._bytes = 0

    def _drop_oldest(self, excess_bytes: int) -> tuple[int, int]:
        """Drop at least ``excess_bytes`` of events and count them as lost: (events, bytes)."""
        dropped: Counter[str] = Counter()
        numbers = []
        freed = 0
        if excess_bytes > 0:
            rows = self._database.execute(
                f"SELECT id, camera_id, length(event) FROM events {self._mine} AND id > ? "
                "ORDER BY id",
                (*self._names, self._published),
            )
            for number, camera_id, size in rows:
                if freed >= excess_bytes:
                    break
                numbers.append((number,))
                dropped[camera_id] += 1
                freed += size + ROW_BYTES
            rows.close()
            self._database.executemany("DELETE FROM events WHERE id = ?", numbers)
            self._add_lost(dropped)
        return len(numbers), freed

    def _add_lost(self, lost: Mapping[str, int]) -> None:
        self._database.executemany(
            "INSERT INTO lost VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET events = events + excluded.events",
            [(self._destination, camera_id, count) for camera_id, count in lost.items()],
        )

    def _give_back_space(self) -> None:
        """Shrink the files once they are empty: after a long outage they are large."""
        with self._errors():
            while self._database.execute("PRAGMA freelist_count").fetchone()[0]:
                # execute() would stop after one page.
                self._database.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            damaged = type(error) is sqlite3.DatabaseError  # its own class for it
            if damaged:
                self._database.close()
                self._move_damaged(error)
            if damaged or isinstance(error, sqlite3.ProgrammingError):  # closed: that failed before
                self._database = self._open()
            raise SpoolError(f"{self._path}: {error}") from error


def _parsed(rows: Iterable[bytes]) -> Iterator[Event]:
    for row in rows:
        try:
            yield parse_event(row)
        except ValueError:  # of another version, or damaged: it must not block the others
            log.error("discarding an event in the spool that cannot be read")


def _closed_database() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.close()
    return database


def connect_spool(path: Path) -> sqlite3.Connection:
    """The database of a spool, made if it does not exist. Raises OSError or sqlite3.Error."""
    # What cameras saw is private; SQLite gives its other files the permissions of this one.
    path.touch(mode=0o600)
    path.chmod(0o600)
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table
        database.execute("PRAGMA journal_mode=WAL").fetchone()
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
