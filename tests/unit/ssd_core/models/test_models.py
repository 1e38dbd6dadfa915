import pytest
import torch
from torch import nn

from ssd_core import MODELS, build_model
from ssd_core.default_boxes import tile_default_boxes
from ssd_core.models.mobilenet import SamePaddingConv2d
from ssd_core.models.ssd import SSD
from ssd_core.models.vgg import L2Norm

SIDES = {
    "ssd300_vgg16": [38, 19, 10, 5, 3, 1],
    "ssd512_vgg16": [64, 32, 16, 8, 4, 2, 1],
    "ssd_mobilenet_v2_oid": [19, 10, 5, 3, 2, 1],
}


def build_without_memory(name, **options):
    """Shapes only: nothing is allocated or computed."""
    with torch.device("meta"):
        return build_model(name, **options)


def meta_input(name, batch=2):
    return torch.empty(batch, 3, *MODELS[name].image_size, device="meta")


@pytest.mark.parametrize("name", MODELS)
def test_feature_maps_have_the_sizes_of_the_paper(name):
    maps = build_without_memory(name).feature_maps(meta_input(name))
    assert [tuple(m.shape[2:]) for m in maps] == [(side, side) for side in SIDES[name]]


@pytest.mark.parametrize("name", MODELS)
def test_the_spec_states_the_sizes_of_the_feature_maps(name):
    assert MODELS[name].feature_maps == tuple((side, side) for side in SIDES[name])


@pytest.mark.parametrize("name", MODELS)
def test_outputs_have_one_row_per_default_box(name):
    spec = MODELS[name]
    bbox_regression, cls_logits = build_without_memory(name)(meta_input(name))
    boxes = len(spec.default_boxes())
    assert bbox_regression.shape == (2, boxes, 4)
    assert cls_logits.shape == (2, boxes, spec.num_classes)


def test_vgg_has_the_parameters_of_torchvisions_ssd300():
    model = build_without_memory("ssd300_vgg16")
    assert len(model.state_dict()) == 71
    assert sum(parameter.numel() for parameter in model.parameters()) == 35_641_826


def test_a_model_for_other_classes_has_other_outputs():
    spec = MODELS["ssd_mobilenet_v2_oid"].with_labels(("background", "Duck"))
    _, cls_logits = build_without_memory(spec)(meta_input(spec.name, batch=1))
    assert cls_logits.shape == (1, 1917, 2)


def test_mobilenet_has_batch_norm_only_when_asked():
    def norms(model):
        return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())

    assert norms(build_without_memory("ssd_mobilenet_v2_oid")) == 0
    # the stem, 17 blocks of 3 (the first of 2), the last convolution, 4 extra layers of 2
    with_norm = build_without_memory("ssd_mobilenet_v2_oid", batch_norm=True)
    assert norms(with_norm) == 1 + 17 * 3 - 1 + 1 + 8


def test_batch_norm_has_the_epsilon_of_tensorflow():
    model = build_without_memory("ssd_mobilenet_v2_oid", batch_norm=True)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.001}


class Coordinates(nn.Module):
    """Two maps whose channels are the row and the column of each cell."""

    SIZES = ((2, 3), (1, 2))

    def forward(self, x):
        return [
            torch.stack(
                torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
            )[None]
            for h, w in self.SIZES
        ]


BOXES_PER_CELL = (2, 1)


@pytest.fixture
def coordinates_ssd():
    """Predicts column, row, box and map number as offsets; 10 * box + class as logits."""
    model = SSD(Coordinates(), [], [2, 2], BOXES_PER_CELL, num_classes=3, head_kernel_size=1)
    for number, boxes in enumerate(BOXES_PER_CELL):
        regression, classification = (
            model.regression_heads[number],
            model.classification_heads[number],
        )
        for head in (regression, classification):
            nn.init.zeros_(head.weight)
        for box in range(boxes):
            regression.weight.data[box * 4 + 0, 1] = 1
            regression.weight.data[box * 4 + 1, 0] = 1
            regression.bias.data[box * 4 : box * 4 + 4] = torch.tensor([0.0, 0, box, number])
            classification.bias.data[box * 3 : box * 3 + 3] = 10.0 * box + torch.arange(3)
    return model


