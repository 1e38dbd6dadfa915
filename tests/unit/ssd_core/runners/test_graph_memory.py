"""Captures that fail for want of memory, on purpose, on a real GPU."""

import gc
from contextlib import suppress

import pytest
import torch

from tests.unit.ssd_core.cuda_runners import (
    DEVICE,
    assert_found,
    found_alone,
    pictures,
    runner_of,
    warnings_of,
)

pytestmark = [pytest.mark.cuda, pytest.mark.kernels]

ROOM = 4
SCRATCH_BYTES = 64 << 20
ROUNDS = 12


def memory_is_gone():
    torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)


def capture_is_broken_off():
    """What PyTorch 2.11 does not get over by itself: its capture cannot be ended."""
    with suppress(RuntimeError):
        torch.cuda.current_stream().synchronize()  # not allowed in a capture, and spoils it
    raise torch.OutOfMemoryError("CUDA out of memory")


class FailsInCapture:
    """A network that runs with any batch, and whose capture fails for large ones."""

    def __init__(self, network, fail):
        self.failures = 0
        self._network = network
        self._fail = fail

    def __call__(self, x):
        scratch = torch.zeros(SCRATCH_BYTES, dtype=torch.uint8, device=x.device)
        if len(x) > ROOM and torch.cuda.is_current_stream_capturing():
            self.failures += 1
            self._fail()
        boxes, logits = self._network(x)
        return boxes + scratch[0], logits


def expected_of(images, network, spec):
    return [found_alone(image, network, spec) for image in images]


@pytest.mark.parametrize("fail", [memory_is_gone, capture_is_broken_off])
def test_a_capture_without_memory_splits_the_batch_and_smaller_ones_are_captured(
    network, spec, caplog, fail
):
    images = pictures(10)
    expected = expected_of(images, network, spec)
    failing = FailsInCapture(network, fail)
    runner = runner_of(failing, spec)
    before = runner.submit(images[:3])  # a graph that is there, and a batch under way
    assert_found(runner.submit(images)(), expected)
    assert_found(before(), expected[:3])
    for count in (1, 3, 4, 10):
        assert_found(runner.submit(images[:count])(), expected[:count])
    assert failing.failures == len(warnings_of(caplog)) == 2  # of 12 images, then of 6
    assert runner._largest == 3
    assert {1, 3} <= set(runner._programs) <= {1, 2, 3}
    assert all(program._graph is not None for program in runner._programs.values())


@pytest.mark.parametrize("fail", [memory_is_gone, capture_is_broken_off])
def test_captures_that_fail_again_and_again_take_no_more_memory(network, spec, fail):
    images = pictures(8)
    expected = expected_of(images, network, spec)
    failing = FailsInCapture(network, fail)
    runner = runner_of(failing, spec)
    reserved = []
    for _ in range(ROUNDS):
        runner._largest = None
        assert_found(runner.submit(images)(), expected)
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved())
    assert failing.failures == ROUNDS
    assert max(reserved) == max(reserved[:3])
    used = torch.cuda.memory_allocated()
    del runner
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() < used
    assert torch.cuda.memory_reserved() < reserved[-1]


def test_nothing_is_collected_while_a_graph_is_made(network, spec):
    """The destructors of another detector's graphs would call CUDA in the middle of it."""
    collecting = []

    def watched(x):
        collecting.append(gc.isenabled())
        return network(x)

    runner_of(watched, spec).warm_up(2)
    assert collecting
    assert not any(collecting)
    assert gc.isenabled()
