"""The kernels of `decode_nms`: on a GPU where there is one, else in Triton's interpreter."""

import importlib
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings, strategies as st
from torchvision.ops import box_iou

from ssd_core import MODELS
from ssd_core.box_coder import cxcywh_to_xyxy, decode_boxes
from ssd_core.ops import DecodedDetections, decode_nms, decode_nms_reference
from ssd_core.ops.decode_nms_reference import class_scores
from tests.conftest import KERNEL_DEVICE
from tests.params import mostly_long
from tests.unit.ssd_core.head_outputs import (
    ACTIVATIONS,
    FLOAT_TYPES,
    Case,
    boxes_on_a_grid,
    lone_logits,
    outputs_with_ties,
    random_outputs,
    spaced_logits,
    spoil,
)
from tests.unit.ssd_core.kernels import compiled, with_each_triton

triton = pytest.importorskip("triton")
tl = importlib.import_module("triton.language")
device_code = importlib.import_module("ssd_core.ops.decode_nms_kernels")
select_best, is_quotient_above = device_code.select_best, device_code.is_quotient_above
kernels = importlib.import_module("ssd_core.ops.decode_nms_triton")
op = importlib.import_module("ssd_core.ops.decode_nms")

# NumPy in the interpreter, at logits and boxes that are not numbers
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:triton"),
    pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning:triton"),
]

ROUNDING = 1e-5
"""How far fp32 in another order of operations, and other exponentials, may move a value."""


def run(case):
    found = kernels.decode_nms_triton(*case.to(device=KERNEL_DEVICE))
    return DecodedDetections(*(part.cpu() for part in found))


def assert_like_reference(case, least=1, boxes_atol=ROUNDING):
    """Detections in the reference's order: for outputs where rounding decides nothing."""
    found, expected = run(case), decode_nms_reference(*case)
    assert expected.count.sum() >= least
    assert_alike(found, expected, boxes_atol)
    return found


def assert_alike(found, expected, boxes_atol=ROUNDING):
    assert torch.equal(found.count, expected.count)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, atol=0, rtol=ROUNDING)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=boxes_atol, rtol=0)


def rounding_decides_nothing(case):
    """Whether scores, and overlaps, are equal by construction or further apart than rounding goes.

    From each other, and from the threshold.
    """
    scores = class_scores(case.cls_logits.float(), case.settings.activation)[..., 1:]
    candidate = (scores > case.settings.score_threshold) & case.cls_logits[..., 1:].isfinite()
    distance = scores / max(case.settings.score_threshold, 1e-30) - 1
    if distance.abs().nan_to_num(1).min() < ROUNDING:
        return False
    for image in range(len(scores)):
        box, label = torch.nonzero(candidate[image], as_tuple=True)
        score, order = scores[image, box, label].sort()
        box, label = box[order], label[order] + 1
        close = torch.nonzero(score[1:] - score[:-1] < ROUNDING * score[1:])[:, 0]
        logits, one, other = case.cls_logits[image], box[close], box[close + 1]
        if not torch.equal(logits[one, label[close]], logits[other, label[close + 1]]):
            return False
        if case.settings.activation == "softmax" and not torch.equal(logits[one], logits[other]):
            return False
        offsets = case.bbox_regression[image].float()
        decoded = decode_boxes(offsets, case.default_boxes_cxcywh, case.settings.box_weights)
        overlap = box_iou(*2 * [cxcywh_to_xyxy(decoded).clamp(0, 1)])
        if (overlap - case.settings.iou_threshold).abs().nan_to_num(1).min() < ROUNDING:
            return False
    return True


# Equal to the reference

