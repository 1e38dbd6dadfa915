import gc
import itertools
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace

from ssd_core.yuv import yuv_to_rgb_matrix
from tests.clips import cut, pictures, set_rotation
from tests.conftest import WALKWAY
from worker.frames import Frame, StreamDown, StreamUp
from worker.sources.capabilities import claim_gpu
from worker.sources.conversion import PictureConverter
from worker.sources.decoding import DecodedPictures
from worker.sources.live import LiveSource
from worker.sources.orientation import UPRIGHT, Orientation
from worker.sources.planes import PlaneReader
from worker.sources.recording import RecordingSource, probe_recording

PATCH = 16
COLOURS = np.array(
    [
        [(200, 40, 40), (40, 180, 40), (40, 40, 200), (230, 230, 230)],
        [(30, 30, 30), (200, 180, 40), (40, 170, 190), (180, 60, 190)],
    ],
    np.uint8,
)


def colour_patches(height=2 * PATCH, width=4 * PATCH):
    """Two rows of four different colours; other sizes change its last row and column only."""
    rgb = COLOURS.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    return np.pad(rgb, ((0, height - 2 * PATCH), (0, width - 4 * PATCH), (0, 0)), mode="edge")


def picture_of(pixel_format, colorspace=None, color_range=None, size=(2 * PATCH, 4 * PATCH)):
    """The colour patches as a picture that states, or does not state, its colour space."""
    picture = av.VideoFrame.from_ndarray(colour_patches(*size), "rgb24")
    options = {"dst_colorspace": colorspace, "dst_color_range": color_range}
    return picture.reformat(format=pixel_format, **options)


def to_rgb(image):
    """(H, W, 3) in 0..255, upright; each chroma pixel covers two by two pixels."""
    y, u, v = (np.asarray(plane, dtype=float) for plane in (image.y, image.u, image.v))
    u, v = (plane.repeat(2, axis=0).repeat(2, axis=1)[: len(y), : y.shape[1]] for plane in (u, v))
    linear, offset = yuv_to_rgb_matrix(image.full_range, image.matrix)
    rgb = (np.stack([y, u, v], axis=-1) @ linear.T + offset).clip(0, 255)
    return np.rot90(rgb[:, ::-1] if image.mirrored else rgb, image.quarter_turns)


def in_the_middle(rgb):
    """Colours of the patches, away from their edges."""
    return rgb[PATCH // 2 : 2 * PATCH : PATCH, PATCH // 2 : 4 * PATCH : PATCH]


def assert_like_the_converter(picture, image):
    expected = PictureConverter(None).convert(picture).astype(float)
    found = to_rgb(image)
    assert found.shape == expected.shape == image.shape
    assert np.abs(found - expected).mean() < 4  # edges: chroma of two by two pixels is shared
    difference = np.abs(in_the_middle(found) - in_the_middle(expected))
    assert difference.max() < 5, difference.max()


@pytest.mark.parametrize("size", [(32, 64), (37, 67), (33, 64), (32, 65)])
@pytest.mark.parametrize(
    "pixel_format",
    [
        "yuv420p",
        "yuvj420p",
        "yuv422p",
        "yuvj422p",
        "yuv444p",
        "nv12",
        "rgb24",
        "bgra",
        "gray",
        "gray10le",
        "yuv420p10le",
        "yuv422p10le",
        "p010le",
    ],
)
def test_planes_of_any_format_match_the_converter(pixel_format, size):
    picture = picture_of(pixel_format, size=size)
    assert picture.format.name == pixel_format
    assert_like_the_converter(picture, PlaneReader().convert(picture))


@pytest.mark.parametrize("colorspace", [None, Colorspace.ITU601, Colorspace.ITU709])
@pytest.mark.parametrize("color_range", [None, ColorRange.MPEG, ColorRange.JPEG])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_every_matrix_and_range_matches_the_converter(pixel_format, colorspace, color_range):
    picture = picture_of(pixel_format, colorspace, color_range)
    image = PlaneReader().convert(picture)
    assert_like_the_converter(picture, image)
    assert image.matrix == ("bt709" if colorspace == Colorspace.ITU709 else "bt601")
    assert image.full_range == (color_range == ColorRange.JPEG)


def test_the_colours_come_back():
    image = PlaneReader().convert(picture_of("yuv420p", Colorspace.ITU709))
    assert np.abs(in_the_middle(to_rgb(image)) - COLOURS).max() < 5


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (3, 5)])
def test_the_smallest_pictures_have_planes(size):
    rgb = np.full((*size, 3), 90, np.uint8)
    for pixel_format in ("yuv420p", "rgb24"):
        picture = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=pixel_format)
        image = PlaneReader().convert(picture)
        assert image.shape == (*size, 3)
        assert np.abs(to_rgb(image) - rgb).max() < 3


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return cut(WALKWAY, tmp_path_factory.mktemp("planes") / "clip.mp4", frames=12)


