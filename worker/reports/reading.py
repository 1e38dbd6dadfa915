"""Events to report on: from a file of JSON Lines, or from a stream of Redis.

Takes what `replay --output FILE.jsonl` and `subscribe` write, line by line in constant memory. What
is not an event is counted and passed over: nothing in a file ends a report.
"""

from collections.abc import Iterator
from pathlib import Path

from worker.consuming.entries import type_of
from worker.consuming.history import stored_entries
from worker.consuming.plausible import is_plausible
from worker.errors import SourceError, UsageError
from worker.events import EVENT_TYPES, Event, parse_event
from worker.keys import Keys

LONGEST_LINE_BYTES = 4 << 20
"""An event of 1,000 detections has 0.1 MB."""


class EventReading:
    """The events of one file or stream, and what it holds besides."""

    def __init__(self, name: str, unit: str, lines: Iterator[bytes | None]) -> None:
        """``lines``: texts of events, None for one that is too long to be."""
        self.name = name
        """The file or id, to show."""
        self.unit = unit
        """What a text is there: a line, an entry."""
        self.lines = 0
        self.malformed = 0
        """Lines that hold no event."""
        self.first_malformed = 0
        """The number of the first, from 1."""
        self.of_other_types = 0
        """Events of types that this version does not know."""
        self._lines = lines

    def __iter__(self) -> Iterator[Event]:
        """The events, once. Raises SourceError, UsageError or SinkError if it cannot be read."""
        for line in self._lines:
            self.lines += 1
            event = self._event(line)
            if event is not None:
                yield event

    def _event(self, line: bytes | None) -> Event | None:
        if line is None:
            self._note_malformed()
            return None
        try:
            event = parse_event(line)
        except ValueError:
            found = type_of(line)
        else:
            if is_plausible(event):
                return event
            found = event.type
        if found is None or found in EVENT_TYPES:
            self._note_malformed()
        else:
            self.of_other_types += 1
        return None

    def _note_malformed(self) -> None:
        self.malformed += 1
        self.first_malformed = self.first_malformed or self.lines


def read_file(path: Path) -> EventReading:
    """The events in a file of JSON Lines. Raises UsageError for what cannot be one."""
    if path.suffix in (".parquet", ".json"):
        raise UsageError(
            f"{path}: a report is made of JSON Lines: replay with --output FILE.jsonl, or to Redis"
        )
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.is_dir():
        raise UsageError(f"{path}: is a directory: name a file of JSON Lines in it")
    return EventReading(path.name, "line", _lines_of(path))


def read_stream(url: str, keys: Keys, camera_id: str, *, replay: bool) -> EventReading:
    """The events in a camera's stream, or in that of its replay."""
    entries = stored_entries(url, keys, camera_id, replay=replay)
    texts = ((entry.fields or {}).get(b"event", b"") for entry in entries)
    return EventReading(camera_id, "entry", texts)


def _lines_of(path: Path) -> Iterator[bytes | None]:
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE_BYTES):
                is_whole = len(line) < LONGEST_LINE_BYTES or line.endswith(b"\n")
                if not is_whole:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(LONGEST_LINE_BYTES)
                    yield None
                elif line.strip():
                    yield line
    except OSError as error:
        raise SourceError(f"{path}: cannot read it: {error.strerror}") from error
