"""The JSON Lines sink, and the journal that a replay resumes from.

Delivery: events are appended to ``OUTPUT.partial-CLAIM`` and flushed to the operating system once
per batch. A worker killed at any moment leaves whole batches and perhaps a torn one, which the next
run cuts off. ``finish`` gives the file its final name. The other outputs of a replay are made from
the finished journal.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import escape
from io import BufferedWriter
from pathlib import Path

from worker.errors import SinkError, UsageError
from worker.events import CameraEvent, Event, parse_event
from worker.publishing.checkpoint import Checkpoint


class JsonlSink:
    """Appends events to a journal, next to the output that it will become."""

    name = "the output"

    def __init__(self, output: Path, claim: str, *, batch: int, restart: bool = False) -> None:
        """Open the journal of ``claim``, cut back to its last whole batch of ``batch`` frames.

        ``restart`` empties it, and deletes the journals of other claims. Raises UsageError if there
        is one of another claim otherwise, or if another replay holds it, and SinkError if the file
        cannot be written.
        """
        self.output = output
        self.path = output.with_name(f"{output.name}.partial-{claim[:12]}")
        try:
            self._make_room(restart)
            self._file = _take(self.path)
            if restart:
                self._file.truncate(0)
            self._checkpoints, length = _scan(self.path, batch)
            self._file.truncate(length)
        except BlockingIOError:
            raise UsageError(
                f"{output}: another replay is writing to it: wait until that one finishes, or "
                "choose another name"
            ) from None
        except OSError as error:
            raise _cannot_write(output, error) from error

    def checkpoint(self, camera_id: str) -> Checkpoint:
        """Where the replay of a recording stands; whole batches only."""
        return self._checkpoints.get(camera_id, Checkpoint())

    def publish(self, events: Sequence[Event]) -> None:
        """Append the events that the journal lacks. Raises SinkError if they cannot be written."""
        lines = []
        for event in events:
            camera_id, seq = event.data.camera_id, event.data.seq
            if seq >= self.checkpoint(camera_id).events:
                lines.append(event.to_json() + "\n")
                self._checkpoints[camera_id] = Checkpoint(seq + 1, isinstance(event, CameraEvent))
        try:
            self._file.write("".join(lines).encode())
            self._file.flush()
        except OSError as error:
            raise _cannot_write(self.output, error) from error

    def close(self) -> None:
        """Close the journal; it stays for the next run, unless it is empty."""
        if self._file.closed:
            return
        if self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()
        with suppress(OSError):  # a full disk has been reported by publish
            self._file.close()

    def read(self) -> Iterator[Event]:
        """The events of the journal, in order."""
        with self.path.open("rb") as lines:
            for line in lines:
                yield parse_event(line)

    def finish(self, *, keep: bool) -> None:
        """Give the complete journal the output's name or, without ``keep``, delete it."""
        try:
            os.fsync(self._file.fileno())
            if keep:
                self.path.replace(self.output)
            else:
                self.path.unlink()
            self._file.close()  # last, since this releases the lock to other replays
        except OSError as error:
            raise _cannot_write(self.output, error) from error

    def _make_room(self, restart: bool) -> None:
        for other in self.output.parent.glob(f"{escape(self.output.name)}.partial-*"):
            if other == self.path:
                continue
            if restart:
                with _take(other):
                    other.unlink()
            else:
                raise UsageError(
                    f"{other}: an unfinished replay of other recordings or with other settings: "
                    "finish it with the same command, or discard it with --restart"
                )


def _take(path: Path) -> BufferedWriter:
    """A journal, open and locked. Raises BlockingIOError if another replay has or just ended it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise BlockingIOError
    except BaseException:
        file.close()
        raise
    return file


def _scan(path: Path, batch: int) -> tuple[dict[str, Checkpoint], int]:
    """The checkpoint of each recording, and the length in bytes of the journal's whole batches."""
    checkpoints: dict[str, Checkpoint] = {}
    length = offset = 0
    with path.open("rb") as lines:
        for line in lines:
            offset += len(line)
            try:
                event = parse_event(line)
            except ValueError:
                break  # torn: the worker was killed while writing it
            ended = isinstance(event, CameraEvent)
            events = event.data.seq + 1
            if line.endswith(b"\n") and (ended or events % batch == 0):
                checkpoints[event.data.camera_id] = Checkpoint(events, ended)
                length = offset
    return checkpoints, length


def _cannot_write(path: Path, error: OSError) -> SinkError:
    return SinkError(f"cannot write {path}: {error.strerror or error}")
