"""Amounts over time, in memory that does not grow: bins that widen as the time gets longer.

Takes amounts with their times in any order; gives them per bin. Knows nothing of events.
"""

import math
from collections import defaultdict
from itertools import pairwise
from typing import TypeAlias

Kind: TypeAlias = tuple[str, str]
"""What is added up: a sort of amount, and a name."""

WIDTHS_SECONDS = (
    0.1, 0.2, 1, 2, 10, 30, 60, 300, 900, 1800, 3600, 10_800, 21_600, 86_400, 604_800,
)  # fmt: skip
"""Each a multiple of the one before, so that bins can be put together; then ten times as wide."""
MOST_BINS = 600


def wider(width: float) -> float:
    """The next width of bins."""
    for narrow, wide in pairwise(WIDTHS_SECONDS):
        if math.isclose(width, narrow):
            return wide
    return width * 10


class Timeline:
    """Amounts of several kinds over the same bins."""

    def __init__(self) -> None:
        self.width = float(WIDTHS_SECONDS[0])
        """Of a bin."""
        self.amounts: dict[Kind, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        """By kind and number of the bin: bin n begins at n times the width."""
        self._first: int | None = None
        self._last = 0

    @property
    def first(self) -> int:
        """The number of the first bin; 0 without any."""
        return self._first or 0

    @property
    def bins(self) -> int:
        """How many bins there are from the first to the last."""
        return 0 if self._first is None else self._last - self._first + 1

    @property
    def start(self) -> float:
        """Where the first bin begins."""
        return self.first * self.width

    @property
    def end(self) -> float:
        """Where the last bin ends."""
        return (self.first + self.bins) * self.width

    def add(self, kind: Kind, at: float, amount: float = 1.0) -> None:
        """Add an amount at one moment."""
        self._reach(at)
        self.amounts[kind][math.floor(at / self.width)] += amount

    def spread(self, kind: Kind, start: float, end: float, amount: float) -> None:
        """Add an amount evenly over a time."""
        if end <= start:
            self.add(kind, end, amount)
            return
        last = math.nextafter(end, start)  # an end at the edge of a bin does not begin another
        self._reach(start)
        self._reach(last)
        of_kind = self.amounts[kind]
        for number in range(math.floor(start / self.width), math.floor(last / self.width) + 1):
            low, high = max(start, number * self.width), min(end, (number + 1) * self.width)
            if high > low:
                of_kind[number] += amount * ((high - low) / (end - start))

    def values(self, kind: Kind) -> list[float]:
        """The amounts of one kind, bin by bin."""
        of_kind = self.amounts.get(kind, {})
        return [of_kind.get(self.first + number, 0.0) for number in range(self.bins)]

    def coarsen(self) -> None:
        """Put bins together."""
        width = wider(self.width)
        factor = round(width / self.width)
        for kind, of_kind in self.amounts.items():
            together: dict[int, float] = defaultdict(float)
            for number, amount in of_kind.items():
                together[number // factor] += amount
            self.amounts[kind] = together
        if self._first is not None:
            self._first, self._last = self._first // factor, self._last // factor
        self.width = width

    def _reach(self, at: float) -> None:
        """Make room for a moment."""
        while True:
            number = math.floor(at / self.width)
            first = number if self._first is None else min(self._first, number)
            last = number if self._first is None else max(self._last, number)
            if last - first < MOST_BINS:
                break
            self.coarsen()
        self._first, self._last = first, last
