"""A detector over a data set: every image once, in order, at a low threshold."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssd_core import Detector
from ssd_core.errors import DataError, EvaluationError
from ssd_core.evaluation import detect_all
from tests.unit.ssd_core.evaluation.scenes import data_set, labelled


def images_of(pictures, **options):
    return data_set(
        *(
            replace(
                labelled([], [], name=str(index)), read=picture.copy,
                width=picture.shape[1], height=picture.shape[0], **options,
            )
            for index, picture in enumerate(pictures)
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    """Of several sizes, none like another."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (20 + i, 60 - i, 3)).astype(np.uint8) for i in range(11)]


def test_each_image_has_its_own_detections_in_the_order_of_the_data_set(golden):
    mobilenet = Detector.load(device="cpu", precision="fp32")
    pictures = [golden[name] for name in sorted(golden) if golden[name].dtype == np.uint8]
    pictures = [each for group in pictures for each in (group if group.ndim == 4 else [group])]
    assert len(pictures) >= 5
    found = detect_all(mobilenet, images_of(pictures), batch=2)
    mobilenet.score_threshold = 0.01
    alone = [mobilenet.detect([picture])[0] for picture in pictures]
    assert [image.names for image in found] == [image.names for image in alone]
    assert len({tuple(image.names) for image in found}) > 1
    for one, other in zip(found, alone, strict=True):
        assert torch.allclose(one.boxes, other.boxes, atol=0.01)


def test_the_threshold_is_low_and_then_the_detectors_own_again(constant_detector, pictures):
    # It sees six dogs at a score of 0.88 in every image.
    constant_detector.score_threshold = 0.9
    found = detect_all(constant_detector, images_of(pictures))
    assert {len(image) for image in found} == {6}
    assert constant_detector.score_threshold == 0.9
    with pytest.raises(EvaluationError):
        detect_all(constant_detector, data_set(labelled([], []), broken()))
    assert constant_detector.score_threshold == 0.9


def broken():
    """An image of another size than its labels are for."""
    return replace(labelled([], [], name="2.jpg"), width=300)


def test_progress_counts_every_image_once(constant_detector, pictures):
    done = []
    detect_all(constant_detector, images_of(pictures), batch=4, on_progress=done.append)
    assert done == [4, 8, 11]


def test_images_are_read_only_a_few_batches_ahead(constant_detector):
    done, ahead = [0], []

    def read(index):
        ahead.append(index - done[-1])
        return np.zeros((400, 400, 3), np.uint8)

    images = [replace(labelled([], []), read=lambda i=i: read(i)) for i in range(60)]
    detect_all(constant_detector, data_set(*images), batch=4, on_progress=done.append)
    assert len(ahead) == 60
    assert max(ahead) <= 4 * 5  # two batches read ahead, two computed, one being put together


def test_an_image_of_another_size_than_its_labels_are_for_is_named(constant_detector):
    with pytest.raises(EvaluationError, match=r"2\.jpg is 400x400, its labels are for 300x400"):
        detect_all(constant_detector, data_set(labelled([], []), broken()))


def test_an_image_that_cannot_be_read_ends_it_without_waiting_for_the_others(constant_detector):
    def unreadable():
        raise DataError("2.jpg: cannot be decoded")

    images = [replace(labelled([], []), read=unreadable)] + [labelled([], [])] * 50
    with pytest.raises(DataError, match=r"2\.jpg"):
        detect_all(constant_detector, data_set(*images), batch=1)


@pytest.mark.parametrize(("together", "most"), [("clip.mp4#0", 1), ("", 2)])
def test_frames_of_a_video_are_read_one_by_one_in_order(
    constant_detector, monkeypatch, together, most
):
    monkeypatch.setattr("ssd_core.evaluation.detecting.usable_cores", lambda: 2)
    lock, reading, at_once, order = threading.Lock(), [0], [], []

    def read(index):
        with lock:
            reading[0] += 1
            at_once.append(reading[0])
            order.append(index)
        time.sleep(0.005)
        with lock:
            reading[0] -= 1
        return np.zeros((400, 400, 3), np.uint8)

    images = [
        replace(labelled([], []), read=lambda i=i: read(i), together=together) for i in range(12)
    ]
    detect_all(constant_detector, data_set(*images), batch=4)
    assert max(at_once) == most
    assert sorted(order) == list(range(12))
    if together:
        assert order == list(range(12))
