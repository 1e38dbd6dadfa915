"""What single events say of a camera, and what is missing between them."""

from dataclasses import replace

import pytest

from tests.events import camera_event, detections_event
from tests.unit.worker.coverage.told import T0, at, epoch_at, found, frame, frames, state, told
from worker.coverage import Coverage, intervals
from worker.coverage.timeline import LOOP_SECONDS, VOUCH_SECONDS
from worker.pipeline.event_maker import HEARTBEAT_SECONDS
from worker.sources.capture_clock import FURTHEST_SECONDS

UP = state(0, reason="connected")


def test_a_camera_that_is_up_is_watched_until_its_last_event():
    assert told([UP, *frames(1, 30)]) == [(0, 29, "watched", "")]


def test_heartbeats_vouch_for_quiet_time():
    events = [state(10 * n, seq=n, frames=100 * n) for n in range(6)]
    assert told(events, end=55) == [(0, 55, "watched", "")]


def test_an_event_vouches_for_longer_than_heartbeats_are_apart():
    from worker.coverage import timeline

    assert VOUCH_SECONDS > HEARTBEAT_SECONDS
    assert timeline.CLOCKS_APART_SECONDS == FURTHEST_SECONDS


def test_silence_longer_than_a_heartbeat_allows_is_the_workers():
    events = [UP, *frames(1, 30), state(300, seq=30, frames=30)]
    assert told(events) == [(0, 29, "watched", ""), (29, 300, "worker_down", "silent")]


def test_before_the_first_event_nothing_is_known_and_after_the_last_nobody_vouches():
    assert told([UP, *frames(1, 10)], start=-60, end=70) == [
        (-60, 0, "unknown", "no_events"),
        (0, 9, "watched", ""),
        (9, 70, "worker_down", "silent"),
    ]


def test_the_last_event_still_vouches_for_the_present():
    events = [UP, *frames(1, 10)]
    assert told(events, end=9 + VOUCH_SECONDS) == [(0, 9 + VOUCH_SECONDS, "watched", "")]


def test_a_camera_that_is_down_is_so_with_its_reason_until_it_is_up():
    events = [
        UP,
        *frames(1, 20),
        state(23, "down", "stall", seq=20),
        state(33, "down", "stall", seq=21),
        state(34, "down", "refused", seq=22),
        state(44, "down", "refused", seq=23),
        state(46, reason="connected", epoch=epoch_at(46)),
        *frames(46, 50, epoch=epoch_at(46)),
    ]
    assert told(events) == [
        (0, 23, "watched", ""),
        (23, 34, "down", "stall"),
        (34, 46, "down", "refused"),
        (46, 49, "watched", ""),
    ]


def test_a_camera_that_is_down_is_not_told_of_by_a_worker_that_is_gone():
    events = [UP, *frames(1, 10), state(10, "down", "stall", seq=10)]
    assert told(events, end=100)[1:] == [(10, 100, "worker_down", "silent")]
    again = state(90, reason="connected", epoch=epoch_at(90))
    assert told([*events, state(20, "down", "stall", seq=11), again])[1:] == [
        (10, 20, "down", "stall"),
        (20, 90, "worker_down", "silent"),
    ]


def test_a_worker_that_says_that_it_stops_is_down_until_the_next_one():
    stopped = state(10, "down", "stopped", seq=10)
    events = [UP, *frames(1, 10), stopped]
    assert told(events, end=5000)[1:] == [(10, 5000, "worker_down", "stopped")]
    events += [state(12, reason="connected", epoch=epoch_at(12))]
    assert told(events, end=14)[1:] == [(10, 12, "worker_down", "stopped"), (12, 14, "watched", "")]


@pytest.mark.parametrize("reason", ["removed", "end_of_file"])
def test_a_camera_that_has_ended_is_down_for_as_long_as_nobody_watches_it(reason):
    events = [UP, *frames(1, 10), state(10, "ended", reason, seq=10)]
    assert told(events, end=90_000)[1:] == [(10, 90_000, "down", reason)]


def test_a_connection_that_follows_another_without_a_word_is_after_a_crash():
    events = [
        UP,
        *frames(1, 10),
        state(14, reason="connected", epoch=epoch_at(14)),
        *frames(14, 20, epoch=epoch_at(14)),
    ]
    assert told(events) == [
        (0, 9, "watched", ""),
        (9, 14, "worker_down", "silent"),
        (14, 19, "watched", ""),
    ]


def test_the_rounds_of_a_looped_file_are_not_crashes():
    events = [UP, *frames(1, 10), state(9 + LOOP_SECONDS, reason="connected", epoch=epoch_at(12))]
    assert told(events) == [(0, 12, "watched", "")]


