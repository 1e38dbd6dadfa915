"""The kernels give the losses and gradients of plain PyTorch, which is tested by torchvision's."""

import importlib
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from ssd_core.box_coder import xyxy_to_cxcywh
from ssd_core.models.zoo import MODELS
from ssd_core.training import multibox_loss
from ssd_core.training.kernels import triton_kernels
from ssd_core.training.loss import MIN_NEGATIVES, NEGATIVES_PER_POSITIVE, loss_of_matches
from ssd_core.training.matching import match_batch_plainly, places
from tests.conftest import KERNEL_DEVICE as DEVICE
from tests.params import mostly_long
from tests.unit.ssd_core.kernels import compiled, with_each_triton
from tests.unit.ssd_core.training.test_matching import random_boxes

# NumPy in the interpreter, at rows of padding and at logits of -100
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:triton"),
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning:triton"),
]
triton = pytest.importorskip("triton")
tl = importlib.import_module("triton.language")
kernels = importlib.import_module("ssd_core.training.loss_triton")
kernels_softplus = kernels._softplus

ROUNDING = 1e-5
ACTIVATIONS = ["softmax", "sigmoid"]
TYPES = [torch.float32, torch.float16, torch.bfloat16]
OPTIONS = {
    "negatives_per_positive": NEGATIVES_PER_POSITIVE,
    "min_negatives": MIN_NEGATIVES,
    "negatives_below_iou": None,
    "box_weights": (10.0, 10.0, 5.0, 5.0),
}


class Scene(NamedTuple):
    """Outputs, default boxes and objects of a batch."""

    bbox_regression: torch.Tensor
    cls_logits: torch.Tensor
    default_boxes: torch.Tensor
    boxes: list[torch.Tensor]
    labels: list[torch.Tensor]


def scene(counts, defaults=40, classes=5, seed=0, dtype=torch.float32, kinds=0):
    """Images with so many objects; with ``kinds``, so many different rows of logits: many ties."""
    generator = torch.Generator().manual_seed(seed)
    images = len(counts)
    regression = 2 * torch.randn(images, defaults, 4, generator=generator)
    logits = 3 * torch.randn(images, kinds or defaults, classes, generator=generator)
    if kinds:
        kind = torch.randint(kinds, (images, defaults, 1), generator=generator)
        logits = logits.gather(1, kind.expand(-1, -1, classes))
    tiles = random_boxes(defaults, generator, largest=0.9)
    boxes = [random_boxes(count, generator, largest=0.9) for count in counts]
    labels = [torch.randint(1, classes, (count,), generator=generator) for count in counts]
    outputs = regression.to(dtype), logits.to(dtype)
    return Scene(*outputs, xyxy_to_cxcywh(tiles), boxes, labels)


def learnt(loss, each, device, *, weights=(1.0, 1.0), **options):
    """Losses, and gradients of their weighted sum, by ``loss`` of the matches."""
    outputs = [x.clone().to(device).requires_grad_() for x in each[:2]]
    place, is_object = places(each.boxes)
    targets, labels = torch.cat(each.boxes)[place], torch.cat(each.labels)[place]
    if is_object.shape[1]:
        matches = match_batch_plainly(targets, is_object, each.default_boxes, 0.4)
    else:
        empty = torch.zeros(len(each.boxes), len(each.default_boxes))
        matches = (empty - 1).long(), empty
    place = [x.to(device) for x in (each.default_boxes, targets, labels)]
    matches = kernels.Matches(*(x.to(device) for x in matches))
    losses = loss(*outputs, *place, matches, **OPTIONS | options)
    sum(w * x for w, x in zip(weights, losses, strict=True) if w).backward()
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in outputs]
    return [x.detach().cpu() for x in (*losses, *gradients)]


