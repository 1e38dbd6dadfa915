"""`ssd-worker spool`: the events that wait on disk for a Redis server, listed or purged.

Imports no PyTorch, PyAV or NumPy, so that it starts at once.
"""

import json
import sys
from dataclasses import asdict

from worker.commands.tables import print_table
from worker.errors import SpoolError, WorkerError
from worker.publishing.spool_contents import Waiting, contents, purge
from worker.settings.fields import SpoolSettings
from worker.settings.naming import check_camera_id


def run_spool(settings: SpoolSettings) -> int:
    """List or purge; returns 1 if events that were to be purged are in use or not there."""
    for camera_id in settings.ids:
        check_camera_id(camera_id)
    directory = settings.spool_directory
    try:
        if settings.action == "purge":
            return _purge(settings)
        found = [waiting for waiting in contents(directory) if _is_wanted(settings, waiting)]
    except SpoolError as error:
        raise WorkerError(f"{error}: check --spool-dir and --state-dir") from error
    _print(settings, found)
    if not found and not settings.as_json:
        print(f"no events wait in {directory}", file=sys.stderr)
    return 0


def _is_wanted(settings: SpoolSettings, waiting: Waiting) -> bool:
    is_server = settings.server is None or waiting.destination.startswith(
        (f"{settings.server} ", f"{settings.server}/")
    )
    return is_server and (not settings.ids or waiting.camera_id in settings.ids)


def _purge(settings: SpoolSettings) -> int:
    deleted, in_use = purge(settings.spool_directory, lambda waiting: _is_wanted(settings, waiting))
    _print(settings, deleted)
    for waiting in in_use:
        print(
            f"ssd-worker: camera {waiting.camera_id}: a running worker publishes its events for "
            f"{waiting.destination}: stop it first",
            file=sys.stderr,
        )
    known = {waiting.camera_id for waiting in (*deleted, *in_use)}
    missing = [camera_id for camera_id in settings.ids if camera_id not in known]
    for camera_id in missing:
        print(
            f"ssd-worker: camera {camera_id}: no events of it wait in "
            f"{settings.spool_directory}: see `ssd-worker spool list`",
            file=sys.stderr,
        )
    return 1 if missing or (in_use and not settings.all) else 0


def _print(settings: SpoolSettings, rows: list[Waiting]) -> None:
    if settings.as_json:
        name = "purged" if settings.action == "purge" else "waiting"
        print(json.dumps({name: [asdict(row) for row in rows]}))
    elif settings.action == "purge":
        for row in rows:
            print(f"purged {row.camera_id} for {row.destination}: {row.events} events")
    elif rows:
        table = [["camera", "for", "events", "bytes", "oldest", "newest", "in use"]]
        table += [
            [
                row.camera_id,
                row.destination,
                str(row.events),
                str(row.size_bytes),
                row.oldest or "-",
                row.newest or "-",
                "yes" if row.in_use else "no",
            ]
            for row in rows
        ]
        print_table(table)
