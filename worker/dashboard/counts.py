"""Detections over time: how many of each label in each step of time, bounded.

What is counted are detections in analysed frames, and not objects: a person who is seen for ten
seconds at five frames a second is counted fifty times. So the frames are counted, too.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

MAX_LABELS = 50
OTHERS = "(other labels)"
"""Counts those beyond the first ``MAX_LABELS``, which only another tool would write."""


@dataclass(frozen=True)
class Series:
    """Counts of equal steps of time, in order."""

    frames: list[int]
    """Events with detections."""
    labels: dict[str, list[int]]


class Counts:
    """Counts by step; a step is any whole number."""

    def __init__(self) -> None:
        self.labels: Counter[str] = Counter()
        """In all."""
        self.frames = 0
        """In all."""
        self._by_step: dict[int, Counter[str]] = {}
        self._frames_by_step: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._frames_by_step)

    def add(self, step: int, labels: Iterable[str]) -> None:
        """One frame's labels, one for each detection."""
        self.frames += 1
        self._frames_by_step[step] += 1
        of_step = self._by_step.setdefault(step, Counter())
        for label in labels:
            known = label in self.labels or len(self.labels) < MAX_LABELS
            name = label if known else OTHERS
            self.labels[name] += 1
            of_step[name] += 1

    def series(self, first: int, count: int, width: int = 1) -> Series:
        """``count`` times ``width`` steps, from ``first`` on, summed up."""
        frames = [0] * count
        labels: dict[str, list[int]] = {}
        for step in self._frames_by_step:
            index = (step - first) // width
            if not 0 <= index < count:
                continue
            frames[index] += self._frames_by_step[step]
            for label, number in self._by_step[step].items():
                labels.setdefault(label, [0] * count)[index] += number
        return Series(frames, dict(sorted(labels.items())))

    def forget_before(self, step: int) -> None:
        """Drop what is older."""
        for old in [each for each in self._frames_by_step if each < step]:
            del self._frames_by_step[old]
            del self._by_step[old]

    def merge_pairs(self) -> None:
        """Make one step of each two: 0 and 1 become 0, 2 and 3 become 1."""
        frames, by_step = self._frames_by_step, self._by_step
        self._frames_by_step, self._by_step = Counter(), {}
        for step, number in frames.items():
            self._frames_by_step[step // 2] += number
            self._by_step.setdefault(step // 2, Counter()).update(by_step[step])