def assert_as_plainly(each, **options):
    """The same default boxes count, and numbers are equal up to rounding."""
    found = learnt(kernels.multibox_loss_in_kernels, each, DEVICE, **options)
    expected = learnt(loss_of_matches, each, "cpu", **options)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=ROUNDING, atol=1e-7)
    for ours, theirs in zip(found[2:], expected[2:], strict=True):
        assert ours.dtype == theirs.dtype == each.cls_logits.dtype
        assert torch.equal(*((x.abs() > 1e-30).any(-1) for x in (ours, theirs)))
        rounding = max(ROUNDING, torch.finfo(ours.dtype).eps)
        assert (ours - theirs).float().norm() <= rounding * theirs.float().norm()
    return expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", TYPES)
def test_losses_and_gradients_are_those_of_plain_pytorch(dtype, activation):
    losses = assert_as_plainly(scene((3, 0, 1), dtype=dtype), activation=activation)
    assert min(losses[:2]) > 0.1


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kinds", [1, 4])
def test_of_negatives_that_are_as_hard_those_of_lower_index_count(kinds, activation):
    each = scene((2, 0), defaults=160, classes=4, kinds=kinds)
    *_, gradient = assert_as_plainly(each, activation=activation, min_negatives=150)
    assert (gradient[1] != 0).any(-1).sum() == 150
    if kinds == 1:
        assert (gradient[1, :150] != 0).any(-1).all()


