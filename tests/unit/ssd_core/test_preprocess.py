import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssd_core import MODELS
from ssd_core.preprocess import preprocess

CPU = torch.device("cpu")
MOBILENET, VGG = MODELS["ssd_mobilenet_v2_oid"], MODELS["ssd300_vgg16"]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def raw_pixels(spec, **changes):
    """The spec without normalisation, so that tests read pixels."""
    return replace(spec, mean=(0.0,) * 3, std=(1.0,) * 3, **changes)


def network_input(images, spec=MOBILENET, dtype=torch.float32):
    return preprocess(images, spec, CPU, dtype)


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_images_of_any_size_become_one_batch(spec):
    x = network_input([picture(300, 300), picture(7, 1000), picture(600, 2), picture(1, 1)], spec)
    assert x.shape == (4, 3, *spec.image_size)


def test_mobilenet_pixels_span_minus_one_to_one():
    image = np.full((300, 300, 3), [0, 255, 51], np.uint8)
    assert network_input([image])[0, :, 17, 42].tolist() == pytest.approx([-1.0, 1.0, -0.6])


def test_vgg_pixels_lose_their_mean_and_stay_in_0_to_255():
    image = np.full((300, 300, 3), [255, 100, 0], np.uint8)
    pixel = network_input([image], VGG)[0, :, 17, 42].tolist()
    assert pixel == pytest.approx([255 - 123.00, 100 - 117.00, -104.00], abs=0.002)


def test_channels_stay_in_rgb_order_and_rows_above_columns():
    image = np.zeros((300, 300, 3), np.uint8)
    image[10, 20] = [1, 2, 3]
    x = network_input([image], raw_pixels(MOBILENET))
    assert x[0, :, 10, 20].tolist() == [1, 2, 3]
    assert x.sum() == 6


def test_an_image_of_the_input_size_is_not_resampled():
    image = picture(300, 300)
    x = network_input([image], raw_pixels(MOBILENET))
    assert torch.equal(x[0], torch.from_numpy(image).permute(2, 0, 1).float())


def test_images_of_other_sizes_leave_their_neighbours_as_they_are():
    images = [picture(300, 300, 1), picture(40, 50, 2), picture(300, 300, 3)]
    together = network_input(images)
    for x, image in zip(together, images, strict=True):
        torch.testing.assert_close(x, network_input([image])[0], atol=1e-6, rtol=0)


def test_images_are_stretched_not_cropped_or_padded():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:5, 20:] = 200  # the upper right quarter
    x = network_input([image], raw_pixels(MOBILENET))[0, 0]
    assert [x[75, 225], x[75, 75], x[225, 225], x[225, 75]] == [200, 0, 0, 0]


def impulse_at_half_size(antialias):
    """A white row pixel at 4 of 16, halved to 8 pixels."""
    row = np.zeros((8, 16, 3), np.uint8)
    row[:, 4] = 240
    spec = raw_pixels(MOBILENET, image_size=(8, 8), antialias=antialias)
    return network_input([row], spec)[0, 0, 3].tolist()


def test_plain_bilinear_halves_by_the_mean_of_two_pixels():
    assert impulse_at_half_size(antialias=False) == pytest.approx([0, 0, 120, 0, 0, 0, 0, 0])


def test_antialiased_bilinear_halves_by_a_triangle_over_four_pixels():
    # weights 1/8, 3/8, 3/8, 1/8
    assert impulse_at_half_size(antialias=True) == pytest.approx([0, 30, 90, 0, 0, 0, 0, 0])


def test_an_input_that_is_not_square_is_height_by_width():
    spec = replace(MOBILENET, image_size=(16, 24))
    assert network_input([picture(300, 300)], spec).shape == (1, 3, 16, 24)


def test_tensors_and_arrays_give_the_same_input():
    image = picture(123, 77)
    assert torch.equal(network_input([image]), network_input([torch.from_numpy(image)]))