# Events that are missing


def test_a_gap_in_the_numbers_is_lost_events():
    events = [UP, *frames(1, 10), *frames(15, 20, seq=15)]
    assert told(events) == [
        (0, 9, "watched", ""),
        (9, 15, "lost", "events_lost"),
        (15, 19, "watched", ""),
    ]
    assert [i.events_lost for i in found(events)] == [0, 5, 0]


def test_few_lost_events_do_not_vouch_for_hours():
    events = [UP, *frames(1, 10), *frames(7200, 7210, seq=12)]
    assert told(events)[1] == (9, 7200, "worker_down", "silent")


def test_a_camera_that_went_down_among_the_lost_events_is_down_after_them():
    events = [UP, *frames(1, 10), state(25, "down", "stall", seq=14), *frames(30, 31, seq=15)]
    assert told(events)[1:3] == [(9, 25, "lost", "events_lost"), (25, 30, "down", "stall")]


def test_the_lost_beginning_of_a_connection_is_told_from_the_silence_before_it():
    events = [UP, *frames(1, 10), *frames(70, 80, epoch=epoch_at(60), seq=8)]
    assert told(events) == [
        (0, 9, "watched", ""),
        (9, 60, "worker_down", "silent"),
        (60, 70, "lost", "events_lost"),
        (70, 79, "watched", ""),
    ]


def test_a_worker_that_reports_more_lost_events_than_the_gaps_show_has_lost_those_of_a_silence():
    """The spool overflowed: the end of one connection, and the beginning of the next."""
    events = [UP, *frames(1, 10), *frames(70, 80, epoch=epoch_at(60), seq=8)]
    report = state(80, "degraded", "events_lost", epoch=epoch_at(60), seq=18, dropped=60)
    assert told([*events, report]) == [
        (0, 9, "watched", ""),
        (9, 70, "lost", "events_lost"),
        (70, 80, "watched", ""),
    ]
    assert found([*events, report])[1].events_lost == 60


@pytest.mark.parametrize("lost", [8, 9])
def test_a_report_that_the_gaps_explain_leaves_the_silence_to_the_worker(lost):
    events = [UP, *frames(1, 10), *frames(70, 80, epoch=epoch_at(60), seq=8)]
    report = state(80, "degraded", "events_lost", epoch=epoch_at(60), seq=18, dropped=lost)
    assert told([*events, report])[1] == (9, 60, "worker_down", "silent")


def test_a_report_of_lost_events_leaves_the_camera_as_it_was():
    lost = ("degraded", "events_lost")
    events = [UP, *frames(1, 10), state(10, *lost, seq=10, dropped=50), *frames(11, 20, seq=11)]
    assert told(events) == [(0, 19, "watched", "")]
    events = [UP, state(1, "down", "stall", seq=1), state(5, *lost, seq=2, dropped=50)]
    assert told(events, end=10)[1:] == [(1, 10, "down", "stall")]


def test_events_of_a_connection_of_which_only_a_report_of_losses_arrived_are_lost():
    report = state(30, "degraded", "events_lost", epoch=epoch_at(20), seq=7, dropped=7)
    events = [UP, *frames(1, 10), state(10, "down", "stopped", seq=10), report]
    assert told(events, end=40)[1:] == [
        (10, 20, "worker_down", "stopped"),
        (20, 40, "lost", "events_lost"),
    ]


def test_an_event_that_comes_twice_changes_nothing():
    events = [UP, *frames(1, 10), *frames(1, 10), *frames(10, 20, seq=10)]
    assert found(events) == found([UP, *frames(1, 20)])


def test_events_of_an_earlier_connection_that_come_late_change_nothing():
    later = [state(20, reason="connected", epoch=epoch_at(20)), *frames(20, 30, epoch=epoch_at(20))]
    down = state(15, "down", "stall", seq=15)
    events = [UP, *frames(1, 15), down, *later]
    assert found([*events, frame(12, seq=12), down]) == found(events)


def test_a_stream_that_was_begun_anew_goes_on_though_its_epochs_are_lower():
    """Forgotten in Redis, by a worker whose clock is behind."""
    anew = [state(100, reason="connected", epoch=5), *frames(101, 110, epoch=5)]
    assert told([UP, *frames(1, 10), *anew]) == [
        (0, 9, "watched", ""),
        (9, 100, "worker_down", "silent"),
        (100, 109, "watched", ""),
    ]


# Clocks


def test_a_clock_that_is_set_forward_leaves_a_gap_that_nobody_vouches_for():
    events = [UP, *frames(1, 10), *frames(3600, 3610, seq=10)]
    assert told(events)[1] == (9, 3600, "worker_down", "silent")