def address(array):
    return array.__array_interface__["data"][0]


def test_planes_of_a_decoded_frame_are_where_the_decoder_put_them(clip):
    picture = next(pictures(clip, 1))
    image = PlaneReader().convert(picture)
    planes = (image.y, image.u, image.v)
    assert [address(a) for a in planes] == [plane.buffer_ptr for plane in picture.planes]


def test_planes_are_unchanged_while_the_decoder_continues():
    images, copies = [], []
    for picture in pictures(WALKWAY, 60):
        image = PlaneReader().convert(picture)
        images.append(image)
        copies.append([plane.copy() for plane in (image.y, image.u, image.v)])
    del picture
    gc.collect()
    for image, copy in zip(images, copies, strict=True):
        for plane, before in zip((image.y, image.u, image.v), copy, strict=True):
            assert np.array_equal(plane, before)


def test_converted_planes_are_unchanged_while_the_reader_continues():
    reader = PlaneReader()
    first = reader.convert(picture_of("rgb24"))
    before = to_rgb(first)
    for _ in range(20):
        reader.convert(av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), "rgb24"))
    gc.collect()
    assert np.array_equal(to_rgb(first), before)


def test_one_reader_takes_pictures_whose_size_and_format_change():
    reader = PlaneReader()
    for pixel_format, size in [("rgb24", (32, 64)), ("yuv420p", (40, 70)), ("gray", (36, 66))]:
        picture = picture_of(pixel_format, size=size)
        assert_like_the_converter(picture, reader.convert(picture))


