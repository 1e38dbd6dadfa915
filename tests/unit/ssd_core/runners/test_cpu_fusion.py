import copy
import logging

import pytest
import torch
from torch import nn

from ssd_core import MODELS, Detector, build_model
from ssd_core.detector import fold_batch_norm
from ssd_core.models.mobilenet import SamePaddingConv2d
from ssd_core.runners.cpu_fusion import MOST_LAYOUTS, FusedConv2d, fuse_for_cpu, why_not_fused

MOBILENET = "ssd_mobilenet_v2_oid"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
"""Of the largest output: what the order of additions and roundings may change."""

needs_onednn = pytest.mark.skipif(
    bool(why_not_fused(torch.float32)), reason="this PyTorch cannot fuse"
)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def random_model(name, dtype=torch.float32):
    """Weights as at the start of training, and biases that are not zero."""
    torch.manual_seed(0)
    model = build_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return model.to(dtype).to(memory_format=torch.channels_last)


def random_input(batch, height, width, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
    return x.to(dtype).to(memory_format=torch.channels_last)


def fused(model, dtype=torch.float32):
    network = copy.deepcopy(model)
    assert fuse_for_cpu(network, dtype)
    return network


@torch.inference_mode()
def assert_same_outputs(fused_model, model, x):
    for actual, expected in zip(fused_model(x), model(x), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        assert expected.std() > 0.01
        difference = (actual.float() - expected.float()).abs().max()
        assert difference <= TOLERANCE[x.dtype] * expected.abs().max()


def fused_convolutions(model):
    return [module for module in model.modules() if isinstance(module, FusedConv2d)]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request):
    return request.param


SLOW = ("ssd512_vgg16",)  # the layers of ssd300_vgg16 on more cells


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.long] if n in SLOW else []) for n in MODELS],
)
def networks(request, dtype):
    """A network as it is, the same fused, and an input for both."""
    model = random_model(request.param, dtype)
    x = random_input(1, *MODELS[request.param].image_size, dtype)
    return model, fused(model, dtype), x


@needs_onednn
def test_a_fused_network_computes_what_it_computed_before(networks):
    model, fused_model, x = networks
    assert_same_outputs(fused_model, model, x)


@needs_onednn
def test_every_convolution_is_fused_and_no_activation_is_left(networks):
    model, fused_model, _ = networks
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert len(fused_convolutions(fused_model)) == convolutions
    left = (nn.Conv2d, nn.ReLU, nn.ReLU6)
    assert not any(isinstance(module, left) for module in fused_model.modules())


@needs_onednn
def test_the_parameters_keep_their_names_and_values(networks):
    model, fused_model, _ = networks
    before, after = model.state_dict(), fused_model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.fixture(scope="module")
def mobilenets():
    """A MobileNet as it is, and fused."""
    model = random_model(MOBILENET)
    return model, fused(model)


@needs_onednn
@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [(2, 300, 300), (1, 299, 301), (3, 160, 64), (7, 64, 97), (2, 33, 1), (1, 1, 1)],
)
def test_inputs_of_other_sizes_give_the_same_outputs(mobilenets, batch, height, width):
    model, fused_model = mobilenets
    assert_same_outputs(fused_model, model, random_input(batch, height, width))


@needs_onednn
def test_an_input_that_is_not_channels_last_gives_the_same_outputs(mobilenets):
    model, fused_model = mobilenets
    assert_same_outputs(fused_model, model, random_input(2, 64, 96).contiguous())


@needs_onednn
def test_any_number_of_threads_gives_the_same_outputs(dtype):
    model = random_model(MOBILENET, dtype)
    x = random_input(1, 64, 96, dtype)
    fused_model = fused(model, dtype)
    for count in (1, 3, 2, 1):
        torch.set_num_threads(count)
        assert_same_outputs(fused_model, model, x)


@needs_onednn
def test_more_shapes_than_layouts_are_kept_for_give_the_same_outputs(tiny_model):
    fused_model = fused(tiny_model)
    for batch in [*range(1, 2 * MOST_LAYOUTS), 1, 2]:
        assert_same_outputs(fused_model, tiny_model, random_input(batch, 16, 24, seed=batch))
        assert all(len(m._laid_out) <= MOST_LAYOUTS for m in fused_convolutions(fused_model))


@needs_onednn
def test_a_fused_network_can_be_copied_and_the_copy_computes_the_same(mobilenets):
    model, fused_model = mobilenets
    x = random_input(1, 64, 96)
    assert_same_outputs(fused_model, model, x)
    assert_same_outputs(copy.deepcopy(fused_model), model, x)


@needs_onednn
def test_a_fused_network_has_no_gradients_wherever_it_is_called(tiny_model):
    x = random_input(2, 16, 24)
    for actual, expected in zip(fused(tiny_model)(x), tiny_model(x), strict=True):
        assert not actual.requires_grad
        torch.testing.assert_close(actual, expected.detach(), atol=1e-5, rtol=1e-5)


