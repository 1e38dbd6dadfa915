"""Files that appear under their final name only when they are complete."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import SinkError


def nothing(complete: Path) -> None:
    """The default: nothing to do."""


@contextmanager
def complete_or_absent(
    target: Path, on_complete: Callable[[Path], None] = nothing
) -> Iterator[Path]:
    """A path to write to; it becomes ``target`` if the block succeeds, and is deleted otherwise.

    ``on_complete`` is called with the complete file before it becomes ``target``. An existing
    ``target`` is replaced atomically. Raises SinkError if the file cannot be written.
    """
    # The suffix stays last: writers choose the format by it. One name per target, so that the next
    # worker overwrites the leftovers of a killed one.
    unfinished = target.with_name(f".{target.stem}.unfinished{target.suffix}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        on_complete(unfinished)
        unfinished.replace(target)
    except OSError as error:
        raise SinkError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
