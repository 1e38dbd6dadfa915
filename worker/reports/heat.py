"""Where detections were: how many covered each cell of a grid over the picture.

Takes boxes, at a cost that does not depend on their size; gives an array.
"""

import math
from array import array

import numpy as np
import numpy.typing as npt

ROWS, COLUMNS = 108, 192
"""Cells: ten pixels of a Full HD picture each way."""
_STRIDE = COLUMNS + 1


class HeatGrid:
    """Counts per cell. Boxes are stored as changes at their corners, and summed up at the end."""

    def __init__(self) -> None:
        self._changes = array("q", bytes(8 * (ROWS + 1) * _STRIDE))

    def add(self, box: tuple[float, float, float, float]) -> None:
        """Count a box, xyxy in [0, 1] of the picture; what lies outside of that is left out."""
        x1, y1, x2, y2 = box
        left, right = _cells(x1, x2, COLUMNS)
        top, bottom = _cells(y1, y2, ROWS)
        changes = self._changes
        changes[top * _STRIDE + left] += 1
        changes[top * _STRIDE + right] -= 1
        changes[bottom * _STRIDE + left] -= 1
        changes[bottom * _STRIDE + right] += 1

    def counts(self) -> npt.NDArray[np.int64]:
        """(ROWS, COLUMNS): how many boxes touch each cell."""
        changes = np.frombuffer(self._changes, np.int64).reshape(ROWS + 1, _STRIDE)
        return changes.cumsum(0).cumsum(1)[:ROWS, :COLUMNS]


def _cells(low: float, high: float, count: int) -> tuple[int, int]:
    """The first cell that an interval touches, and the one after the last; at least one cell."""
    first = min(max(math.floor(low * count), 0), count - 1)
    return first, min(max(math.ceil(high * count), first + 1), count)
