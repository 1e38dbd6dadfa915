"""What a spool holds, of all cameras and servers, and purging of what no worker has in use.

For people and not for workers, which see the events of their own cameras only. Safe while workers
use the same spool: their events are neither counted as forgotten nor purged.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from worker.errors import SpoolError
from worker.publishing.spool import FILE_NAME, ROW_BYTES, connect_spool
from worker.publishing.spool_use import SpoolUse

COUNTS = f"""
SELECT destination, camera_id, count(*), sum(length(event) + {ROW_BYTES}), min(id), max(id)
FROM events GROUP BY destination, camera_id ORDER BY destination, camera_id
"""


@dataclass(frozen=True)
class Waiting:
    """The events of one camera for one server."""

    destination: str
    """Server, database and key prefix."""
    camera_id: str
    events: int
    size_bytes: int
    oldest: str | None
    """Capture time of the first event; None if it cannot be read."""
    newest: str | None
    in_use: bool
    """Whether a running worker serves the camera."""


def contents(directory: Path) -> list[Waiting]:
    """All that waits in the spool of a directory. Raises SpoolError."""
    path = directory / FILE_NAME
    if not path.exists():
        return []
    try:
        with closing(connect_spool(path)) as database, closing(SpoolUse(directory)) as use:
            return [_waiting(database, use, *row) for row in database.execute(COUNTS).fetchall()]
    except (OSError, sqlite3.Error) as error:
        raise SpoolError(f"{path}: cannot read it: {error}") from error


def purge(
    directory: Path, wanted: Callable[[Waiting], bool]
) -> tuple[list[Waiting], list[Waiting]]:
    """Delete the wanted events that no worker has in use: (deleted, in use). Raises SpoolError.

    They count as lost: if a worker watches such a camera again, a ``degraded`` event says how many.
    """
    deleted, in_use = [], []
    path = directory / FILE_NAME
    for waiting in filter(wanted, contents(directory)):
        names = waiting.destination, waiting.camera_id
        try:
            with (
                closing(connect_spool(path)) as database,
                closing(SpoolUse(directory)) as use,
                use.alone(*names) as alone,
            ):
                if alone:
                    deleted.append(_purge(database, waiting))
                else:
                    in_use.append(waiting)
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"{path}: cannot purge it: {error}") from error
    return deleted, in_use


def _waiting(
    database: sqlite3.Connection,
    use: SpoolUse,
    destination: str,
    camera_id: str,
    events: int,
    size_bytes: int,
    first: int,
    last: int,
) -> Waiting:
    with use.alone(destination, camera_id) as alone:
        pass
    oldest, newest = _time(database, first), _time(database, last)
    return Waiting(destination, camera_id, events, size_bytes, oldest, newest, not alone)


def _time(database: sqlite3.Connection, number: int) -> str | None:
    row = database.execute("SELECT event FROM events WHERE id = ?", (number,)).fetchone()
    try:
        return str(json.loads(row[0])["time"])
    except (TypeError, ValueError, KeyError):
        return None


def _purge(database: sqlite3.Connection, waiting: Waiting) -> Waiting:
    """Delete, and count what is deleted: there may be more than were seen before."""
    names = waiting.destination, waiting.camera_id
    with database:
        count, size = database.execute(
            "SELECT count(*), coalesce(sum(length(event) + ?), 0) FROM events "
            "WHERE destination = ? AND camera_id = ?",
            (ROW_BYTES, *names),
        ).fetchone()
        database.execute("DELETE FROM events WHERE destination = ? AND camera_id = ?", names)
        database.execute(
            "INSERT INTO lost VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET events = events + excluded.events",
            (*names, count),
        )
    database.executescript("PRAGMA incremental_vacuum")
    return Waiting(*names, count, size, waiting.oldest, waiting.newest, in_use=False)
