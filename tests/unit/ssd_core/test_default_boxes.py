import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from ssd_core import MODELS
from ssd_core.default_boxes import (
    SSD300_COCO_SCALES,
    SSD300_VOC_SCALES,
    SSD512_COCO_SCALES,
    SSD512_VOC_SCALES,
    paper_box_sizes,
    tf_od_box_sizes,
    tile_default_boxes,
)


def assert_boxes(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "boxes"),
    [("ssd300_vgg16", 8732), ("ssd512_vgg16", 24564), ("ssd_mobilenet_v2_oid", 1917)],
)
def test_each_model_has_the_published_number_of_default_boxes(name, boxes):
    assert MODELS[name].default_boxes().shape == (boxes, 4)


@pytest.mark.parametrize(
    ("scales", "image_size", "sizes_px"),
    [
        # ssd_pascal.py, ssd_coco.py and their 512 versions
        (SSD300_VOC_SCALES, 300, [30, 60, 111, 162, 213, 264, 315]),
        (SSD300_COCO_SCALES, 300, [21, 45, 99, 153, 207, 261, 315]),
        (SSD512_VOC_SCALES, 512, [35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6]),
        (SSD512_COCO_SCALES, 512, [20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72]),
    ],
    ids=["VOC300", "COCO300", "VOC512", "COCO512"],
)
def test_scales_are_those_of_the_authors_code(scales, image_size, sizes_px):
    assert [scale * image_size for scale in scales.values] == pytest.approx(sizes_px)


def test_coco_300_scales_are_torchvisions():
    assert SSD300_COCO_SCALES.values == (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)


def test_box_sizes_are_square_extra_square_then_each_ratio_and_its_inverse():
    (sizes,) = paper_box_sizes(SSD300_VOC_SCALES, [(2.0, 3.0)])
    assert_boxes(
        torch.tensor(sizes),
        [
            [0.1, 0.1],
            [0.14142136, 0.14142136],  # sqrt(0.1 * 0.2)
            [0.14142136, 0.07071068],
            [0.07071068, 0.14142136],
            [0.17320508, 0.05773503],
            [0.05773503, 0.17320508],
        ],
    )


def test_ssd300_first_cell_holds_the_hand_computed_boxes():
    centre = 0.5 * 8 / 300
    assert_boxes(
        MODELS["ssd300_vgg16"].default_boxes()[:4],
        [
            [centre, centre, 0.07, 0.07],
            [centre, centre, 0.10246951, 0.10246951],
            [centre, centre, 0.09899495, 0.04949747],
            [centre, centre, 0.04949747, 0.09899495],
        ],
    )


def test_ssd300_boxes_go_through_the_columns_before_the_rows():
    boxes = MODELS["ssd300_vgg16"].default_boxes()
    assert_boxes(boxes[4, :2], [1.5 * 8 / 300, 0.5 * 8 / 300])
    assert_boxes(boxes[38 * 4, :2], [0.5 * 8 / 300, 1.5 * 8 / 300])


def test_ssd300_last_map_is_clamped_to_the_input():
    assert_boxes(
        MODELS["ssd300_vgg16"].default_boxes()[-4:],
        [
            [0.5, 0.5, 0.87, 0.87],
            [0.5, 0.5, 0.95577194, 0.95577194],
            [0.5, 0.5, 1.0, 0.61518290],
            [0.5, 0.5, 0.61518290, 1.0],
        ],
    )


def test_without_clamp_boxes_exceed_the_input_as_in_the_paper():
    sizes = paper_box_sizes(SSD300_COCO_SCALES, [(2.0,)] * 6, clamp=False)
    assert sizes[-1][2] == pytest.approx((1.23036580, 0.61518290))


def test_every_ssd512_map_starts_at_half_its_step_with_its_scale():
    boxes = MODELS["ssd512_vgg16"].default_boxes()
    start = 0
    for side, boxes_per_cell, step, scale in [
        (64, 4, 8, 0.04),
        (32, 6, 16, 0.1),
        (16, 6, 32, 0.26),
        (8, 6, 64, 0.42),
        (4, 6, 128, 0.58),
        (2, 4, 256, 0.74),
        (1, 4, 512, 0.9),
    ]:
        assert_boxes(boxes[start], [step / 2 / 512, step / 2 / 512, scale, scale])
        start += side * side * boxes_per_cell
    assert start == len(boxes)


