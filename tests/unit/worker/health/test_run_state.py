import json

from tests.clocks import Clock
from tests.unit.worker.health.states import Worker, picture
from worker.frames import StreamDown, StreamLate, StreamUp

UP = StreamUp("gate", 1)
DOWN = StreamDown("gate", 1, "down", "stall")


def test_a_worker_that_loads_its_model_is_alive_and_not_ready():
    worker = Worker()
    state = worker.state
    assert state.alive() == (True, "alive: starting")
    assert state.ready() == (False, "not ready: the model is loading")
    state.detector = worker.detector
    assert state.ready() == (False, "not ready: starting")
    assert state.table()["cameras"] == []


def test_a_worker_is_ready_once_a_camera_is_up():
    worker = Worker().begin()
    assert worker.state.ready() == (False, "not ready: there is no camera yet")
    worker.takes(StreamDown("gate", 1, "down", "refused"))
    assert worker.state.ready() == (False, "not ready: no camera is up (gate: refused)")
    worker.takes(UP)
    assert worker.state.ready() == (True, "ready")
    worker.takes(DOWN)
    assert not worker.state.ready().ok


def test_many_cameras_that_are_down_fit_into_a_line():
    worker = Worker().begin()
    for index in range(7):
        worker.takes(StreamDown(f"cam{index}", 1, "down", "timeout"))
    why = worker.state.ready().why
    assert why.endswith("cam3: timeout, cam4: timeout and 2 more)")


def test_without_redis_a_live_worker_is_ready_as_long_as_events_are_kept():
    worker = Worker().begin().takes(UP)
    worker.measurements.sink_failed("Redis")
    assert worker.state.ready() == (True, "ready: Redis is unavailable, events are spooled to disk")
    worker.keeps_events = False
    assert worker.state.ready() == (
        False,
        "not ready: Redis is unavailable, and events are not kept on disk",
    )


def test_before_redis_has_answered_nobody_knows():
    worker = Worker().begin().takes(UP)
    worker.measurements.sinks_up.clear()
    assert worker.state.ready() == (False, "not ready: Redis has not answered yet")


def test_a_replay_is_ready_if_everything_takes_its_events():
    worker = Worker(is_replay=True).begin()
    assert worker.state.ready() == (True, "ready")
    worker.measurements.sink_failed("Redis")
    assert not worker.state.ready().ok  # it waits, and spools nothing
    worker.measurements.sink_answered("Redis")
    worker.measurements.sink_failed("the output")
    assert worker.state.ready() == (False, "not ready: the output file cannot be written")


def test_a_replay_without_redis_does_not_wait_for_it():
    assert Worker(is_replay=True, uses_redis=False).begin().state.ready().ok


def test_a_part_that_has_work_and_makes_no_progress_is_stuck():
    clock = Clock()
    worker = Worker(clock=clock.monotonic).begin()
    clock.now += 100
    assert worker.state.alive() == (True, "alive")  # there was nothing to do
    worker.part.works = True
    clock.now += 30
    assert worker.state.alive().ok
    clock.now += 1
    why = "stalled: no progress for 31 s with work waiting"
    assert worker.state.alive() == (False, why)
    worker.part.steps += 1
    assert worker.state.alive().ok


def test_progress_is_noted_whether_or_not_anybody_asks():
    """Else the first probe of a worker that is stuck would call it alive."""
    clock = Clock()
    worker = Worker(clock=clock.monotonic).begin()
    worker.part.works = True
    worker.state.look()
    clock.now += 31
    worker.state.look()
    assert not worker.state.alive().ok


def test_the_next_recording_begins_with_progress_of_its_own():
    clock = Clock()
    worker = Worker(is_replay=True, clock=clock.monotonic).begin()
    worker.part.works = True
    worker.state.look()
    clock.now += 31
    assert not worker.state.alive().ok
    worker.begin()
    assert worker.state.alive().ok


def test_the_table_of_cameras_says_how_each_is_doing():
    worker = Worker().begin()
    worker.takes(UP, picture(0.2), StreamDown("yard", 2, "down", "unauthorized", "401"))
    table = json.loads(json.dumps(worker.state.table()))
    gate, yard = table["cameras"]
    assert gate["id"] == "gate"
    assert (gate["state"], gate["reason"]) == ("up", "connected")
    assert 0.2 <= gate["frame_age_seconds"] < 5
    assert 0.2 <= gate["lag_seconds"] < 5
    assert gate["frames"] == {"received": 1, "analysed": 1, "dropped": 0, "skipped": 0}
    assert gate["since"].endswith("Z")
    assert (yard["state"], yard["reason"], yard["detail"]) == ("down", "unauthorized", "401")
    unknown = ("fps", "latency_seconds", "frame_age_seconds", "lag_seconds")
    assert [yard[name] for name in unknown] == [None] * 4


def test_since_is_when_the_state_began():
    worker = Worker().begin().takes(UP, picture())
    record = worker.events.records.of("gate")
    began = record.since
    worker.takes(picture(index=1), picture(index=2))
    assert record.since == began
    worker.takes(DOWN)
    assert record.since > began


def test_a_camera_that_comes_back_does_not_show_the_picture_from_before():
    worker = Worker().begin().takes(UP, picture(), DOWN, StreamUp("gate", 2))
    (gate,) = worker.state.cameras()
    assert gate.is_up
    assert gate.frame_age_seconds is None
    assert gate.lag_seconds is None


def test_a_camera_whose_pictures_are_all_too_late_says_how_late():
    worker = Worker().begin().takes(UP, picture(), StreamLate("gate", 1, 1.8, dropped=4))
    (gate,) = worker.state.cameras()
    assert (gate.state, gate.reason) == ("degraded", "late")
    assert gate.is_up
    assert gate.lag_seconds == 1.8


def test_a_camera_that_another_worker_watches_says_so():
    worker = Worker().begin()
    worker.events.records.of("gate")
    worker.publisher.held["gate"] = "camera gate: another worker (ab12) is watching it"
    (row,) = worker.state.table()["cameras"]
    assert (row["state"], row["reason"]) == ("down", "held")
    assert "ab12" in row["detail"]


def test_no_password_reaches_the_table():
    worker = Worker().begin()
    detail = "rtsp://admin:s3cret@10.0.0.1/ refused"
    worker.takes(StreamDown("gate", 1, "down", "error", detail))
    assert "s3cret" not in json.dumps(worker.state.table())


def test_a_camera_that_is_removed_is_gone():
    worker = Worker().begin().takes(UP, picture())
    record = worker.events.records.of("gate")
    record.wanted, record.last_item = False, StreamDown("gate", 1, "ended", "removed")
    assert list(worker.state.cameras()) == []
    worker.takes(record.last_item)
    assert list(worker.state.cameras()) == []
    assert "gate" not in worker.measurements.cameras
