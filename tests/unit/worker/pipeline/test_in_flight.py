import pytest

from tests.events import PERSON
from tests.frames import frame
from worker.frames import FrameBatch, StreamUp
from worker.pipeline.filtering import EVERYTHING, DetectionFilter
from worker.pipeline.in_flight import InFlight


class Detector:
    def __init__(self, fails=False):
        self.started = []
        self.fails = fails

    def __call__(self, images, filters):
        if self.fails:
            raise RuntimeError("CUDA error")
        self.started.append((images, filters))
        return lambda: [[PERSON]] * len(images)


def batch(*indices):
    return FrameBatch(tuple(frame(index=index) for index in indices))


def test_batches_come_back_in_the_order_in_which_they_were_started():
    in_flight = InFlight(Detector(), batches_ahead=2)
    first, second = batch(0), batch(1, 2)
    in_flight.start(first, [EVERYTHING])
    in_flight.start(second, [EVERYTHING] * 2)
    assert len(in_flight) == 2
    assert in_flight.finish() == (first, [[PERSON]])
    assert in_flight.finish() == (second, [[PERSON]] * 2)
    assert not in_flight


@pytest.mark.parametrize("batches_ahead", [0, 1, 3])
def test_it_is_full_with_one_batch_more_than_may_be_ahead(batches_ahead):
    in_flight = InFlight(Detector(), batches_ahead)
    for number in range(batches_ahead):
        in_flight.start(batch(number), [EVERYTHING])
        assert not in_flight.is_full
    in_flight.start(batch(99), [EVERYTHING])
    assert in_flight.is_full


def test_the_detector_gets_the_images_with_their_filters():
    detector = Detector()
    frames, wanted = batch(4, 5), [EVERYTHING, DetectionFilter(score_threshold=0.5)]
    InFlight(detector, 0).start(frames, wanted)
    ((images, filters),) = detector.started
    assert [image[0, 0, 0] for image in images] == [4, 5]
    assert filters == wanted


def test_states_alone_are_not_taken_to_the_detector():
    detector = Detector(fails=True)
    in_flight = InFlight(detector, 0)
    up = FrameBatch((StreamUp("gate", 1),))
    in_flight.start(up, [])
    assert in_flight.finish() == (up, [])


def test_there_is_work_while_a_batch_is_being_started_and_until_it_is_finished():
    seen = []

    def detect(images, filters):
        seen.append(in_flight.has_work)
        return lambda: seen.append(in_flight.has_work) or [[]]

    in_flight = InFlight(detect, 0)
    assert not in_flight.has_work
    in_flight.start(batch(0), [EVERYTHING])
    in_flight.finish()
    assert seen == [True, True]
    assert not in_flight.has_work
