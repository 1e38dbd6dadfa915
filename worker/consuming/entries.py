"""Entries of Redis Streams: their ids, and the events in them.

Knows no connection.
"""

import json
import logging
from typing import Any, NamedTuple

from worker.events import EVENT_TYPES, Event, parse_event

log = logging.getLogger(__name__)

EntryId = tuple[int, int]
"""An entry's id as numbers, which compare as Redis orders entries: milliseconds, counter."""
LAST_COUNTER = 2**64 - 1


class Entry(NamedTuple):
    """An entry as Redis delivered it."""

    stream: str
    entry_id: bytes
    fields: dict[bytes, bytes] | None
    """None if the entry has been trimmed."""

    @property
    def place(self) -> tuple[str, str]:
        """Stream and entry id: what an acknowledgement needs."""
        return self.stream, self.entry_id.decode()


def parse_id(entry_id: bytes | str) -> EntryId:
    """The numbers of an entry id; one without a counter means the first of its millisecond."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, counter = text.partition("-")
    return int(milliseconds), int(counter or 0)


def id_before(entry_id: bytes | str) -> str:
    """The greatest id below an entry's: a group created there delivers the entry next."""
    milliseconds, counter = parse_id(entry_id)
    if counter:
        return f"{milliseconds}-{counter - 1}"
    return f"{milliseconds - 1}-{LAST_COUNTER}" if milliseconds else "0-0"


def entries_of(reply: Any) -> list[Entry]:
    """Flatten a reply of XREAD: a list (RESP2) or a dict (RESP3)."""
    streams = reply.items() if isinstance(reply, dict) else reply or ()
    found: list[Entry] = []
    for key, batches in streams:
        stream = key.decode()
        entries = batches[0] if batches and isinstance(batches[0], list) else batches
        found += [Entry(stream, entry_id, fields) for entry_id, fields in entries]
    return found


class EventReader:
    """The events in entries; reports what it skips, a type that it does not know only once."""

    def __init__(self) -> None:
        self._unknown_types: set[str] = set()

    def event(self, entry: Entry) -> Event | None:
        """The event of an entry; None if it holds none that this version knows."""
        if not entry.fields:
            self._skip(entry, "was trimmed")
            return None
        text = entry.fields.get(b"event", b"")
        try:
            return parse_event(text, entry.place)
        except ValueError:
            self._report(entry, type_of(text))
            return None

    def _report(self, entry: Entry, event_type: str | None) -> None:
        if event_type is None or event_type in EVENT_TYPES:
            self._skip(entry, "holds no valid event")
        elif event_type not in self._unknown_types:
            self._unknown_types.add(event_type)
            log.warning(
                "skipping events of type %r, which this version does not know: update it to "
                "get them",
                event_type[:80],
            )

    def _skip(self, entry: Entry, problem: str) -> None:
        log.warning(
            "skipping entry %s of %s: it %s", entry.entry_id.decode(), entry.stream, problem
        )


def type_of(text: bytes) -> str | None:
    """The type that an event states; None if it is not an event at all."""
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = event.get("type") if isinstance(event, dict) else None
    return found if isinstance(found, str) else None
