import importlib
import sys

import pytest
import torch

from ssd_core.errors import DeviceError
from tests.conftest import KERNEL_DEVICE
from tests.unit.ssd_core.cuda_runners import (
    DEVICE,
    assert_found,
    pictures,
    rgb,
    runner_of,
    warnings_of,
    yuv,
)

pytestmark = pytest.mark.kernels
pytest.importorskip("triton")
op = importlib.import_module("ssd_core.ops.yuv_to_input")


# Out of memory


class SmallMemory:
    """A network whose device has room for so many images at once."""

    def __init__(self, network, room, error=lambda: torch.OutOfMemoryError("CUDA out of memory")):
        self.room = room
        self.failures = 0
        self._network = network
        self._error = error

    def __call__(self, x):
        if len(x) > self.room:
            self.failures += 1
            raise self._error()
        return self._network(x)


def hidden_out_of_memory():
    """What a capture raises that ran out of memory."""
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    except RuntimeError as error:
        return error


def pinned_memory_short():
    return torch.AcceleratorError("CUDA error: out of memory")


def no_algorithm_fits():
    return RuntimeError("GET was unable to find an engine to execute this computation")


@pytest.mark.parametrize(
    "error", [None, hidden_out_of_memory, pinned_memory_short, no_algorithm_fits]
)
def test_a_batch_too_large_for_the_memory_is_split_once(network, spec, expect, caplog, error):
    small = SmallMemory(network, 2, *[error] if error else [])
    runner = runner_of(small, spec, for_planes=True)
    images = [*pictures(2), yuv(3), rgb(4)]
    assert_found(runner.submit(images)(), expect(images))
    (warning,) = warnings_of(caplog)
    assert warning == (
        f"device {DEVICE} has no memory for 4 images at once: batches are split into 2"
    )
    assert small.failures == 1
    for count in (4, 1, 7, 3):
        assert_found(runner.submit(pictures(count))(), expect(pictures(count)))
    assert small.failures == 1
    assert len(warnings_of(caplog)) == 1


def test_a_batch_is_split_until_it_fits(network, spec, expect, caplog):
    small = SmallMemory(network, 1)
    runner = runner_of(small, spec)
    assert_found(runner.submit(pictures(7))(), expect(pictures(7)))
    assert [text.split("split into ")[1] for text in warnings_of(caplog)] == ["4", "2", "1"]
    assert small.failures == 3


def test_parts_of_a_split_batch_stay_apart_from_those_in_flight(network, spec, expect):
    runner = runner_of(SmallMemory(network, 2), spec, for_planes=True)
    batches = [pictures(7, 10), pictures(2, 20), [yuv(1), *pictures(6, 30), yuv(2)]]
    waits = [runner.submit(images) for images in batches]
    for wait, images in zip(reversed(waits), reversed(batches), strict=True):
        assert_found(wait(), expect(images))


def test_memory_may_become_short_while_warming_up(network, spec, expect, caplog):
    small = SmallMemory(network, 4)
    runner = runner_of(small, spec)
    runner.warm_up(32)
    assert len(warnings_of(caplog)) == small.failures == 1
    assert sorted(runner._programs) == [1, 2, 3]  # half of the 6 that did not fit, and less
    assert_found(runner.submit(pictures(9))(), expect(pictures(9)))
    assert small.failures == 1


@pytest.mark.skipif(KERNEL_DEVICE == "cuda", reason="a captured graph does not call the network")
def test_memory_may_become_short_later(network, spec, expect, caplog):
    small = SmallMemory(network, 64)
    runner = runner_of(small, spec)
    assert_found(runner.submit(pictures(8))(), expect(pictures(8)))
    small.room = 2
    waits = [runner.submit(pictures(8, 10 * index)) for index in range(3)]
    for index, wait in enumerate(waits):
        assert_found(wait(), expect(pictures(8, 10 * index)))
    assert len(warnings_of(caplog)) == 2


def test_a_device_that_fails_ends_the_work_and_is_not_tried_with_less(network, spec, caplog):
    lost = RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")
    small = SmallMemory(network, 0, lambda: lost)
    runner = runner_of(small, spec)
    for start in (lambda: runner.submit(pictures(4)), lambda: runner.warm_up(4)):
        small.failures = 0
        with pytest.raises(torch.AcceleratorError, match="an illegal memory access"):
            start()
        assert small.failures == 1
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("start", ["submit", "warm_up"])
def test_no_memory_for_one_image_is_an_error_of_one_line_with_a_way_out(network, spec, start):
    runner = runner_of(SmallMemory(network, 0), spec)
    with pytest.raises(DeviceError, match="no memory left for one image of tiny: free") as caught:
        runner.submit(pictures(3)) if start == "submit" else runner.warm_up(2)
    assert str(DEVICE) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_of_the_network_pass_and_split_nothing(network, spec, expect, caplog):
    broken = SmallMemory(network, 2, lambda: RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"))
    runner = runner_of(broken, spec)
    with pytest.raises(RuntimeError, match="CUDNN_STATUS_BAD_PARAM"):
        runner.submit(pictures(4))
    with pytest.raises(RuntimeError, match="CUDNN_STATUS_BAD_PARAM"):
        runner.warm_up(4)
    assert warnings_of(caplog) == []
    broken.room = 4
    assert_found(runner.submit(pictures(4))(), expect(pictures(4)))


# Without the kernel


@pytest.fixture
def without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "ssd_core.ops.yuv_to_input", None)


@pytest.mark.usefixtures("without_triton")
def test_without_triton_it_takes_images_only_and_says_so_once(network, spec, expect, caplog):
    runner = runner_of(network, spec)
    assert runner.takes_yuv is False
    for _ in range(3):
        assert_found(runner.submit(pictures(3))(), expect(pictures(3)))
    runner.warm_up(8)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("no Triton kernels: ")
    assert "slower: Triton is not installed (ModuleNotFoundError" in warning
    assert "\n" not in warning


def test_a_kernel_that_does_not_compile_is_done_without(network, spec, expect, caplog, monkeypatch):
    def broken(*arguments):
        raise AssertionError("could not\ncompile for this GPU\n" * 50)

    monkeypatch.setattr(op, "yuv_to_input", broken)
    runner = runner_of(network, spec)
    assert runner.takes_yuv is False
    (warning,) = warnings_of(caplog)
    assert "AssertionError: could not compile for this GPU" in warning
    assert len(warning) < 400
    monkeypatch.undo()
    assert_found(runner.submit(pictures(2))(), expect(pictures(2)))


def test_a_device_without_memory_for_the_first_pixel_is_not_taken_for_one_without_kernels(
    network, spec, monkeypatch
):
    def out_of_memory(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(op, "yuv_to_input", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        runner_of(network, spec)
