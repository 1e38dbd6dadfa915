import dataclasses
from fractions import Fraction

import pytest

from tests.events import MODEL, PERSON
from tests.frames import frame
from worker.frames import FrameBatch, StreamDown, StreamLate, StreamUp
from worker.pipeline import event_maker
from worker.pipeline.event_maker import LATE_SECONDS, RECOVERY_SECONDS, EventMaker

UP = StreamUp("gate", 1000)


def make(maker, *items, found=None):
    batch = FrameBatch(tuple(items))
    return maker.make(batch, [[PERSON]] * len(batch.frames) if found is None else found)


@pytest.fixture
def live():
    return EventMaker(MODEL)


def test_live_events_are_numbered_across_both_types_and_named_by_camera_epoch_and_seq(live):
    down = StreamDown("gate", 1000, "down", "closed")
    events = make(live, UP, frame(index=0, epoch=1000), frame(index=1, epoch=1000), down)
    assert [e.id for e in events] == [f"gate/1000/{seq}" for seq in range(4)]
    assert [e.type for e in events] == [
        "ssd.camera.v1",
        "ssd.detections.v1",
        "ssd.detections.v1",
        "ssd.camera.v1",
    ]
    assert {e.source for e in events} == {"ssd-worker/gate"}


def test_a_new_epoch_counts_from_zero(live):
    make(live, UP, frame(index=7, epoch=1000))
    up, first = make(live, StreamUp("gate", 2000), frame(index=0, epoch=2000))
    assert (up.data.epoch, up.data.seq) == (2000, 0)
    assert first.data.seq == 1


def test_cameras_are_numbered_apart(live):
    events = make(live, frame("a", epoch=1), frame("b", epoch=1), frame("a", 1, epoch=1))
    assert [(e.data.camera_id, e.data.seq) for e in events] == [("a", 0), ("b", 0), ("a", 1)]


def test_a_live_frame_without_detections_gives_no_event_but_its_counts_are_told_later(live):
    quiet = make(live, frame(index=0, dropped=2, skipped=1), frame(index=2), found=[[], []])
    assert quiet == []
    (event,) = make(live, frame(index=3, dropped=1, skipped=4))
    assert (event.data.dropped, event.data.skipped, event.data.seq) == (3, 5, 0)
    (event,) = make(live, frame(index=4))
    assert (event.data.dropped, event.data.skipped) == (0, 0)


def test_what_was_dropped_in_one_epoch_and_not_reported_is_reported_in_the_next(live):
    make(live, UP, frame(index=0, epoch=1000, dropped=2, skipped=3), found=[[]])
    _, event = make(live, StreamUp("gate", 2000), frame(index=0, epoch=2000))
    assert (event.data.dropped, event.data.skipped) == (2, 3)


def test_camera_events_count_all_frames_and_drops_of_their_epoch(live):
    make(live, UP, frame(index=0, epoch=1000, dropped=3), found=[[]])
    make(live, frame(index=9, epoch=1000, dropped=4))
    (stopped,) = live.stopped()
    assert (stopped.data.frames, stopped.data.dropped) == (10, 7)
    up, down = make(live, StreamUp("gate", 2000), StreamDown("gate", 2000, "down", "closed"))
    assert [(e.data.frames, e.data.dropped) for e in (up, down)] == [(0, 0), (0, 0)]


def test_a_down_counts_the_frames_that_were_decoded_after_the_last_one_analysed(live):
    make(live, UP, frame(index=9, epoch=1000))
    (down,) = make(live, StreamDown("gate", 1000, "down", "closed", frames=14))
    assert down.data.frames == 14
    make(live, StreamUp("gate", 2000), frame(index=9, epoch=2000))
    (down,) = make(live, StreamDown("gate", 2000, "down", "stall", "its reader hangs"))
    assert (down.data.frames, down.data.detail) == (10, "its reader hangs")


def test_the_time_of_a_cameras_last_frame_is_on_its_record(live, monkeypatch):
    monkeypatch.setattr(event_maker.time, "monotonic", lambda: 123.0)
    make(live, UP)
    assert live.records.of("gate").last_frame_at is None
    make(live, frame(epoch=1000), found=[[]])
    assert live.records.of("gate").last_frame_at == 123.0


def test_a_frame_has_its_time_in_the_stream_in_seconds(live):
    (event,) = make(live, frame(pts=13))
    assert (event.data.pts, event.data.time_base, event.data.pts_seconds) == (13, "1/10", 1.3)
    thirds = dataclasses.replace(frame(pts=2), time_base=Fraction(1, 3))
    assert make(live, thirds)[0].data.pts_seconds == 0.666667


def test_publish_all_gives_every_live_frame_an_event():
    (event,) = make(EventMaker(MODEL, publish_all=True), frame(), found=[[]])
    assert event.data.detections == ()