def test_regression_rows_read_map_row_column_box(coordinates_ssd):
    bbox_regression, _ = coordinates_ssd(torch.zeros(1, 3, 4, 4))
    expected = [
        [column, row, box, number]
        for number, (height, width) in enumerate(Coordinates.SIZES)
        for row in range(height)
        for column in range(width)
        for box in range(BOXES_PER_CELL[number])
    ]
    assert bbox_regression[0].tolist() == expected


def test_class_rows_hold_the_classes_of_one_box(coordinates_ssd):
    _, cls_logits = coordinates_ssd(torch.zeros(1, 3, 4, 4))
    first_map = [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]] * 6
    second_map = [[0.0, 1.0, 2.0]] * 2
    assert cls_logits[0].tolist() == first_map + second_map


def test_output_rows_lie_where_their_default_boxes_lie(coordinates_ssd):
    sizes = [[(0.1, 0.1), (0.2, 0.2)], [(0.3, 0.3)]]
    boxes = tile_default_boxes(Coordinates.SIZES, sizes)
    bbox_regression, _ = coordinates_ssd(torch.zeros(1, 3, 4, 4))
    for (column, row, box, number), default_box in zip(
        bbox_regression[0].int().tolist(), boxes.tolist(), strict=True
    ):
        height, width = Coordinates.SIZES[number]
        size = sizes[number][box][0]
        expected = [(column + 0.5) / width, (row + 0.5) / height, size, size]
        assert default_box == pytest.approx(expected)


def test_l2_norm_scales_each_position_to_length_20():
    x = torch.tensor([3.0, 4.0, 0.0, -2.0]).reshape(1, 2, 1, 2)[:, :, :, [0, 1]]
    # positions (3, 0) and (4, -2)
    expected = torch.tensor([20.0, 17.8885438, 0.0, -8.9442719]).reshape(1, 2, 1, 2)
    torch.testing.assert_close(L2Norm(2)(x), expected)


def test_l2_norm_multiplies_each_channel_by_its_own_scale():
    norm = L2Norm(2)
    norm.scale.data = torch.tensor([10.0, 5.0])
    x = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(norm(x).flatten(), torch.tensor([6.0, 4.0]))


def test_l2_norm_of_zeros_is_zero():
    assert torch.equal(L2Norm(3)(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))


def same_convolution(kernel_size, weight, stride):
    convolution = SamePaddingConv2d(1, 1, kernel_size, stride=stride, bias=False)
    convolution.weight.data = torch.tensor(weight).reshape(1, 1, *kernel_size)
    return convolution


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1.0, 2, 3, 4], [321.0, 43.0]),  # even: one zero, at the right
        ([1.0, 2, 3, 4, 5], [210.0, 432.0, 54.0]),  # odd: one zero at each side
        ([1.0, 2], [21.0]),
        ([1.0], [10.0]),
    ],
)
def test_same_padding_at_stride_2_pads_the_right_first(row, expected):
    convolution = same_convolution((1, 3), [1.0, 10.0, 100.0], stride=(1, 2))
    assert convolution(torch.tensor(row).reshape(1, 1, 1, -1)).flatten().tolist() == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [([1.0, 2, 3, 4], [321.0, 43.0]), ([1.0, 2, 3, 4, 5], [210.0, 432.0, 54.0])],
)
def test_same_padding_at_stride_2_pads_the_bottom_first(column, expected):
    convolution = same_convolution((3, 1), [1.0, 10.0, 100.0], stride=(2, 1))
    assert convolution(torch.tensor(column).reshape(1, 1, -1, 1)).flatten().tolist() == expected


def test_same_padding_treats_height_and_width_apart():
    convolution = same_convolution((3, 3), [[1.0, 0, 0], [0, 0, 0], [0, 0, 0]], stride=2)
    x = torch.arange(1.0, 13).reshape(1, 1, 3, 4)  # odd height, even width
    # the upper left weight sees a row of padding above, none at the left
    assert convolution(x)[0, 0].tolist() == [[0.0, 0.0], [5.0, 7.0]]


def test_same_padding_at_stride_1_keeps_the_size():
    convolution = same_convolution((3, 3), [[0.0, 0, 0], [0, 0, 0], [0, 0, 1]], stride=1)
    x = torch.arange(1.0, 7).reshape(1, 1, 2, 3)
    assert convolution(x)[0, 0].tolist() == [[5.0, 6.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_new_models_biases_are_zero_and_its_weights_are_not():
    model = build_model("ssd_mobilenet_v2_oid")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(not convolution.bias.any() for convolution in convolutions)
    assert all(convolution.weight.std() > 0 for convolution in convolutions)
