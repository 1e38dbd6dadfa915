import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from torch.nn import functional as F

from ssd_core.yuv import LUMA_WEIGHTS, YuvImage
from tests.clips import pictures
from tests.conftest import KERNEL_DEVICE as DEVICE, WALKWAY
from tests.params import mostly_long
from tests.unit.ssd_core.kernels import compiled, with_each_triton
from tests.unit.ssd_core.plain_scaling import resampled, scaled
from worker.sources.conversion import PictureConverter

pytestmark = pytest.mark.kernels
pytest.importorskip("triton")
op = importlib.import_module("ssd_core.ops.yuv_to_input")

MATRICES = tuple(LUMA_WEIGHTS)


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch):
    """The interpreter takes as long for a small block as for a large one: 34 s a frame, not 8."""
    if DEVICE == "cpu":
        monkeypatch.setattr(op, "BLOCK_PIXELS", 512)
        monkeypatch.setattr(op, "BLOCK_TAPS", 32)


def random_image(height, width, *, nv12=False, padding=0, full_range=True, seed=0, **fields):
    """Noise: no two neighbours alike, so that a tap too few or too many shows."""
    generator = torch.Generator().manual_seed(seed)
    chroma_height, chroma_width = (height + 1) // 2, (width + 1) // 2

    def noise(rows, columns):
        plane = torch.randint(0, 256, (rows, columns + padding), generator=generator)
        return plane.to(torch.uint8).to(DEVICE)[:, :columns]

    if nv12:
        u_and_v = noise(chroma_height, 2 * chroma_width)
        u, v = u_and_v[:, 0::2], u_and_v[:, 1::2]
    else:
        u, v = noise(chroma_height, chroma_width), noise(chroma_height, chroma_width)
    return YuvImage(noise(height, width), u, v, full_range, fields.pop("matrix", "bt601"), **fields)


def image_of(picture, matrix="bt601"):
    """The planes of a decoded picture as they lie, padding included."""
    first, *rest = (
        torch.frombuffer(bytearray(plane), dtype=torch.uint8)
        .reshape(-1, plane.line_size)
        .to(DEVICE)
        for plane in picture.planes
    )
    height, width = (picture.height + 1) // 2, (picture.width + 1) // 2
    if picture.format.name == "nv12":
        u, v = (rest[0][:height, shift : 2 * width : 2] for shift in (0, 1))
    else:
        u, v = (plane[:height, :width] for plane in rest)
    full_range = picture.color_range == ColorRange.JPEG
    return YuvImage(first[: picture.height, : picture.width], u, v, full_range, matrix)


def convert(
    images,
    size,
    dtype=torch.float32,
    mean=(0, 0, 0),
    std=(1, 1, 1),
    antialias=True,
    **options,
):
    """(B, 3, H, W) through the kernel."""
    tables = op.ImageTables(*(table.to(DEVICE) for table in op.describe_images(images, **options)))
    return op.yuv_to_input(tables, empty_input(len(images), size, dtype), mean, std, antialias)


def empty_input(batch, size, dtype=torch.float32):
    out = torch.full((batch, 3, *size), torch.nan, dtype=dtype, device=DEVICE)
    return out.contiguous(memory_format=torch.channels_last)


def assert_like_reference(images, size, antialias=True):
    x = convert(images, size, antialias=antialias).cpu()
    for got, image in zip(x, images, strict=True):
        torch.testing.assert_close(got, scaled(image, size, antialias), atol=1e-2, rtol=0)


@pytest.fixture(scope="module")
def frame():
    """A frame of the sample: 768x576, H.264, BT.601, limited range."""
    *_, last = pictures(WALKWAY, 31)
    return last


def mean_difference(x, rgb):
    return (x[0].permute(1, 2, 0).float().cpu() - torch.from_numpy(rgb).float()).abs().mean().item()


@pytest.mark.long
def test_a_real_frame_is_what_the_cpu_path_makes_of_it(frame):
    x = convert([image_of(frame)], (300, 300))
    # Chroma in full, what is left is swscale's rounding to whole numbers, 0.25 on average.
    assert mean_difference(x, PictureConverter((300, 300)).convert(frame)) < 0.26