def test_a_clock_that_is_set_back_does_not_make_time_run_backwards():
    again = [state(-7200, reason="connected", epoch=epoch_at(20)), *frames(-7199, -7190)]
    assert told([UP, *frames(1, 10), *again], start=0) == [(0, 9, "watched", "")]


def test_a_worker_whose_clock_runs_ahead_is_dated_by_the_server():
    events = [
        state(3600, reason="connected", published=0.1),
        *(frame(3600 + n, seq=n, published=n + 0.1) for n in range(1, 20)),
    ]
    assert told(events, start=0, end=20) == [
        (0, 0.1, "unknown", "no_events"),
        (0.1, 20, "watched", ""),
    ]


@pytest.mark.parametrize("is_published", [True, False])
@pytest.mark.parametrize("off", [-59, -20, -12, 12, 20, 59])
def test_a_camera_whose_clock_is_off_is_watched_without_a_gap(off, is_published):
    def of_camera(seconds, seq):
        published = seconds + 0.1 if is_published else None
        return frame(seconds + off, seq=seq, clock="rtcp", published=published)

    first = state(0, reason="connected", published=0.1 if is_published else None)
    heartbeats = [
        state(20 + n, seq=20 + n // 10, frames=19, published=20.1 + n if is_published else None)
        for n in (0, 10)
    ]
    more = [of_camera(31 + n, 22 + n) for n in range(10)]
    down = state(41, "down", "stall", seq=32, published=41.1 if is_published else None)
    events = [first, *(of_camera(n, n) for n in range(1, 20)), *heartbeats, *more, down]
    assert told(events, start=0, end=45) == [(0, 41, "watched", ""), (41, 45, "down", "stall")]


def test_the_present_of_a_camera_whose_clock_is_behind_is_vouched_for_by_the_server():
    events = [frame(n - 40, seq=n, clock="rtcp", published=n + 0.1) for n in range(1, 60)]
    assert told(events, start=0, end=60) == [(0, 60, "watched", "")]


def test_a_worker_that_waited_for_redis_has_watched_all_the_same():
    events = [
        state(0, reason="connected", published=0.1),
        *(frame(n, seq=n, published=400 + n / 100) for n in range(1, 60)),
    ]
    assert told(events, end=60) == [(0, 60, "watched", "")]


# Which events


def test_replays_and_events_without_a_time_are_left_out():
    replay = detections_event("walkway", mode="replay")
    assert intervals([replay, replay.model_copy(update={"time": at(5)})]) == {}
    assert intervals([camera_event().model_copy(update={"time": None})]) == {}
    assert intervals([]) == {}


def test_cameras_are_told_apart_and_all_cover_the_same_time():
    yard = [camera_event("yard", seq=0).model_copy(update={"time": at(50)})]
    both = intervals([UP, *yard, *frames(1, 10)])
    assert {name: (each[0].start, each[-1].end) for name, each in both.items()} == {
        "gate": (T0, at(50)),
        "yard": (T0, at(50)),
    }


def test_what_is_added_event_by_event_is_what_is_told_of_all():
    events = [
        UP,
        *frames(1, 40, dropped=1),
        state(43, "down", "stall", seq=40),
        state(60, reason="connected", epoch=epoch_at(60)),
        *frames(60, 90, epoch=epoch_at(60), skipped=3),
    ]
    coverage = Coverage()
    for count, event in enumerate(events, start=1):
        coverage.add(event)
        now = at(90)
        assert coverage.of("gate", T0, now) == intervals(events[:count], start=T0, end=now)["gate"]


def test_what_is_asked_for_need_not_begin_or_end_with_an_event():
    events = [UP, *frames(1, 101)]
    (part,) = found(events, start=24.5, end=74.5)
    assert (part.start, part.end, part.frames_analysed) == (at(24.5), at(74.5), 50)


def test_what_is_forgotten_is_unknown():
    coverage = Coverage()
    for event in [UP, *frames(1, 20), state(20, "down", "stall", seq=20), *frames(30, 40, seq=21)]:
        coverage.add(event)
    before = coverage.of("gate", T0, at(39))
    coverage.forget_before(at(25))
    first, *rest = coverage.of("gate", T0, at(39))
    assert (first.state, first.end) == ("unknown", at(25))
    assert rest == [replace(before[1], start=at(25)), before[2]]


def test_a_camera_without_events_is_unknown():
    (only,) = Coverage().of("gate", T0, at(60))
    assert (only.state, only.reason, only.start, only.end) == ("unknown", "no_events", T0, at(60))
