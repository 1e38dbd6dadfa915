import numpy as np
import pytest

from ssd_core import Detector
from tests.clips import pictures
from tests.conftest import WALKWAY
from worker.detection import FrameDetector
from worker.errors import UsageError


@pytest.fixture(scope="module")
def detector():
    return Detector.load(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def images():
    return [p.reformat(300, 300, "rgb24").to_ndarray() for p in pictures(WALKWAY, 7)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_batch_gives_the_detections_of_each_image_in_order(detector, images, count):
    found = FrameDetector(detector)(images[:count])
    assert len(found) == count
    for detections, image in zip(found, images, strict=False):
        alone = detector.detect([image])[0]
        assert [d.label for d in detections] == alone.names
        boxes = np.array([d.box for d in detections])
        assert boxes == pytest.approx(alone.boxes_normalised.numpy(), abs=1e-3)


def test_no_images_give_no_detections(detector):
    assert FrameDetector(detector)([]) == []


def test_equal_batches_give_equal_detections(detector, images):
    frame_detector = FrameDetector(detector)
    assert frame_detector(images[:4]) == frame_detector(images[:4])


def test_numbers_are_rounded(detector, images):
    for detection in FrameDetector(detector)(images[:1])[0]:
        assert detection.score == round(detection.score, 4)
        assert all(edge == round(edge, 5) for edge in detection.box)


def test_only_the_labels_asked_for_are_kept(detector, images):
    found = FrameDetector(detector, ["Car"])(images[:1])[0]
    assert found
    assert {d.label for d in found} == {"Car"}


def test_an_unknown_label_is_refused_with_the_known_ones(detector):
    with pytest.raises(UsageError, match="does not know Zebra: it knows Bicycle, Boot"):
        FrameDetector(detector, ["Zebra"])
