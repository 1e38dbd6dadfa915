"""`ssd-worker report`: one HTML page, and pictures if asked, about recordings or cameras.

Reads events from JSON Lines or Redis, frames from the recording or the last snapshot. Publishes and
changes nothing.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from worker.commands.requirements import (
    INSTALL_PLOTS,
    check_directory,
    check_libraries,
    check_place,
)
from worker.commands.wiring import resolve_redis_url
from worker.consuming.latest import stored_snapshot
from worker.coverage import Coverage
from worker.errors import UsageError
from worker.events import Event
from worker.keys import Keys
from worker.reports.camera import CameraSum, sums_of
from worker.reports.gathering import Snapshot, check_video, gather, snapshot_of
from worker.reports.material import Report
from worker.reports.page import render
from worker.reports.reading import EventReading, read_file, read_stream
from worker.settings.reports import ReportSettings, is_id
from worker.sinks.files import complete_or_absent

log = logging.getLogger(__name__)

LARGE_BYTES = 50_000_000
"""Of a file that takes more than some seconds to read."""
MOST_CAMERAS = 100
"""On one page."""
MOST_WATCHED = 1000
"""Cameras whose coverage is kept: more than those on the page, which may begin later."""


def run_report(settings: ReportSettings) -> int:
    """Write the report; returns the exit code."""
    assert settings.output is not None  # the settings are checked
    if settings.plots is not None:
        check_libraries({"--plots": "matplotlib"}, INSTALL_PLOTS)
        check_directory("--plots", settings.plots)
    check_place(settings.output, may_exist=settings.overwrite)
    report = _made(settings)
    with complete_or_absent(settings.output) as unfinished:
        unfinished.write_text(render(report), encoding="utf-8")
    log.info("report: %s", settings.output)
    if settings.plots is not None:
        from worker.reports.plots import write_plots

        for path in write_plots(report, settings.plots):
            log.info("plot: %s", path)
    return 0


def _made(settings: ReportSettings) -> Report:
    """The report's material. Raises UsageError, SourceError or SinkError."""
    ids = [name for name in settings.reported if is_id(name)]
    files = [Path(name) for name in settings.reported if name not in ids]
    readings = [read_file(path) for path in files]
    for path in files:
        if path.stat().st_size > LARGE_BYTES:
            log.info("reading %s, %.0f MB", path, path.stat().st_size / 1e6)
    keys = Keys(settings.key_prefix)
    now = datetime.now(UTC)
    since, until = settings.period(now)
    snapshots: dict[str, Snapshot] = {}
    if ids:
        url = resolve_redis_url(settings, settings.redis_url or "embedded")
        readings += [read_stream(url, keys, name, replay=settings.replay) for name in ids]
        for name in () if settings.replay else ids:
            snapshot = snapshot_of(name, stored_snapshot(url, keys, name))
            if snapshot is not None:
                snapshots[name] = snapshot
    coverage = Coverage()
    events = _noted(readings, coverage, snapshots)
    cameras, left_out = sums_of(_between(events, since, until), MOST_CAMERAS)
    notes = list(_notes(readings, left_out))
    for note in notes:
        log.warning("%s", note)
    if not cameras:
        names = ", ".join(each.name for each in readings)
        of_period = "" if since is None and until is None else " between --from and --to"
        raise UsageError(f"{names}: no event to report on{of_period}")
    if (since or until) and all(camera.is_replay for camera in cameras):
        raise UsageError(
            "--from and --to are times of live cameras, and these are replays: leave them out"
        )
    if settings.video is not None:
        check_video(settings.video, cameras)
    materials = [
        gather(
            camera,
            coverage,
            since=since,
            until=until or (now if camera.camera_id in ids else None),
            video=settings.video,
            files=files,
            snapshot=snapshots.get(camera.camera_id),
        )
        for camera in cameras
    ]
    return Report(_title(cameras), _origin(readings, ids), materials, notes, now)


def _noted(
    readings: Sequence[EventReading], coverage: Coverage, snapshots: dict[str, Snapshot]
) -> Iterator[Event]:
    """The events, as they pass by."""
    watched: set[str] = set()
    for reading in readings:
        for event in reading:
            if len(watched) < MOST_WATCHED:
                watched.add(event.data.camera_id)
            if event.data.camera_id in watched:
                coverage.add(event)
            snapshot = snapshots.get(event.data.camera_id)
            if snapshot is not None:
                snapshot.note(event)
            yield event


def _between(
    events: Iterator[Event], since: datetime | None, until: datetime | None
) -> Iterator[Event]:
    """The events of live cameras between two times, and all of replays: those have none."""
    for event in events:
        if event.data.mode == "live" and event.time is not None:
            if since is not None and event.time < since:
                continue
            if until is not None and event.time > until:
                continue
        yield event


def _notes(readings: Sequence[EventReading], left_out: int) -> Iterator[str]:
    for each in readings:
        if each.malformed:
            units = "entries" if each.unit == "entry" else "lines"
            yield (
                f"{each.name}: {each.malformed:,} of {each.lines:,} {units} hold no event, the "
                f"first is {each.unit} {each.first_malformed:,}: they are left out"
            )
        if each.of_other_types:
            yield (
                f"{each.name}: {each.of_other_types:,} events are of types that this version does "
                "not know: they are left out"
            )
    if left_out:
        yield (
            f"{left_out:,} events are of more than {MOST_CAMERAS} cameras: those of the others "
            "are left out"
        )


def _title(cameras: Sequence[CameraSum]) -> str:
    if len(cameras) == 1:
        return f"Report on {cameras[0].camera_id}"
    return f"Report on {len(cameras)} cameras and recordings"


def _origin(readings: Sequence[EventReading], ids: Sequence[str]) -> str:
    """Where the events are from: names of files, not where they are, and no address of a server."""
    names = [f"the stream of {each.name} in Redis" for each in readings if each.name in ids]
    names += [each.name for each in readings if each.name not in ids]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
