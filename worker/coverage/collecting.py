"""The coverage of cameras: their events, or Redis, in, intervals out.

Memory grows with the number of intervals, not of events. Used by one thread at a time.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from worker.consuming.discovery import announced_cameras
from worker.coverage.interval import Interval
from worker.coverage.reading import read_timeline
from worker.coverage.sightings import sighting_of
from worker.coverage.timeline import Timeline
from worker.errors import UsageError
from worker.events import Event
from worker.keys import Keys
from worker.servers.address import (
    REDIS_ERRORS,
    RedisClient,
    connect,
    explain,
    server_of_client,
)

MOST_NAMED = 20
"""Cameras that an error names."""

log = logging.getLogger(__name__)


class Coverage:
    """What is known so far of when cameras were watched.

    Read what Redis has, then add what arrives: an event that is known already changes nothing.
    """

    def __init__(self) -> None:
        self._timelines: dict[str, Timeline] = {}

    @property
    def cameras(self) -> list[str]:
        """The cameras of which something was read or added."""
        return sorted(self._timelines)

    @property
    def period(self) -> tuple[datetime, datetime] | None:
        """From the first to the last event of all cameras; None if there was none."""
        periods = [each.period for each in self._timelines.values() if each.period is not None]
        if not periods:
            return None
        first, last = min(each[0] for each in periods), max(each[1] for each in periods)
        return datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC)

    def knows(self, camera_id: str) -> bool:
        """Whether there was an event of a camera."""
        return camera_id in self._timelines and self._timelines[camera_id].period is not None

    def add(self, event: Event) -> None:
        """Take the next event of its camera; those of replays are left out."""
        seen = sighting_of(event)
        if seen is not None:
            self._timelines.setdefault(seen.camera_id, Timeline()).add(seen)

    def read(
        self,
        client: RedisClient,
        keys: Keys,
        cameras: Iterable[str],
        start: datetime,
        end: datetime | None = None,
    ) -> None:
        """Read the streams of cameras, so that all is known from ``start`` to ``end``, or to now.

        Replaces what was known of them. A camera whose key is not a stream stays unknown, with a
        warning. Raises SinkUnavailable or SinkError.
        """
        since, until = start.timestamp(), None if end is None else end.timestamp()
        server = server_of_client(client)
        for camera_id in cameras:
            try:
                timeline = read_timeline(client, keys, camera_id, since, until)
            except REDIS_ERRORS as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise explain(error, server) from error
                stream = keys.camera(camera_id, replay=False).stream
                log.warning(
                    "camera %s: %s in Redis at %s is not a stream: delete or rename it",
                    camera_id,
                    stream,
                    server,
                )
                timeline = Timeline()
            self._timelines[camera_id] = timeline

    def of(self, camera_id: str, start: datetime, end: datetime) -> list[Interval]:
        """The intervals of a camera, in order and without gaps; adjacent ones differ.

        Time that no event covers is ``unknown``, also for a camera without any.
        """
        timeline = self._timelines.get(camera_id) or Timeline()
        return timeline.intervals(start.timestamp(), end.timestamp())

    def intervals(self, start: datetime, end: datetime) -> dict[str, list[Interval]]:
        """The intervals of each camera."""
        return {camera_id: self.of(camera_id, start, end) for camera_id in self.cameras}

    def forget_before(self, start: datetime) -> None:
        """Free the memory of what was before; asked for later, it is ``unknown``."""
        for timeline in self._timelines.values():
            timeline.forget_before(start.timestamp())


def intervals(
    events: Iterable[Event], *, start: datetime | None = None, end: datetime | None = None
) -> dict[str, list[Interval]]:
    """When each camera was watched, by its events: in order and without gaps, from start to end.

    ``events``: of any number of live cameras, those of each in the order of its stream; read once,
    as they come. ``start`` and ``end`` are, by default, the times of the first and the last event
    of all cameras; both need a time zone.
    """
    coverage = Coverage()
    for event in events:
        coverage.add(event)
    period = coverage.period
    return {} if period is None else coverage.intervals(start or period[0], end or period[1])


def coverage_of(
    redis: RedisClient | str,
    keys: Keys,
    cameras: Sequence[str] | None,
    start: datetime,
    end: datetime,
) -> dict[str, list[Interval]]:
    """When cameras were watched, by their streams in Redis: from ``start`` to ``end``.

    ``redis``: a client or a URL. ``cameras``: None for all that were announced. Raises UsageError
    for a camera that Redis does not know, SinkUnavailable or SinkError.
    """
    if isinstance(redis, str):
        client = connect(redis)
        try:
            return coverage_of(client, keys, cameras, start, end)
        finally:
            client.close()
    try:
        known, _ = announced_cameras(redis, keys.cameras)
    except REDIS_ERRORS as error:
        raise explain(error, server_of_client(redis)) from error
    chosen = known if cameras is None else list(dict.fromkeys(cameras))
    coverage = Coverage()
    coverage.read(redis, keys, chosen, start, end)
    found = coverage.intervals(start, end)
    unknown = [name for name in chosen if name not in known and not coverage.knows(name)]
    if unknown:
        raise UsageError(_unknown(unknown[0], known, server_of_client(redis)))
    return found


def _unknown(camera_id: str, known: Sequence[str], server: str) -> str:
    names = ", ".join(name if name.isprintable() else repr(name) for name in known[:MOST_NAMED])
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    named = f"it knows {names}{more}" if known else "it knows none"
    return f"no camera {camera_id} in Redis at {server}: {named}; check --redis-url, --key-prefix"