@needs_onednn
def test_weights_are_laid_out_once_for_each_shape_and_number_of_threads(tiny_model, monkeypatch):
    fused_model = fused(tiny_model)
    lay_out, calls = torch.ops.mkldnn._reorder_convolution_weight, []

    def counted(*arguments):
        calls.append(arguments)
        return lay_out(*arguments)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_convolution_weight", counted)
    laid_out = []
    for threads, batch in [(1, 1), (1, 2), (1, 1), (2, 2), (2, 2), (1, 2)]:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            fused_model(random_input(batch, 16, 24))
        laid_out.append(len(calls) // len(fused_convolutions(fused_model)))
    assert laid_out == [1, 2, 2, 3, 3, 3]


@needs_onednn
def test_a_network_trained_with_batch_norm_is_fused_over_it():
    torch.manual_seed(0)
    model = build_model(MOBILENET, batch_norm=True).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.1, 0.6)
    fold_batch_norm(model)
    x = random_input(2, 96, 128)
    result = fused(model)
    assert not any(isinstance(module, nn.ReLU6) for module in result.modules())
    assert_same_outputs(result, model, x)


CASES = {
    "3x3": (nn.Conv2d(3, 8, 3), nn.ReLU()),
    "padding that differs by axis": (nn.Conv2d(3, 8, (3, 5), padding=(0, 2)), nn.ReLU()),
    "stride that differs by axis": (nn.Conv2d(3, 8, 3, stride=(1, 2)), None),
    "dilation": (nn.Conv2d(3, 8, 3, padding=6, dilation=6), nn.ReLU6()),
    "an even kernel": (nn.Conv2d(3, 8, 4, padding=1), nn.ReLU()),
    "groups": (nn.Conv2d(3, 9, 3, groups=3), nn.ReLU6()),
    "no bias": (nn.Conv2d(3, 8, 1, bias=False), nn.ReLU()),
    "same padding, stride 2": (SamePaddingConv2d(3, 8, 3, stride=2), nn.ReLU6()),
    "same padding, even kernel": (SamePaddingConv2d(3, 8, 4), nn.ReLU6()),
    "same padding, kernel below stride": (SamePaddingConv2d(3, 8, 1, stride=2), None),
    "an activation that does not fuse": (nn.Conv2d(3, 8, 3), nn.SiLU()),
}


@needs_onednn
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_convolution_computes_what_it_computed_before(case):
    torch.manual_seed(0)
    convolution, activation = CASES[case]
    model = nn.Sequential(*[module for module in (convolution, activation) if module is not None])
    x = random_input(2, 15, 20)
    result = fused(model)
    with torch.inference_mode():
        actual, expected = result(x), model(x)
    assert fused_convolutions(result)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


# Where it cannot be done


def missing(*arguments):
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute\nand more")


def other_signature(*arguments):
    raise TypeError("_convolution_pointwise() takes 9 positional arguments but 11 were given")


def not_for_this_type(*arguments):
    raise RuntimeError("mkldnn_bf16 needs avx512")


@pytest.mark.parametrize("name", ["_convolution_pointwise", "_reorder_convolution_weight"])
@pytest.mark.parametrize("broken", [missing, other_signature, not_for_this_type])
def test_a_pytorch_without_the_calls_runs_the_network_as_it_is(
    tiny_model, monkeypatch, caplog, name, broken
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.ops.mkldnn, name, broken)
    x = random_input(2, 16, 24)
    result = copy.deepcopy(tiny_model)
    assert fuse_for_cpu(result, torch.float32) is False
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("convolutions are not fused on this CPU")
    assert "\n" not in line
    assert not fused_convolutions(result)
    with torch.inference_mode():
        for actual, expected in zip(result(x), tiny_model(x), strict=True):
            assert torch.equal(actual, expected)


def test_a_pytorch_without_onednn_detects_all_the_same(
    tiny_model, tiny_spec, golden, monkeypatch, caplog
):
    images = list(golden["inputs"][:2])
    cpu = torch.device("cpu")
    expected = Detector(copy.deepcopy(tiny_model), tiny_spec, cpu, torch.float32, 0.3)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    caplog.set_level(logging.INFO)
    detector = Detector(tiny_model, tiny_spec, cpu, torch.float32, 0.3)
    assert "PyTorch is built without oneDNN" in caplog.text
    assert not fused_convolutions(detector.model)
    for found, wanted in zip(detector.detect(images), expected.detect(images), strict=True):
        assert len(found) > 0
        torch.testing.assert_close(found.boxes, wanted.boxes, atol=1e-3, rtol=1e-4)
        assert found.names == wanted.names
