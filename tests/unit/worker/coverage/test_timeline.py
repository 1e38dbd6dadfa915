"""What single events, and what is missing between them, say of a camera."""

from datetime import UTC, datetime, timedelta

from tests.events import camera_event, detections_event
from worker.coverage import intervals

T0 = datetime(2026, 11, 28, 3, tzinfo=UTC)


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def state(seconds, name="up", reason="heartbeat", *, epoch=1, seq=0, frames=0, dropped=0):
    event = camera_event(epoch=epoch, seq=seq, state=name, reason=reason)
    data = event.data.model_copy(update={"frames": frames, "dropped": dropped})
    return event.model_copy(update={"time": at(seconds), "data": data})


def frame(seconds, *, epoch=1, seq, index=None, skipped=0, dropped=0, clock="arrival"):
    event = detections_event(epoch=epoch, seq=seq)
    update = {
        "frame_index": seq - 1 if index is None else index,
        "skipped": skipped,
        "dropped": dropped,
        "clock": clock,
    }
    data = event.data.model_copy(update=update)
    return event.model_copy(update={"time": at(seconds), "data": data})


def frames(start, end, *, epoch=1, seq=1, every=1, **options):
    times = range(start, end, every)
    return [frame(t, epoch=epoch, seq=seq + n, **options) for n, t in enumerate(times)]


def told(events, start=None, end=None):
    """[(seconds from, to, state, reason)]"""
    found = intervals(
        events,
        start=None if start is None else at(start),
        end=None if end is None else at(end),
    )
    assert set(found) <= {"gate"}
    return [
        ((i.start - T0).total_seconds(), (i.end - T0).total_seconds(), i.state, i.reason)
        for i in found.get("gate", [])
    ]


def test_a_camera_that_is_up_is_watched_until_its_last_event():
    events = [state(0, reason="connected"), *frames(1, 30)]
    assert told(events) == [(0, 29, "watched", "")]


def test_heartbeats_vouch_for_quiet_time():
    events = [state(10 * n, seq=n, frames=100 * n) for n in range(6)]
    assert told(events, end=55) == [(0, 55, "watched", "")]


def test_silence_longer_than_a_heartbeat_allows_is_the_workers():
    events = [state(0), *frames(1, 30), state(300, seq=30, frames=30)]
    assert told(events) == [(0, 29, "watched", ""), (29, 300, "worker_down", "silent")]


def test_what_comes_before_the_first_event_is_unknown_and_after_the_last_one_silence():
    events = [state(0), *frames(1, 10)]
    assert told(events, start=-60, end=70) == [
        (-60, 0, "unknown", "no_events"),
        (0, 9, "watched", ""),
        (9, 70, "worker_down", "silent"),
    ]