@pytest.mark.parametrize(
    ("pixel_format", "full_range", "matrix"),
    mostly_long(
        ("yuv420p", False, "bt709"),
        ("nv12", True, "bt709"),
        ("nv12", False, "bt601"),
        ("yuv420p", True, "bt601"),
        fast=1,
    ),
)
def test_every_format_range_and_matrix_is_what_the_cpu_path_makes_of_it(
    frame, pixel_format, full_range, matrix
):
    picture = frame.reformat(
        320,
        240,
        pixel_format,
        dst_colorspace={"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709}[matrix],
        dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
    )
    x = convert([image_of(picture, matrix)], (120, 150))
    # Made by swscale, the picture does not say where its chroma sits: swscale takes the middle.
    assert mean_difference(x, PictureConverter((120, 150)).convert(picture)) < 0.7


def test_the_reference_weighs_as_pytorch_does():
    plane = torch.rand(37, 11, dtype=torch.float64)
    expected = F.interpolate(plane[None, None], (5, 23), mode="bilinear", antialias=True)[0, 0]
    torch.testing.assert_close(resampled(plane, (5, 23), 0, antialias=True), expected)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        *[(1, 1), (2, 3), (3, 2), (1, 9), (9, 1), (5, 4), (17, 13), (24, 24)],
        *(pytest.param(*size, marks=pytest.mark.long) for size in [(75, 130), (301, 40)]),
        (75, 40),
    ],
)
@pytest.mark.parametrize("antialias", [True, pytest.param(False, marks=pytest.mark.long)])
def test_any_size_is_like_the_reference(height, width, antialias):
    assert_like_reference([random_image(height, width)], (24, 20), antialias)


@pytest.mark.parametrize(
    "quarter_turns",
    [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long), 3],
)
@pytest.mark.parametrize("size", [pytest.param((16, 16), marks=pytest.mark.long), (30, 14)])
@pytest.mark.parametrize("mirrored", [pytest.param(False, marks=pytest.mark.long), True])
def test_any_orientation_is_like_the_reference(quarter_turns, size, mirrored):
    image = random_image(41, 64, quarter_turns=quarter_turns, mirrored=mirrored)
    assert_like_reference([image], size)
    assert_like_reference([image], size, antialias=False)


@pytest.mark.parametrize(("pixels", "taps"), mostly_long((64, 4), (32, 1), (16, 16)))
def test_any_block_size_is_like_the_reference(monkeypatch, pixels, taps):
    monkeypatch.setattr(op, "BLOCK_PIXELS", pixels)
    monkeypatch.setattr(op, "BLOCK_TAPS", taps)
    images = [random_image(9, 203), random_image(11, 37, quarter_turns=1)]
    assert_like_reference(images, (4, 40))


def test_images_of_all_kinds_share_a_batch():
    images = [
        random_image(48, 64, seed=1),
        random_image(33, 27, seed=2, nv12=True, full_range=False, matrix="bt709"),
        random_image(27, 50, seed=3, padding=5, quarter_turns=3, mirrored=True, matrix="bt709"),
        random_image(2, 2, seed=4, nv12=True, padding=1, quarter_turns=2, full_range=False),
    ]
    assert_like_reference(images, (18, 11))


@pytest.mark.parametrize("nv12", [False, True])
def test_padded_rows_change_nothing(nv12):
    packed = random_image(19, 30, nv12=nv12)

    def padded(plane, step=1):
        wide = torch.full((len(plane), 2 * plane.shape[1] + 7), 255, dtype=torch.uint8)
        view = wide.to(DEVICE)[:, : step * plane.shape[1] : step]
        return view.copy_(plane)

    step = 2 if nv12 else 1
    views = replace(packed, y=padded(packed.y), u=padded(packed.u, step), v=padded(packed.v, step))
    assert torch.equal(convert([packed], (12, 12)), convert([views], (12, 12)))


