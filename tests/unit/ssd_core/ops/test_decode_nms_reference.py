"""The numbered rules of `decode_nms_reference`, each with boxes worked out by hand.

Corners are multiples of 1/16 and scores are sigmoid(0) = 1/2 wherever a comparison is for
equality, so that nothing depends on rounding.
"""

import importlib
import math

import pytest
import torch

from ssd_core.box_coder import xyxy_to_cxcywh
from ssd_core.ops import DecodeSettings, decode_nms_reference

LEFT, MIDDLE, RIGHT = [0, 0, 0.25, 0.25], [0.375, 0, 0.625, 0.25], [0.75, 0, 1, 0.25]
NAN, INF = math.nan, math.inf


def logit(score):
    return math.log(score / (1 - score))


def decode(
    boxes_xyxy,
    logits,
    *,
    offsets=None,
    activation="sigmoid",
    score_threshold=0.25,
    iou_threshold=0.5,
    candidates_per_class=100,
    max_detections=8,
    **options,
):
    """decode_nms of one image: `logits` has a row of foreground classes per box."""
    default_boxes = xyxy_to_cxcywh(torch.tensor(boxes_xyxy, dtype=torch.float32).reshape(-1, 4))
    logits = torch.tensor(logits, dtype=torch.float32)
    cls_logits = torch.cat((torch.zeros(len(logits), 1), logits), dim=1)[None]
    if offsets is None:
        offsets = torch.zeros(len(default_boxes), 4)
    settings = DecodeSettings(
        activation, score_threshold, iou_threshold, candidates_per_class, max_detections, **options
    )
    offsets = torch.as_tensor(offsets, dtype=torch.float32)[None]
    return decode_nms_reference(offsets, cls_logits, default_boxes, settings)


def found(boxes_xyxy, logits, **options):
    """[(label, box)] of the detections, best first."""
    result = decode(boxes_xyxy, logits, **options)
    count = int(result.count[0])
    return list(
        zip(result.labels[0, :count].tolist(), result.boxes[0, :count].tolist(), strict=True)
    )


# 1. Scores and the threshold


def test_sigmoid_scores_each_class_by_itself():
    scores = decode([LEFT], [[0.0, math.log(3), -math.log(3)]], score_threshold=0.2).scores
    torch.testing.assert_close(scores[0, :3], torch.tensor([0.75, 0.5, 0.25]))


def test_softmax_shares_one_among_the_classes_and_the_background():
    logits = [[math.log(2), math.log(5)]]  # and log(1) for the background
    scores = decode([LEFT], logits, activation="softmax", score_threshold=0.1).scores
    torch.testing.assert_close(scores[0, :2], torch.tensor([0.625, 0.25]))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_scores_are_rounded_to_fp32_once(activation):
    logits = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 3
    expected = []
    for row in logits.double().tolist():
        shares = [math.exp(x) for x in row]
        total = 1 + math.fsum(shares)  # 1 for the background's logit of 0
        rule = {"softmax": lambda x, t=total: x / t, "sigmoid": lambda x: x / (1 + x)}[activation]
        expected += map(rule, shares)
    boxes = [[x / 8, y / 8, (x + 1) / 8, (y + 1) / 8] for y in range(8) for x in range(8)]
    options = {"activation": activation, "score_threshold": 0, "max_detections": 192}
    scores = decode(boxes, logits.tolist(), **options).scores[0]
    assert torch.equal(scores, torch.tensor(sorted(expected, reverse=True)).float())


def test_a_score_exactly_at_the_threshold_is_no_detection():
    assert found([LEFT], [[0.0]], score_threshold=0.5) == []


def test_a_score_just_above_the_threshold_is_a_detection():
    assert found([LEFT], [[0.0]], score_threshold=0.4999999) == [(1, LEFT)]


def test_the_background_is_never_a_detection():
    assert found([LEFT], [[-9.0]], activation="softmax", score_threshold=0.0001) == [(1, LEFT)]


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="'softmax' or 'sigmoid', not 'relu'"):
        decode([LEFT], [[0.0]], activation="relu")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_sigmoid_logit_that_is_not_finite_is_no_detection_and_spares_other_classes(bad):
    assert found([LEFT, RIGHT], [[bad, 0.0], [0.0, bad]], score_threshold=0) == [
        (1, RIGHT),
        (2, LEFT),
    ]


