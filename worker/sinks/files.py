"""Files that appear under their final name only when they are complete."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssd_core.whole_files import nothing, written_whole
from worker.errors import SinkError

__all__ = ["complete_or_absent", "nothing"]


@contextmanager
def complete_or_absent(
    target: Path, on_complete: Callable[[Path], None] = nothing
) -> Iterator[Path]:
    """``written_whole`` for sinks: raises SinkError if the file cannot be written."""
    try:
        with written_whole(target, on_complete) as unfinished:
            yield unfinished
    except OSError as error:
        raise SinkError(f"cannot write {target}: {error.strerror or error}") from error
