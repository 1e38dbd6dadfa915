"""What the live table shows of a camera, and when it shows nothing."""

from datetime import UTC, datetime

import pytest

from tests.events import PERSON, camera_event, detections_event
from worker.commands import camera_rows
from worker.commands.camera_rows import MOST_LABELS, OTHER_LABELS, CameraRow

NOW = 1_795_000_000.0


class Clock:
    """Both clocks, standing still until told otherwise."""

    def __init__(self):
        self.seconds = 0.0

    def time(self):
        return NOW + self.seconds

    def monotonic(self):
        return 1000.0 + self.seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(camera_rows, "time", clock)
    return clock


def placed(event, ago=0.0, latency=0.0):
    """The event as if published ``ago`` seconds before now, ``latency`` after its capture."""
    published_at = NOW - ago
    captured_at = datetime.fromtimestamp(published_at - latency, UTC)
    event = event.model_copy(update={"time": captured_at})
    event._place = ("stream", f"{round(published_at * 1000)}-0")
    return event


def frame(seq, ago=0.0, latency=0.0, *, camera_id="gate", mode="live", epoch=1, **data):
    event = detections_event(camera_id, epoch=epoch, seq=seq, mode=mode)
    return placed(
        event.model_copy(update={"data": event.data.model_copy(update=data)}), ago, latency
    )


def state(seq, state, reason, ago=0.0, *, epoch=1, **data):
    event = camera_event(epoch=epoch, seq=seq, state=state, reason=reason)
    return placed(event.model_copy(update={"data": event.data.model_copy(update=data)}), ago)


def noted(*events):
    row = CameraRow("gate")
    for event in events:
        row.note(event)
    return row


def test_frames_that_were_skipped_or_dropped_are_not_analysed_ones():
    row = noted(*(
        frame(n, 5 - n / 2, frame_index=20 * n, skipped=14 * (n > 0), dropped=(n > 0))
        for n in range(11)
    ))  # fmt: skip
    assert row.analysed_fps == pytest.approx(10, rel=0.01)  # 5 of 20 in half a second
    assert row.dropped == 10


def test_the_rate_of_a_quiet_camera_is_known_from_its_heartbeats_as_an_upper_bound():
    row = noted(
        state(0, "up", "connected", 20),
        state(1, "up", "heartbeat", 10, frames=250),
        state(2, "up", "heartbeat", 0, frames=500),
    )
    assert row.analysed_fps is None
    assert row.decoded_fps == pytest.approx(25, rel=0.01)


def test_after_a_gap_a_rate_begins_anew():
    row = noted(frame(0, 2, frame_index=0), frame(1, 1, frame_index=5))
    assert row.analysed_fps == pytest.approx(5, rel=0.01)
    row.note(frame(7, 0, frame_index=900))
    assert row.analysed_fps is None


def test_a_rate_is_that_of_the_last_ten_seconds():
    slow = [frame(n, 60 - n, frame_index=n) for n in range(40)]
    fast = [frame(40 + n, 19 - n, frame_index=40 + 20 * n) for n in range(20)]
    assert noted(*slow, *fast).analysed_fps == pytest.approx(20, rel=0.01)


def test_the_latency_is_the_median_from_capture_to_publication():
    row = noted(*(frame(n, 1 - n / 10, wait) for n, wait in enumerate((9.0, 0.1, 0.2))))
    assert row.latency_seconds == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("reason", ["timeout", "stopped"])
def test_a_camera_that_is_down_has_no_numbers(reason):
    row = noted(frame(0, 0.2), frame(1, 0.1))
    assert (row.state_in_words, row.is_watched) == ("up", True)
    assert None not in (row.analysed_fps, row.decoded_fps, row.latency_seconds)
    row.note(state(2, "down", reason))
    assert (row.state_in_words, row.is_watched) == (f"down {reason}", False)
    assert (row.analysed_fps, row.decoded_fps, row.latency_seconds) == (None, None, None)
    row.note(state(0, "up", "connected", epoch=2))
    assert (row.state_in_words, row.is_watched) == ("up", True)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([frame(0, 31.5)], "no events for 31 s"),
        ([state(0, "up", "connected", 7300)], "no events for 2 h"),
        ([state(0, "down", "timeout", 200)], "no events for 3 min"),
        ([state(0, "down", "stopped", 200)], "down stopped"),
        ([state(0, "ended", "removed", 200)], "ended removed"),
        ([state(0, "up", "connected", 29)], "up"),
        ([], "no events yet"),
    ],
)
def test_a_camera_without_events_for_three_heartbeats_is_not_shown_as_up(events, words):
    row = noted(*events)
    assert row.state_in_words == words
    assert row.is_watched == (words == "up")


def test_a_server_whose_clock_is_ahead_does_not_keep_a_camera_up(clock):
    row = noted(state(0, "up", "connected", -3600))
    clock.seconds = 30
    assert row.is_watched
    clock.seconds = 31
    assert row.state_in_words == "no events for 31 s"


def test_old_rates_are_not_shown():
    row = noted(*(frame(n, 14 - n / 10) for n in range(10)))
    assert row.is_watched
    assert (row.analysed_fps, row.decoded_fps, row.latency_seconds) == (None, None, None)


def test_a_degraded_camera_stays_degraded_while_it_detects():
    row = noted(state(0, "degraded", "late"), frame(1))
    assert row.state_in_words == "degraded late"


def test_lost_events_leave_the_state_and_are_counted():
    row = noted(state(0, "up", "connected"), state(1, "degraded", "events_lost", dropped=7))
    assert (row.state_in_words, row.dropped) == ("up", 7)


def test_an_event_that_comes_again_changes_nothing():
    row = noted(frame(0, dropped=1), frame(1, dropped=1))
    row.note(frame(0, dropped=1))
    row.note(state(9, "down", "timeout", epoch=0))
    assert (row.dropped, row.state) == (2, "up")


def test_a_replay_shows_its_speed_and_position():
    row = noted(*(frame(n, 2 - n / 50, mode="replay", epoch=0, pts_seconds=n) for n in range(90)))
    assert row.state_in_words == "running"
    assert row.analysed_fps == pytest.approx(50, rel=0.01)
    assert (row.position_seconds, row.latency_seconds) == (89, None)
    row.note(placed(camera_event(epoch=0, seq=90, mode="replay", state="ended", reason="damaged")))
    assert (row.state_in_words, row.analysed_fps) == ("ended damaged", None)


def test_a_replay_that_is_started_again_is_followed():
    ended = camera_event(epoch=0, seq=9, mode="replay", state="ended", reason="end_of_file")
    row = noted(frame(8, 20, mode="replay", epoch=0), placed(ended, 19))
    assert row.state_in_words == "ended end_of_file"
    for n in range(3):
        row.note(frame(n, 2 - n, mode="replay", epoch=0, pts_seconds=n / 10))
    assert (row.state_in_words, row.position_seconds) == ("running", 0.2)
    assert row.analysed_fps == pytest.approx(1)


def test_labels_without_number_take_no_memory_without_end():
    row = CameraRow("gate")
    row.count(f"label {n}" for n in range(10 * MOST_LABELS))
    row.count([PERSON.label])
    assert len(row.counts) == MOST_LABELS + 1
    assert row.counts[OTHER_LABELS] == 9 * MOST_LABELS + 1
