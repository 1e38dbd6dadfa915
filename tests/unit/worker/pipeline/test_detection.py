from dataclasses import replace

import numpy as np
import pytest
import torch

from ssd_core import MODELS, Detections, Detector
from ssd_core.errors import DeviceError
from tests.clips import pictures
from tests.conftest import WALKWAY
from tests.detectors import FakeDetector
from worker.errors import DetectorError, UsageError
from worker.events import BOX_DECIMALS, SCORE_DECIMALS
from worker.pipeline.detection import FrameDetector, check_labels, rounded
from worker.pipeline.filtering import DetectionFilter


@pytest.fixture(scope="module")
def detector():
    return Detector.load(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def images():
    return [p.reformat(300, 300, "rgb24").to_ndarray() for p in pictures(WALKWAY, 7)]


def batch(*numbers):
    return [np.array([number]) for number in numbers]


def widths(found):
    """The number of each image, read from its detection."""
    return [round(100 * detections[0].box[2]) for detections in found]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_batch_gives_the_detections_of_each_image_in_order(detector, images, count):
    found = FrameDetector(detector)(images[:count])()
    assert len(found) == count
    for detections, image in zip(found, images, strict=False):
        alone = detector.detect([image])[0]
        assert [d.label for d in detections] == alone.names
        boxes = np.array([d.box for d in detections])
        assert boxes == pytest.approx(alone.boxes_normalised.numpy(), abs=1e-3)


def test_the_lowest_threshold_is_asked_of_the_detector(detector):
    one = FrameDetector(detector)
    default = one.default_threshold
    assert one.lowest_threshold([]) == one.lowest_threshold([None]) == default
    assert one.lowest_threshold([None, 0.05]) == 0.05
    assert one.lowest_threshold([0.9, None]) == default
    assert one.lowest_threshold([0.9, 0.8]) == 0.8
    before = one.score_threshold
    try:
        one.score_threshold = 0.8
        assert detector.score_threshold == one.score_threshold == 0.8
    finally:
        one.score_threshold = before


def test_no_images_give_no_detections(detector):
    assert FrameDetector(detector)([])() == []


def test_equal_batches_give_equal_detections(detector, images):
    frame_detector = FrameDetector(detector)
    assert frame_detector(images[:4])() == frame_detector(images[:4])()


def test_numbers_are_rounded(detector, images):
    for detection in FrameDetector(detector)(images[:1])()[0]:
        assert detection.score == round(detection.score, 4)
        assert all(edge == round(edge, 5) for edge in detection.box)


@pytest.mark.parametrize("decimals", [SCORE_DECIMALS, BOX_DECIMALS])
def test_a_whole_batch_is_rounded_as_python_rounds_each_number(decimals):
    numbers = np.random.default_rng(0).random(100_000, np.float32)
    ties = np.arange(1 << 16, dtype=np.float32) / (1 << 16)
    near_ties = ((np.arange(20_000) + 0.5) / 10**decimals).astype(np.float32)
    for values in (numbers, ties, near_ties, np.float32([-0.0, -0.1, 1.5, 1e-30])):
        expected = [round(value, decimals) for value in values.tolist()]
        assert rounded(torch.from_numpy(values), decimals) == expected


def test_each_image_keeps_what_its_filter_asks_for(detector, images):
    filters = [
        DetectionFilter(labels=frozenset({"Car"})),
        DetectionFilter(score_threshold=0.5),
        DetectionFilter(),
    ]
    cars, sure, every = FrameDetector(detector)(images[:3], filters)()
    _, all_sure, all_every = FrameDetector(detector)(images[:3])()
    assert {d.label for d in cars} == {"Car"}
    assert sure == [d for d in all_sure if d.score > 0.5] != all_sure
    assert every == all_every


@pytest.mark.parametrize("threshold", [0.3, 0.41, 0.5])
def test_a_higher_threshold_of_a_camera_gives_what_a_detector_at_that_threshold_gives(
    detector, images, threshold
):
    low = Detector.load(device="cpu", precision="fp32", score_threshold=0.05)
    high = Detector.load(device="cpu", precision="fp32", score_threshold=threshold)
    wanted = DetectionFilter(score_threshold=threshold)
    found = FrameDetector(low)(images[:4], [wanted] * 4)()
    assert found == FrameDetector(high)(images[:4])()
    assert any(found)


def test_an_unknown_label_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="does not know Zebra: it knows Bicycle, Boot"):
        check_labels(["Zebra"], ["Bicycle", "Boot"], "a model")


def test_labels_that_the_model_has_are_accepted_and_only_the_others_named():
    check_labels(["Boot", "Bicycle"], ["Bicycle", "Boot"], "a model")
    with pytest.raises(UsageError, match=r"does not know Zebra, Yak: it knows Bicycle, Boot$"):
        check_labels(["Zebra", "Boot", "Yak"], ["Bicycle", "Boot"], "a model")


# What the detector does with a batch


