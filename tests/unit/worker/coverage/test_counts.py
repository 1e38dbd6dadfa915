"""Frames: how many were analysed, dropped and skipped, and from when on that is a lower rate."""

import pytest

from tests.schedules import T0 as WORLD_BEGINS, Down, Gone, Watch, World
from tests.unit.worker.coverage.told import epoch_at, found, frame, frames, state, told
from worker.coverage import intervals
from worker.coverage.spans import REDUCED_SHARE

UP = state(0, reason="connected")


def counts(events, **period):
    return [
        (i.frames_analysed, i.frames_dropped, i.frames_skipped) for i in found(events, **period)
    ]


def test_every_frame_of_a_world_without_losses_is_counted():
    world = World(skipped=4).run([Watch(60), Watch(60, dropped=2), Down(60), Watch(60)])
    (each,) = intervals(world.events).values()
    assert sum(i.frames_analysed for i in each) == world.analysed
    assert sum(i.frames_dropped for i in each) == world.dropped
    assert sum(i.frames_skipped for i in each) == 4 * world.analysed


def test_frames_without_detections_are_counted_by_the_next_event():
    events = [UP, *frames(1, 3), frame(12, seq=3, index=100), frame(13, seq=4, index=101)]
    assert counts(events) == [(102, 0, 0)]


def test_single_dropped_frames_are_no_lower_rate():
    events = [UP, *frames(1, 200)]
    few = [e.model_copy(deep=True) for e in events]
    for index in range(20, 200, 25):
        few[index] = frame(index, seq=index, dropped=1)
    assert told(few) == [(0, 199, "watched", "")]
    assert sum(i.frames_dropped for i in found(few)) == 8


def test_more_than_a_twentieth_of_the_frames_dropped_is_a_lower_rate():
    assert REDUCED_SHARE == 0.05
    some = [frame(n, seq=n, dropped=1 if 60 <= n < 120 else 0) for n in range(1, 200)]
    (_, first), (_, reduced), (_, last) = [(i.state, i) for i in found([UP, *some])]
    assert (first.state, reduced.state, last.state) == ("watched", "reduced", "watched")
    assert reduced.reason == "dropped"
    assert (reduced.start - first.start).total_seconds() == pytest.approx(60, abs=21)
    assert reduced.seconds == pytest.approx(60, abs=42)


def test_frames_left_out_by_choice_are_a_lower_rate_with_another_reason():
    events = [UP, *(frame(n, seq=n, index=5 * n, skipped=4) for n in range(1, 60))]
    assert told(events) == [(0, 59, "reduced", "skipped")]


def test_dropped_frames_weigh_more_than_skipped_ones():
    events = [UP, *(frame(n, seq=n, index=6 * n, skipped=4, dropped=1) for n in range(1, 60))]
    assert told(events) == [(0, 59, "reduced", "dropped")]


def test_what_was_skipped_in_quiet_hours_is_known_once_something_is_detected():
    quiet = [state(10 * n, seq=1 + n, frames=50 * n) for n in range(1, 361)]
    events = [UP, frame(0, seq=1, index=0), *quiet]
    assert told(events) == [(0, 3600, "watched", "")]
    after = frame(3601, seq=362, index=18_005, skipped=14_404)
    assert told([*events, after]) == [(0, 3601, "reduced", "skipped")]
    assert counts([*events, after]) == [(1 + 18_005 - 14_404, 0, 14_404)]


def test_frames_that_were_not_even_decoded_do_not_count_as_analysed():
    """Of a camera that is read key frame by key frame, all that are decoded are analysed."""
    events = [UP, *(frame(n, seq=n, index=n - 1, skipped=24) for n in range(1, 60))]
    assert counts(events) == [(59, 0, 59 * 24)]
    quiet = [state(10 * n, seq=1 + n, frames=10 * n) for n in range(1, 7)]
    events = [UP, frame(0, seq=1, index=0), *quiet, frame(61, seq=8, index=61, skipped=1464)]
    assert counts(events) == [(1 + 7, 0, 1464)]  # at least: one in each of seven reports