@pytest.mark.parametrize("bad", [NAN, INF])
def test_softmax_over_nan_or_infinity_gives_that_box_no_detection(bad):
    logits = [[bad, 5.0], [5.0, 0.0]]
    found_there = found([LEFT, RIGHT], logits, activation="softmax", score_threshold=0.5)
    assert found_there == [(1, RIGHT)]


def test_softmax_takes_minus_infinity_as_a_score_of_zero():
    logits = [[-INF, 5.0]]
    assert found([LEFT], logits, activation="softmax", score_threshold=0) == [(2, LEFT)]


# 2. The best candidates per class


def test_only_the_best_candidates_of_each_class_count():
    logits = [[logit(0.6), logit(0.9)], [logit(0.8), logit(0.7)], [logit(0.7), logit(0.8)]]
    assert found([LEFT, MIDDLE, RIGHT], logits, candidates_per_class=2) == [
        (2, LEFT),
        (1, MIDDLE),
        (2, RIGHT),
        (1, RIGHT),
    ]


def test_candidates_of_equal_score_go_by_default_box_index():
    boxes = [RIGHT, LEFT, MIDDLE]
    assert found(boxes, [[0.0], [0.0], [0.0]], candidates_per_class=2) == [(1, RIGHT), (1, LEFT)]


def test_a_suppressed_candidate_is_not_replaced_by_the_next():
    boxes = [LEFT, LEFT, RIGHT]
    logits = [[2.0], [1.0], [0.0]]
    assert found(boxes, logits, candidates_per_class=2) == [(1, LEFT)]


def test_more_candidates_than_boxes_are_all_boxes():
    boxes = [LEFT, MIDDLE, RIGHT]
    assert len(found(boxes, [[0.0]] * 3, candidates_per_class=10_000)) == 3


# 3. Decoding and clipping


def test_boxes_are_clipped_to_the_image():
    boxes = [[-0.25, -0.5, 0.25, 0.5], [0.75, 0.5, 1.5, 2.0]]
    expected = [(1, [0, 0, 0.25, 0.5]), (1, [0.75, 0.5, 1, 1])]
    assert found(boxes, [[1.0], [0.0]]) == expected


def test_overlap_is_measured_after_clipping():
    # alike inside the image, with an IoU of 1/3 outside
    boxes = [[0, 0, 0.25, 0.25], [-0.5, 0, 0.25, 0.25]]
    assert found(boxes, [[1.0], [0.0]]) == [(1, LEFT)]


def test_offsets_move_a_box_by_a_tenth_of_its_size():
    box = found([LEFT], [[0.0]], offsets=[[10.0, 5.0, 0, 0]])[0][1]
    assert box == pytest.approx([0.25, 0.125, 0.5, 0.375])


def test_other_box_weights_change_the_step():
    options = {"offsets": [[1.0, 1.0, 0, 0]], "box_weights": (1.0, 2.0, 1.0, 1.0)}
    assert found([LEFT], [[0.0]], **options)[0][1] == pytest.approx([0.25, 0.125, 0.5, 0.375])


def test_a_huge_width_offset_is_clamped():
    tiny = [0.5 - 1 / 256, 0.25, 0.5 + 1 / 256, 0.75]
    box = found([tiny], [[0.0]], offsets=[[0, 0, 1e6, 0]])[0][1]
    assert box == pytest.approx([0.5 - 62.5 / 256, 0.25, 0.5 + 62.5 / 256, 0.75])


@pytest.mark.parametrize("coordinate", range(4))
def test_an_offset_that_is_not_a_number_is_no_detection(coordinate):
    offsets = torch.zeros(2, 4)
    offsets[0, coordinate] = NAN
    assert found([LEFT, RIGHT], [[1.0], [0.0]], offsets=offsets) == [(1, RIGHT)]


def test_a_box_that_is_not_a_number_suppresses_nothing():
    offsets = [[NAN, 0, 0, 0], [0, 0, 0, 0]]
    assert found([LEFT, LEFT], [[1.0], [0.0]], offsets=offsets) == [(1, LEFT)]


# 4. Greedy NMS per class

HALF = [0, 0, 0.5, 0.25]


def test_greedy_nms_keeps_boxes_exactly_at_the_threshold():
    # LEFT is the left half of HALF: IoU 1/2
    assert found([HALF, LEFT], [[1.0], [0.0]], iou_threshold=0.5) == [(1, HALF), (1, LEFT)]


def test_greedy_nms_suppresses_boxes_just_above_the_threshold():
    assert found([HALF, LEFT], [[1.0], [0.0]], iou_threshold=0.499999) == [(1, HALF)]