def test_what_the_detector_is_best_fed_with_is_what_it_says(detector):
    frame_detector = FrameDetector(detector)
    assert frame_detector.takes_planes is False
    assert frame_detector.works_ahead is False
    assert frame_detector.default_batch == detector.default_batch
    assert frame_detector.image_size == (300, 300)


def test_a_batch_goes_to_the_detector_whole():
    fake = FakeDetector()
    assert widths(FrameDetector(fake)(batch(*range(20)))()) == list(range(20))
    assert [len(images) for images in fake.submitted] == [20]


def test_warming_up_prepares_the_detector_for_the_batch():
    fake = FakeDetector()
    FrameDetector(fake).warm_up(12)
    assert fake.warmed_up == [12]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_batches_started_at_once_give_their_own_detections_in_any_order_of_waiting(order):
    frame_detector = FrameDetector(FakeDetector())
    waits = [frame_detector(batch(*range(start, start + 5))) for start in (0, 20, 40)]
    found = {index: widths(waits[index]()) for index in order}
    assert found == {index: list(range(20 * index, 20 * index + 5)) for index in range(3)}


def test_real_batches_started_at_once_find_what_they_find_one_by_one(detector, images):
    frame_detector = FrameDetector(detector)
    cut = [images[:2], images[2:5], images[5:]]
    one_by_one = [frame_detector(part)() for part in cut]
    waits = [frame_detector(part) for part in cut]
    assert [wait() for wait in reversed(waits)] == one_by_one[::-1]


# On CUDA


def test_on_cuda_it_works_ahead_on_planes_of_its_own_gpu():
    frame_detector = FrameDetector(FakeDetector("cuda:1", takes_yuv=True))
    assert frame_detector.works_ahead is True
    assert frame_detector.takes_planes is True
    assert frame_detector.gpu == 1


def test_on_cuda_without_the_kernel_it_takes_images():
    frame_detector = FrameDetector(FakeDetector("cuda"))
    assert frame_detector.works_ahead is True
    assert frame_detector.takes_planes is False
    assert frame_detector.gpu == 0


def test_a_gpu_without_memory_for_an_image_ends_the_run_with_its_line():
    class Full(FakeDetector):
        def submit(self, images):
            raise DeviceError("device cuda: no memory left for one image")

    with pytest.raises(DetectorError, match="no memory left for one image"):
        FrameDetector(Full("cuda"))(batch(1))


@pytest.mark.parametrize("start", ["a batch", "warm-up"])
def test_a_gpu_that_fails_ends_the_run_with_a_line(start):
    class Failing(FakeDetector):
        def submit(self, images):
            raise torch.AcceleratorError("CUDA error: an illegal memory access\nCompile with")

        def warm_up(self, batch):
            self.submit([])

    frame_detector = FrameDetector(Failing("cuda"))
    with pytest.raises(DetectorError) as caught:
        frame_detector(batch(1)) if start == "a batch" else frame_detector.warm_up(4)
    assert str(caught.value) == (
        "the GPU failed (CUDA error: an illegal memory access): start the worker again"
    )


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"hardware": "NVIDIA H200, torch 2.11.0"}, "device"),
        ({"dtype": torch.bfloat16}, "precision"),
        ({"score_threshold": 0.7}, "score_threshold"),
        ({"implementation": "compiled"}, "implementation"),
        ({"takes_yuv": True}, "scaled_by"),
        ({"spec": replace(MODELS["ssd_mobilenet_v2_oid"], antialias=False)}, "scaled_by"),
    ],
)
def test_whatever_changes_detections_changes_what_a_replay_is_claimed_with(change, name):
    plain, other = FakeDetector(), FakeDetector()
    vars(other).update(change)
    before, after = FrameDetector(plain).affecting, FrameDetector(other).affecting
    assert [key for key in before if before[key] != after[key]] == [name]


def test_whoever_scales_the_pictures_is_named():
    for takes_yuv, name in ((True, "detector"), (False, "source")):
        detector = FrameDetector(FakeDetector("cuda", takes_yuv=takes_yuv))
        assert detector.affecting["scaled_by"] == name


def test_every_detection_has_the_label_score_and_box_that_belong_together():
    class Several(FakeDetector):
        """As many objects per image as its first value says, all different."""

        def _found(self, image):
            numbers = torch.arange(int(image.flat[0]))
            scores = 0.9 - numbers / 10
            boxes = torch.stack([numbers / 10, numbers / 10, numbers / 10 + 0.1, scores], dim=1)
            names = [f"label {number}" for number in numbers.tolist()]
            return Detections(boxes * 100, scores, numbers + 1, names, boxes)

    wanted = [DetectionFilter(), DetectionFilter(labels=frozenset({"label 1", "label 3"}))]
    found = FrameDetector(Several())(batch(3, 4), wanted)()
    assert [[(d.label, d.class_id, d.score, d.box[0]) for d in image] for image in found] == [
        [("label 0", 1, 0.9, 0.0), ("label 1", 2, 0.8, 0.1), ("label 2", 3, 0.7, 0.2)],
        [("label 1", 2, 0.8, 0.1), ("label 3", 4, 0.6, 0.3)],
    ]
