from tests.events import detections_event
from worker.sinks.memory import MemorySink


def numbers(*pairs, camera="gate"):
    return [detections_event(camera, epoch=epoch, seq=seq) for epoch, seq in pairs]


def test_only_events_that_are_newer_than_the_cameras_last_are_kept():
    sink = MemorySink()
    sink.publish(numbers((1, 5), (1, 5), (1, 4), (1, 6), (2, 0), (1, 7), (2, 0), (2, 1)))
    assert [(e.data.epoch, e.data.seq) for e in sink.events] == [(1, 5), (1, 6), (2, 0), (2, 1)]


def test_the_first_event_of_each_camera_is_kept_whatever_its_numbers():
    sink = MemorySink()
    sink.publish([*numbers((3, 7)), *numbers((0, 0), camera="yard")])
    assert [e.data.camera_id for e in sink.events] == ["gate", "yard"]
