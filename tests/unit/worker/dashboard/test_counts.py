"""Counts per step and label."""

import pytest

from worker.dashboard.counts import MAX_LABELS, OTHERS, Counts


@pytest.fixture
def counts():
    found = Counts()
    found.add(100, ["Person", "Person", "Car"])
    found.add(101, [])
    found.add(103, ["Person"])
    return found


def test_a_series_sums_up_steps(counts):
    series = counts.series(100, 4)
    assert series.frames == [1, 1, 0, 1]
    assert series.labels == {"Car": [1, 0, 0, 0], "Person": [2, 0, 0, 1]}
    assert counts.series(99, 3, 2).labels == {"Car": [1, 0, 0], "Person": [2, 0, 1]}
    assert (counts.frames, counts.labels) == (3, {"Person": 3, "Car": 1})


def test_what_is_outside_of_a_series_is_left_out(counts):
    assert counts.series(101, 2).labels == {}
    assert counts.series(101, 2).frames == [1, 0]


def test_old_steps_can_be_forgotten(counts):
    counts.forget_before(103)
    assert len(counts) == 1
    assert counts.series(100, 4).labels == {"Person": [0, 0, 0, 1]}


def test_pairs_of_steps_become_one(counts):
    counts.merge_pairs()
    assert counts.series(50, 2).frames == [2, 1]
    assert counts.series(50, 2).labels == {"Car": [1, 0], "Person": [2, 1]}


def test_labels_beyond_a_number_are_counted_together():
    counts = Counts()
    counts.add(0, [f"label {number}" for number in range(MAX_LABELS + 7)])
    counts.add(0, ["label 3", "another"])
    assert len(counts.labels) == MAX_LABELS + 1
    assert (counts.labels[OTHERS], counts.labels["label 3"]) == (8, 2)
