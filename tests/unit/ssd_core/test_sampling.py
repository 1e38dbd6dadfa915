import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssd_core.sampling import sample_rgb
from ssd_core.yuv import YuvImage
from tests.unit.ssd_core.plain_scaling import resampled, scaled


def noise(height, width, *, nv12=False, tensors=False, full_range=True, matrix="bt601", seed=0):
    """No two neighbours alike, so that a wrong place shows."""
    generator = np.random.default_rng(seed)
    chroma = (height + 1) // 2, (width + 1) // 2
    y = generator.integers(0, 256, (height, width), np.uint8)
    u_and_v = generator.integers(0, 256, (*chroma, 2), np.uint8)
    planes = y, u_and_v[..., 0], u_and_v[..., 1]
    if not nv12:
        planes = [np.ascontiguousarray(plane) for plane in planes]
    if tensors:
        planes = [torch.from_numpy(plane) for plane in planes]
    return YuvImage(*planes, full_range, matrix)


def assert_sampled(image, size):
    expected = scaled(image, size, antialias=False).permute(1, 2, 0)
    found = sample_rgb(image, size)
    assert (found.shape, found.dtype) == ((*size, 3), np.uint8)
    assert np.abs(found - expected.numpy()).max() < 0.51  # rounded to the nearest


@pytest.mark.parametrize("size", [(5, 9), (40, 44), (41, 10), (100, 130), (1, 1)])
@pytest.mark.parametrize(
    ("height", "width"), [(40, 44), (41, 45), (300, 7), (2, 301), (1, 1), (2, 2)]
)
def test_a_pixel_is_made_of_the_four_around_its_place(height, width, size):
    assert_sampled(noise(height, width), size)


@pytest.mark.parametrize("size", [(7, 11), (90, 100)])
def test_places_are_those_of_pytorch(size):
    plane = torch.rand(37, 41, dtype=torch.float64)
    expected = F.interpolate(plane[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(resampled(plane, size, 0, antialias=False), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"nv12": True},
        {"tensors": True},
        {"nv12": True, "tensors": True},
        {"full_range": False},
        {"matrix": "bt709"},
        {"full_range": False, "matrix": "bt709"},
    ],
    ids=str,
)
def test_planes_of_any_kind_and_colours_are_read(options):
    assert_sampled(noise(31, 46, **options), (12, 17))


def test_what_lies_between_the_four_pixels_does_not_count():
    """With a filter it would: that is the difference."""
    image = noise(40, 40, full_range=True)
    image.u[:], image.v[:] = 128, 128
    image.y[:] = 10
    image.y[1::4], image.y[2::4] = 90, 90
    assert np.unique(sample_rgb(image, (10, 10))).tolist() == [90]
    assert scaled(image, (10, 10), antialias=True)[0, 4, 4] < 80
