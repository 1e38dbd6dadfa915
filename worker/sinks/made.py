"""Which outputs an unfinished replay has made already, so that the same command can go on.

A replay that ends after its annotated video and before its Parquet file finds the video when it is
run again. A record next to the output identifies the files that this replay made; any other file
belongs to the user and is kept. The record counts only as long as the journal exists.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from glob import escape
from pathlib import Path

from worker.sinks.files import complete_or_absent


class Made:
    """The record of one output."""

    def __init__(self, output: Path) -> None:
        """``output``: what the journal is named after."""
        self._output = output
        self._path = output.with_name(f".{output.name}.made.json")

    def has(self, target: Path, claim: str | None = None) -> bool:
        """Whether ``target`` was made by the unfinished replay, with ``claim`` or with any."""
        if not self._is_unfinished():
            return False
        try:
            made_by, *identity = self._read()[str(target.resolve())]
            return identity == _identity(target) and claim in (None, made_by)
        except (KeyError, OSError, ValueError):
            return False

    def make(
        self, target: Path, claim: str, write: Callable[[Callable[[Path], None]], None]
    ) -> None:
        """Make ``target``, unless this replay has made it already.

        ``write`` makes it, and passes the complete file to its argument before renaming it. Raises
        SinkError.
        """
        if not self.has(target, claim):
            write(lambda complete: self._note(target, complete, claim))

    def outdate(self) -> None:
        """Mark what was made as to be made again."""
        with suppress(OSError, ValueError):
            self._write({key: ["", *rest] for key, (_, *rest) in self._read().items()})

    def forget(self) -> None:
        """Delete the record: the replay is finished."""
        self._path.unlink(missing_ok=True)

    def forget_finished(self) -> None:
        """Delete the record of a replay that was killed after its end, just before ``forget``."""
        if not self._is_unfinished():
            with suppress(OSError):
                self.forget()

    def _is_unfinished(self) -> bool:
        return any(self._output.parent.glob(f"{escape(self._output.name)}.partial-*"))

    def _note(self, target: Path, complete: Path, claim: str) -> None:
        try:
            made = self._read()
        except (OSError, ValueError):
            made = {}
        self._write(made | {str(target.resolve()): [claim, *_identity(complete)]})

    def _read(self) -> dict[str, list[object]]:
        found = json.loads(self._path.read_text())
        if not isinstance(found, dict):
            raise ValueError("not a record")
        return {key: entry for key, entry in found.items() if isinstance(entry, list) and entry}

    def _write(self, made: dict[str, list[object]]) -> None:
        with complete_or_absent(self._path) as path:
            path.write_text(json.dumps(made))


def _identity(path: Path) -> list[object]:
    """Survives renaming the file, but not replacing or changing it."""
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