@pytest.mark.parametrize(
    "options",
    [
        {"negatives_below_iou": 0.2, "negatives_per_positive": 1e9},
        {"negatives_below_iou": 0.0},
        {"negatives_per_positive": 0.0, "min_negatives": 0},
        {"negatives_per_positive": 0.3, "min_negatives": 0},
        {"min_negatives": 1000},
        {"box_weights": (1.0, 2.0, 3.0, 4.0)},
    ],
    ids=str,
)
def test_each_option_does_what_it_does_in_plain_pytorch(options):
    assert_as_plainly(scene((2, 1)), activation="softmax", **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("negatives", [0, 4])
def test_images_without_objects_are_as_in_plain_pytorch(negatives, activation):
    each = scene((0, 0))
    found = assert_as_plainly(each, activation=activation, min_negatives=negatives)
    assert (found[1] > 0) == (negatives > 0)
    assert found[0] == 0


@pytest.mark.parametrize("weights", [(2.0, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_each_loss_has_gradients_of_its_own(weights):
    _, _, of_offsets, of_logits = assert_as_plainly(
        scene((2,)), activation="softmax", weights=weights
    )
    assert (of_offsets != 0).any() == (weights[0] > 0)
    assert (of_logits != 0).any() == (weights[1] > 0)


@pytest.mark.parametrize("classes", mostly_long(2, 17, 3, 91, fast=2))
def test_any_number_of_classes_is_as_in_plain_pytorch(monkeypatch, classes):
    monkeypatch.setattr(kernels, "GRADIENTS_PER_BLOCK", 128)
    each = scene((1,), defaults=70, classes=classes)
    for activation in ACTIVATIONS:
        assert_as_plainly(each, activation=activation)


@pytest.mark.parametrize("scale", [10, 40])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_confident_logits_are_as_in_plain_pytorch(activation, scale):
    each = scene((2, 1), classes=3)
    sure = each._replace(cls_logits=each.cls_logits * scale)
    assert_as_plainly(sure, activation=activation)


@triton.jit
def softplus(x, y, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    tl.store(y + index, kernels_softplus(tl.load(x + index)))


def test_softplus_loses_nothing_where_it_is_near_zero():
    x = torch.cat((torch.linspace(-80, 80, 4001), torch.linspace(-2, 2, 4191)))
    y = torch.empty(8192, device=DEVICE)
    softplus[(1,)](x.to(DEVICE), y, SIZE=8192, enable_fp_fusion=False)
    expected = x.double().exp().log1p()
    # An exponential in fp32 is off by the rounding of its argument.
    allowed = (6e-7 + 1.2e-7 * x.abs()) * expected
    assert ((y.cpu() - expected).abs() <= allowed).all()


def test_a_label_that_is_no_class_gives_no_number():
    each = scene((2,))
    for activation in ACTIVATIONS:
        for label in (-1, 5):
            bad = each._replace(labels=[torch.tensor([1, label])])
            found = learnt(kernels.multibox_loss_in_kernels, bad, DEVICE, activation=activation)
            assert found[1].isnan()


@pytest.mark.skipif(DEVICE != "cpu", reason="only the interpreter's order can be chosen")
def test_blocks_in_another_order_give_the_same_bits(monkeypatch):
    from triton.runtime.interpreter import interpreter_builder as builder

    monkeypatch.setattr(kernels, "LOGITS_PER_BLOCK", 64)
    monkeypatch.setattr(kernels, "GRADIENTS_PER_BLOCK", 128)
    each = scene((2,))
    forwards = learnt(kernels.multibox_loss_in_kernels, each, DEVICE, activation="softmax")
    set_grid_idx = builder.set_grid_idx

    def backwards(*place):
        return set_grid_idx(*(n - 1 - i for n, i in zip(builder.grid_dim, place, strict=True)))

    monkeypatch.setattr(builder, "set_grid_idx", backwards)
    again = learnt(kernels.multibox_loss_in_kernels, each, DEVICE, activation="softmax")
    assert all(torch.equal(*pair) for pair in zip(forwards, again, strict=True))


def test_training_takes_the_kernels_where_they_run(monkeypatch):
    """From boxes and labels to losses; a kernel that fails would leave its reason."""
    each = scene((2, 0))
    plain = multibox_loss(*each)
    monkeypatch.setattr(triton_kernels, "serve", lambda tensor: not triton_kernels.reason)
    on_device = [
        x.to(DEVICE) if isinstance(x, torch.Tensor) else [y.to(DEVICE) for y in x] for x in each
    ]
    found = multibox_loss(*on_device)
    assert not triton_kernels.reason
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.shape == ()
        torch.testing.assert_close(ours.cpu(), theirs, rtol=ROUNDING, atol=0)
    regression = each.bbox_regression.clone().to(DEVICE).requires_grad_()
    assert multibox_loss(regression, *on_device[1:])[0].grad_fn.name() == "_MultiBoxLossBackward"


@pytest.mark.long
@settings(
    max_examples=100 if DEVICE == "cpu" else 6,  # a GPU compiles the kernels for each size
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    defaults=st.integers(1, 80),
    classes=st.integers(2, 20),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(TYPES),
    options=st.fixed_dictionaries(
        {
            "activation": st.sampled_from(ACTIVATIONS),
            "negatives_per_positive": st.sampled_from([0.0, 0.5, 1.0, 3.0, 1e9]),
            "min_negatives": st.sampled_from([0, 1, 3, 100]),
            "negatives_below_iou": st.sampled_from([None, 0.0, 0.1, 0.4]),
            "weights": st.sampled_from([(1.0, 1.0), (0.5, 3.0), (1.0, 0.0), (0.0, 1000.0)]),
        }
    ),
)
def test_any_scene_is_learnt_as_in_plain_pytorch(counts, defaults, classes, seed, dtype, options):
    assert_as_plainly(scene(counts, defaults, classes, seed, dtype), **options)


LAUNCHES = """
import torch
from ssd_core import MODELS
from ssd_core.training.loss_triton import multibox_loss_in_kernels
from ssd_core.training.matching import Matches
def launch(images, defaults, classes, objects, activation, dtype):
    regression, logits = [
        torch.zeros(images, defaults, size, dtype=dtype, requires_grad=True)
        for size in (4, classes)
    ]
    matches = Matches(
        torch.zeros(images, defaults, dtype=torch.int64), torch.zeros(images, defaults)
    )
    losses = multibox_loss_in_kernels(
        regression, logits, torch.zeros(defaults, 4), torch.zeros(images, objects, 4),
        torch.ones(images, objects, dtype=torch.int64), matches, activation=activation,
        negatives_per_positive=3.0, min_negatives=3, negatives_below_iou=None,
        box_weights=(10.0, 10.0, 5.0, 5.0),
    )
    sum(losses).backward()
def model(name, classes, dtype):
    spec = MODELS[name]
    boxes = len(spec.default_boxes())
    launch(32, boxes, classes or spec.num_classes, 20, spec.activation, dtype)
"""
REAL = """
model("ssd300_vgg16", 0, torch.float32)
model("ssd300_vgg16", 0, torch.bfloat16)
model("ssd_mobilenet_v2_oid", 0, torch.float16)
model("ssd_mobilenet_v2_oid", 2, torch.float32)
launch(1, 1, 2, 1, "softmax", torch.float32)
"""
LARGE = 'model("ssd512_vgg16", 4, torch.float32)\n'
"""24,564 default boxes an image: to choose among them takes all registers of a multiprocessor."""
SECTOR_BYTES = 32
"""A few registers may be saved around loops: what a thread's access moves at least."""


@pytest.mark.long
@pytest.mark.timeout(400)
@with_each_triton
def test_the_kernels_compile_for_gpus_without_spills(tmp_path, triton):
    usages = compiled(LAUNCHES + REAL + LARGE, tmp_path, triton)
    assert len(usages) == 6 * 4 * 2
    assert all(usage["LOCAL"] == 0 for usage in usages)
    assert all(usage["STACK"] <= SECTOR_BYTES for usage in usages[:-8]), usages
    assert all(usage["STACK"] <= 256 for usage in usages[-8:]), usages


# On a GPU


def real_scene(name, images, classes=0, dtype=torch.float32):
    """A model's default boxes, 20 objects an image, on the device."""
    spec = MODELS[name]
    defaults = spec.default_boxes()
    counts = [20] * images
    each = scene(counts, len(defaults), classes or spec.num_classes, dtype=dtype)
    return each._replace(default_boxes=defaults), spec.activation


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("name", "images", "classes"),
    [("ssd300_vgg16", 8, 0), ("ssd512_vgg16", 2, 4), ("ssd_mobilenet_v2_oid", 4, 0)],
)
def test_real_sizes_are_learnt_as_on_a_cpu(name, images, classes, dtype):
    each, activation = real_scene(name, images, classes, dtype)
    found = learnt(kernels.multibox_loss_in_kernels, each, DEVICE, activation=activation)
    again = learnt(kernels.multibox_loss_in_kernels, each, DEVICE, activation=activation)
    assert all(torch.equal(*pair) for pair in zip(found, again, strict=True))
    expected = learnt(loss_of_matches, each, "cpu", activation=activation)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=ROUNDING, atol=0)
    # Two negatives of which one counts may be closer than rounding.
    counting = [(gradient != 0).any(-1) for gradient in (found[3], expected[3])]
    assert (counting[0] != counting[1]).sum() <= 2
    both = (counting[0] & counting[1])[..., None]
    rounding = max(ROUNDING, torch.finfo(dtype).eps)
    for ours, theirs in ((found[2], expected[2]), (found[3] * both, expected[3] * both)):
        assert (ours - theirs).float().norm() <= rounding * theirs.float().norm()


@pytest.mark.cuda
def test_nobody_waits_for_a_gpu_that_computes_the_loss():
    each, activation = real_scene("ssd300_vgg16", 4)
    outputs = [x.to(DEVICE).requires_grad_() for x in each[:2]]
    defaults = each.default_boxes.to(DEVICE)
    objects = [[x.to(DEVICE) for x in parts] for parts in each[3:]]

    def step():
        sum(multibox_loss(*outputs, defaults, *objects, activation=activation)).backward()

    step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not triton_kernels.reason