def test_the_better_box_suppresses_whatever_its_index():
    assert found([LEFT, HALF], [[0.0], [1.0]], iou_threshold=0.25) == [(1, HALF)]


def test_of_equal_scores_the_lower_default_box_suppresses():
    assert found([LEFT, HALF], [[0.0], [0.0]], iou_threshold=0.25) == [(1, LEFT)]


def shifted(steps):
    return [steps / 8, 0, steps / 8 + 0.5, 0.25]


def test_a_suppressed_box_suppresses_nothing():
    # neighbours have an IoU of 3/5, next but one 1/3
    boxes = [shifted(0), shifted(1), shifted(2)]
    logits = [[2.0], [1.0], [0.0]]
    assert found(boxes, logits) == [(1, shifted(0)), (1, shifted(2))]


def test_a_long_chain_of_overlaps_keeps_every_second_box():
    boxes = [shifted(k) for k in range(5)]
    logits = [[float(-k)] for k in range(5)]
    kept = [(1, shifted(0)), (1, shifted(2)), (1, shifted(4))]
    assert found(boxes, logits, score_threshold=0.01) == kept


def test_classes_do_not_suppress_one_another():
    assert found([LEFT, LEFT], [[1.0, -9.0], [-9.0, 0.0]]) == [(1, LEFT), (2, LEFT)]


def test_boxes_without_area_do_not_suppress_one_another():
    point, line = [0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.75, 0.5]
    boxes = [point, point, line, line]
    assert len(found(boxes, [[3.0], [2.0], [1.0], [0.0]], iou_threshold=0.0)) == 4


def test_a_box_without_area_inside_another_stays():
    boxes = [[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5]]
    assert len(found(boxes, [[1.0], [0.0]], iou_threshold=0.0)) == 2


# Several images


def decode_images(boxes_xyxy, logits, **options):
    """decode_nms of several images of the same default boxes: `logits` is (B, A, C - 1)."""
    default_boxes = xyxy_to_cxcywh(torch.tensor(boxes_xyxy, dtype=torch.float32))
    logits = torch.tensor(logits, dtype=torch.float32)
    cls_logits = torch.cat((torch.zeros(*logits.shape[:2], 1), logits), dim=2)
    settings = DecodeSettings(
        "sigmoid",
        0.25,
        options.pop("iou_threshold", 0.5),
        options.pop("candidates_per_class", 100),
        options.pop("max_detections", 8),
    )
    offsets = torch.zeros(*logits.shape[:2], 4)
    result = decode_nms_reference(offsets, cls_logits, default_boxes, settings)
    return [
        list(zip(labels[:count].tolist(), boxes[:count].tolist(), strict=True))
        for labels, boxes, count in zip(
            result.labels, result.boxes, result.count.tolist(), strict=True
        )
    ]


NOTHING = -9.0


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_every_class_of_every_image_has_its_own_best_candidates(images):
    logits = [[[1.0, 2.0], [2.0, 1.0]]] * images
    expected = [(1, RIGHT), (2, LEFT)]
    assert decode_images([LEFT, RIGHT], logits, candidates_per_class=1) == [expected] * images


