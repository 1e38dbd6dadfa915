from tests.events import PERSON
from tests.frames import frame
from worker.frames import FrameBatch, StreamUp
from worker.pipeline.summary import Summary


def test_frames_drops_and_detections_add_up_over_batches():
    summary = Summary()
    car = PERSON.model_copy(update={"label": "Car"})
    up = StreamUp("gate", 1)
    summary.add(FrameBatch((up, frame(dropped=2), frame(dropped=1))), [[PERSON, car], [PERSON]])
    summary.add(FrameBatch((frame(),)), [[]])
    assert (summary.frames, summary.dropped) == (3, 3)
    assert summary.detections == {"Person": 2, "Car": 1}
