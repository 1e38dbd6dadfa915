"""Amounts over time in bins that widen."""

import pytest
from hypothesis import given, strategies as st

from worker.reports.timeline import MOST_BINS, WIDTHS_SECONDS, Timeline, wider

A, B = ("label", "A"), ("label", "B")


def test_each_width_is_a_multiple_of_the_one_before():
    width = WIDTHS_SECONDS[0]
    for _ in range(len(WIDTHS_SECONDS) + 3):
        factor = wider(width) / width
        assert factor == pytest.approx(round(factor))
        assert round(factor) > 1
        width = wider(width)


@given(st.lists(st.tuples(st.floats(-1e7, 2e9), st.integers(1, 9)), min_size=1, max_size=60))
def test_nothing_is_lost_and_nothing_grows_whatever_the_times(amounts):
    timeline = Timeline()
    for at, amount in amounts:
        timeline.add(A, at, amount)
    assert timeline.bins <= MOST_BINS
    assert sum(timeline.values(A)) == sum(amount for _, amount in amounts)
    times = [at for at, _ in amounts]
    rounding = timeline.width / 1000
    assert timeline.start - rounding <= min(times)
    assert max(times) <= timeline.end + rounding
    length = timeline.end - timeline.start
    assert length <= max(times) - min(times) + 2 * timeline.width + rounding


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0.1, 1e4)),
        min_size=1,
        max_size=30,
    )
)
def test_what_is_spread_over_a_time_stays_the_same_in_sum(spans):
    timeline = Timeline()
    for start, length, amount in spans:
        timeline.spread(A, start, start + length, amount)
    assert sum(timeline.values(A)) == pytest.approx(sum(amount for _, _, amount in spans))


def test_an_amount_is_where_its_time_is():
    timeline = Timeline()
    timeline.add(A, 10.0)
    timeline.add(B, 10.35, 3)
    timeline.spread(A, 10.1, 10.3, 4)
    assert (timeline.width, timeline.start, timeline.bins) == (0.1, 10.0, 4)
    assert timeline.values(A) == pytest.approx([1, 2, 2, 0])
    assert timeline.values(B) == [0, 0, 0, 3]
    assert timeline.values(("label", "C")) == [0, 0, 0, 0]
    timeline.coarsen()
    assert timeline.values(A) == pytest.approx([3, 2])


def test_a_time_that_ends_at_the_edge_of_a_bin_does_not_begin_another():
    timeline = Timeline()
    timeline.spread(A, 0.0, 0.5, 5)
    assert timeline.values(A) == pytest.approx([1, 1, 1, 1, 1])
    timeline.spread(B, 0.3, 0.3, 7)
    assert sum(timeline.values(B)) == 7


def test_without_anything_there_are_no_bins():
    assert (Timeline().bins, Timeline().values(A)) == (0, [])
