"""Augmentation: boxes stay on their objects, whatever is drawn, and pixels are the detector's."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from ssd_core.models.zoo import MODELS
from ssd_core.preprocess import preprocess
from ssd_core.training import augment
from ssd_core.training.augment import (
    LIGHT,
    PAPER,
    SMALLEST_PX,
    Augmentation,
    augmented_input,
    network_input,
)
from tests.labelled import COLOURS, painted

SPECS = {name: MODELS[name] for name in ("ssd_mobilenet_v2_oid", "ssd300_vgg16")}
WIDE = replace(MODELS["ssd300_vgg16"], image_size=(160, 320))
NAMES = tuple(COLOURS)


def placed(draw_from, height, width, count):
    """Rectangles of different colours that do not touch, one per third of the image."""
    objects = []
    for number in range(count):
        left, right = width * number // 3, width * (number + 1) // 3
        w, h = draw_from.integers(8, right - left - 2), draw_from.integers(8, height - 2)
        x, y = draw_from.integers(left + 1, right - w), draw_from.integers(1, height - h)
        objects.append((NAMES[number], int(x), int(y), int(x + w), int(y + h)))
    return objects


def tensors(objects):
    boxes = torch.tensor([each[1:] for each in objects], dtype=torch.float32).reshape(-1, 4)
    return boxes, torch.tensor([1 + NAMES.index(each[0]) for each in objects], dtype=torch.int64)


def pixels_of(x, spec):
    mean, std = (torch.tensor(each)[:, None, None] for each in (spec.mean, spec.std))
    return x * std + mean


def coverage(x, spec, label):
    """(S, S): how much of each pixel is of a colour; the ground is grey, as is the mean."""
    pixels = pixels_of(x, spec)
    channel = NAMES.index(label)
    others = [each for each in range(3) if each != channel]
    return (pixels[channel] - pixels[others].amax(0)).clamp(min=0)


def found_box(x, spec, label):
    """Where the colour is, by half of its greatest strength; None if there is next to none."""
    strength = coverage(x, spec, label)
    if strength.max() < 60:
        return None
    ys, xs = torch.nonzero(strength > strength.max() / 2, as_tuple=True)
    return [xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1]


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**63 - 1),
    height=st.integers(60, 700),
    width=st.integers(60, 700),
    count=st.integers(1, 3),
    name=st.sampled_from([*SPECS, "wide"]),
)
def test_boxes_lie_on_the_objects(seed, height, width, count, name):
    spec = SPECS.get(name, WIDE)
    objects = placed(np.random.default_rng(seed % 2**32), height, width, count)
    image = painted(height, width, objects, grey=117)
    x, boxes, classes = augmented_input(image, *tensors(objects), spec, seed)
    assert x.shape == (3, *spec.image_size)
    assert x.isfinite().all()
    assert ((boxes >= 0) & (boxes <= 1)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    sides = torch.tensor([spec.image_size[1], spec.image_size[0]] * 2)
    for box, number in zip(boxes * sides, classes.tolist(), strict=True):
        expected = found_box(x, spec, NAMES[number - 1])
        thin = min((box[2] - box[0]).item(), (box[3] - box[1]).item()) < 3
        if expected is None:
            assert thin, "its pixels are gone, and it is not so thin that they would be"
            continue
        # A pixel of a small image may be twenty of the input, and its edges as soft.
        assert (box - torch.tensor(expected)).abs().max() < 3, (box, expected)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_object_is_left_out_only_if_its_centre_is(seed):
    spec = SPECS["ssd300_vgg16"]
    objects = placed(np.random.default_rng(seed), 200, 300, 3)
    x, boxes, classes = augmented_input(
        painted(200, 300, objects, grey=117), *tensors(objects), spec, seed
    )
    for number, label in enumerate(NAMES, start=1):
        rest = found_box(x, spec, label)
        if number not in classes.tolist() and rest is not None:
            # What is seen of it touches the border, where its centre has gone out.
            touches = min(rest[:2]) <= 1 or max(rest[2:]) >= 299
            assert touches
    assert len(boxes) >= 1, "a crop keeps at least one"


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [(300, 300), (480, 640), (37, 1000)])
def test_without_augmentation_pixels_are_exactly_the_detectors(name, size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    boxes = torch.tensor([[0, 0, size[1], size[0]], [10, 5, 20, 30]], dtype=torch.float32)
    x, inside = network_input(image, boxes, SPECS[name])
    expected = preprocess([image], SPECS[name], torch.device("cpu"), torch.float32)[0]
    assert torch.equal(x, expected)
    assert inside[0].tolist() == [0, 0, 1, 1]
    assert inside[1].tolist() == pytest.approx(
        [10 / size[1], 5 / size[0], 20 / size[1], 30 / size[0]]
    )


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [(300, 300), (480, 640), (37, 1000)])
def test_an_augmentation_of_nothing_scales_as_the_detector_does(name, size):
    nothing = Augmentation(largest_zoom=1, smallest_crop=1, colours=False, flip=False)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    boxes = torch.tensor([[10, 5, 20, 30]], dtype=torch.float32)
    expected, expected_inside = network_input(image, boxes, SPECS[name])
    for seed in range(4):
        x, inside, _ = augmented_input(
            image, boxes, torch.tensor([1]), SPECS[name], seed, augmentation=nothing
        )
        assert torch.allclose(x, expected, atol=1e-4 * 255 / SPECS[name].std[0])
        assert torch.allclose(inside, expected_inside)


@pytest.mark.parametrize("limits", [PAPER, LIGHT])
def test_objects_are_scaled_within_the_limits(limits):
    """Down by zooming out, up by cropping."""
    objects = [("red", 130, 130, 170, 170)]
    image = painted(300, 300, objects)
    sides = []
    for seed in range(80):
        _, boxes, _ = augmented_input(
            image, *tensors(objects), SPECS["ssd300_vgg16"], seed, augmentation=limits
        )
        left, top, right, bottom = boxes[0].tolist()
        if min(left, top) > 0 and max(right, bottom) < 1:
            sides += [(right - left) * 300 / 40, (bottom - top) * 300 / 40]
    least, most = 1 / limits.largest_zoom, 1 / limits.smallest_crop
    assert least * 0.98 < min(sides) < least * 1.3
    assert most * 0.75 < max(sides) < most * 1.03


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_mirrored_only_if_wanted(flip):
    objects = [("red", 20, 20, 120, 120), ("blue", 180, 20, 280, 120)]
    image = painted(300, 300, objects)
    whole = Augmentation(largest_zoom=1, smallest_crop=1, flip=flip)
    mirrored = 0
    for seed in range(20):
        x, boxes, _ = augmented_input(
            image, *tensors(objects), SPECS["ssd300_vgg16"], seed, augmentation=whole
        )
        red, blue = (found_box(x, SPECS["ssd300_vgg16"], name) for name in ("red", "blue"))
        assert (red[0] > blue[0]) == (boxes[0, 0] > boxes[1, 0])
        mirrored += red[0] > blue[0]
    assert 4 <= mirrored <= 16 if flip else mirrored == 0


@pytest.mark.parametrize("name", SPECS)
def test_what_is_around_the_image_is_the_mean(name):
    spec = SPECS[name]
    image = np.full((100, 100, 3), 255, np.uint8)
    zoomed = 0
    for seed in range(20):
        x, _, _ = augmented_input(image, *tensors([("red", 10, 10, 90, 90)]), spec, seed)
        around = (x == 0).all(0)
        zoomed += around.float().mean().item() > 0.3
    assert zoomed > 1


def test_the_result_depends_on_the_seed_and_leaves_other_chance_alone():
    objects = placed(np.random.default_rng(1), 100, 150, 3)
    image, labels = painted(100, 150, objects), tensors(objects)
    spec = SPECS["ssd_mobilenet_v2_oid"]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = augmented_input(image, *labels, spec, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    second = augmented_input(image, *labels, spec, 5)
    other = augmented_input(image, *labels, spec, 6)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape != other[0].shape or not torch.equal(first[0], other[0])


def test_channels_are_not_exchanged():
    objects = [("red", 20, 20, 80, 80)]
    for seed in range(20):
        x, boxes, _ = augmented_input(
            painted(100, 100, objects), *tensors(objects), SPECS["ssd300_vgg16"], seed
        )
        if len(boxes):
            assert found_box(x, SPECS["ssd300_vgg16"], "red") is not None


def test_zooming_out_ends_before_the_smallest_object_is_lost():
    spec = SPECS["ssd300_vgg16"]
    objects = [("red", 40, 40, 48, 48), ("blue", 100, 100, 150, 150)]
    image = painted(300, 300, objects)
    sides = []
    for seed in range(60):
        _, boxes, classes = augmented_input(image, *tensors(objects), spec, seed)
        small = boxes[classes == 1] * 300
        sides += [((b[2] - b[0]) * (b[3] - b[1])).sqrt().item() for b in small]
    assert min(sides) > SMALLEST_PX * 0.7  # half of it may lie beyond a crop
    assert sum(side < 7 for side in sides) > 5, "some are zoomed out"


def test_objects_of_a_pixel_survive():
    objects = [("red", 40, 40, 41, 42)]
    for seed in range(30):
        _, boxes, _ = augmented_input(
            painted(600, 800, objects), *tensors(objects), SPECS["ssd300_vgg16"], seed
        )
        assert len(boxes) == 1


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (9, 9), (40, 900)])
def test_images_of_any_shape_are_augmented_with_or_without_objects(size):
    height, width = size
    whole = torch.tensor([[0, 0, width, height]], dtype=torch.float32)
    for seed in range(6):
        for boxes in (whole, whole[:0]):
            classes = torch.ones(len(boxes), dtype=torch.int64)
            x, found, labels = augmented_input(
                painted(height, width), boxes, classes, SPECS["ssd_mobilenet_v2_oid"], seed
            )
            assert x.isfinite().all()
            assert len(found) == len(labels) == len(boxes)


def test_images_without_objects_vary_too():
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    none = torch.empty(0, 4), torch.empty(0, dtype=torch.int64)
    seen = {
        augmented_input(image, *none, SPECS["ssd300_vgg16"], seed)[0].sum().item()
        for seed in range(20)
    }
    assert len(seen) > 15


def drawn_crops(count, boxes, region):
    return [augment._cropped(region, boxes, PAPER.smallest_crop) for _ in range(count)]


def drawn_by_torchvision(count, boxes, region):
    canvas = tv_tensors.BoundingBoxes(
        boxes, format="XYXY", canvas_size=(region.height, region.width)
    )
    crop = v2.RandomIoUCrop()
    for _ in range(count):
        drawn = crop.make_params([canvas])
        if drawn:
            part = region.part(drawn["left"], drawn["top"], drawn["width"], drawn["height"])
            yield part, drawn["is_within_crop_area"]
        else:
            yield region, torch.ones(len(boxes), dtype=torch.bool)


@pytest.mark.long
@pytest.mark.parametrize(
    "boxes",
    [
        [[0, 0, 400, 300]],
        [[10, 10, 40, 50], [300, 200, 390, 280]],
        [[5, 5, 15, 15], [100, 50, 300, 250], [0, 250, 400, 300]],
    ],
)
def test_crops_are_distributed_as_torchvisions(boxes):
    torch.manual_seed(0)
    boxes = torch.tensor(boxes, dtype=torch.float32)
    region = augment.Region(0, 0, 400, 300)
    ours = drawn_crops(3000, boxes, region)
    theirs = list(drawn_by_torchvision(3000, boxes, region))

    def measures(crops):
        return {
            "whole": [part == region for part, _ in crops],
            "width": [part.width / 400 for part, _ in crops],
            "height": [part.height / 300 for part, _ in crops],
            "left": [part.left / 400 for part, _ in crops],
            "top": [part.top / 300 for part, _ in crops],
            "kept": [stays.float().mean().item() for _, stays in crops],
        }

    for name, values in measures(theirs).items():
        same = measures(ours)[name]
        error = math.hypot(np.std(values), np.std(same)) / math.sqrt(3000)
        assert abs(np.mean(values) - np.mean(same)) < 4 * error + 1e-9, name
        assert abs(np.std(values) - np.std(same)) < 0.05, name


def test_crops_have_the_sizes_of_the_authors_code():
    whole = torch.tensor([[0, 0, 400, 400]], dtype=torch.float32)
    region = augment.Region(0, 0, 400, 400)
    torch.manual_seed(0)
    parts = [part for part, _ in drawn_crops(200, whole, region)]
    cropped = [part for part in parts if part != region]
    assert 0.7 < len(cropped) / len(parts) < 0.95  # six of seven options crop
    for part in cropped:
        assert min(part.width, part.height) >= 0.3 * 400 - 1
        assert 0.5 <= part.width / part.height <= 2
        assert 0 <= part.left <= 400 - part.width
        assert 0 <= part.top <= 400 - part.height
    assert min(part.width for part in cropped) < 0.5 * 400


def test_what_is_less_than_a_pixel_wide_at_the_edge_gets_one():
    assert augment._span(-999, 1000, 500, 300) == (0, 1, 299, 300)
    assert augment._span(499, 1000, 500, 300) == (499, 500, 0, 1)
    assert augment._span(0, 500, 500, 300) == (0, 500, 0, 300)