def test_a_flipped_view_of_an_array_is_read_in_its_own_order():
    bgr = picture(300, 300)
    assert torch.equal(network_input([bgr[..., ::-1]]), network_input([bgr[..., ::-1].copy()]))


def test_a_read_only_array_is_read_without_a_warning():
    image = picture(300, 300)
    image.flags.writeable = False  # as np.asarray gives for a Pillow image
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            network_input([image])
    finally:
        torch.set_warn_always(False)


def test_the_images_themselves_are_not_changed():
    images = [torch.from_numpy(picture(300, 300)), torch.from_numpy(picture(30, 40))]
    before = [image.clone() for image in images]
    network_input(images[:1])
    network_input(images)
    assert all(torch.equal(a, b) for a, b in zip(images, before, strict=True))


@pytest.mark.parametrize("width", [300, 200])
def test_the_input_has_the_networks_type_and_is_channels_last(width):
    x = network_input([picture(300, width)] * 2, dtype=torch.bfloat16)
    assert x.dtype == torch.bfloat16
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_bf16_input_is_the_rounded_fp32_input():
    images = [picture(200, 100)]
    expected = network_input(images, VGG).bfloat16()
    assert torch.equal(network_input(images, VGG, torch.bfloat16), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("scaled", [False, True])
def test_every_pixel_value_is_normalised_as_in_fp32_and_then_rounded(spec, dtype, scaled):
    height, width = (40, 60) if scaled else spec.image_size
    values = np.arange(height * width * 3, dtype=np.uint32) % 256
    image = values.astype(np.uint8).reshape(height, width, 3)
    assert torch.equal(network_input([image], spec, dtype), network_input([image], spec).to(dtype))


@pytest.mark.parametrize("mean", [127.5, 127.3, 0.25])
def test_a_mean_that_the_type_does_not_hold_is_taken_away_in_fp32(mean):
    spec = replace(MOBILENET, mean=(mean,) * 3)
    image = (np.arange(300 * 300 * 3) % 256).astype(np.uint8).reshape(300, 300, 3)
    expected = network_input([image], spec).bfloat16()
    assert torch.equal(network_input([image], spec, torch.bfloat16), expected)


def test_no_images_make_no_input():
    x = network_input([], VGG, torch.bfloat16)
    assert (x.shape, x.dtype) == ((0, 3, 300, 300), torch.bfloat16)


@pytest.mark.parametrize("size", [(300, 300), (40, 60)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_of_one_size_become_what_each_becomes_alone(size, dtype):
    images = [picture(*size, seed) for seed in range(4)]
    together = network_input(images, MOBILENET, dtype)
    for x, image in zip(together, images, strict=True):
        torch.testing.assert_close(x, network_input([image], MOBILENET, dtype)[0])


def test_a_batch_in_one_array_is_a_batch_of_images():
    images = np.stack([picture(30, 40, seed) for seed in range(3)])
    assert torch.equal(network_input(images), network_input(list(images)))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((300, 300), np.uint8),
        np.zeros((300, 300, 1), np.uint8),
        np.zeros((300, 300, 4), np.uint8),
        np.zeros((3, 300, 300), np.uint8),
        np.zeros((1, 300, 300, 3), np.uint8),
        np.zeros((0, 300, 3), np.uint8),
        np.zeros((300, 300, 3), np.float32),
        np.zeros((300, 300, 3), np.uint16),
        torch.zeros(300, 300, 3),
        torch.zeros(3, 300, 300, dtype=torch.uint8),
    ],
    ids=lambda image: f"{type(image).__name__}-{tuple(image.shape)}-{image.dtype}",
)
def test_anything_but_height_width_3_uint8_is_refused(image):
    with pytest.raises(ValueError, match=r"an image is \(height, width, 3\) uint8 RGB, not"):
        network_input([image])


def test_a_refusal_names_the_shape_and_type_found():
    with pytest.raises(ValueError, match=r"not \(4, 5, 1\) torch.float64"):
        network_input([np.zeros((4, 5, 1))])
