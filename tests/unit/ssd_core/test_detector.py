import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from ssd_core import MODELS, Detector
from ssd_core.checkpoints.loading import save_checkpoint
from ssd_core.detector import fold_batch_norm
from ssd_core.errors import DeviceError, UnknownModelError
from ssd_core.yuv import YuvImage

CPU = torch.device("cpu")
BLACK = np.zeros((100, 600, 3), np.uint8)


def detector_of(model, spec, score_threshold=0.5):
    return Detector(model, spec, CPU, torch.float32, score_threshold)


# What a detection is


def test_boxes_are_corners_in_pixels_of_the_image(constant_detector):
    (detections,) = constant_detector.detect([BLACK])
    # a quarter of the image around (column + 1/2) / 3 of 600 and (row + 1/2) / 2 of 100
    expected = [
        [25.0, 12.5, 175.0, 37.5],
        [225.0, 12.5, 375.0, 37.5],
        [425.0, 12.5, 575.0, 37.5],
        [25.0, 62.5, 175.0, 87.5],
        [225.0, 62.5, 375.0, 87.5],
        [425.0, 62.5, 575.0, 87.5],
    ]
    torch.testing.assert_close(detections.boxes, torch.tensor(expected), atol=1e-3, rtol=0)


def test_normalised_boxes_are_fractions_of_the_image(constant_detector):
    (detections,) = constant_detector.detect([BLACK])
    expected = torch.tensor([1 / 24, 1 / 8, 7 / 24, 3 / 8])
    torch.testing.assert_close(detections.boxes_normalised[0], expected, atol=1e-6, rtol=0)


def test_every_image_of_a_batch_has_boxes_in_its_own_pixels(constant_detector):
    images = [np.zeros((height, width, 3), np.uint8) for height, width in ((8, 24), (800, 48))]
    small, tall = constant_detector.detect(images)
    torch.testing.assert_close(small.boxes[0], torch.tensor([1.0, 1, 7, 3]))
    torch.testing.assert_close(tall.boxes[0], torch.tensor([2.0, 100, 14, 300]))


def test_scores_labels_and_names_go_with_the_boxes(constant_detector):
    (detections,) = constant_detector.detect([BLACK])
    torch.testing.assert_close(detections.scores, torch.full((6,), 0.8807971))
    assert detections.labels.tolist() == [2] * 6
    assert detections.names == ["Dog"] * 6
    assert len(detections) == 6


def test_fields_have_their_types(constant_detector):
    (detections,) = constant_detector.detect([BLACK])
    assert detections.boxes.dtype == detections.boxes_normalised.dtype == torch.float32
    assert detections.scores.dtype == torch.float32
    assert detections.labels.dtype == torch.int64
    assert not detections.boxes.requires_grad


def test_nothing_found_is_empty_in_every_field(tiny_model, tiny_spec):
    (detections,) = detector_of(tiny_model, tiny_spec, score_threshold=1.0).detect([BLACK])
    assert len(detections) == 0
    assert detections.boxes.shape == detections.boxes_normalised.shape == (0, 4)
    assert detections.scores.shape == detections.labels.shape == (0,)
    assert detections.names == []


def test_scores_fall(mobilenet, golden):
    for detections in mobilenet.detect(list(golden["inputs"])):
        assert len(detections) > 1
        assert (detections.scores.diff() <= 0).all()


# What can be detected in


def test_no_images_give_no_detections(mobilenet):
    assert mobilenet.detect([]) == []


def test_arrays_tensors_and_a_batch_in_one_array_give_the_same(mobilenet, golden):
    arrays = golden["inputs"][:2]
    expected = mobilenet.detect(list(arrays))
    for images in (arrays, [torch.from_numpy(array) for array in arrays]):
        for found, wanted in zip(mobilenet.detect(images), expected, strict=True):
            assert torch.equal(found.boxes, wanted.boxes)
            assert found.names == wanted.names