def test_a_replay_gives_every_frame_an_event_that_no_clock_touches():
    maker = EventMaker(MODEL, recording_digest="abc")
    up = StreamUp("gate", 0, first_seq=8)
    end = StreamDown("gate", 0, "ended", "end_of_file", frames=40)
    first, second, ended = make(
        maker, up, frame(index=30, epoch=0), frame(index=33, epoch=0), end, found=[[], [PERSON]]
    )
    assert [e.id for e in (first, second, ended)] == ["abc/30", "abc/33", "abc/ended"]
    assert [e.data.seq for e in (first, second, ended)] == [8, 9, 10]
    assert all(e.time is None and e.data.mode == "replay" for e in (first, second, ended))
    assert ended.data.frames == 40


def test_a_replay_under_way_sends_no_heartbeat_and_no_stop(monkeypatch):
    maker = EventMaker(MODEL, recording_digest="abc")
    make(maker, StreamUp("gate", 0), frame(epoch=0))
    monkeypatch.setattr(event_maker.time, "monotonic", lambda: 1e12)
    maker.records.of("gate").state = "up"
    assert maker.heartbeats() == []
    assert maker.stopped() == []


def test_a_quiet_camera_gets_a_heartbeat_with_its_state(live, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(event_maker.time, "monotonic", lambda: now[0])
    make(live, UP, StreamUp("yard", 5), StreamDown("yard", 5, "down", "stall"))
    now[0] += 9.75
    assert live.heartbeats() == []
    now[0] += 0.25
    up, down = live.heartbeats()
    assert (up.data.camera_id, up.data.state, up.data.reason) == ("gate", "up", "heartbeat")
    assert (down.data.camera_id, down.data.state, down.data.reason) == ("yard", "down", "stall")
    assert live.heartbeats() == []


def test_a_camera_that_ended_gets_no_heartbeat(live, monkeypatch):
    make(live, UP, StreamDown("gate", 1000, "ended", "end_of_file"))
    monkeypatch.setattr(event_maker.time, "monotonic", lambda: 1e12)
    assert live.heartbeats() == []


def test_lost_events_are_told_by_a_degraded_event(live):
    make(live, UP)
    (event,) = live.lost({"gate": 17})
    assert (event.data.state, event.data.reason, event.data.dropped) == (
        "degraded",
        "events_lost",
        17,
    )
    assert live.lost({}) == []
    (down,) = make(live, StreamDown("gate", 1000, "down", "closed"))
    assert down.data.dropped == 0  # frames, not events


def test_only_cameras_that_have_had_an_event_can_report_losses(live):
    live.records.of("gate")
    assert live.reported() == []
    make(live, UP)
    assert live.reported() == ["gate"]


def test_stopping_tells_only_of_cameras_that_are_up(live):
    make(live, UP, StreamUp("yard", 5), StreamDown("yard", 5, "down", "stall"))
    (event,) = live.stopped()
    assert (event.data.camera_id, event.data.state, event.data.reason) == (
        "gate",
        "down",
        "stopped",
    )


@pytest.fixture
def of_frame(live, monkeypatch):
    """What a frame gives; ``after`` so many seconds, with its age and whether it is damaged."""
    now = [100.0]
    monkeypatch.setattr(event_maker.time, "monotonic", lambda: now[0])
    make(live, UP)

    def events(*, after=0.0, age=0.1, damaged=False):
        now[0] += after
        captured = dataclasses.replace(
            frame(epoch=1000), captured_monotonic=now[0] - age, damaged=damaged
        )
        return [
            (e.data.state, e.data.reason) if e.type == "ssd.camera.v1" else "frame"
            for e in make(live, captured, found=[[PERSON]])
        ]

    return events


def test_a_camera_that_is_late_is_degraded_until_no_picture_was_late_for_a_while(of_frame):
    assert of_frame(age=LATE_SECONDS) == ["frame"]
    assert of_frame(age=LATE_SECONDS + 0.1) == [("degraded", "late"), "frame"]
    assert of_frame(age=LATE_SECONDS + 0.1) == ["frame"]
    assert of_frame(after=RECOVERY_SECONDS) == ["frame"]
    assert of_frame(after=0.1) == [("up", "caught_up"), "frame"]
    assert of_frame() == ["frame"]
    assert of_frame(age=LATE_SECONDS + 0.1) == [("degraded", "late"), "frame"]


def test_a_camera_whose_pictures_are_damaged_is_degraded_until_none_was_for_a_while(of_frame):
    assert of_frame(damaged=True) == [("degraded", "damaged"), "frame"]
    assert of_frame(damaged=True, after=5) == ["frame"]
    assert of_frame(after=RECOVERY_SECONDS) == ["frame"]
    assert of_frame(after=0.1) == [("up", "recovered"), "frame"]
    assert of_frame(after=0.1, damaged=True) == [("degraded", "damaged"), "frame"]


def test_to_be_late_is_worse_than_to_be_damaged(of_frame):
    assert of_frame(damaged=True) == [("degraded", "damaged"), "frame"]
    assert of_frame(age=LATE_SECONDS + 0.1) == [("degraded", "late"), "frame"]
    assert of_frame(damaged=True, after=RECOVERY_SECONDS) == ["frame"]
    assert of_frame(damaged=True, after=0.1) == [("degraded", "damaged"), "frame"]
    assert of_frame(after=RECOVERY_SECONDS + 0.1) == [("up", "recovered"), "frame"]


def test_a_camera_that_drops_what_is_late_is_degraded_at_once_and_its_losses_count(live):
    make(live, UP)
    (event,) = make(live, StreamLate("gate", 1000, 1.25, dropped=7, skipped=3))
    assert (event.data.state, event.data.reason) == ("degraded", "late")
    assert event.data.detail == "its pictures were 1.2 s old"
    assert event.data.dropped == 7
    assert make(live, StreamLate("gate", 1000, 1.25, dropped=2)) == []
    (event,) = make(live, frame(epoch=1000, dropped=1, skipped=1))
    assert (event.data.dropped, event.data.skipped) == (10, 4)


def test_what_was_left_out_before_a_disconnect_is_counted(live):
    make(live, UP)
    (down,) = make(live, StreamDown("gate", 1000, "down", "closed", dropped=4, skipped=2))
    assert down.data.dropped == 4
    _, event = make(live, StreamUp("gate", 2000), frame(epoch=2000))
    assert (event.data.dropped, event.data.skipped) == (4, 2)


def test_lateness_is_repeated_as_the_heartbeat_and_ends_with_the_worker(live, monkeypatch):
    make(live, UP, StreamLate("gate", 1000, 1.5))
    now = event_maker.time.monotonic()
    monkeypatch.setattr(event_maker.time, "monotonic", lambda: now + 11)
    (beat,) = live.heartbeats()
    assert (beat.data.state, beat.data.reason) == ("degraded", "late")
    (stopped,) = live.stopped()
    assert (stopped.data.state, stopped.data.reason) == ("down", "stopped")


def test_events_that_wait_to_be_published_make_every_camera_that_is_up_late(live):
    make(live, UP, StreamUp("yard", 5), StreamDown("yard", 5, "down", "stall"))
    assert live.behind(LATE_SECONDS) == []
    (event,) = live.behind(LATE_SECONDS + 0.5)
    assert (event.data.camera_id, event.data.state, event.data.reason) == (
        "gate",
        "degraded",
        "late",
    )
    assert event.data.detail == "its events have waited 2.0 s to be published"
    assert live.behind(LATE_SECONDS + 1) == []


def test_a_picture_is_as_old_as_it_is_plus_what_its_event_will_wait(live):
    make(live, UP)
    live.behind(LATE_SECONDS - 0.2)
    late = dataclasses.replace(
        frame(epoch=1000), captured_monotonic=event_maker.time.monotonic() - 0.3
    )
    (event,) = make(live, late, found=[[]])
    assert (event.data.state, event.data.reason) == ("degraded", "late")


def test_a_batch_may_hold_a_connection_and_its_lateness(live):
    up, late = make(live, UP, StreamLate("gate", 1000, 1.5))
    assert [(e.data.state, e.data.seq) for e in (up, late)] == [("up", 0), ("degraded", 1)]


def test_a_camera_that_was_late_when_it_was_disconnected_does_not_catch_up(live, monkeypatch):
    make(live, UP, StreamDown("gate", 1000, "down", "late"))
    later = event_maker.time.monotonic() + RECOVERY_SECONDS + 1
    monkeypatch.setattr(event_maker.time, "monotonic", lambda: later)
    waiting = dataclasses.replace(frame(epoch=1000), captured_monotonic=later)
    assert make(live, waiting, found=[[]]) == []


def test_a_camera_that_is_down_is_not_late(live):
    make(live, UP, StreamDown("gate", 1000, "down", "closed"))
    assert make(live, StreamLate("gate", 1000, 3.0)) == []


def test_a_new_connection_is_not_late(live):
    make(live, UP, StreamLate("gate", 1000, 1.5))
    (up,) = make(live, StreamUp("gate", 2000))
    assert (up.data.state, up.data.reason) == ("up", "connected")
    (event,) = make(live, frame(epoch=2000))
    assert event.type == "ssd.detections.v1"


def test_a_down_without_an_epoch_belongs_to_the_current_one(live):
    make(live, UP)
    (event,) = make(live, StreamDown("gate", None, "ended", "internal_error"))
    assert (event.data.epoch, event.data.seq) == (1000, 1)


def test_a_frame_without_pts_gives_an_event_without_pts(live):
    (event,) = make(live, dataclasses.replace(frame(), pts=None))
    assert "pts" not in event.to_json().replace("pts_seconds", "")
    assert event.data.time_base == "1/10"


def test_a_record_ends_with_the_last_item_of_a_camera_that_is_no_longer_watched(live):
    gate, yard = live.records.of("gate"), live.records.of("yard")
    gate.last_item, gate.wanted = StreamDown("gate", 1000, "ended", "removed"), False
    yard.last_item = StreamDown("yard", 5, "down", "reconfigured")
    make(live, UP, StreamDown("gate", 1000, "down", "closed"))
    assert "gate" in live.records  # its last item is still to come
    make(live, gate.last_item, yard.last_item)
    assert "gate" not in live.records
    assert live.records.of("yard") is yard
    assert yard.last_item is None