def file_of(path, codec, pixel_format):
    """A file of one picture with the colour patches."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 4 * PATCH, 2 * PATCH, pixel_format
        picture = picture_of(pixel_format)
        picture.pts = 0
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p"])
def test_a_rotated_picture_keeps_its_planes_and_says_how_to_turn_it(
    tmp_path, pixel_format, degrees, turns
):
    path = file_of(tmp_path / "rotated.mp4", "libx264", pixel_format)
    picture = next(pictures(set_rotation(path, degrees), 1))
    image = PlaneReader().convert(picture)
    assert image.quarter_turns == turns
    assert image.y.shape == (2 * PATCH, 4 * PATCH)
    upright = PictureConverter(None).convert(picture).astype(float)
    assert image.shape == upright.shape
    assert np.abs(to_rgb(image) - upright).mean() < 4
    expected = np.rot90(colour_patches(), turns).astype(float)
    assert np.abs(to_rgb(image) - expected).mean() < 8


# Recordings


def items_of(path, **options):
    return list(RecordingSource(probe_recording(path, "clip"), (120, 160), **options))


def described(item):
    if not isinstance(item, Frame):
        return item
    others = {"image", "decode_seconds", "read_at"}
    return {name: getattr(item, name) for name in Frame.__slots__ if name not in others}


@pytest.mark.parametrize("options", [{}, {"stride": 5}, {"fps": 4}, {"first_seq": 3, "stride": 2}])
def test_a_recording_as_planes_has_the_same_frames(clip, options):
    as_images, as_planes = items_of(clip, **options), items_of(clip, **options, as_planes=True)
    assert isinstance(as_planes[0], StreamUp)
    assert isinstance(as_planes[-1], StreamDown)
    assert [described(item) for item in as_planes] == [described(item) for item in as_images]


@pytest.mark.parametrize("antialias", [True, False])
def test_frames_of_a_recording_are_scaled_as_the_model_wants_them(clip, antialias):
    frames = [item for item in items_of(clip, antialias=antialias) if isinstance(item, Frame)]
    converter = PictureConverter((120, 160), antialias)
    for frame, picture in zip(frames, pictures(clip, 12), strict=True):
        assert np.array_equal(frame.image, converter.convert(picture))


def test_frames_of_a_recording_as_planes_carry_their_pictures_in_full_size(clip):
    frames = [item for item in items_of(clip, as_planes=True) if isinstance(item, Frame)]
    assert len(frames) == 12
    for frame, picture in zip(frames, pictures(clip, 12), strict=True):
        assert frame.image.shape == (frame.height, frame.width, 3) == (576, 768, 3)
        whole = picture.to_ndarray()
        assert np.array_equal(frame.image.y, whole[:576])
        assert np.array_equal(frame.image.v.ravel(), whole[-144:].ravel())


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("clip.avi", "mjpeg", "yuvj420p"),
        ("clip.mkv", "ffv1", "yuv420p10le"),
        ("clip.mov", "png", "rgb24"),
    ],
)
def test_planes_of_every_kind_of_file_match_the_converter(tmp_path, name, codec, pixel_format):
    (decoded,) = DecodedPictures(file_of(tmp_path / name, codec, pixel_format))
    assert_like_the_converter(decoded.picture, PlaneReader().convert(decoded.picture))


def test_a_file_played_live_yields_planes_too(clip):
    source = LiveSource(
        "clip", str(clip), (120, 160), itertools.count(1000).__next__, as_planes=True
    )
    frames = [item for item in source if isinstance(item, Frame)]
    assert len(frames) == 12
    first = PlaneReader().convert(next(pictures(clip, 1)))
    assert np.array_equal(frames[0].image.y, first.y)
    assert {frame.image.shape for frame in frames} == {(576, 768, 3)}


class OnGpu:
    """A picture as decoded on a GPU, but with its planes in host memory."""

    def __init__(self, picture, sw_format="nv12"):
        self.format = SimpleNamespace(name="cuda")
        self.sw_format = SimpleNamespace(name=sw_format)
        self.planes = picture.planes
        self._picture = picture

    def __getattr__(self, name):
        return getattr(self._picture, name)


def test_planes_decoded_on_a_gpu_are_not_copied():
    picture = picture_of("nv12", Colorspace.ITU709)
    image = PlaneReader().convert(OnGpu(picture), UPRIGHT)
    assert_like_the_converter(picture, image)
    assert image.matrix == "bt709"
    y, chroma = (plane.buffer_ptr for plane in picture.planes)
    assert [plane.data_ptr() for plane in (image.y, image.u, image.v)] == [y, chroma, chroma + 1]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_planes_decoded_on_a_gpu_say_how_they_lie(turns, mirrored):
    lies = Orientation(turns, mirrored)
    image = PlaneReader().convert(OnGpu(picture_of("nv12", Colorspace.ITU709)), lies)
    expected = lies.upright(colour_patches()).astype(float)
    assert image.shape == expected.shape
    assert np.abs(to_rgb(image) - expected).mean() < 8


def test_planes_decoded_on_a_gpu_keep_their_picture_alive():
    def planes_of_a_deleted_picture():
        picture = picture_of("nv12")
        image = PlaneReader().convert(OnGpu(picture), UPRIGHT)
        return image, image.y.clone(), image.u.clone()

    made = [planes_of_a_deleted_picture() for _ in range(20)]
    gc.collect()
    for image, y, u in made:
        assert torch.equal(image.y, y)
        assert torch.equal(image.u, u)


@pytest.mark.cuda
def test_frames_decoded_on_a_gpu_have_the_planes_decoded_on_the_cpu(clip):
    reason = claim_gpu(0)
    if reason:
        pytest.skip(f"no CUDA decoder: {reason}")
    expected = [item for item in items_of(clip, as_planes=True) if isinstance(item, Frame)]
    found = [item for item in items_of(clip, as_planes=True, gpu=0) if isinstance(item, Frame)]
    assert [described(frame) for frame in found] == [described(frame) for frame in expected]
    for on_gpu, on_cpu in zip(found, expected, strict=True):
        assert on_gpu.image.y.device.type == "cuda"
        assert on_gpu.image.full_range == on_cpu.image.full_range
        for name in ("y", "u", "v"):
            plane = torch.from_numpy(np.ascontiguousarray(getattr(on_cpu.image, name)))
            assert torch.equal(getattr(on_gpu.image, name).cpu(), plane), name