def test_every_class_of_every_image_has_its_own_suppression():
    # alike boxes: suppressed by one of their own class and image alone
    logits = [[[2.0, NOTHING], [1.0, 1.0]], [[1.5, 0.5], [NOTHING, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]
    expected = [[(1, LEFT), (2, LEFT)], [(1, LEFT), (2, LEFT)], [(1, LEFT), (2, LEFT)]]
    assert decode_images([LEFT, LEFT], logits) == expected


def test_the_last_class_of_an_image_suppresses_nothing_in_the_first_of_a_later_one():
    logits = [[[NOTHING, 1.0]], [[NOTHING, NOTHING]], [[0.0, NOTHING]]]
    assert decode_images([LEFT], logits) == [[(2, LEFT)], [], [(1, LEFT)]]


def test_images_without_detections_come_between_others():
    logits = [[[NOTHING], [NOTHING]], [[1.0], [NOTHING]], [[NOTHING], [NOTHING]], [[0.0], [1.0]]]
    logits.append(logits[0])
    found_there = [[], [(1, LEFT)], [], [(1, RIGHT), (1, LEFT)], []]
    assert decode_images([LEFT, RIGHT], logits) == found_there


@pytest.mark.parametrize("images", [1, 3])
def test_many_equal_scores_go_by_class_then_by_default_box_index(images):
    """Sorting that is not stable shows from 17 numbers on."""
    boxes = [[x / 8, y / 8, (x + 1) / 8, (y + 1) / 8] for y in range(8) for x in range(8)]
    logits = [[[0.0, 0.0]] * 64] * images
    kept = decode_images(boxes, logits, candidates_per_class=40, max_detections=60)
    expected = [(1, box) for box in boxes[:40]] + [(2, box) for box in boxes[:20]]
    assert kept == [expected] * images


def test_each_image_keeps_its_own_best_detections():
    logits = [[[1.0, 3.0], [2.0, NOTHING]], [[NOTHING, 1.0], [2.0, 0.5]]]
    expected = [[(2, LEFT), (1, RIGHT)], [(1, RIGHT), (2, LEFT)]]
    assert decode_images([LEFT, RIGHT], logits, max_detections=2) == expected


def test_suppression_takes_groups_in_pieces_without_a_difference(monkeypatch):
    """As memory demands it: a piece then holds one class of one image, or a few."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, 2, generator=generator).sort(dim=1).values
    boxes = corners.flatten(1).tolist()
    logits = torch.randn(3, 40, 4, generator=generator).tolist()
    whole = decode_images(boxes, logits, iou_threshold=0.3, max_detections=200)
    assert sum(map(len, whole)) > 50
    reference = importlib.import_module("ssd_core.ops.decode_nms_reference")
    suppress, taken = reference._suppress, []

    def spy(chunk, threshold):
        taken.append(chunk.shape[:2])
        return suppress(chunk, threshold)

    monkeypatch.setattr(reference, "_suppress", spy)
    for elements in (1, 40**2 * 2, 40**2 * 100):
        monkeypatch.setattr(reference, "NMS_CHUNK_ELEMENTS", elements)
        taken.clear()
        assert decode_images(boxes, logits, iou_threshold=0.3, max_detections=200) == whole
        assert sum(groups for groups, _ in taken) == 12
        assert all(groups == 1 or groups * size**2 <= elements for groups, size in taken)
    assert len(taken) == 1


# 5. The best over all classes, and the padding


def test_detections_of_all_classes_come_best_first():
    logits = [[logit(0.6), logit(0.9)], [logit(0.8), logit(0.7)]]
    labels = [label for label, _ in found([LEFT, RIGHT], logits)]
    assert labels == [2, 1, 2, 1]


def test_equal_scores_go_by_class_then_by_default_box_index():
    expected = [(1, LEFT), (1, RIGHT), (2, LEFT), (2, RIGHT)]
    assert found([LEFT, RIGHT], [[0.0, 0.0], [0.0, 0.0]]) == expected


def test_of_equal_scores_the_lower_class_is_kept_though_its_box_comes_later():
    logits = [[-9.0, 0.0], [0.0, -9.0]]
    assert found([LEFT, RIGHT], logits, max_detections=1) == [(1, RIGHT)]


def test_no_more_than_max_detections_are_kept():
    logits = [[0.0], [2.0], [1.0]]
    kept = found([LEFT, MIDDLE, RIGHT], logits, max_detections=2)
    assert kept == [(1, MIDDLE), (1, RIGHT)]


def test_the_padding_is_zeros_and_count_says_where_it_starts():
    result = decode([LEFT, RIGHT], [[1.0], [0.0]], max_detections=5)
    assert result.count.tolist() == [2]
    assert result.boxes.shape == (1, 5, 4)
    assert not result.boxes[0, 2:].any()
    assert not result.scores[0, 2:].any()
    assert not result.labels[0, 2:].any()


def test_outputs_have_their_types():
    result = decode([LEFT], [[0.0]])
    assert result.boxes.dtype == result.scores.dtype == torch.float32
    assert result.labels.dtype == result.count.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(dtype):
    generator = torch.Generator().manual_seed(0)
    offsets, logits = (torch.randn(2, 20, n, generator=generator).to(dtype) for n in (4, 3))
    default_boxes = torch.rand(20, 4, generator=generator) + 0.1
    settings = DecodeSettings("softmax", 0.1, 0.5, 20, 40)
    found = decode_nms_reference(offsets, logits, default_boxes, settings)
    expected = decode_nms_reference(offsets.float(), logits.float(), default_boxes, settings)
    assert found.count.min() > 5
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


def test_no_candidates_give_only_padding():
    result = decode([LEFT], [[-9.0]], max_detections=3)
    assert result.count.tolist() == [0]
    assert result.boxes.shape == (1, 3, 4)
    assert not result.scores.any()