FEW = settings(
    max_examples=25 if KERNEL_DEVICE == "cpu" else 6,  # a GPU compiles the kernels for each size
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink an example takes minutes
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
SIZES = {
    "images": st.integers(1, 2),
    "boxes": st.integers(1, 100),
    "classes": st.integers(2, 5),
}
LIMITS = {
    "iou_threshold": st.sampled_from([0.0, 0.2, 0.45, 0.5, 1.0]),
    "candidates_per_class": st.sampled_from([1, 3, 16, 20, 50, 1000]),
    "max_detections": st.sampled_from([1, 3, 16, 20, 100, 400]),
}
BLOCKS = {
    "LOGITS_PER_BLOCK": st.sampled_from([128, 4096]),
    "EXACT_LOGITS": st.sampled_from([16, 4096]),
    "SELECTED_PER_WARP": st.sampled_from([32, 1024]),
    "WORKSPACE_BYTES": st.sampled_from([1, 2**20]),
}
DTYPES = {"logits": st.sampled_from(FLOAT_TYPES), "offsets": st.sampled_from(FLOAT_TYPES)}
SEEDS = st.integers(0, 2**32 - 1)


def some(strategies):
    return st.fixed_dictionaries(strategies)


@pytest.mark.long
@FEW
@given(
    seed=SEEDS,
    sizes=some(SIZES),
    limits=some(LIMITS),
    blocks=some(BLOCKS),
    dtypes=some(DTYPES),
    score_threshold=st.sampled_from([0.0, 0.1, 0.5]),  # sigmoid(0) is 1/2, and above nothing
    bad=st.sampled_from([0, 0, 0.1]),
)
def test_boxes_and_scores_that_tie_come_in_the_order_of_the_reference(
    seed, sizes, limits, blocks, dtypes, score_threshold, bad
):
    bbox_regression, cls_logits, default_boxes = outputs_with_ties(seed, **sizes)
    case = Case.of(
        spoil(bbox_regression, bad, seed).to(dtypes["offsets"]),
        spoil(cls_logits, bad, seed + 1).to(dtypes["logits"]),
        default_boxes,
        "sigmoid",
        score_threshold,
        **limits,
    )
    with mock.patch.multiple(kernels, **blocks):
        assert_like_reference(case, least=0, boxes_atol=0)


@pytest.mark.long
@FEW
@given(
    seed=SEEDS,
    sizes=some(SIZES),
    limits=some(LIMITS),
    blocks=some(BLOCKS),
    dtypes=some(DTYPES),
    activation=st.sampled_from(ACTIVATIONS),
    score_threshold=st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.99]),
    bad=st.sampled_from([0, 0, 0.05]),
    offset_size=st.sampled_from([0.3, 1, 1e4]),
    box_weights=st.sampled_from([(10.0, 10.0, 5.0, 5.0), (5.0, 7.0, 3.0, 4.0)]),
)
def test_boxes_and_scores_of_any_kind_are_like_the_reference(
    seed, sizes, limits, blocks, dtypes, activation, score_threshold, bad, offset_size, box_weights
):
    bbox_regression, _, default_boxes = random_outputs(seed, **sizes)
    cls_logits = spaced_logits(seed, activation, **sizes)
    case = Case.of(
        spoil(offset_size * bbox_regression, bad, seed).to(dtypes["offsets"]),
        spoil(cls_logits, bad, seed + 1).to(dtypes["logits"]),
        default_boxes,
        activation,
        score_threshold,
        **limits,
        box_weights=box_weights,
    )
    assume(rounding_decides_nothing(case))
    with mock.patch.multiple(kernels, **blocks):
        assert_like_reference(case, least=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("classes", mostly_long(2, 17, 91, 3, 16, 21, 24, 81, fast=3))
def test_any_number_of_classes_is_like_the_reference(classes, activation):
    bbox_regression, default_boxes = boxes_on_a_grid(0, 1, 12)
    cls_logits = lone_logits(0, activation, 1, 12, classes)
    assert_like_reference(Case.of(bbox_regression, cls_logits, default_boxes, activation), least=6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_any_type_is_like_the_reference(dtype, activation):
    bbox_regression, _, default_boxes = random_outputs(1, 1, 40)
    cls_logits = spaced_logits(1, activation, 1, 40, 3)
    case = Case.of(bbox_regression, cls_logits, default_boxes, activation, 0.03).to(dtype=dtype)
    case = case.change(box_weights=(5.0, 7.0, 3.0, 4.0))
    assert rounding_decides_nothing(case)
    assert_like_reference(case, least=20)


def test_overlap_is_compared_with_the_threshold_in_fp32():
    # 1/3 in fp32 is above 1/3
    default_boxes = torch.tensor([[0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    cls_logits = torch.tensor([[[0.0, 2.0], [0.0, 1.0]]])
    case = Case.of(torch.zeros(1, 2, 4), cls_logits, default_boxes, iou_threshold=1 / 3)
    assert assert_like_reference(case).count.item() == 2


def side_by_side(boxes, logit=1.0):
    """(1, boxes, 2) logits, all alike, of boxes that do not overlap."""
    default_boxes = torch.full((boxes, 4), 0.5)
    default_boxes[:, 0] = (torch.arange(boxes) + 0.5) / boxes
    default_boxes[:, 2] = 1 / boxes
    cls_logits = torch.zeros(1, boxes, 2)
    cls_logits[..., 1] = logit
    return torch.zeros(1, boxes, 4), cls_logits, default_boxes


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("chunk", [32, 1024])
def test_of_many_candidates_with_equal_scores_the_first_boxes_are_taken(
    monkeypatch, chunk, activation
):
    monkeypatch.setattr(kernels, "SELECTED_PER_WARP", chunk)
    case = Case.of(*side_by_side(256), activation, 0.1, 0.5, 20, 50)
    found = assert_like_reference(case, least=20)
    expected = cxcywh_to_xyxy(case.default_boxes_cxcywh[:20])
    torch.testing.assert_close(found.boxes[0, :20], expected)


@pytest.mark.parametrize("chunk", [32, 1024])
@pytest.mark.parametrize("candidates_per_class", mostly_long(17, 1, 16, 200))
def test_the_best_of_many_candidates_are_taken(monkeypatch, candidates_per_class, chunk):
    monkeypatch.setattr(kernels, "SELECTED_PER_WARP", chunk)
    bbox_regression, _, default_boxes = random_outputs(2, 1, 200)
    cls_logits = spaced_logits(2, "softmax", 1, 200, 2)
    case = Case.of(bbox_regression, cls_logits, default_boxes, "softmax", 0.01)
    case = case.change(candidates_per_class=candidates_per_class, max_detections=250)
    assert rounding_decides_nothing(case)
    found = assert_like_reference(case, least=1)
    assert 0.2 * candidates_per_class < found.count.item() <= candidates_per_class


@pytest.mark.parametrize("max_detections", mostly_long(17, 300, 1, 16, 90, fast=2))
def test_the_best_of_many_detections_are_taken(monkeypatch, max_detections):
    monkeypatch.setattr(kernels, "SELECTED_PER_WARP", 32)
    bbox_regression, default_boxes = boxes_on_a_grid(3, 1, 60)
    cls_logits = spaced_logits(3, "sigmoid", 1, 60, 5)
    case = Case.of(bbox_regression, cls_logits, default_boxes, "sigmoid", 0.05, 0.5, 100)
    found = assert_like_reference(case.change(max_detections=max_detections), boxes_atol=0)
    assert found.count.item() == min(max_detections, 220)


def test_scores_of_just_one_are_among_the_best(monkeypatch):
    monkeypatch.setattr(kernels, "SELECTED_PER_WARP", 32)
    logit = torch.where(torch.arange(90) % 3 == 1, 40.0, 3.0)  # sigmoid(40) rounds to 1
    found = assert_like_reference(Case.of(*side_by_side(90, logit), "sigmoid", 0.1, 0.5, 16, 20))
    assert found.scores[0].unique().tolist() == [0, 1]


@pytest.mark.parametrize("score_threshold", [0.0, 1e-30, 1e-6])
def test_scores_near_zero_are_like_the_reference(score_threshold):
    logit = torch.linspace(-75, -8, 64)
    for activation in ACTIVATIONS:
        outputs = side_by_side(64, logit)
        case = Case.of(*outputs, activation, score_threshold, 0.5, 16, 20)
        found, expected = run(case), decode_nms_reference(*case)
        assert torch.equal(found.count, expected.count)
        assert found.count.item() >= 6
        assert torch.equal(found.boxes, expected.boxes)
        torch.testing.assert_close(found.scores, expected.scores, atol=0, rtol=1e-4)


@pytest.mark.parametrize("activation", [pytest.param("softmax", marks=pytest.mark.long), "sigmoid"])
def test_boxes_without_area_are_as_in_the_reference(activation):
    bbox_regression, _, default_boxes = random_outputs(5, 1, 80)
    default_boxes[::2, 2] = 0
    default_boxes[::3, 3] = 0
    default_boxes[::5] = default_boxes[0]
    cls_logits = spaced_logits(5, activation, 1, 80, 3)
    for iou_threshold in (0.0, 0.5):
        limits = (0.05, iou_threshold, 60, 100)
        case = Case.of(bbox_regression, cls_logits, default_boxes, activation, *limits)
        assert_like_reference(case, least=60)


@pytest.mark.parametrize("offset", [torch.nan, torch.inf, -torch.inf, 1e38, -1e38])
def test_absurd_offsets_are_as_in_the_reference(offset):
    bbox_regression, _, default_boxes = random_outputs(6, 1, 60)
    for coordinate in range(4):
        bbox_regression[:, coordinate::8, coordinate] = offset
    default_boxes[::12, 2:] = 0
    cls_logits = spaced_logits(6, "sigmoid", 1, 60, 3)
    case = Case.of(bbox_regression, cls_logits, default_boxes, "sigmoid", 0.05, 0.5, 50, 120)
    assert_like_reference(case, least=30)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_that_are_no_numbers_are_as_in_the_reference(activation, bad):
    bbox_regression, default_boxes = boxes_on_a_grid(7, 1, 60)
    cls_logits = lone_logits(7, activation, 1, 60, 3)
    cls_logits[0, ::5, 0] = bad
    cls_logits[0, 1::5, 1] = bad
    cls_logits[0, 2::5, 1:] = bad
    cls_logits[0, 3::10] = bad
    case = Case.of(bbox_regression, cls_logits, default_boxes, activation, 0.02, 0.5, 50, 120)
    assert_like_reference(case, least=12)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("max_detections", [1, 100])
def test_no_candidates_are_no_detections(classes, max_detections):
    bbox_regression, cls_logits, default_boxes = random_outputs(8, 2, 40, classes)
    cls_logits[..., 0] = 50
    found = run(Case.of(bbox_regression, cls_logits, default_boxes, max_detections=max_detections))
    assert found.count.tolist() == [0, 0]
    assert found.boxes.shape == (2, max_detections, 4)
    assert not any(part.any() for part in found)


@pytest.mark.parametrize(
    ("images", "boxes", "classes", "max_detections"),
    [(0, 5, 3, 4), (2, 0, 3, 4), (2, 5, 1, 4), (2, 5, 3, 0), (1, 1, 2, 1)],
)
def test_as_little_as_can_be_is_like_the_reference(images, boxes, classes, max_detections):
    case = Case.of(*random_outputs(9, images, boxes, classes), max_detections=max_detections)
    assert_like_reference(case, least=0)


@pytest.mark.long
def test_a_batch_larger_than_the_workspace_goes_in_rounds(monkeypatch):
    bbox_regression, default_boxes = boxes_on_a_grid(10, 7, 30)
    cls_logits = lone_logits(10, "softmax", 7, 30, 3)
    cls_logits[2, :, 0] = 50  # nothing in one of them
    case = Case.of(bbox_regression, cls_logits, default_boxes, "softmax", 0.1, 0.5, 20, 9)
    whole = assert_like_reference(case, least=30)
    for images_at_once in (1, 3):
        monkeypatch.setattr(kernels, "WORKSPACE_BYTES", images_at_once * 2 * 64 * 8 + 5)
        launches = []
        with mock.patch.object(kernels, "merge", Counted(kernels.merge, launches)):
            in_rounds = run(case)
        assert [sum(grid) for grid in launches] == {1: 7 * [1], 3: [3, 3, 1]}[images_at_once]
        assert all(torch.equal(*pair) for pair in zip(whole, in_rounds, strict=True))


class Counted:
    """A kernel that keeps the grids it is launched on."""

    def __init__(self, kernel, grids):
        self.kernel, self.grids = kernel, grids

    def __getitem__(self, grid):
        self.grids.append(grid)
        return self.kernel[grid]


@pytest.mark.parametrize("logits_per_block", mostly_long(16, 4096, 1, 64, fast=2))
def test_blocks_of_any_size_find_the_same(monkeypatch, logits_per_block):
    monkeypatch.setattr(kernels, "LOGITS_PER_BLOCK", logits_per_block)
    bbox_regression, default_boxes = boxes_on_a_grid(11, 2, 37)
    cls_logits = spaced_logits(11, "softmax", 2, 37, 4)
    case = Case.of(bbox_regression, cls_logits, default_boxes, "softmax", 0.1, 0.5, 16, 50)
    assert rounding_decides_nothing(case.change(iou_threshold=0.51))
    assert_like_reference(case, least=20, boxes_atol=0)


@pytest.mark.parametrize("short_list", mostly_long(16, 1, 1000))
def test_short_and_long_lists_are_like_the_reference(monkeypatch, short_list):
    monkeypatch.setattr(kernels, "SHORT_LIST", short_list)
    bbox_regression, default_boxes = boxes_on_a_grid(15, 2, 90)
    cls_logits = spaced_logits(15, "sigmoid", 2, 90, 5)
    for label, share in enumerate((0.01, 0.15, 0.2, 1.0), start=1):  # none to all of the boxes
        cls_logits[:, torch.arange(90) >= share * 90, label] = -50
    case = Case.of(bbox_regression, cls_logits, default_boxes, "sigmoid", 0.1, 0.5, 80, 60)
    assert_like_reference(case, least=30, boxes_atol=0)


def test_it_gives_the_same_bits_twice():
    case = Case.of(*outputs_with_ties(12, 2, 50, 4), "softmax", 0.05)
    assert all(torch.equal(*pair) for pair in zip(run(case), run(case), strict=True))


@pytest.mark.skipif(KERNEL_DEVICE != "cpu", reason="only the interpreter's order can be chosen")
def test_blocks_in_another_order_give_the_same_bits(monkeypatch):
    from triton.runtime.interpreter import interpreter_builder as builder

    monkeypatch.setattr(kernels, "LOGITS_PER_BLOCK", 32)
    case = Case.of(*outputs_with_ties(13, 2, 60, 4), "softmax", 0.05, 0.5, 16, 40)
    forwards = run(case)
    set_grid_idx = builder.set_grid_idx

    def backwards(*place):
        return set_grid_idx(*(n - 1 - i for n, i in zip(builder.grid_dim, place, strict=True)))

    monkeypatch.setattr(builder, "set_grid_idx", backwards)
    assert forwards.count.sum() > 20
    assert all(torch.equal(*pair) for pair in zip(forwards, run(case), strict=True))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_inputs_may_lie_in_memory_in_any_order_and_are_not_changed(dtype):
    case = Case.of(*random_outputs(14, 1, 30, 3)).to(dtype=dtype, device=KERNEL_DEVICE)
    expected = run(case)
    assert expected.count.sum() > 5
    turned = [tensor.mT.contiguous().mT for tensor in case[:3]]
    before = [tensor.clone() for tensor in turned]
    assert not any(tensor.is_contiguous() for tensor in turned)
    found = kernels.decode_nms_triton(*turned, *case[3:])
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(*pair) for pair in zip(turned, before, strict=True))


@pytest.mark.parametrize(
    ("boxes", "limits"), [(2049, (2049, 10)), (2049, (10_000, 10)), (5, (10, 2049))]
)
def test_sizes_beyond_what_is_sorted_at_once_are_refused(boxes, limits):
    with pytest.raises(kernels.UnsupportedSizeError, match=r"\d+ is above 2048"):
        run(Case.of(*random_outputs(15, 1, boxes, 2), "softmax", 0.1, 0.5, *limits))


def test_more_candidates_than_are_sorted_at_once_may_be_asked_for_where_boxes_are_few():
    case = Case.of(*side_by_side(20), "softmax", 0.1, 0.5, 10_000, 30)
    assert assert_like_reference(case).count.item() == 20


def test_what_mobilenet_sees_is_like_the_reference(mobilenet, golden):
    with torch.inference_mode():
        outputs = mobilenet.model(mobilenet.preprocess(golden["inputs"][:2]))
    spec = mobilenet.spec
    limits = (spec.score_threshold, spec.iou_threshold, 100, 100)
    case = Case.of(*outputs, spec.default_boxes(), spec.activation, *limits)
    assert_like_reference(case, least=4)


# The bound, the division and the selection, each by itself


@pytest.mark.parametrize("score_threshold", [0.0, 1e-31, 1e-6, 0.01, 0.4, 0.9, 0.999999, 1.0, 1.5])
def test_a_score_above_the_threshold_has_at_least_the_least_logit(score_threshold):
    logit = torch.linspace(-100, 40, 1_000_001)
    score = torch.softmax(torch.stack((torch.zeros_like(logit), logit), -1), -1)[:, 1]
    least = kernels._least_logit(score_threshold)
    assert not (score > score_threshold)[logit < least].any()
    if 1e-6 <= score_threshold < 0.99:  # and little more than those have it
        assert (score > 0.999 * score_threshold)[logit >= least].all()


@triton.jit
def above(dividend, divisor, limit, half_step, found, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    is_above = is_quotient_above(
        tl.load(dividend + place), tl.load(divisor + place), limit, half_step
    )
    tl.store(found + place, is_above.to(tl.int8))


@pytest.mark.parametrize("limit", [0.0, 1e-3, 0.2, 1 / 3, 0.45, 0.5, 1.0, -0.5, 2.0])
@pytest.mark.parametrize("size", [1, 1e-6, 1e-20, 1e-37])
def test_overlap_is_compared_as_the_rounded_quotient_would_be(limit, size):
    generator = torch.Generator().manual_seed(0)
    divisor = size * (1 + torch.rand(4096, generator=generator))
    near = abs(limit) * (1 + 2**-24 * torch.randint(-4, 5, (4096,), generator=generator).double())
    dividend = (divisor * near).float()
    dividend[::7], divisor[::14] = 0, 0
    found = torch.empty(4096, dtype=torch.int8, device=KERNEL_DEVICE)
    half_step = kernels._half_step(limit)
    inputs = dividend.to(KERNEL_DEVICE), divisor.to(KERNEL_DEVICE)
    above[(1,)](*inputs, limit, half_step, found, SIZE=4096, enable_fp_fusion=False)
    assert torch.equal(found.cpu().bool(), dividend / divisor > limit)


@triton.jit
def selected(
    keys, counts, moved, found, SIZE: tl.constexpr, WANTED: tl.constexpr, LIMIT: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    mine = keys + tl.program_id(0) * SIZE
    count = select_best(mine, tl.load(counts + tl.program_id(0)), WANTED, LIMIT, CHUNK)
    place = tl.arange(0, LIMIT)
    key = tl.load(mine + place, mask=place < count, other=-1)
    tl.store(moved + tl.program_id(0) * LIMIT + place, key)
    tl.store(found + tl.program_id(0), count)


SCORES = {
    "even": lambda place, size: place / size,
    "equal": lambda place, size: torch.full_like(place, 0.5),
    "two heaps": lambda place, size: torch.where(place < size / 30, 0.9, 0.01 + place / size / 1e4),
    "near zero": lambda place, size: torch.exp(-40 * place / size),
}
MANY = KERNEL_DEVICE == "cuda"


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
@pytest.mark.parametrize("warps", [1, 8, 32])
def test_selection_finds_the_best_of_each_list(scores, order, warps):
    # On a GPU, long lists and many of them at once: a barrier that is missing shows only sometimes.
    lists, size, wanted, limit = (528, 8732, 1900, 2048) if MANY else (3, 500, 30, 32)
    generator = torch.Generator(KERNEL_DEVICE).manual_seed(0)
    bits = SCORES[scores](torch.arange(size).double(), size).float().view(torch.int32).long()
    one = ((bits << 32) | torch.arange(size)).sort(descending=order == "falling").values
    keys = one.to(KERNEL_DEVICE).repeat(lists, 1)
    if order == "mixed":
        place = torch.rand(keys.shape, generator=generator, device=KERNEL_DEVICE).argsort(1)
        keys = keys.gather(1, place)
    counts = torch.arange(lists, device=KERNEL_DEVICE).remainder(200).neg().add(size).int()
    counts[1], counts[2] = limit, 7
    inside = torch.arange(size, device=KERNEL_DEVICE) < counts[:, None]
    best = torch.where(inside, keys, -1).sort(descending=True).values[:, :limit]
    sizes = {"SIZE": size, "WANTED": wanted, "LIMIT": limit, "CHUNK": 64 * warps}
    for _ in range(10 if MANY else 1):
        moved, found = torch.empty_like(best), torch.empty_like(counts)
        selected[(lists,)](keys.clone(), counts, moved, found, **sizes, num_warps=warps)
        assert ((found >= wanted) | (found == counts)).all()
        assert (found <= limit).all()
        is_found = torch.arange(limit, device=KERNEL_DEVICE) < found[:, None]
        expected = torch.where(is_found, best, -1)
        assert torch.equal(moved.sort(descending=True).values, expected)


@pytest.mark.parametrize("keys_per_warp", [64, 256])
def test_each_round_after_the_selection_sees_the_box_that_was_selected(monkeypatch, keys_per_warp):
    # The best of each class have no box, and all others the same: one is kept. With several warps
    # the last one writes its corners, which all others wait for.
    images, boxes, classes, best = (32, 8732, 91, 2048) if MANY else (1, 80, 3, 32)
    monkeypatch.setattr(kernels, "KEYS_PER_WARP", keys_per_warp)
    missing = best - 3
    bbox_regression = torch.zeros(images, boxes, 4)
    bbox_regression[:, :missing] = torch.nan
    cls_logits = torch.linspace(4, 1, boxes)[:, None].repeat(images, 1, classes)
    default_boxes = torch.tensor([[0.5, 0.5, 0.25, 0.25]]).repeat(boxes, 1)
    limits = ("sigmoid", 0.1, 0.5, best, classes)
    case = Case.of(bbox_regression, cls_logits, default_boxes, *limits).to(device=KERNEL_DEVICE)
    for _ in range(50 if MANY else 1):
        found = kernels.decode_nms_triton(*case)
        assert (found.count == classes - 1).all()
        score = class_scores(cls_logits[0, missing, :1], "sigmoid").float().item()
        assert found.scores[:, : classes - 1].cpu().sub(score).abs().max() < ROUNDING


# Compiled

PRODUCTION = """
import torch
from ssd_core import MODELS
from ssd_core.ops.decode_nms_triton import decode_nms_triton
spec = MODELS[{name!r}]
boxes, classes = len(spec.default_boxes()), spec.num_classes
decode_nms_triton(
    torch.zeros(8, boxes, 4, dtype=torch.bfloat16),
    torch.zeros(8, boxes, classes, dtype=torch.bfloat16),
    torch.zeros(boxes, 4),
    spec.decode_settings({score_threshold}),
)
"""


SECTOR_BYTES = 32
REGISTERS = 65536
"""Of a multiprocessor; a warp gets them in steps of 8 a thread."""
WARPS_AT_ONCE = {"find_candidates": 16, "suppress": 16, "merge": 8}
"""What hides latency; one image's merging is a program of 4 warps, and little is read."""


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "score_threshold"),
    [
        pytest.param("ssd300_vgg16", 0.01, marks=pytest.mark.long),
        ("ssd_mobilenet_v2_oid", 0.4),
    ],
)
@with_each_triton
def test_the_kernels_compile_for_gpus_without_spills(tmp_path, name, score_threshold, triton):
    launches = PRODUCTION.format(name=name, score_threshold=score_threshold)
    usages = compiled(launches, tmp_path, triton)
    kernels_in_turn = [usage["kernel"] for usage in usages[::2]]
    assert kernels_in_turn == ["find_candidates", "suppress", "suppress", "merge"]
    for usage in usages:
        # No spills in loops. A few registers may be saved around them, as sm_80's merging does with
        # two: up to a sector, the 32 bytes that a thread's access moves at least.
        assert usage["LOCAL"] == 0, usage
        assert usage["STACK"] <= SECTOR_BYTES, usage
        warps_at_once = min(64, REGISTERS // 32 // (8 * -(-usage["REG"] // 8)))
        assert warps_at_once >= WARPS_AT_ONCE[usage["kernel"]], usage


SMALLEST = """
import torch
from ssd_core.ops import DecodeSettings
from ssd_core.ops.decode_nms_triton import decode_nms_triton
tensors = torch.zeros(1, 1, 4), torch.zeros(1, 1, 2), torch.zeros(1, 4)
decode_nms_triton(*tensors, DecodeSettings("softmax", 0.0, 1.0, 1, 1, (1.0, 1.0, 1.0, 1.0)))
"""


@pytest.mark.long
@with_each_triton
def test_the_kernels_compile_for_gpus_where_triton_takes_arguments_of_one_for_constants(
    tmp_path, triton
):
    assert len(compiled(SMALLEST, tmp_path, triton)) == 6


# On a GPU


def real_case(images, kind, activation, dtype=torch.float32, seed=0):
    """SSD300's sizes. Nothing hangs on rounding: boxes lie on a grid, scores apart or tie."""
    spec = MODELS["ssd300_vgg16"]
    sizes = images, len(spec.default_boxes())
    bbox_regression, default_boxes = boxes_on_a_grid(seed, *sizes)
    if kind == "sparse":
        cls_logits = lone_logits(seed, activation, *sizes, spec.num_classes, share=0.05)
    else:  # every box a candidate of every class, with one score
        alone = lone_logits(seed, "sigmoid", *sizes, 2)[..., 1:]
        cls_logits = alone.repeat(1, 1, spec.num_classes)
        cls_logits[..., 0] = 0
    limits = (spec.iou_threshold, spec.candidates_per_class, spec.max_detections)
    case = Case.of(bbox_regression, cls_logits, default_boxes, activation, 1e-4, *limits)
    return case.to(dtype=dtype, device=KERNEL_DEVICE)


def on_cpu(found):
    return DecodedDetections(*(part.cpu() for part in found))


@pytest.fixture
def kernels_must_run(monkeypatch):
    monkeypatch.setattr(op.fallback, "reason", "")
    yield
    assert not op.fallback.reason


@pytest.mark.cuda
@pytest.mark.usefixtures("kernels_must_run")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("images", "kind"),
    [(1, "sparse"), (8, "sparse"), (32, "sparse"), (256, "sparse"), (1, "dense"), (8, "dense")],
)
def test_real_sizes_are_like_the_op_on_the_cpu(images, kind, activation):
    case = real_case(images, kind, activation)
    found = on_cpu(decode_nms(*case))
    assert found.count.min() > 30
    assert_alike(found, decode_nms(*case.to(device="cpu")), boxes_atol=0)
    if images == 1:
        assert_alike(found, on_cpu(decode_nms_reference(*case)), boxes_atol=0)


@pytest.mark.cuda
@pytest.mark.usefixtures("kernels_must_run")
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_a_captured_graph_gives_what_the_op_gives_for_each_batch(kind, dtype):
    batches = [real_case(4, kind, "softmax", dtype, seed) for seed in range(3)]
    expected = [decode_nms(*case) for case in batches]
    static = Case(*(tensor.clone() for tensor in batches[0][:3]), batches[0].settings)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = decode_nms(*static)
    for case, wanted in list(zip(batches, expected, strict=True)) * 3:
        for there, tensor in zip(static[:3], case[:3], strict=True):
            there.copy_(tensor)
        graph.replay()
        assert wanted.count.min() > 30
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


@pytest.mark.cuda
@pytest.mark.usefixtures("kernels_must_run")
def test_a_thousand_calls_hold_no_more_memory_than_one():
    case = real_case(8, "sparse", "softmax")
    decode_nms(*case)
    before = torch.cuda.memory_allocated()
    for _ in range(1000):
        decode_nms(*case)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.cuda
@pytest.mark.usefixtures("kernels_must_run")
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_the_host_never_waits_for_the_device(kind):
    case = real_case(2, kind, "softmax")
    decode_nms(*case)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        decode_nms(*case)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.usefixtures("kernels_must_run")
def test_it_gives_the_same_bits_a_hundred_times():
    case = Case.of(*random_outputs(0, 4, 8732, 21), "softmax", 0.01, 0.45, 400, 200)
    case = case.to(device="cuda")
    first = decode_nms(*case)
    for _ in range(100):
        assert all(torch.equal(*pair) for pair in zip(decode_nms(*case), first, strict=True))


@pytest.mark.cuda
@pytest.mark.usefixtures("kernels_must_run")
def test_a_network_with_it_compiles_without_a_graph_break():
    layer = torch.nn.Linear(16, 91).cuda()
    case = real_case(2, "sparse", "softmax")

    def detect(features):
        logits = layer(features) * 3
        return decode_nms(case.bbox_regression, logits, *case[2:])

    features = torch.randn(2, 8732, 16, device="cuda")
    with torch.inference_mode():
        found = torch.compile(detect, fullgraph=True, backend="aot_eager")(features)
        assert found.count.min() > 30
        assert all(torch.equal(*pair) for pair in zip(found, detect(features), strict=True))
        # Inductor may compute other logits by a rounding, hence no comparison of detections.
        assert torch.compile(detect, fullgraph=True)(features).count.min() > 30


@pytest.mark.cuda
@pytest.mark.usefixtures("kernels_must_run")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_it_passes_pytorchs_checks_of_an_op(dtype, activation):
    case = Case.of(*random_outputs(0, 2, 300, 21), activation).to(device="cuda", dtype=dtype)
    torch.library.opcheck(torch.ops.ssd_core.decode_nms.default, case.flattened())