def test_planes_may_lie_elsewhere_than_in_the_image():
    image = random_image(10, 14)
    arena = torch.cat([plane.flatten() for plane in (image.y, image.u, image.v)])
    host = replace(image, **{name: getattr(image, name).cpu().numpy() for name in "yuv"})
    base = arena.data_ptr()
    where = op.PlaneAddresses(base, base + 140, base + 175, 14, 7, 1)
    elsewhere = convert([host], (8, 8), addresses=[where])
    assert torch.equal(elsewhere, convert([image], (8, 8)))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],
)
def test_every_type_is_normalised_and_channels_last(dtype, tolerance):
    image = random_image(31, 22)
    mean, std = (123.0, 117.5, 104.0), (58.0, 57.0, 61.5)
    x = convert([image], (10, 10), dtype, mean, std)
    assert x.dtype == dtype
    assert x.is_contiguous(memory_format=torch.channels_last)
    pixels = scaled(image, (10, 10))
    expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(x[0].float().cpu(), expected, atol=4e-4, rtol=tolerance)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full_range", [False, True])
def test_pure_colours_come_back(full_range, matrix):
    colours = torch.tensor(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [128, 128, 128]]
    )
    images = []
    for red, green, blue in (colours.double() / 255).tolist():
        kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
        luma = kr * red + (1 - kr - kb) * green + kb * blue
        blueness, redness = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
        if full_range:
            codes = [255 * luma, 128 + 255 * blueness, 128 + 255 * redness]
        else:
            codes = [16 + 219 * luma, 128 + 224 * blueness, 128 + 224 * redness]
        y, u, v = (
            torch.full(shape, min(round(code), 255), dtype=torch.uint8, device=DEVICE)
            for shape, code in zip([(6, 4), (3, 2), (3, 2)], codes, strict=True)
        )
        images.append(YuvImage(y, u, v, full_range, matrix))
    pixels = convert(images, (3, 3))
    expected = colours.float()[:, :, None, None].expand(-1, -1, 3, 3)
    torch.testing.assert_close(pixels.cpu(), expected, atol=1.7, rtol=0)


def test_colours_out_of_range_are_clamped_before_they_are_normalised():
    image = random_image(4, 4)
    for plane, code in ((image.y, 255), (image.u, 255), (image.v, 0)):
        plane.fill_(code)
    x = convert([image], (2, 2), mean=(0, 0, 55), std=(1, 1, 100))
    assert x[0, 2].unique().item() == pytest.approx(2)
    image.y.fill_(0)
    assert convert([image], (2, 2))[0, 0].unique().item() == 0


def test_an_empty_slot_is_left_alone():
    tables = op.describe_images([random_image(6, 6), random_image(6, 6)])
    tables.images[0] = 0
    tables = op.ImageTables(*(table.to(DEVICE) for table in tables))
    x = op.yuv_to_input(tables, empty_input(2, (4, 4)), (0, 0, 0), (1, 1, 1))
    assert x[0].isnan().all()
    assert x[1].isfinite().all()


