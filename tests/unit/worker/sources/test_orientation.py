"""All eight ways a picture can lie, on every path, as a player shows them."""

import itertools
import sys

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.clips import cut, pictures, set_matrix, with_display_orientation
from tests.conftest import WALKWAY
from tests.unit.worker.sources.test_planes import colour_patches, to_rgb
from worker.frames import Frame
from worker.sources.conversion import PictureConverter
from worker.sources.live import LiveSource
from worker.sources.orientation import (
    Orientation,
    orientation_of,
    orientation_of_matrix,
)
from worker.sources.planes import PlaneReader
from worker.sources.recording import RecordingSource, probe_recording, upright_images

MATRICES = [
    (1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
    (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0),
]  # fmt: skip
EXIF_ORIENTATION, EXIF_TIME = 0x0112, 0x9003


def shown(image, matrix):
    """The image as the matrix lays it down, pixel by pixel: (x, y) to (a x + c y, b x + d y)."""
    a, b, c, d = matrix
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    result = np.empty((to_y.max() + 1, to_x.max() + 1, 3), image.dtype)
    result[to_y, to_x] = image
    return result


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("orientation") / "clip.mp4"
    return cut(WALKWAY, path, frames=3, size=(90, 160))


@pytest.fixture
def lying(clip, tmp_path):
    """The clip with a display matrix."""

    def lying(matrix):
        path = tmp_path / "lying.mp4"
        path.write_bytes(clip.read_bytes())
        return set_matrix(path, *matrix)

    return lying


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_matrix_is_followed_by_every_path(clip, lying, matrix):
    plain = PictureConverter(None).convert(next(pictures(clip, 1)))
    expected = shown(plain, matrix)
    picture = next(pictures(lying(matrix), 1))
    assert np.array_equal(PictureConverter(None).convert(picture), expected)
    assert np.array_equal(next(upright_images(lying(matrix)))[1], expected)
    planes = PlaneReader().convert(picture)
    assert planes.shape == expected.shape
    assert np.abs(to_rgb(planes) - expected).mean() < 4


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("as_planes", [False, True])
def test_a_frame_has_the_size_and_the_picture_that_a_player_shows(lying, clip, matrix, as_planes):
    expected = shown(PictureConverter(None).convert(next(pictures(clip, 1))), matrix)
    recording = probe_recording(lying(matrix), "clip")
    for source in (
        RecordingSource(recording, None, as_planes=as_planes),
        LiveSource(
            "clip", str(lying(matrix)), None, itertools.count(1).__next__, as_planes=as_planes
        ),
    ):
        first = next(item for item in source if isinstance(item, Frame))
        assert (first.height, first.width, 3) == expected.shape == first.image.shape
        image = to_rgb(first.image) if as_planes else first.image
        assert np.abs(image - expected.astype(float)).mean() < 4


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("antialias", [True, False])
def test_a_scaled_image_lies_as_the_whole_one(lying, matrix, antialias):
    picture = next(pictures(lying(matrix), 1))
    whole = PictureConverter(None).convert(picture)
    scaled = PictureConverter((45, 50), antialias).convert(picture)
    expected = np.asarray(Image.fromarray(whole).resize((50, 45), Image.Resampling.BILINEAR))
    difference = np.abs(scaled.astype(int) - expected).mean()
    assert difference < 6  # Pillow filters, which a model without antialias does not want
    assert difference < np.abs(scaled[::-1, ::-1].astype(int) - expected).mean() / 4


@pytest.mark.parametrize(
    ("matrix", "nearest"),
    [
        ((0.8, 0.6, -0.6, 0.8), (1, 0, 0, 1)),  # 37 degrees
        ((0.6, 0.8, -0.8, 0.6), (0, 1, -1, 0)),  # 53 degrees
        ((-0.8, 0.6, 0.6, 0.8), (-1, 0, 0, 1)),  # a mirror, and 37 degrees
        ((2, 0, 0, 1), (1, 0, 0, 1)),  # a scale alone
        ((0, 3, -1, 0), (0, 1, -1, 0)),
        ((0, 0, 0, 0), (1, 0, 0, 1)),  # an unset field
        ((1, 1, 1, 1), (1, 0, 0, 1)),  # flattens the picture
    ],
)
def test_any_other_matrix_goes_to_the_nearest_quarter_turn(lying, clip, matrix, nearest):
    plain = PictureConverter(None).convert(next(pictures(clip, 1)))
    image = PictureConverter(None).convert(next(pictures(lying(matrix), 1)))
    assert np.array_equal(image, shown(plain, nearest))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_is_followed_though_its_own_side_data_is_unknown(tmp_path, suffix, orientation):
    path = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[EXIF_ORIENTATION], exif[EXIF_TIME] = orientation, "2026:01:01 10:00:00"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(colour_patches()).save(path, exif=exif, quality=95, **options)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB")).astype(float)
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
    found = PictureConverter(None).convert(picture)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 4


@pytest.mark.parametrize(
    "lies",
    [
        {"quarter_turns": 1}, {"quarter_turns": 2}, {"quarter_turns": 3}, {"hflip": True},
        {"vflip": True}, {"quarter_turns": 1, "hflip": True}, {"quarter_turns": 3, "hflip": True},
    ],
)  # fmt: skip
@pytest.mark.parametrize(("codec", "name"), [("libx264", "clip.mp4"), ("libx265", "clip.hevc")])
def test_what_key_frames_state_holds_for_the_frames_after_them(tmp_path, codec, name, lies):
    x265 = {"x265-params": "keyint=4:bframes=0:log-level=none", "preset": "ultrafast"}
    options = {"g": "4"} if codec == "libx264" else x265
    path = cut(
        WALKWAY, tmp_path / "plain.ts", frames=9, codec=codec, options=options, size=(90, 160)
    )
    path = with_display_orientation(path, tmp_path / name, **lies)
    first = next(pictures(path, 1))
    assert first.key_frame
    wanted = orientation_of(first)
    turned = lies.get("quarter_turns", 0) + 2 * lies.get("vflip", 0)
    assert wanted == Orientation(turned % 4, lies.get("hflip", False) or lies.get("vflip", False))
    frames = [f for f in RecordingSource(probe_recording(path, "c"), None) if isinstance(f, Frame)]
    assert len(frames) == 9
    plain = [PictureConverter(None).convert(p, wanted) for p in pictures(path, 9)]
    assert all(np.array_equal(f.image, p) for f, p in zip(frames, plain, strict=True))
    assert [shown.image.shape for shown in upright_images(path)] == [p.shape for p in plain]


def test_a_key_frame_that_states_nothing_is_upright_again(tmp_path):
    plain = cut(WALKWAY, tmp_path / "plain.ts", frames=9, options={"g": "4"}, size=(90, 160))
    path = with_display_orientation(plain, tmp_path / "clip.mp4", quarter_turns=1, key_frames=1)
    sizes = [(f.height, f.width) for f in RecordingSource(probe_recording(path, "c"), None)
             if isinstance(f, Frame)]  # fmt: skip
    assert sizes == [(160, 90)] * 4 + [(90, 160)] * 5


@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_every_picture_of_a_moving_png_lies_as_its_exif_says(tmp_path, orientation):
    path = tmp_path / "moving.png"
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    patches = [Image.fromarray(np.roll(colour_patches(), step, 1)) for step in (0, 8, 16)]
    patches[0].save(path, save_all=True, append_images=patches[1:], duration=50, exif=exif)
    frames = [f for f in RecordingSource(probe_recording(path, "c"), None) if isinstance(f, Frame)]
    assert len(frames) == 3
    for frame, stored in zip(frames, patches, strict=True):
        stored.getexif()[EXIF_ORIENTATION] = orientation
        assert np.array_equal(frame.image, np.asarray(ImageOps.exif_transpose(stored)))


def test_to_look_at_a_picture_does_not_keep_it(lying):
    picture = next(pictures(lying(MATRICES[1]), 1))
    before = sys.getrefcount(picture)
    assert orientation_of(picture) == Orientation(3)
    assert sys.getrefcount(picture) == before  # its memory is a decoder's, and scarce on a GPU


def test_the_eight_matrices_are_eight_orientations():
    found = [orientation_of_matrix(*matrix) for matrix in MATRICES]
    assert found == [Orientation(turns, mirrored) for mirrored, turns in [
        (False, 0), (False, 3), (False, 2), (False, 1), (True, 0), (True, 2), (True, 1), (True, 3),
    ]]  # fmt: skip


@pytest.mark.parametrize("matrix", [(0, 65536, 0, 0), (-65536, 0, -65536, 0), (0, 0, 0, 0)])
def test_a_matrix_that_flattens_the_picture_leaves_it_as_it_is(matrix):
    assert orientation_of_matrix(*matrix) == Orientation()


def test_an_upright_picture_is_not_copied():
    image = np.zeros((2, 3, 3), np.uint8)
    assert Orientation().upright(image) is image
