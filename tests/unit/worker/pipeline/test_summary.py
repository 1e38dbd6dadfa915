from tests.events import PERSON
from tests.frames import frame
from worker.frames import FrameBatch, StreamDown, StreamLate, StreamUp
from worker.pipeline.summary import Summary


def test_frames_drops_and_detections_add_up_over_batches():
    summary = Summary()
    car = PERSON.model_copy(update={"label": "Car"})
    up = StreamUp("gate", 1)
    summary.add(FrameBatch((up, frame(dropped=2), frame(dropped=1))), [[PERSON, car], [PERSON]])
    summary.add(FrameBatch((frame(),)), [[]])
    assert (summary.frames, summary.dropped) == (3, 3)
    assert summary.detections == {"Person": 2, "Car": 1}


def test_drops_count_that_no_frame_reports():
    summary = Summary()
    late = StreamLate("gate", 1, lag_seconds=1.5, dropped=20)
    down = StreamDown("gate", 1, "down", "late", dropped=5)
    summary.add(FrameBatch((late, frame(dropped=2), down)), [[]])
    assert (summary.frames, summary.dropped) == (1, 27)
