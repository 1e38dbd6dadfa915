"""The op `decode_nms` on the CPU, in C++ and in NumPy."""

import dataclasses
import importlib
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from torchvision.ops import box_convert

from ssd_core import MODELS
from ssd_core.ops import DecodeSettings, decode_nms, decode_nms_reference
from tests.unit.ssd_core.head_outputs import (
    ACTIVATIONS,
    FLOAT_TYPES,
    Case,
    any_outputs,
    assert_same,
    heap,
    outputs_with_ties,
    random_outputs,
    spoil,
)

op = importlib.import_module("ssd_core.ops.decode_nms")

CLASSES = [1, 2, 3, 4, 5, 6, 7, 21, 24, 81, 91]


@pytest.fixture(autouse=True, scope="module", params=["native", "numpy"])
def implementation(request):
    """Every test of this file, with either of the two."""
    missing = op.native.why_missing()
    if request.param == "native" and missing:
        pytest.skip(missing)
    reason = "" if request.param == "native" else "left out by a test"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op.native, "why_missing", lambda: reason)
        yield request.param


def assert_like_reference(case, least=0):
    found = decode_nms(*case)
    assert_same(found, decode_nms_reference(*case))
    assert found.count.sum() >= least
    return found


# Equal to the reference


@settings(max_examples=300, deadline=None)
@given(any_outputs())
@example(Case.of(*outputs_with_ties(0)))
def test_it_is_the_reference_whatever_comes(case):
    assert_like_reference(case)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", [random_outputs, outputs_with_ties])
