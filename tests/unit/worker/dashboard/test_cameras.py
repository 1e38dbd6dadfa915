"""What the page shows of a camera, by its events."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.events import PERSON, camera_event, detections_event
from worker.dashboard import cameras
from worker.dashboard.cameras import MAX_LABELS, SILENT_SECONDS, CameraRecord, is_plausible
from worker.pipeline.event_maker import HEARTBEAT_SECONDS

START = datetime(2026, 11, 28, 3, 12, tzinfo=UTC)
NOW = START.timestamp()
EPOCH = round(NOW * 1000)


class Camera:
    """A record that is given events, by seconds since the start."""

    def __init__(self):
        self.record = CameraRecord("gate")
        self.seq = -1

    def detects(self, at, frame_index, *, late=0.1, **fields):
        event = detections_event(epoch=fields.pop("epoch", EPOCH), seq=self._next())
        fields = {"frame_index": frame_index, **fields}
        return self._add(event, at, late, fields)

    def says(self, at, state, reason, *, late=0.0, **fields):
        event = camera_event(
            epoch=fields.pop("epoch", EPOCH), seq=self._next(), state=state, reason=reason
        )
        return self._add(event, at, late, fields)

    def shown(self, at, **options):
        return self.record.describe(NOW + at, **options)

    def _next(self):
        self.seq += 1
        return self.seq

    def _add(self, event, at, late, fields):
        data = event.data.model_copy(update=fields)
        event = event.model_copy(update={"time": START + timedelta(seconds=at), "data": data})
        return self.record.add(event, NOW + at + late)


@pytest.fixture
def camera():
    return Camera()


def test_a_camera_is_silent_after_three_heartbeats():
    assert SILENT_SECONDS == 3 * HEARTBEAT_SECONDS


def test_a_camera_without_events_is_not_known_to_be_up(camera):
    shown = camera.shown(0)
    assert (shown["state"], shown["reason"], shown["worker"]) == ("unknown", "no_events", "silent")
    assert (shown["fps"], shown["latency_ms"], shown["since"]) == (None, None, None)


def test_a_camera_that_is_up_has_rates_latency_and_drops(camera):
    camera.says(0, "up", "connected")
    for frame in range(1, 51):
        camera.detects(frame / 10, 2 * frame, skipped=1, late=0.05 if frame % 2 else 0.07)
    shown = camera.shown(5.2)
    assert (shown["state"], shown["worker"]) == ("up", "alive")
    assert shown["since"] == "2026-11-28T03:12:00.000Z"
    assert (shown["fps"], shown["analysed_fps"]) == (20.0, 10.0)
    assert shown["latency_ms"] == 60
    assert shown["dropped_per_minute"] == 0
    assert shown["labels"] == ["Person"]


def test_a_silent_worker_is_not_shown_as_up_and_has_no_numbers(camera):
    camera.says(0, "up", "connected")
    for frame in range(20):
        camera.detects(1 + frame / 10, frame)
    assert camera.shown(32.9)["state"] == "up"
    shown = camera.shown(33.1)
    assert (shown["state"], shown["reason"], shown["worker"]) == (
        "unknown", "worker_silent", "silent",
    )  # fmt: skip
    assert {shown[key] for key in ("fps", "analysed_fps", "latency_ms", "dropped_per_minute")} == {
        None
    }
    assert shown["since"] == "2026-11-28T03:12:03.000Z"  # its last event was then
    camera.says(40, "up", "heartbeat", frames=700)
    assert camera.shown(40)["state"] == "up"


def test_no_camera_is_shown_as_up_while_redis_is_away(camera):
    camera.says(0, "up", "connected")
    shown = camera.shown(1, redis_up=False)
    assert (shown["state"], shown["reason"], shown["fps"]) == ("unknown", "redis_unavailable", None)
    assert camera.shown(1)["state"] == "up"


@pytest.mark.parametrize(("state", "reason"), [("down", "stopped"), ("ended", "removed")])
def test_a_worker_that_said_goodbye_is_not_called_silent(camera, state, reason):
    camera.says(0, "up", "connected")
    camera.says(1, state, reason)
    shown = camera.shown(3600)
    assert (shown["state"], shown["reason"], shown["worker"]) == (state, reason, "stopped")


def test_a_camera_that_is_down_has_no_numbers_and_keeps_since_when(camera):
    camera.says(0, "up", "connected")
    for frame in range(20):
        camera.detects(1 + frame / 10, frame)
    assert camera.says(4, "down", "stall")["reason"] == "stall"
    assert camera.says(14, "down", "stall") is None  # a heartbeat
    shown = camera.shown(14)
    assert (shown["state"], shown["since"]) == ("down", "2026-11-28T03:12:04.000Z")
    assert (shown["fps"], shown["latency_ms"]) == (None, None)
    change = camera.says(15, "up", "connected", epoch=EPOCH + 15000)
    assert (change["state"], change["time"]) == ("up", "2026-11-28T03:12:15.000Z")


def test_lost_events_are_a_change_and_leave_the_state(camera):
    camera.says(0, "up", "connected")
    assert camera.says(1, "degraded", "events_lost", dropped=7)["detail"] == "7 events were lost"
    assert camera.shown(1)["state"] == "up"
    assert camera.says(2, "up", "heartbeat") is None


def test_the_rate_of_a_quiet_camera_comes_from_its_heartbeats(camera):
    camera.says(0, "up", "connected")
    camera.says(10, "up", "heartbeat", frames=250)
    camera.says(20, "up", "heartbeat", frames=500)
    shown = camera.shown(21)
    assert (shown["fps"], shown["analysed_fps"], shown["latency_ms"]) == (25.0, None, None)


def test_rates_do_not_reach_over_a_new_connection(camera):
    camera.detects(0, 100_000)
    camera.detects(1, 100_025)
    camera.says(2, "up", "connected", epoch=EPOCH + 2000)
    camera.detects(3, 24, epoch=EPOCH + 2000)
    assert camera.shown(3)["fps"] == 25.0


def test_dropped_frames_are_counted_once_and_for_a_minute(camera):
    camera.says(0, "up", "connected")
    camera.detects(1, 10, dropped=3)
    camera.says(11, "up", "heartbeat", frames=90, dropped=8)  # five more
    camera.detects(12, 100, dropped=7)  # those five, and two
    assert camera.shown(12)["dropped_per_minute"] == 10
    camera.says(40, "up", "heartbeat", frames=400, dropped=10)
    assert camera.shown(61.2)["dropped_per_minute"] == 7
    camera.says(90, "up", "heartbeat", frames=900, dropped=10)
    assert camera.shown(90)["dropped_per_minute"] == 0


def test_the_dropped_frames_before_the_page_was_there_are_not_new(camera):
    camera.seq = 41
    camera.says(0, "up", "heartbeat", frames=900, dropped=500)
    camera.says(10, "up", "heartbeat", frames=1150, dropped=504)
    assert camera.shown(10)["dropped_per_minute"] == 4


def test_a_latency_below_zero_is_not_shown(camera):
    camera.says(0, "up", "connected")
    camera.detects(1, 1, late=-3)  # the camera's clock is ahead
    assert camera.shown(1)["latency_ms"] is None


def test_a_latency_is_of_the_last_ten_seconds(camera):
    camera.detects(0, 1, late=1.5)
    camera.detects(9, 9, late=0.5)
    assert camera.shown(9.6)["latency_ms"] == 1000
    assert camera.shown(12)["latency_ms"] == 500
    assert camera.shown(25)["latency_ms"] is None


def test_since_when_a_camera_is_up_is_its_epoch_if_that_was_not_seen(camera):
    camera.seq = 99
    camera.says(600, "up", "heartbeat", frames=9000)
    shown = camera.shown(601)
    assert (shown["since"], shown["since_at_least"]) == ("2026-11-28T03:12:00.000Z", False)


def test_since_when_a_camera_is_down_is_open_if_that_was_not_seen(camera):
    camera.seq = 99
    camera.says(600, "down", "refused")
    assert camera.shown(601)["since_at_least"]
    camera.record.began_before(NOW + 30)
    camera.record.close_since()
    shown = camera.shown(601)
    assert (shown["since"], shown["since_at_least"]) == ("2026-11-28T03:12:30.000Z", False)


def test_detections_alone_show_that_a_camera_is_up(camera):
    camera.seq = 5
    camera.detects(60, 1)
    shown = camera.shown(61)
    assert (shown["state"], shown["reason"]) == ("up", "detections")
    assert shown["since"] == "2026-11-28T03:12:00.000Z"


def test_detections_of_a_later_connection_show_that_a_camera_is_up_again(camera):
    camera.says(0, "down", "stall")
    camera.detects(1, 1)  # which were on their way
    assert camera.shown(1)["state"] == "down"
    camera.detects(2, 1, epoch=EPOCH + 1500)
    assert camera.shown(2)["state"] == "up"


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (("degraded", "late", str(EPOCH)), "degraded"),
        (("down", "stall", str(EPOCH - 1)), "up"),  # of an earlier connection
        (("sleeping", "", str(EPOCH)), "up"),
        (("down", "stall", "soon"), "up"),
        (("down", "stall", "9" * 5000), "up"),
    ],
)
def test_the_state_in_redis_fills_in_what_the_events_do_not_say(camera, found, state):
    camera.detects(1, 1)
    camera.record.recall(*found)
    assert camera.shown(1)["state"] == state


def test_the_state_in_redis_does_not_overrule_an_event(camera):
    camera.says(0, "down", "stall")
    camera.record.recall("up", "connected", str(EPOCH))
    assert camera.shown(1)["state"] == "down"


def test_what_another_tool_writes_stays_bounded(camera):
    boxes = tuple(PERSON.model_copy(update={"label": f"{n}" * 900}) for n in range(1000))
    camera.detects(0, 1, detections=boxes)
    assert len(camera.record.newest["detections"]) == cameras.MAX_DETECTIONS
    shown = camera.shown(0)
    assert len(shown["labels"]) == MAX_LABELS
    assert max(map(len, shown["labels"])) == cameras.MAX_TEXT
    change = camera.says(1, "down", "x" * 1000, detail="rtsp://me:secret@host " * 100)
    assert len(change["reason"]) == 200
    assert len(change["detail"]) == 500
    assert "secret" not in change["detail"]
    for second in range(200):
        camera.says(second, ("up", "down")[second % 2], "x", epoch=EPOCH + second)
    assert len(camera.record.changes) == cameras.MAX_CHANGES


@pytest.mark.parametrize(
    "fields", [{"frame_index": -1}, {"epoch": 2**60}, {"width": -5}, {"dropped": 10**400}]
)
def test_counts_that_cannot_be_are_no_event(fields):
    event = detections_event()
    assert is_plausible(event)
    assert not is_plausible(event.model_copy(update={"data": event.data.model_copy(update=fields)}))


@pytest.mark.parametrize("year", [1, 1970, 9999])
def test_a_time_that_cannot_be_is_not_shown(camera, year):
    event = detections_event(epoch=EPOCH)
    camera.record.add(event.model_copy(update={"time": datetime(year, 1, 1)}), NOW)
    assert camera.record.newest["time"] is None
    assert camera.shown(0)["latency_ms"] is None
