"""Reading a camera's stream in Redis into its timeline, from some time on.

Reads page by page, so that memory does not grow with the stream, and commands that the ACL user
``reader`` has. An event is published after its time, never before, but maybe hours after: events of
a time are looked for from that time on to the end of the stream, or until a later event comes.
Raises what redis-py raises.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

from worker.consuming.entries import Entry, entries_of, id_before, parse_id
from worker.coverage.sightings import Sighting, parse_sighting
from worker.coverage.timeline import CLOCKS_APART_SECONDS, VOUCH_SECONDS, Timeline
from worker.keys import Keys
from worker.servers.address import RedisClient

log = logging.getLogger(__name__)

PAGE = 1000
"""Entries at a time: 1.5 MB."""
MARGIN_SECONDS = VOUCH_SECONDS + CLOCKS_APART_SECONDS
"""Read from so long before: the state at the start is that of the events before it."""
LOOK_BACK = 8
"""Entries before that, among which is the one that tells the last state."""


def read_timeline(
    client: RedisClient, keys: Keys, camera_id: str, start: float, end: float | None = None
) -> Timeline:
    """The timeline of a camera, complete from ``start`` to ``end``: seconds since 1970."""
    stream = keys.camera(camera_id, replay=False).stream
    after = id_before(f"{max(round((start - MARGIN_SECONDS) * 1000), 0)}-0")
    before: list[Any] = client.xrevrange(stream, after, "-", count=LOOK_BACK)
    timeline = Timeline()
    reader = _Reader(timeline, end)
    pages = _pages(client, stream, after, timeline)
    page = next(pages, [])
    if (before or page) and len(before) < LOOK_BACK and _was_trimmed(client, stream):
        timeline.begins_midway(trimmed=True)
    elif len(before) > 1:
        timeline.begins_midway(trimmed=False)
    for entry_id, fields in before:  # the newest first: one of them is enough
        if reader.take([Entry(stream, entry_id, fields)]):
            break
    while page and not reader.is_done:
        reader.take(page)
        page = next(pages, [])
    reader.report(camera_id)
    return timeline


class _Reader:
    """Takes entries into a timeline, up to an end; counts those that hold no event."""

    def __init__(self, timeline: Timeline, end: float | None) -> None:
        self._timeline = timeline
        self._end = math.inf if end is None else end
        self._invalid = 0
        self.is_done = False
        """Whether an event was after the end."""

    def take(self, entries: Sequence[Entry]) -> int:
        """Add what the entries say to the timeline; gives how many say something."""
        taken = 0
        for entry in entries:
            seen = self._sighting(entry)
            if seen is None:
                continue
            self._timeline.add(seen)
            taken += 1
            if seen.at > self._end + (CLOCKS_APART_SECONDS if seen.by_camera else 0):
                self.is_done = True
                break
        return taken

    def report(self, camera_id: str) -> None:
        """Log how many entries were passed over."""
        if self._invalid:
            log.warning(
                "camera %s: skipping %d entries that hold no valid event", camera_id, self._invalid
            )

    def _sighting(self, entry: Entry) -> Sighting | None:
        """What an entry says; None for one that holds no live event."""
        try:
            return parse_sighting((entry.fields or {})[b"event"], entry.entry_id.decode())
        except (KeyError, ValueError):
            self._invalid += 1
            return None


def _pages(
    client: RedisClient, stream: str, after: str, timeline: Timeline
) -> Iterator[list[Entry]]:
    """The entries after an id, in pages; tells the timeline where some were trimmed meanwhile."""
    last: bytes | None = None
    while True:
        # From the last one on, which is missing if the server has trimmed the stream up to it.
        position = after if last is None else id_before(last)
        entries = entries_of(client.xread({stream: position}, count=PAGE))
        is_whole = len(entries) == PAGE
        if last is not None and entries:
            if entries[0].entry_id == last:
                entries = entries[1:]
            else:
                timeline.is_cut()
        if entries:
            last = entries[-1].entry_id
            yield entries
        if not is_whole:
            return


def _was_trimmed(client: RedisClient, stream: str) -> bool:
    """Whether the server has removed entries; one older than Redis 7 does not tell."""
    info = client.xinfo_stream(stream)
    deleted = info.get("max-deleted-entry-id", b"0-0")
    return parse_id(deleted) > (0, 0) or info.get("entries-added", 0) > info["length"]