@pytest.mark.parametrize(("height", "width"), [(600, 900), (450, 300), (200, 320)])
def test_an_image_of_another_size_shows_the_same_things(mobilenet, golden, height, width):
    image = golden["inputs"][0]
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    x = nn.functional.interpolate(x, (height, width), mode="bilinear", antialias=True)
    resized = x[0].permute(1, 2, 0).round().byte()

    expected, found = mobilenet.detect([image, resized])
    sure = expected.scores > 0.5
    overlaps = box_iou(expected.boxes_normalised[sure], found.boxes_normalised)
    assert sure.sum() == 3
    assert (overlaps.max(dim=1).values > 0.75).all()
    scale = torch.tensor([width, height, width, height])
    torch.testing.assert_close(found.boxes, found.boxes_normalised * scale)


@pytest.mark.parametrize(
    "images",
    [
        [np.zeros((300, 300, 3), np.float32)],
        [np.zeros((300, 300), np.uint8)],
        [BLACK, np.zeros((300, 300, 4), np.uint8)],
        np.zeros((300, 300, 3), np.uint8),
    ],
    ids=["float", "grey", "alpha in the second", "an image instead of a list"],
)
def test_what_is_no_image_raises_value_error(mobilenet, images):
    with pytest.raises(ValueError, match="an image is"):
        mobilenet.detect(images)


@pytest.mark.parametrize("image", [None, "picture.jpg"])
def test_what_is_no_array_raises_value_error(mobilenet, image):
    with pytest.raises(ValueError, match="an image is"):
        mobilenet.detect([image])


def yuv_image():
    y, chroma = np.zeros((16, 24), np.uint8), np.full((8, 12), 128, np.uint8)
    return YuvImage(y, chroma, chroma, full_range=True, matrix="bt601")


@pytest.mark.parametrize("images", [[yuv_image()], [BLACK, yuv_image()]], ids=["alone", "second"])
def test_planes_are_refused_where_none_are_taken(constant_detector, images):
    assert constant_detector.takes_yuv is False
    with pytest.raises(ValueError, match="uint8 RGB here, not a YuvImage"):
        constant_detector.submit(images)()


# Several batches


def test_batches_that_were_submitted_may_be_waited_for_in_any_order_and_twice(mobilenet, golden):
    batches = [list(golden["inputs"][:2]), [BLACK], list(golden["inputs"][2:])]
    waits = [mobilenet.submit(images) for images in batches]
    for index in (2, 0, 1, 2):
        found, expected = waits[index](), mobilenet.detect(batches[index])
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.boxes, other.boxes)
            assert one.names == other.names


def test_warming_up_changes_nothing_on_the_cpu(constant_detector):
    constant_detector.warm_up(64)
    assert len(constant_detector.detect([BLACK])[0]) == 6


# The parts, one by one


def test_preprocess_gives_the_network_input(mobilenet, golden):
    x = mobilenet.preprocess([golden["inputs"][0], BLACK])
    assert x.shape == (2, 3, 300, 300)
    assert x.dtype == torch.float32


def test_the_model_gives_raw_outputs_per_default_box(mobilenet, golden):
    x = mobilenet.preprocess(list(golden["inputs"][:2]))
    with torch.inference_mode():
        bbox_regression, cls_logits = mobilenet.model(x)
    assert bbox_regression.shape == (2, 1917, 4)
    assert cls_logits.shape == (2, 1917, 24)


def test_the_models_outputs_take_no_gradients_outside_inference_mode_either(golden):
    detector = Detector.load(device="cpu", precision="fp32")
    x = detector.preprocess(list(golden["inputs"][:1]))
    assert not any(parameter.requires_grad for parameter in detector.model.parameters())
    assert not any(output.requires_grad for output in detector.model(x))


# Loading


def test_the_bundled_model_is_the_default(mobilenet):
    assert Detector.load(device="cpu", precision="fp32").spec == mobilenet.spec
    assert mobilenet.spec == MODELS["ssd_mobilenet_v2_oid"]


def test_an_unknown_model_is_refused_with_a_suggestion():
    with pytest.raises(UnknownModelError, match="did you mean ssd_mobilenet_v2_oid"):
        Detector.load("ssd_mobilenetv2", device="cpu")


