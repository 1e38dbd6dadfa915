"""A schedule of faults in, the same intervals out."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from tests.schedules import T0, Down, Gone, Watch, World
from worker.coverage import intervals

TOLERANCE_SECONDS = 21
"""Near a change: heartbeats are ten seconds apart, and frames are judged in tens of seconds."""

seconds = st.integers(45, 120)
phases = st.one_of(
    st.builds(Watch, seconds, st.booleans()),
    st.builds(Watch, seconds, dropped=st.just(1)),
    st.builds(Watch, seconds, st.booleans(), is_redis_away=st.just(True)),
    st.builds(Watch, seconds, st.booleans(), are_events_lost=st.just(True)),
    st.builds(Down, seconds, st.sampled_from(["stall", "refused", "unauthorized"])),
    st.builds(Gone, seconds, st.booleans(), st.sampled_from([0, 4])),
)
schedules = st.lists(phases, min_size=1, max_size=5)
clocks = st.sampled_from([None, -30, 5, 30])


def states_at(found, times):
    """(state, reason) of the interval at each time, which rise."""
    remaining = iter(found)
    interval = next(remaining)
    for time in times:
        while interval.end <= time:
            interval = next(remaining)
        yield interval.state, interval.reason


def assert_told(found, world):
    """The intervals have no gaps, and say what happened."""
    end = T0 + timedelta(seconds=world.now)
    assert (found[0].start, found[-1].end) == (T0, end)
    for one, other in pairwise(found):
        assert one.end == other.start
        assert (one.state, one.reason) != (other.state, other.reason)
    changes = [b[0] for a, b in pairwise(world.truth) if a[1:] != b[1:]]
    sure = [
        step
        for step in world.truth[::4]
        if all(abs(step[0] - change) > TOLERANCE_SECONDS for change in changes)
    ]
    times = [T0 + timedelta(seconds=step[0]) for step in sure]
    for step, state in zip(sure, states_at(found, times), strict=True):
        assert state == step[1:], step


def assert_intervals_are_those_of(first, rest, skipped, camera_clock_seconds):
    world = World(skipped, camera_clock_seconds).run([first, *rest])
    end = T0 + timedelta(seconds=world.now)
    (found,) = intervals(world.events, start=T0, end=end).values()
    assert_told(found, world)
    rounding = len(found)
    assert sum(i.frames_analysed for i in found) <= world.analysed + rounding
    assert sum(i.frames_dropped for i in found) <= world.dropped + rounding


@settings(max_examples=10)
@given(st.builds(Watch, seconds), schedules, st.sampled_from([0, 4]), clocks)
def test_the_intervals_are_those_of_the_schedule(first, rest, skipped, camera_clock_seconds):
    assert_intervals_are_those_of(first, rest, skipped, camera_clock_seconds)


@pytest.mark.long
@settings(max_examples=400)
@given(st.builds(Watch, seconds), schedules, st.sampled_from([0, 4]), clocks)
def test_the_intervals_are_those_of_any_schedule(first, rest, skipped, camera_clock_seconds):
    assert_intervals_are_those_of(first, rest, skipped, camera_clock_seconds)
