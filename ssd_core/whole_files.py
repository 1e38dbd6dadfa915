"""Files that appear whole: written under another name beside theirs, then renamed.

Knows nothing of what is in them.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def nothing(complete: Path) -> None:
    """The default: nothing to do."""


@contextmanager
def written_whole(path: Path, on_complete: Callable[[Path], None] = nothing) -> Iterator[Path]:
    """A name beside ``path`` to write to; it takes the place of ``path`` at the end, or is removed.

    ``path`` always has either the old content or the whole new one, which is on disk and not only
    in memory before it has the name. ``on_complete`` gets the complete file before that. Raises
    OSError.
    """
    # The suffix stays last: writers choose the format by it. One name per path, so that the next
    # process overwrites the leftovers of a killed one.
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        on_complete(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