def test_no_images_make_no_input():
    assert convert([], (4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.cuda
def test_a_captured_launch_serves_other_images():
    first = [random_image(40, 30), random_image(20, 20, nv12=True)]
    then = [random_image(25, 61, nv12=True, quarter_turns=1, seed=7), random_image(8, 9, seed=8)]
    tables = op.ImageTables(*(table.to(DEVICE) for table in op.describe_images(first)))
    out = empty_input(2, (32, 32))
    arguments = (tables, out, (0, 0, 0), (1, 1, 1))
    op.yuv_to_input(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        op.yuv_to_input(*arguments)
    for images in (then, first):
        for table, new in zip(tables, op.describe_images(images), strict=True):
            table.copy_(new)
        graph.replay()
        for got, image in zip(out.cpu(), images, strict=True):
            torch.testing.assert_close(got, scaled(image, (32, 32)), atol=1e-2, rtol=0)


LAUNCHES = """
import torch
from ssd_core.ops.yuv_to_input import ImageTables, yuv_to_input

tables = ImageTables(torch.zeros(8, 9, dtype=torch.int64), torch.zeros(8, 12))
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    out = torch.zeros(8, 3, 300, 300, dtype=dtype).to(memory_format=torch.channels_last)
    yuv_to_input(tables, out, (123.0, 117.5, 104.0), (58.0, 57.0, 61.5))
"""


@pytest.mark.long
@pytest.mark.timeout(400)
@with_each_triton
def test_the_kernel_compiles_for_gpus_without_spills(tmp_path, triton):
    usages = compiled(LAUNCHES, tmp_path, triton)
    assert len(usages) == 6
    for usage in usages:
        assert usage["STACK"] == usage["LOCAL"] == 0, usage
        # 64 threads of 96 registers: ten programs on a multiprocessor, enough to hide its loads.
        assert usage["REG"] <= 96, usage


def planes(height=4, width=6, kind=np.uint8):
    chroma = ((height + 1) // 2, (width + 1) // 2)
    return {"y": np.zeros((height, width), kind)} | {c: np.zeros(chroma, kind) for c in "uv"}


@pytest.mark.parametrize(("turns", "shape"), [(0, (5, 8, 3)), (1, (8, 5, 3)), (2, (5, 8, 3))])
def test_an_image_has_the_shape_of_the_upright_picture(turns, shape):
    image = YuvImage(**planes(5, 8), full_range=False, matrix="bt601", quarter_turns=turns)
    assert (image.height, image.width, 3) == image.shape == shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros((4, 6))}, "y is uint8, not float64"),
        ({"v": torch.zeros(2, 3, dtype=torch.int8)}, r"v is uint8, not torch\.int8"),
        ({"u": [[0]]}, "u is an array or tensor, not a list"),
        ({"y": np.zeros((4, 6, 3), np.uint8)}, r"y is a plane of pixels, not of shape \(4, 6, 3\)"),
        ({"y": np.zeros((0, 6), np.uint8)}, r"y is a plane of pixels, not of shape \(0, 6\)"),
        ({"u": np.zeros((2, 2), np.uint8)}, "u of a 4x6 picture is 2x3, not 2x2"),
        ({"v": np.zeros((4, 6), np.uint8)}, "v of a 4x6 picture is 2x3, not 4x6"),
        ({"y": np.zeros((4, 12), np.uint8)[:, ::2]}, "pixels of y lie side by side, not 2 apart"),
        (
            {"u": np.zeros((2, 6), np.uint8)[:, ::2]},
            r"u and v have equal strides, not \(6, 2\) and \(3, 1\)",
        ),
        ({"matrix": "bt2020"}, "matrix is one of bt601, bt709, not 'bt2020'"),
        ({"quarter_turns": 4}, "quarter_turns is 0 to 3, not 4"),
    ],
)
def test_planes_that_make_no_picture_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        YuvImage(**{**planes(), "full_range": False, "matrix": "bt601", **change})


def test_strides_of_a_single_row_or_column_do_not_matter():
    u, v = np.zeros((1, 8), np.uint8)[:, :1], np.zeros((1, 1), np.uint8)
    image = YuvImage(np.zeros((2, 2), np.uint8), u, v, False, "bt601")
    assert image.shape == (2, 2, 3)


def test_planes_in_arrays_need_addresses():
    image = YuvImage(**planes(), full_range=False, matrix="bt601")
    with pytest.raises(ValueError, match="y is a tensor on the device, not a ndarray"):
        op.describe_images([image])


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.zeros(1, 4, 2, 2), r"out is \(B, 3, height, width\), not \(1, 4, 2, 2\)"),
        (empty_input(1, (2, 2), torch.float64), r"out is fp32, fp16 or bf16, not torch\.float64"),
        (torch.zeros(1, 3, 2, 2), "out is in channels_last memory"),
        (empty_input(2, (2, 2)), r"images is \(2 or more, 9\), not \(1, 9\)"),
        (empty_input(1, (2, 2)).to("meta"), "images is contiguous torch.int64 on meta"),
    ],
)
def test_outputs_that_cannot_be_filled_are_refused(out, message):
    tables = op.ImageTables(*(t.to(DEVICE) for t in op.describe_images([random_image(2, 2)])))
    with pytest.raises(ValueError, match=message):
        op.yuv_to_input(tables, out, (0, 0, 0), (1, 1, 1))
