"""Where detections were, cell by cell."""

import numpy as np
from hypothesis import given, settings, strategies as st

from worker.reports.heat import COLUMNS, ROWS, HeatGrid

SIDE = st.floats(-0.5, 1.5)


@settings(max_examples=10)
@given(st.lists(st.tuples(SIDE, SIDE, SIDE, SIDE), max_size=8))
def test_each_cell_counts_the_boxes_that_touch_it(corners):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    grid, expected = HeatGrid(), np.zeros((ROWS, COLUMNS), int)
    for x1, y1, x2, y2 in boxes:
        grid.add((x1, y1, x2, y2))
        left, top = (
            min(max(int(np.floor(low * count)), 0), count - 1)
            for low, count in ((x1, COLUMNS), (y1, ROWS))
        )
        right, bottom = (
            min(max(int(np.ceil(high * count)), first + 1), count)
            for high, first, count in ((x2, left, COLUMNS), (y2, top, ROWS))
        )
        expected[top:bottom, left:right] += 1
    np.testing.assert_array_equal(grid.counts(), expected)


def test_a_quarter_of_the_picture_is_a_quarter_of_the_cells():
    grid = HeatGrid()
    grid.add((0.5, 0.0, 1.0, 0.5))
    counts = grid.counts()
    assert counts[: ROWS // 2, COLUMNS // 2 :].all()
    assert counts.sum() == ROWS * COLUMNS // 4