@pytest.mark.parametrize("classes", CLASSES)
def test_any_number_of_classes_is_like_the_reference(classes, outputs, activation):
    case = Case.of(*outputs(classes, boxes=150, classes=classes), activation, 0.02)
    assert_like_reference(case, least=20 * (classes > 1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("score_threshold", [0.0, 1e-38, 1e-6, 0.01, 0.3, 0.5, 0.99])
def test_any_score_threshold_is_like_the_reference(score_threshold, activation):
    bbox_regression, cls_logits, default_boxes = random_outputs(3, classes=4)
    case = Case.of(bbox_regression, 3 * cls_logits, default_boxes, activation, score_threshold)
    assert_like_reference(case, least=3)


@pytest.mark.parametrize("score", [1 - 2**-24, 1 - 2**-23, 0.1, 0.01, 1e-6, 1e-30, 1e-40])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_scores_on_both_sides_of_the_threshold_are_like_the_reference(activation, score):
    steps = torch.linspace(-1e-5, 1e-5, 1001, dtype=torch.float64)
    logits = torch.tensor(score, dtype=torch.float64).logit() * (1 + steps)
    cls_logits = torch.stack((torch.zeros(1001), logits.float()), dim=1)[None]
    for shift in (0, 1000) if activation == "softmax" else (0,):
        outputs = torch.zeros(1, 1001, 4), cls_logits + shift, torch.rand(1001, 4)
        assert_like_reference(Case.of(*outputs, activation, score, 1.0, 2000, 2000))


@pytest.mark.parametrize("candidates_per_class", [1, 2, 59, 60, 61, 10_000])
@pytest.mark.parametrize("max_detections", [1, 2, 239, 240, 241, 10_000])
def test_any_limits_are_like_the_reference(candidates_per_class, max_detections):
    limits = (0.01, 0.5, candidates_per_class, max_detections)
    assert_like_reference(Case.of(*random_outputs(4), "softmax", *limits), least=1)
    assert_like_reference(Case.of(*outputs_with_ties(4), "sigmoid", *limits), least=1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_detections_wanted_are_none(activation):
    found = decode_nms(*Case.of(*random_outputs(0), activation, max_detections=0))
    assert found.boxes.shape == (2, 0, 4)
    assert found.scores.shape == found.labels.shape == (2, 0)
    assert found.count.tolist() == [0, 0]


@pytest.mark.parametrize("logits", FLOAT_TYPES)
@pytest.mark.parametrize("offsets", FLOAT_TYPES)
def test_any_mix_of_types_is_like_the_reference(offsets, logits):
    case = Case.of(*random_outputs(5))
    case = case.change(
        bbox_regression=case.bbox_regression.to(offsets), cls_logits=case.cls_logits.to(logits)
    )
    assert_like_reference(case, least=20)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_that_are_no_numbers_are_as_in_the_reference_and_raise_no_warning(activation):
    bbox_regression, cls_logits, default_boxes = random_outputs(6, boxes=200)
    case = Case.of(spoil(bbox_regression, 0.1, 6), spoil(cls_logits, 0.2, 7), default_boxes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_like_reference(case.change(activation=activation), least=10)


@pytest.mark.parametrize("offset", [torch.nan, torch.inf, -torch.inf, 1e38, -1e38])
@pytest.mark.parametrize("coordinate", range(4))
def test_an_absurd_offset_is_as_in_the_reference(coordinate, offset):
    bbox_regression, cls_logits, default_boxes = random_outputs(7)
    bbox_regression[:, ::2, coordinate] = offset
    default_boxes[::4, 2:] = 0
    assert_like_reference(Case.of(bbox_regression, cls_logits, default_boxes), least=10)


def test_boxes_without_area_are_as_in_the_reference():
    bbox_regression, cls_logits, default_boxes = random_outputs(8)
    default_boxes[::2, 2] = 0
    default_boxes[::3, 3] = 0
    default_boxes[::5] = default_boxes[0]
    for iou_threshold in (0.0, 0.5):
        case = Case.of(bbox_regression, cls_logits, default_boxes, iou_threshold=iou_threshold)
        assert_like_reference(case, least=10)


def test_no_candidates_are_no_detections():
    bbox_regression, cls_logits, default_boxes = random_outputs(9)
    cls_logits[..., 0] = 50
    found = assert_like_reference(Case.of(bbox_regression, cls_logits, default_boxes))
    assert found.count.tolist() == [0, 0]
    assert not any(part.any() for part in found)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("images", "boxes", "classes"), [(0, 5, 3), (2, 0, 3), (0, 0, 1)])
def test_nothing_in_is_nothing_out(images, boxes, classes, activation):
    outputs = random_outputs(0, images, boxes, classes)
    found = assert_like_reference(Case.of(*outputs, activation, max_detections=7))
    assert found.boxes.shape == (images, 7, 4)


@pytest.mark.parametrize("images", [1, 256])
def test_a_batch_of_any_size_is_like_the_reference_and_its_images_alone(images):
    bbox_regression, cls_logits, default_boxes = random_outputs(10, images)
    cls_logits[1::2, :, 0] += 8  # nothing in many images
    case = Case.of(bbox_regression, cls_logits, default_boxes)
    found = assert_like_reference(case, least=images // 2)
    for image in range(0, images, 17):
        one = slice(image, image + 1)
        alone = decode_nms(bbox_regression[one], cls_logits[one], *case[2:])
        assert_same([part[one] for part in found], alone)


def test_every_box_of_ssd300_a_candidate_of_every_class_is_like_the_reference():
    spec = MODELS["ssd300_vgg16"]
    default_boxes = spec.default_boxes()
    bbox_regression, cls_logits, _ = random_outputs(11, 1, len(default_boxes), spec.num_classes)
    outputs = bbox_regression, cls_logits, default_boxes
    limits = (spec.iou_threshold, spec.candidates_per_class, spec.max_detections)
    found = assert_like_reference(Case.of(*outputs, "softmax", 0.0, *limits))
    assert found.count.tolist() == [200]


def test_thousands_of_candidates_and_detections_are_like_the_reference():
    outputs = random_outputs(12, images=1, boxes=1500, classes=4)
    assert_like_reference(Case.of(*outputs, "softmax", 0.0, 0.6, 5000, 6000), least=2500)


def test_it_gives_the_same_bits_twice():
    case = Case.of(*outputs_with_ties(13, images=3, boxes=300), "softmax", 0.01)
    assert_same(decode_nms(*case), decode_nms(*case))


@pytest.mark.parametrize("candidates_per_class", [300, 500, 1000])
@pytest.mark.parametrize(("identical", "others"), [(1, 200), (500, 200), (500, 0)])
def test_heaps_of_boxes_are_like_the_reference(identical, others, candidates_per_class):
    limits = (0.5, candidates_per_class, 10)
    assert_like_reference(Case.of(*heap(identical, others), "sigmoid", 0.1, *limits), least=1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equal_scores_of_all_boxes_are_like_the_reference(activation):
    bbox_regression, cls_logits, default_boxes = random_outputs(15, boxes=700, classes=5)
    for equal in (torch.zeros_like(cls_logits), cls_logits[:, :1].expand_as(cls_logits)):
        case = Case.of(bbox_regression, equal, default_boxes, activation, 0.1, 0.3, 100, 50)
        assert_like_reference(case, least=40)


@pytest.mark.parametrize("score_threshold", [0.99999997, 0.3, 0.7, 1e-7])
def test_a_threshold_between_two_numbers_of_fp32_is_like_the_reference(score_threshold):
    logits = torch.tensor(score_threshold, dtype=torch.float64).logit() + torch.linspace(-1, 1, 999)
    cls_logits = torch.stack((torch.zeros(999), logits.float()), dim=1)[None]
    outputs = torch.zeros(1, 999, 4), cls_logits, torch.rand(999, 4)
    for activation in ACTIVATIONS:
        assert_like_reference(
            Case.of(*outputs, activation, score_threshold, 1.0, 999, 999), least=100
        )


def test_overlap_is_compared_with_the_threshold_in_fp32():
    # 1/3 in fp32 is above 1/3
    default_boxes = torch.tensor([[0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    cls_logits = torch.tensor([[[0.0, 2.0], [0.0, 1.0]]])
    case = Case.of(torch.zeros(1, 2, 4), cls_logits, default_boxes, iou_threshold=1 / 3)
    assert assert_like_reference(case).count.item() == 2


# What networks give


@pytest.fixture(scope="module")
def mobilenet_case(mobilenet, golden):
    with torch.inference_mode():
        outputs = mobilenet.model(mobilenet.preprocess(golden["inputs"]))
    spec = mobilenet.spec
    limits = (spec.iou_threshold, spec.candidates_per_class, spec.max_detections)
    return Case.of(*outputs, spec.default_boxes(), "sigmoid", spec.score_threshold, *limits)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize(("score_threshold", "least"), [(0.01, 100), (0.4, 10)])
def test_what_mobilenet_sees_is_like_the_reference(mobilenet_case, score_threshold, least, dtype):
    case = mobilenet_case.to(dtype=dtype).change(score_threshold=score_threshold)
    assert_like_reference(case, least)


@pytest.fixture(scope="module")
def ssd300_head(torchvision_ssd300, golden):
    """What torchvision's model gives for three pictures, before its post-processing."""
    raw = []
    hook = torchvision_ssd300.head.register_forward_hook(lambda *call: raw.append(call[-1]))
    with torch.inference_mode():
        pictures = torch.from_numpy(golden["inputs"][:3]).permute(0, 3, 1, 2) / 255
        torchvision_ssd300(list(pictures))
    hook.remove()
    return raw[0]


def ssd300_case(head, score_threshold):
    spec = MODELS["ssd300_vgg16"]
    limits = (spec.iou_threshold, spec.candidates_per_class, spec.max_detections)
    outputs = head["bbox_regression"], head["cls_logits"], spec.default_boxes()
    return Case.of(*outputs, "softmax", score_threshold, *limits)


@pytest.mark.long
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize(("score_threshold", "least"), [(0.01, 400), (0.2, 3)])
def test_what_ssd300_sees_is_like_the_reference(ssd300_head, score_threshold, least, dtype):
    case = ssd300_case(ssd300_head, score_threshold).to(dtype=dtype)
    assert_like_reference(case, least)


def test_what_ssd300_sees_is_what_torchvision_makes_of_it(ssd300_head, torchvision_ssd300):
    case = ssd300_case(ssd300_head, torchvision_ssd300.score_thresh)
    images = len(case.cls_logits)
    anchors = box_convert(case.default_boxes_cxcywh, "cxcywh", "xyxy") * 300
    expected = torchvision_ssd300.postprocess_detections(
        ssd300_head, [anchors] * images, [(300, 300)] * images
    )
    found = decode_nms(*case)
    assert found.count.tolist() == [len(theirs["labels"]) for theirs in expected]
    assert found.count.sum() > 400
    for image, theirs in enumerate(expected):
        count = found.count[image]
        assert torch.equal(found.labels[image, :count], theirs["labels"])
        torch.testing.assert_close(found.scores[image, :count], theirs["scores"])
        torch.testing.assert_close(
            300 * found.boxes[image, :count], theirs["boxes"], atol=1e-3, rtol=0
        )


# As an op of PyTorch


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("images", "boxes", "classes", "candidates_per_class", "max_detections"),
    [(1, 1, 1, 1, 1), (1, 9, 2, 3, 4), (3, 40, 5, 10, 20), (2, 30, 91, 50, 300), (0, 5, 3, 2, 2),
     (2, 0, 3, 2, 2)],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_passes_pytorchs_checks_of_an_op(
    images, boxes, classes, candidates_per_class, max_detections, activation, dtype
):
    outputs = random_outputs(0, images, boxes, classes)
    limits = (0.1, 0.5, candidates_per_class, max_detections)
    case = Case.of(*outputs, activation, *limits).to(dtype=dtype)
    torch.library.opcheck(torch.ops.ssd_core.decode_nms.default, case.flattened())


class Head(torch.nn.Module):
    """A network's last layer, and the op behind it."""

    def __init__(self, boxes=30, classes=4):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(8, boxes * (4 + classes))
        self.boxes, self.classes = boxes, classes
        self.settings = DecodeSettings("softmax", 0.1, 0.5, 10, 20)
        self.register_buffer("default_boxes", random_outputs(0, 1, boxes, classes)[2])

    def forward(self, x):
        outputs = self.layer(x).unflatten(1, (self.boxes, 4 + self.classes))
        offsets, logits = outputs.split((4, self.classes), dim=2)
        found = decode_nms(offsets, logits, self.default_boxes, self.settings)
        return found.boxes * 300, found.scores, found.labels, found.count


def inputs(images):
    return torch.randn(images, 8, generator=torch.Generator().manual_seed(images))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_network_with_it_compiles_without_a_graph_break(backend, dynamic):
    head = Head()
    compiled = torch.compile(head, backend=backend, fullgraph=True, dynamic=dynamic)
    with torch.inference_mode():
        for images in (2, 5):
            found = compiled(inputs(images))
            assert found[3].sum() > images
            for ours, expected in zip(found, head(inputs(images)), strict=True):
                assert torch.equal(ours, expected)


def test_a_network_with_it_is_exported():
    head = Head()
    program = torch.export.export(head, (inputs(3),)).module()
    found = program(inputs(3))
    assert found[3].sum() > 3
    assert all(torch.equal(*pair) for pair in zip(found, head(inputs(3)), strict=True))


def test_a_network_with_it_is_exported_for_batches_of_any_size():
    head = Head()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(head, (inputs(3),), dynamic_shapes=({0: batch},))
    assert "ssd_core.decode_nms" in str(program.graph)
    for images in (1, 2, 7):
        found = program.module()(inputs(images))
        assert all(torch.equal(*pair) for pair in zip(found, head(inputs(images)), strict=True))


def test_outputs_of_a_network_in_training_are_taken():
    bbox_regression, cls_logits, default_boxes = random_outputs(15)
    case = Case.of(bbox_regression.requires_grad_(), cls_logits.requires_grad_(), default_boxes)
    for activation in ACTIVATIONS:
        assert_like_reference(case.change(activation=activation), least=20)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_inputs_are_not_changed(activation):
    tensors = random_outputs(16)
    before = [tensor.clone() for tensor in tensors]
    decode_nms(*Case.of(*tensors, activation))
    assert all(torch.equal(*pair) for pair in zip(tensors, before, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_inputs_may_lie_in_memory_in_any_order(activation, dtype):
    case = Case.of(*random_outputs(17), activation).to(dtype=dtype)
    expected = decode_nms(*case)
    assert expected.count.sum() > 20
    channels_first = [tensor.mT.contiguous().mT for tensor in case[:2]]
    spread = [torch.stack((tensor, -tensor), dim=-1)[..., 0] for tensor in case[:3]]
    assert not any(tensor.is_contiguous() for tensor in (*channels_first, *spread))
    assert_same(decode_nms(*channels_first, *case[2:]), expected)
    assert_same(decode_nms(*spread, case.settings), expected)


OUTPUTS = random_outputs(0, images=2, boxes=6, classes=3)
FIELDS = [field.name for field in dataclasses.fields(DecodeSettings)]


@pytest.mark.parametrize("function", [torch.ops.ssd_core.decode_nms, op._on_cuda])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"cls_logits": OUTPUTS[1][0]},
            r"cls_logits must be \(images, boxes, classes\), not \(6, 3\)",
        ),
        (
            {"cls_logits": OUTPUTS[1][..., :0]},
            r"cls_logits must be \(images, boxes, classes\), not \(2, 6, 0\)",
        ),
        (
            {"bbox_regression": OUTPUTS[0][:1]},
            r"bbox_regression must be \(2, 6, 4\) beside cls_logits \(2, 6, 3\), not \(1, 6, 4\)",
        ),
        ({"bbox_regression": OUTPUTS[0][:, :5]}, r"bbox_regression must be .* not \(2, 5, 4\)"),
        ({"bbox_regression": OUTPUTS[0][..., :3]}, r"bbox_regression must be .* not \(2, 6, 3\)"),
        (
            {"default_boxes_cxcywh": OUTPUTS[2][:5]},
            r"default_boxes_cxcywh must be \(6, 4\) beside cls_logits .* not \(5, 4\)",
        ),
        (
            {"default_boxes_cxcywh": OUTPUTS[2][None]},
            r"default_boxes_cxcywh must be \(6, 4\) .* not \(1, 6, 4\)",
        ),
        (
            {"bbox_regression": OUTPUTS[0].double()},
            r"bbox_regression must be fp32, fp16 or bf16, not torch\.float64",
        ),
        (
            {"cls_logits": OUTPUTS[1].long()},
            r"cls_logits must be fp32, fp16 or bf16, not torch\.int64",
        ),
        (
            {"default_boxes_cxcywh": OUTPUTS[2].half()},
            r"default_boxes_cxcywh must be fp32, not torch\.float16",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message, function):
    with pytest.raises(ValueError, match=message):
        function(*Case.of(*OUTPUTS).change(**change).flattened())
    assert not op.fallback.reason


SETTINGS_REFUSED = [
    ({"activation": "relu"}, "activation must be 'softmax' or 'sigmoid', not 'relu'"),
    ({"candidates_per_class": 0}, "candidates_per_class must be at least 1, not 0"),
    ({"max_detections": -1}, "max_detections must be at least 0, not -1"),
    ({"score_threshold": -0.1}, "score_threshold must be at least 0, not -0.1"),
    ({"score_threshold": torch.nan}, "score_threshold must be at least 0, not nan"),
    ({"iou_threshold": torch.nan}, "iou_threshold must be a number, not NaN"),
    ({"box_weights": (10.0, 10.0, 5.0)}, "box_weights must be 4 numbers, not 3"),
]


@pytest.mark.parametrize(("change", "message"), SETTINGS_REFUSED)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Case.of(*OUTPUTS).change(**change)


@pytest.mark.parametrize("function", [torch.ops.ssd_core.decode_nms, op._on_cuda])
@pytest.mark.parametrize(("change", "message"), SETTINGS_REFUSED)
def test_the_op_refuses_the_same_settings(change, message, function):
    fields = dict(zip(FIELDS, Case.of(*OUTPUTS).settings.flattened(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        function(*OUTPUTS, *fields.values())
    assert not op.fallback.reason


def test_the_op_takes_the_settings_by_the_names_of_their_fields():
    case = Case.of(*random_outputs(3), "sigmoid", 0.2, 0.4, 15, 25, (1.0, 2.0, 3.0, 4.0))
    fields = dict(zip(FIELDS, case.settings.flattened(), strict=True))
    tensors = dict(zip(case._fields[:3], case[:3], strict=True))
    found = torch.ops.ssd_core.decode_nms(**tensors, **fields)
    assert_same(found, decode_nms(*case))
    assert found[3].sum() > 20


def test_the_schema_names_the_fields_of_the_settings_in_their_order():
    arguments = torch.ops.ssd_core.decode_nms.default._schema.arguments
    assert tuple(argument.name for argument in arguments) == (*Case._fields[:3], *FIELDS)