def test_tf_od_first_map_has_three_boxes():
    assert_boxes(
        MODELS["ssd_mobilenet_v2_oid"].default_boxes()[:3],
        [
            [0.02631579, 0.02631579, 0.1, 0.1],
            [0.02631579, 0.02631579, 0.28284271, 0.14142136],
            [0.02631579, 0.02631579, 0.14142136, 0.28284271],
        ],
    )


def test_tf_od_second_map_has_six_boxes_with_the_extra_square_last():
    boxes = MODELS["ssd_mobilenet_v2_oid"].default_boxes()[19 * 19 * 3 :][:6]
    assert_boxes(
        boxes,
        [
            [0.05, 0.05, 0.35, 0.35],
            [0.05, 0.05, 0.49497475, 0.24748737],
            [0.05, 0.05, 0.24748737, 0.49497475],
            [0.05, 0.05, 0.60621778, 0.20207259],
            [0.05, 0.05, 0.20206249, 0.60624809],  # ratio 0.3333, not a third
            [0.05, 0.05, 0.41833001, 0.41833001],
        ],
    )


def test_tf_od_last_extra_square_goes_to_scale_one():
    assert tf_od_box_sizes(6)[-1][-1] == pytest.approx((0.97467943, 0.97467943))


def test_ssd300_equals_torchvisions_default_boxes():
    generator = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    maps = [torch.zeros(1, 1, size, size) for size in (38, 19, 10, 5, 3, 1)]
    (expected_xyxy,) = generator(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)

    boxes = MODELS["ssd300_vgg16"].default_boxes() * 300
    actual_xyxy = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
    torch.testing.assert_close(actual_xyxy, expected_xyxy, atol=1e-4, rtol=0)


def test_a_map_that_is_not_square_keeps_height_and_width_apart():
    boxes = tile_default_boxes([(2, 4)], [[(0.5, 0.25)]])
    assert_boxes(
        boxes,
        [
            [0.125, 0.25, 0.5, 0.25],
            [0.375, 0.25, 0.5, 0.25],
            [0.625, 0.25, 0.5, 0.25],
            [0.875, 0.25, 0.5, 0.25],
            [0.125, 0.75, 0.5, 0.25],
            [0.375, 0.75, 0.5, 0.25],
            [0.625, 0.75, 0.5, 0.25],
            [0.875, 0.75, 0.5, 0.25],
        ],
    )


def test_fixed_steps_on_an_input_that_is_not_square():
    # 40 x 100 pixels (height x width), step 32: 1.25 x 3.125 cells, of which 2 x 4 are predicted
    boxes = tile_default_boxes([(2, 4)], [[(0.1, 0.2)]], cells=[(1.25, 3.125)])
    assert_boxes(boxes[:, 0], [0.16, 0.48, 0.8, 1.12] * 2)
    assert_boxes(boxes[:, 1], [0.4] * 4 + [1.2] * 4)


def test_maps_follow_one_another_and_sizes_vary_fastest():
    boxes = tile_default_boxes([(1, 2), (1, 1)], [[(0.1, 0.1), (0.2, 0.2)], [(0.9, 0.8)]])
    assert_boxes(
        boxes,
        [
            [0.25, 0.5, 0.1, 0.1],
            [0.25, 0.5, 0.2, 0.2],
            [0.75, 0.5, 0.1, 0.1],
            [0.75, 0.5, 0.2, 0.2],
            [0.5, 0.5, 0.9, 0.8],
        ],
    )


def test_feature_maps_and_box_sizes_must_go_in_pairs():
    with pytest.raises(ValueError, match="zip"):
        tile_default_boxes([(1, 1), (2, 2)], [[(0.1, 0.1)]])


def test_default_boxes_are_fp32():
    assert MODELS["ssd300_vgg16"].default_boxes().dtype == torch.float32
