import importlib
import threading

import numpy as np
import pytest
import torch

from ssd_core.runners import plane_upload as module
from ssd_core.runners.plane_upload import Upload, copy_all
from tests.conftest import KERNEL_DEVICE
from tests.unit.ssd_core.cuda_runners import network_input, rgb, yuv

pytestmark = pytest.mark.kernels
pytest.importorskip("triton")

DEVICE = torch.device(KERNEL_DEVICE)


@pytest.fixture
def spec(tiny_spec):
    return tiny_spec


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch):
    """The interpreter takes as long for a small block as for a large one."""
    if KERNEL_DEVICE == "cpu":
        op = importlib.import_module("ssd_core.ops.yuv_to_input")
        monkeypatch.setattr(op, "BLOCK_PIXELS", 32)
        monkeypatch.setattr(op, "BLOCK_TAPS", 32)


def converted(upload, images, spec, fill=0.0):
    upload.start(images)
    x = torch.full((len(images), 3, *spec.image_size), fill, device=DEVICE)
    x = x.to(memory_format=torch.channels_last)
    upload.convert_into(x, spec.mean, spec.std)
    return x.cpu()


def expected_of(image, spec):
    """What the network is to get of an image, made alone."""
    if image is None:
        return torch.zeros(3, *spec.image_size)
    if not isinstance(image, np.ndarray | torch.Tensor):
        return network_input(image, spec)[0].cpu()
    image = image.cpu() if isinstance(image, torch.Tensor) else torch.tensor(image)
    pixels = image.float().permute(2, 0, 1)
    return (pixels - spec.mean[0]) * torch.tensor(1 / spec.std[0])


def ready(seed, spec):
    return rgb(seed, *spec.image_size)


def assert_converted(upload, images, spec):
    x = converted(upload, images, spec)
    for row, image in enumerate(images):
        torch.testing.assert_close(x[row], expected_of(image, spec), atol=1e-5, rtol=1e-5)


def test_pictures_and_images_become_the_input_and_none_stays_as_it_is(spec):
    images = [ready(1, spec), None, yuv(2), ready(3, spec), yuv(4, 7, 5), None]
    assert_converted(Upload(DEVICE), images, spec)
    assert (converted(Upload(DEVICE), images, spec, fill=7.0)[[1, 5]] == 7).all()


@pytest.mark.long
def test_a_room_is_used_again_by_smaller_and_larger_batches_of_any_kind(spec):
    upload = Upload(DEVICE)
    for images in (
        [yuv(1), yuv(2, 33, 21)],
        [ready(3, spec)],
        [ready(4, spec), yuv(5), ready(6, spec), None],
        [None],
        [yuv(7)],
    ):
        assert_converted(upload, images, spec)


@pytest.mark.parametrize("kind", ["read-only", "strided", "tensor", "on the device"])
def test_images_may_lie_in_any_memory(spec, kind):
    image = ready(1, spec)
    given = {
        "read-only": np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
        "strided": np.repeat(image, 2, axis=1)[:, ::2],
        "tensor": torch.from_numpy(image),
        "on the device": torch.from_numpy(image).to(DEVICE),
    }[kind]
    assert_converted(Upload(DEVICE), [given, ready(2, spec)], spec)


def test_interleaved_chroma_goes_up_as_one_plane(spec, monkeypatch):
    copied = []

    def spy(into, contents):
        copied.extend(array for _, array in contents)
        copy_all(into, contents)

    monkeypatch.setattr(module, "copy_all", spy)
    whole = np.random.default_rng(0).integers(0, 256, (15, 14), np.uint8)
    chroma = whole[10:].reshape(5, 7, 2)
    picture = yuv(0, y=whole[:10], u=chroma[..., 0], v=chroma[..., 1])
    assert_converted(Upload(DEVICE), [picture], spec)
    assert [array.shape for array in copied] == [(10, 14), (5, 14)]
    assert all(np.shares_memory(array, whole) for array in copied)


def test_chroma_that_lies_elsewhere_every_second_byte_is_not_taken_for_interleaved(spec):
    planes = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 2), np.uint8)
    for u, v in ((planes[0, ..., 0], planes[1, ..., 0]), (planes[0, ..., 1], planes[0, ..., 0])):
        assert_converted(Upload(DEVICE), [yuv(0, u=u, v=v)], spec)


def test_much_is_copied_by_several_threads_and_little_by_the_caller(monkeypatch):
    threads = set()
    copy = module._copy

    def noted(into, contents):
        threads.add(threading.current_thread().name)
        copy(into, contents)

    monkeypatch.setattr(module, "_copy", noted)
    arrays = [np.full((100, 100), value, np.uint8) for value in range(8)]
    contents = [(10_000 * index, array) for index, array in enumerate(arrays)]
    for alone_bytes, several in ((80_001, False), (80_000, True)):
        monkeypatch.setattr(module, "ALONE_BYTES", alone_bytes)
        threads.clear()
        into = np.zeros(80_000, np.uint8)
        copy_all(into, contents)
        assert (into.reshape(8, -1) == np.arange(8)[:, None]).all()
        shares = {name for name in threads if name.startswith("upload")}
        assert len(threads) - len(shares) == 1
        assert bool(shares) == several


def test_an_error_of_a_copying_thread_is_raised(monkeypatch):
    monkeypatch.setattr(module, "ALONE_BYTES", 0)
    bad = [(0, np.zeros((2, 2), np.uint8)), (90, np.zeros((10, 10), np.uint8))]
    with pytest.raises(ValueError, match="reshape"):
        copy_all(np.zeros(100, np.uint8), bad)


def test_tables_lie_where_kernels_need_not_be_compiled_anew(spec):
    upload = Upload(DEVICE)
    for count in (1, 2, 3):
        upload.start([yuv(seed) for seed in range(count)] + [ready(9, spec)])
        for table in (*upload._yuv, upload._rgb):
            assert table.data_ptr() % module.ALIGNMENT_BYTES == 0
