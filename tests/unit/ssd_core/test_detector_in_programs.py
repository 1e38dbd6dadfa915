"""A detector in other people's programs: what they may do with its tensors, and their settings."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssd_core import MODELS, Detector, build_model
from ssd_core.checkpoints.loading import save_checkpoint
from ssd_core.ops import decode_nms_reference
from ssd_core.preprocess import _normalisation

BLACK = np.zeros((100, 600, 3), np.uint8)


# Tensors that a caller may do anything with


MODES = {
    "as usual": contextlib.nullcontext,
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
}


def assert_ordinary(tensor):
    """It can be changed in place, also by what takes gradients, as only ordinary ones can."""
    gain = torch.ones(1, requires_grad=True)
    assert not tensor.is_inference()
    assert not tensor.requires_grad
    tensor += 1
    tensor.mul_(gain).sum().backward()
    assert gain.grad is not None


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("images", [1, 9])
def test_detections_are_ordinary_tensors(constant_detector, mode, images):
    with mode():
        detections = constant_detector.detect([BLACK] * images)
    for found in detections:
        assert len(found) == 6
        assert_ordinary(found.boxes)
        assert_ordinary(found.scores)
        assert_ordinary(found.boxes_normalised)
        found.boxes += 1
        found.labels.add_(1)
        assert found.labels.tolist() == [3] * 6


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("size", [(300, 300), (100, 600)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_input_is_an_ordinary_tensor(mode, size, precision):
    detector = Detector.load(device="cpu", precision=precision)
    with mode():
        x = detector.preprocess([np.zeros((*size, 3), np.uint8)])
    assert_ordinary(x)


@pytest.mark.parametrize("outside", MODES.values(), ids=MODES)
def test_the_models_outputs_are_those_of_the_mode_they_are_made_in(mobilenet, golden, outside):
    with outside():
        x = mobilenet.preprocess(list(golden["inputs"][:1]))
    for output in mobilenet.model(x):
        assert_ordinary(output)


def test_detections_of_one_image_change_without_those_of_another(constant_detector):
    first, second = constant_detector.detect([BLACK, BLACK])
    expected = second.boxes.clone()
    first.boxes.zero_()
    assert torch.equal(second.boxes, expected)


def test_inference_tensors_are_images(constant_detector):
    with torch.inference_mode():
        image = torch.zeros(16, 24, 3, dtype=torch.uint8)
    assert len(constant_detector.detect([image])[0]) == 6


# PyTorch's settings in the program around a detector


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


HOSTS = {
    "fp64 by default": lambda: default_dtype(torch.float64),
    "bf16 by default": lambda: default_dtype(torch.bfloat16),
    "another device by default": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
}


def everything_of(model, weights, precision, pictures):
    """All that a detector computes, by name."""
    detector = Detector.load(model, weights=weights, device="cpu", precision=precision)
    x = detector.preprocess(pictures)
    results = {"input": x}
    for index, found in enumerate(detector.detect(pictures)):
        results |= {f"boxes {index}": found.boxes, f"scores {index}": found.scores}
        results |= {f"labels {index}": found.labels, f"other {index}": found.boxes_normalised}
    nothing = detector.detect([])
    assert nothing == []
    reference = decode_nms_reference(
        torch.full((1, 2, 4), 0.5, dtype=torch.float32, device="cpu"),
        torch.full((1, 2, 3), 0.5, dtype=torch.float32, device="cpu"),
        torch.full((2, 4), 0.5, dtype=torch.float32, device="cpu"),
        detector.spec.decode_settings(0.1),
    )
    return results | reference._asdict()


@pytest.fixture
def fresh_cache():
    """What preprocessing keeps is made again, with the settings of the test."""
    _normalisation.cache_clear()
    yield
    _normalisation.cache_clear()


def assert_same_results_in(host, *arguments):
    expected = everything_of(*arguments)
    _normalisation.cache_clear()
    with host():
        actual = everything_of(*arguments)
    assert len(expected["scores 0"]) > 0
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_settings_of_the_program_around_it_change_no_number(
    constant_weights, tiny_spec, golden, host
):
    spec = replace(tiny_spec, score_threshold=0.1, mean=(1.3, 2.7, 100.1))
    pictures = [*golden["inputs"][:2], golden["inputs"][2][:200]]
    assert_same_results_in(host, spec, constant_weights, "fp32", pictures)


@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.parametrize("host", [*HOSTS][:4])
def test_settings_of_the_program_around_it_change_nothing_that_the_bundled_model_sees(golden, host):
    assert_same_results_in(HOSTS[host], None, None, "bf16", list(golden["inputs"][:2]))


def test_batch_norm_is_folded_in_fp32_whatever_the_default(trained_mobilenet, tmp_path, golden):
    path = tmp_path / "trained.safetensors"
    save_checkpoint(trained_mobilenet, path, MODELS["ssd_mobilenet_v2_oid"])
    host = HOSTS["fp64 by default"]
    assert_same_results_in(host, None, path, "fp32", list(golden["inputs"][:1]))


@pytest.mark.parametrize("name", MODELS)
def test_an_untrained_model_is_fp32_whatever_the_default(name):
    with default_dtype(torch.float64):
        assert {p.dtype for p in build_model(name).parameters()} == {torch.float32}