def test_drops_of_quiet_time_are_told_by_heartbeats_and_count_once():
    quiet = [state(10 * n, seq=1 + n, frames=100 * n, dropped=50 * n) for n in range(1, 7)]
    events = [UP, frame(0, seq=1, index=0), *quiet]
    assert told(events) == [(0, 60, "reduced", "dropped")]
    assert counts(events) == [(300, 300, 0)]
    after = frame(61, seq=8, index=600, dropped=300)
    assert counts([*events, after]) == [(301, 300, 0)]


def test_drops_before_a_disconnect_are_told_by_the_down_and_count_once():
    down = state(10, "down", "stall", seq=10, frames=20, dropped=7)
    up = state(20, reason="connected", epoch=epoch_at(20))
    after = frame(20, epoch=epoch_at(20), seq=1, index=0, dropped=7)
    events = [UP, *frames(1, 10), down, up, after, frame(21, epoch=epoch_at(20), seq=2, index=1)]
    assert [i.frames_dropped for i in found(events)] == [7, 0, 0]


@pytest.mark.parametrize("reason", ["late", "damaged"])
def test_a_degraded_camera_is_watched_at_a_lower_rate_until_it_recovers(reason):
    events = [
        UP,
        *frames(1, 20),
        state(20, "degraded", reason, seq=20, frames=19),
        *frames(21, 40, seq=21),
        state(40, "up", "recovered", seq=40, frames=39),
        *frames(41, 60, seq=41),
    ]
    assert told(events) == [
        (0, 20, "watched", ""),
        (20, 40, "reduced", reason),
        (40, 59, "watched", ""),
    ]


def test_lateness_that_lasts_is_repeated_by_heartbeats():
    late = [state(10 * n, "degraded", "late", seq=n, frames=n) for n in range(1, 7)]
    assert told([UP, *late]) == [(0, 10, "watched", ""), (10, 60, "reduced", "late")]


def test_a_camera_that_is_up_without_a_frame_is_not_watched_in_full():
    events = [UP, *(state(10 * n, seq=n) for n in range(1, 7))]
    assert told(events) == [(0, 60, "reduced", "no_frames")]


def test_frames_before_the_first_event_are_not_counted():
    events = [frame(5, seq=700, index=9000, skipped=500, dropped=100)]
    assert counts([*events, frame(6, seq=701, index=9001)]) == [(2, 0, 0)]
    events = [state(5, seq=700, frames=9000, dropped=100), frame(6, seq=701, index=9000)]
    assert counts(events) == [(1, 0, 0)]


def test_counts_of_lost_events_are_not_made_up():
    lost = frame(30, seq=40, index=39, skipped=11, dropped=7)
    events = [UP, *frames(1, 20), lost, *frames(31, 40, seq=41)]
    assert counts(events) == [(19, 0, 0), (0, 0, 0), (10, 0, 0)]


def test_what_a_worker_skipped_is_not_taken_for_what_the_next_one_does():
    world = World(skipped=4).run([Watch(60), Watch(60, is_busy=False), Gone(60), Watch(120)])
    end = WORLD_BEGINS.replace(minute=WORLD_BEGINS.minute + 5)
    (each,) = intervals(world.events, start=WORLD_BEGINS, end=end).values()
    assert [(i.state, i.reason) for i in each] == [
        ("reduced", "skipped"),
        ("worker_down", "stopped"),
        ("watched", ""),
    ]
    assert [i.frames_analysed for i in each] == [240, 0, 240]


def test_a_frame_before_which_a_change_is_told_counts_once():
    """The worker reports the change when it has seen the frame, but not yet counted its drops."""
    late = state(10, "degraded", "late", seq=10, frames=15, dropped=0)
    frame_of_it = frame(10, seq=11, index=14, dropped=5)
    events = [UP, *frames(1, 10), late, frame_of_it, frame(11, seq=12, index=15)]
    assert sum(i.frames_analysed for i in found(events)) == 11
    assert sum(i.frames_dropped for i in found(events)) == 5
