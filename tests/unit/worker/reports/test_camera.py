"""What the events of one camera add up to."""

import pytest

from tests.events import PERSON, camera_event
from tests.unit.worker.reports.events import (
    CAR,
    DIGEST,
    changed,
    end_of_recording,
    recorded,
    seen,
    state,
)
from worker.reports.camera import (
    FRAMES,
    MOST_HEAT_LABELS,
    MOST_LABELS,
    OTHER_LABELS,
    CameraSum,
    sums_of,
)


def summed(*events):
    (found,), left_out = sums_of(iter(events), 10)
    assert left_out == 0
    return found


def test_a_recording_is_counted_per_label_and_frame():
    camera = summed(
        recorded(0, PERSON, PERSON),
        recorded(1, PERSON, CAR),
        recorded(2, skipped=3, dropped=2),
        recorded(3, CAR),
        end_of_recording(4),
    )
    assert (camera.frames, camera.detections) == (4, 5)
    assert (camera.skipped, camera.dropped, camera.decoded) == (3, 2, 4)
    assert (camera.ended, camera.recording_digest) == (("end_of_file", ""), DIGEST)
    person, car = camera.by_count()
    assert (person.label, person.detections, person.frames, person.most) == ("Person", 3, 2, 2)
    assert (person.first, person.last, person.scores) == (0.0, 0.1, pytest.approx(2.7))
    assert (car.label, car.first, car.last) == ("Car", 0.1, 0.3)
    assert camera.heat.counts().max() == 3
    assert camera.heat_of["Car"].counts().max() == 2


def test_means_are_over_analysed_frames_and_unknown_where_there_are_none():
    events = [recorded(n, *[PERSON] * (n % 3)) for n in range(20)]
    later = [recorded(n, PERSON, pts_seconds=n / 10 + 8) for n in range(20, 40)]
    camera = summed(*events, *later)
    camera.fit_bins()
    assert camera.timeline.width == 1
    means = camera.means("Person")
    assert means[:2] == [pytest.approx(9 / 10), pytest.approx(10 / 10)]
    assert means[2:10] == [None] * 8
    assert means[10:] == [1.0, 1.0]
    assert camera.means("Car")[0] == 0


def test_a_time_that_starts_again_goes_on_after_the_one_before():
    events = [recorded(n, PERSON, pts_seconds=(n % 20) / 10) for n in range(60)]
    assert summed(*events).timeline.end == pytest.approx(5.8, abs=0.11)


def test_pictures_without_times_are_counted_by_their_numbers():
    camera = summed(*(recorded(n, PERSON, pts=None, pts_seconds=None) for n in range(30)))
    camera.fit_bins()
    assert camera.counts_frames
    assert (camera.timeline.start, camera.timeline.end) == (0, 30)
    assert camera.means("Person") == [1, 1, 1]


def test_events_that_come_again_count_once():
    events = [recorded(0, PERSON), recorded(1, PERSON), end_of_recording(2)]
    camera = summed(*events, *events)
    assert (camera.events, camera.detections, camera.repeated) == (3, 2, 3)


def test_events_that_are_missing_are_known_by_their_numbers():
    assert summed(recorded(4, PERSON), recorded(7, PERSON)).missing == 4 + 2
    assert summed(seen(4, 0, 0), seen(7, 1, 9)).missing == 2  # the stream was trimmed before
    assert summed(seen(0, 0, 0), seen(2, 9, 0, epoch=5)).missing == 2
    lost = state(1, 1, "degraded", "events_lost", dropped=9)
    assert summed(seen(0, 0, 0), lost, seen(2, 2, 5)).missing == 9


def frames_by_second(camera):
    while camera.timeline.width < 1:
        camera.timeline.coarsen()
    return [round(count, 2) for count in camera.timeline.values(FRAMES)]


def test_live_frames_without_an_event_are_spread_over_the_time_since_the_last_one():
    camera = summed(state(0, 0, "up", "connected"), seen(1, 4, 39, skipped=10, dropped=10))
    assert camera.frames == 20
    assert frames_by_second(camera) == pytest.approx([5, 5, 5, 5, 0], abs=0.01)


def test_frames_after_the_last_detection_are_analysed_ones_until_the_camera_is_down():
    camera = summed(
        state(0, 0, "up", "connected"),
        seen(1, 1, 9, skipped=5),
        state(2, 3, "up", "heartbeat", frames=30),
        state(3, 5, "down", "stall", frames=51, dropped=1),
        state(4, 15, "down", "stall", frames=51, dropped=1),
        state(5, 25, "down", "stall", frames=51, dropped=1),
    )
    assert camera.frames == 5 + (51 - 10 - 1) / 2  # half are skipped, as before
    assert frames_by_second(camera) == pytest.approx([5] * 5, abs=0.01)


def test_a_quiet_camera_has_analysed_what_its_heartbeats_say():
    camera = summed(
        state(0, 0, "up", "connected"),
        state(1, 10, "up", "heartbeat", frames=100),
        state(2, 20, "up", "heartbeat", frames=200),
    )
    assert (camera.frames, camera.detections, camera.by_count()) == (200, 0, [])


def test_a_gap_is_not_filled_with_frames():
    camera = summed(seen(0, 0, 0), seen(5, 100, 1000), seen(6, 101, 1010))
    assert camera.frames == 1 + 1 + 10


def test_a_frame_without_a_time_is_left_out_and_counted():
    camera = summed(seen(0, 0, 0), seen(1, None, 1).model_copy(update={"time": None}))
    assert (camera.without_time, camera.detections) == (1, 1)


def test_labels_without_number_take_no_memory_without_end():
    many = [PERSON.model_copy(update={"label": f"label {n}"}) for n in range(500)]
    camera = summed(recorded(0, *many), recorded(1, *many))
    assert len(camera.labels) == MOST_LABELS + 1
    assert camera.labels[OTHER_LABELS].detections == 2 * (500 - MOST_LABELS)
    assert len(camera.heat_of) == MOST_HEAT_LABELS
    assert camera.heat.counts().max() == 1000
    assert sum(each.detections for each in camera.labels.values()) == camera.detections == 1000


def test_a_camera_and_a_replay_of_one_id_are_two():
    events = [recorded(0, camera_id="gate"), seen(0, 0, 0), camera_event("yard")]
    found, left_out = sums_of(iter(events), 10)
    assert [(each.camera_id, each.is_replay) for each in found] == [
        ("gate", True), ("gate", False), ("yard", False),
    ]  # fmt: skip
    found, left_out = sums_of(iter([*events, changed(camera_event("yard", seq=1))]), 2)
    assert (len(found), left_out) == (2, 2)


def test_nothing_at_all():
    assert CameraSum("gate", False).means("Person") == []