def test_the_score_threshold_is_the_specs_unless_given(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(tiny_model, path, tiny_spec)
    options = {"weights": path, "device": "cpu", "precision": "fp32"}
    assert Detector.load(tiny_spec, **options).score_threshold == tiny_spec.score_threshold
    assert Detector.load(tiny_spec, **options, score_threshold=0).score_threshold == 0


def test_a_lower_threshold_finds_more(golden):
    options = {"device": "cpu", "precision": "fp32"}
    images = list(golden["inputs"][:1])
    (few,) = Detector.load(**options, score_threshold=0.5).detect(images)
    (many,) = Detector.load(**options, score_threshold=0.2).detect(images)
    assert 0 < len(few) < len(many)
    assert many.scores.min() > 0.2
    assert torch.equal(many.boxes[: len(few)], few.boxes)


def test_the_score_threshold_of_a_loaded_detector_can_be_changed(constant_detector):
    assert len(constant_detector.detect([BLACK])[0]) == 6  # of score 0.88
    constant_detector.score_threshold = 0.9
    assert constant_detector.score_threshold == 0.9
    assert len(constant_detector.detect([BLACK])[0]) == 0
    constant_detector.score_threshold = 0.1
    assert len(constant_detector.detect([BLACK])[0]) == 6


@pytest.mark.parametrize("score_threshold", [-0.1, float("nan")])
def test_a_score_threshold_that_makes_no_sense_is_refused(constant_detector, score_threshold):
    with pytest.raises(ValueError, match="score_threshold must be at least 0"):
        constant_detector.score_threshold = score_threshold
    assert len(constant_detector.detect([BLACK])[0]) == 6


def test_labels_of_a_checkpoint_name_its_detections(constant_detector, tiny_spec, tmp_path):
    path = tmp_path / "birds.safetensors"
    birds = tiny_spec.with_labels(("background", "Duck", "Goose"))
    save_checkpoint(constant_detector.model, path, birds)
    detector = Detector.load(tiny_spec, weights=path, device="cpu", precision="fp32")
    assert set(detector.detect([BLACK])[0].names) == {"Goose"}


def test_bf16_finds_what_fp32_finds(mobilenet, golden):
    half = Detector.load("ssd_mobilenet_v2_oid", device="cpu", precision="bf16")
    images = list(golden["inputs"])
    assert next(half.model.parameters()).dtype == torch.bfloat16
    compared = 0
    for full, found in zip(mobilenet.detect(images), half.detect(images), strict=True):
        for box, score, label in zip(full.boxes, full.scores, full.labels, strict=True):
            if score > 0.45:
                overlap = box_iou(box[None], found.boxes[found.labels == label])
                assert overlap.max() > 0.9
                compared += 1
    assert compared > 10


# Batch norm


@pytest.fixture
def one_thread():
    """For fp64 PyTorch multiplies group by group: on a busy machine the threads' meeting points
    make 20,000 of them take minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_folding_batch_norm_leaves_the_outputs_as_they_are(trained_mobilenet, one_thread):
    model = trained_mobilenet.double()
    x = torch.rand(2, 3, 96, 128, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        expected = model(x)
        folded = fold_batch_norm(model)(x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for after, before in zip(folded, expected, strict=True):
        assert before.std() > 0.1
        torch.testing.assert_close(after, before, atol=1e-9, rtol=1e-9)


def test_a_checkpoint_with_batch_norm_detects_as_it_was_trained(trained_mobilenet, tmp_path):
    path = tmp_path / "trained.safetensors"
    save_checkpoint(trained_mobilenet, path, MODELS["ssd_mobilenet_v2_oid"])
    detector = Detector.load(weights=path, device="cpu", precision="fp32")
    x = detector.preprocess([np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)])
    with torch.inference_mode():
        expected, actual = trained_mobilenet(x), detector.model(x)
    for after, before in zip(actual, expected, strict=True):
        assert before.std() > 0.1
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_a_device_that_fails_while_a_model_is_loaded_is_refused_in_one_line(monkeypatch):
    def busy(model):
        raise torch.AcceleratorError("CUDA error: all CUDA-capable devices are busy\nCompile with")

    monkeypatch.setattr("ssd_core.detector.fold_batch_norm", busy)
    with pytest.raises(DeviceError) as caught:
        Detector.load("ssd_mobilenet_v2_oid", device="cpu")
    assert str(caught.value) == (
        "device cpu cannot be used (CUDA error: all CUDA-capable devices are busy)"
    )
