"""What is wrong with a data set: collected while it is read, told at the end, all of it at once.

Knows no formats: a fault has a place, a kind, and details.
"""

import logging
from collections import Counter

from ssd_core.errors import DataError

log = logging.getLogger(__name__)

MOST_LISTED = 20
"""Of more, how many."""


class Faults:
    """The faults found so far."""

    def __init__(self, skip_invalid: bool) -> None:
        """``skip_invalid``: go on without what is at fault."""
        self._skip_invalid = skip_invalid
        self._lines: list[str] = []
        self._kinds: Counter[str] = Counter()
        self._unusable = False

    def add(self, place: str, kind: str, detail: str = "") -> None:
        """A fault that can be left out: an image, an object. ``kind``: as it is counted."""
        self._lines.append(f"{place}: {kind}{f' ({detail})' if detail else ''}")
        self._kinds[kind] += 1

    def add_unusable(self, place: str, what: str) -> None:
        """A file without which nobody wants to go on."""
        self._lines.append(f"{place}: {what}")
        self._unusable = True

    def finish(self) -> None:
        """Raise DataError with all faults, or log how many of what are left out."""
        if not self._lines:
            return
        if self._skip_invalid and not self._unusable:
            counts = ", ".join(f"{count} x {kind}" for kind, count in self._kinds.most_common())
            log.warning("the data set is used without what is invalid: %s", counts)
            return
        if len(self._lines) == 1 and self._unusable:
            raise DataError(self._lines[0])
        faults = "1 fault" if len(self._lines) == 1 else f"{len(self._lines)} faults"
        way_out = "" if self._unusable else " (--skip-invalid goes on without them)"
        lines = [f"{faults} in the data set{way_out}:", *self._lines[:MOST_LISTED]]
        if len(self._lines) > MOST_LISTED:
            lines.append(f"and {len(self._lines) - MOST_LISTED} more")
        raise DataError("\n  ".join(lines))
