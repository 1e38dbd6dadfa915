from dataclasses import replace

import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation

from ssd_core import MODELS
from ssd_core.preprocess import preprocess
from tests.clips import cut, pictures, set_rotation
from tests.conftest import WALKWAY
from tests.unit.ssd_core.plain_scaling import scaled
from worker.sources.conversion import INTERPOLATION, PictureConverter, make_converter
from worker.sources.picture import quarter_turns, seconds_of, time_base_of, upright_size
from worker.sources.planes import PlaneReader


@pytest.fixture(scope="module")
def picture():
    return next(pictures(WALKWAY, 1))


@pytest.fixture
def rotated(tmp_path):
    def rotated(degrees):
        path = cut(WALKWAY, tmp_path / f"{degrees}.mp4", frames=1, size=(120, 160))
        return next(pictures(set_rotation(path, degrees) if degrees else path, 1))

    return rotated


def test_a_picture_is_scaled_to_rgb_of_the_size_asked_for(picture):
    image = PictureConverter((30, 50)).convert(picture)
    assert (image.shape, image.dtype) == ((30, 50, 3), np.uint8)


def test_without_a_size_a_picture_keeps_its_own(picture):
    image = PictureConverter(None).convert(picture)
    assert image.shape == (576, 768, 3)
    expected = picture.to_ndarray(format="rgb24")
    assert abs(image.astype(int) - expected).mean() < 2  # chroma in full


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 3), (180, 2), (270, 1)])
def test_a_rotated_picture_is_turned_upright_whatever_its_size(rotated, degrees, turns):
    picture = rotated(degrees)
    plain = PictureConverter(None).convert(rotated(0))
    image = PictureConverter(None).convert(picture)
    assert quarter_turns(picture) == turns
    assert np.array_equal(image, np.rot90(plain, turns))
    assert upright_size(picture) == image.shape[:2]
    assert PictureConverter((40, 60)).convert(picture).shape == (40, 60, 3)


# One preprocessing: what the network gets of a frame, whichever way it takes


@pytest.fixture(scope="module")
def full_hd(tmp_path_factory):
    """A frame of 1920x1080, as a camera sends it."""
    path = tmp_path_factory.mktemp("clips") / "full_hd.mp4"
    return next(pictures(cut(WALKWAY, path, frames=1, size=(1080, 1920)), 1))


def unnormalised(spec):
    return replace(spec, mean=(0.0,) * 3, std=(1.0,) * 3)


def three_ways(picture, spec):
    """(H, W, 3) in 0..255 of the images API, of a source on the CPU, and of the GPU kernel."""
    rounded = PictureConverter(None)._reformatter.reformat(
        picture, format="rgb24", interpolation=INTERPOLATION | Interpolation.ACCURATE_RND
    )
    as_image = preprocess(
        [rounded.to_ndarray()], unnormalised(spec), torch.device("cpu"), torch.float32
    )
    converter = make_converter(spec.image_size, as_planes=False, antialias=spec.antialias)
    as_planes = scaled(PlaneReader().convert(picture), spec.image_size, spec.antialias)
    return (
        as_image[0].permute(1, 2, 0).numpy(),
        converter.convert(picture).astype(np.float32),
        as_planes.permute(1, 2, 0).numpy(),
    )


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("frame", ["picture", "full_hd"])
def test_a_network_gets_one_picture_of_a_frame_whichever_way_it_takes(frame, spec, request):
    as_image, as_frame, as_planes = three_ways(request.getfixturevalue(frame), spec)
    # A frame is rounded to whole numbers: 0.25 on average. An image has whole chroma made for it.
    assert np.abs(as_frame - as_planes).mean() < 0.26
    assert np.abs(as_image - as_planes).mean() < 0.4
    assert np.abs(as_image - as_frame).mean() < 0.5


def test_the_models_scale_down_as_their_originals_do(full_hd):
    """What the test above can tell apart: with and without a filter a frame differs."""
    filtered, plain = (
        PictureConverter((300, 300), antialias).convert(full_hd).astype(np.float32)
        for antialias in (True, False)
    )
    assert np.abs(filtered - plain).mean() > 2
    assert [spec.antialias for spec in MODELS.values()] == [True, False, False]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_picture_is_turned_upright_without_a_filter_too(rotated, degrees):
    size = (60, 44)
    upright = scaled(PlaneReader().convert(rotated(degrees)), size, antialias=False)
    image = PictureConverter(size, antialias=False).convert(rotated(degrees))
    assert np.abs(image - upright.permute(1, 2, 0).numpy()).max() < 0.51


def test_without_a_size_nothing_is_scaled_with_or_without_a_filter(picture):
    expected = PictureConverter(None).convert(picture)
    assert np.array_equal(PictureConverter(None, antialias=False).convert(picture), expected)


def test_a_detector_that_takes_planes_gets_them(picture):
    assert isinstance(make_converter((300, 300), as_planes=True), PlaneReader)
    assert isinstance(make_converter((300, 300), as_planes=False), PictureConverter)


def test_the_time_of_a_picture_is_its_pts_in_its_time_base(picture):
    assert seconds_of(picture) == float(picture.pts * time_base_of(picture))
    picture = next(pictures(WALKWAY, 1))
    picture.pts = None
    assert seconds_of(picture) is None
