"""The CPU's runner: shares of a batch, each on one core."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssd_core.runners import cpu
from ssd_core.runners.cpu import IMAGES_PER_SHARE, CpuRunner, shares_of


class CountingNetwork:
    """Sees one thing in every picture: in the default box that the picture's first value names."""

    def __init__(self, boxes, before=lambda number: None):
        self.calls = []
        """(images, PyTorch's threads) of each call."""
        self._boxes = boxes
        self._before = before

    def __call__(self, x):
        numbers = (x[:, 0, 0, 0] * 127.5 + 127.5).round().long()
        self._before(int(numbers[0]))
        self.calls.append((len(x), torch.get_num_threads()))
        cls_logits = torch.full((len(x), self._boxes, 3), -9.0)
        cls_logits[range(len(x)), numbers, 1] = 9.0
        return torch.zeros(len(x), self._boxes, 4), cls_logits


@pytest.fixture
def spec(tiny_spec):
    """With a default box for each of 64 pictures, as wide as the picture's number."""
    sizes = tuple(((number + 1) / 64, 0.5) for number in range(64))
    return replace(tiny_spec, feature_maps=((1, 1),), box_sizes=(sizes,))


@pytest.fixture
def run(spec, monkeypatch):
    def make(cores=2, before=lambda number: None):
        monkeypatch.setattr(cpu, "usable_cores", lambda: cores)
        network = CountingNetwork(64, before)
        return CpuRunner(network, spec, torch.float32, spec.decode_settings()), network

    return make


def batch(*numbers):
    return [np.full((16, 24, 3), number, np.uint8) for number in numbers]


def numbers_of(found):
    """The number of each picture, read from its only detection."""
    assert found.counts == [1] * len(found.counts)
    return (64 * (found.boxes[:, 2] - 0.5) * 2 - 1).round().int().tolist()


@pytest.mark.parametrize(
    ("cores", "images", "shares"),
    [
        (1, 2, [2]),
        (2, 8, [4, 4]),
        (2, 3, [2, 1]),
        (2, 1, [1]),
        (4, 6, [2, 2, 2]),
        (4, 3, [1, 1, 1]),
        (2, 17, [4, 4, 4, 4, 1]),
        (2, 0, []),
    ],
)
def test_a_batch_is_cut_into_shares_for_the_cores_none_above_the_best_size(cores, images, shares):
    cut = shares_of(images, cores)
    assert [size for _, size in cut] == shares
    assert [start for start, _ in cut] == [sum(shares[:k]) for k in range(len(shares))]


@pytest.mark.parametrize("cores", [1, 2, 3, 32])
@pytest.mark.parametrize(
    ("batches_of", "together", "shares"), [(8, 4, [4, 2]), (12, 4, [4, 2]), (6, 6, [4, 2])]
)
def test_asked_to_it_computes_the_same_images_together_on_any_number_of_cores(
    run, cores, batches_of, together, shares
):
    runner, network = run(cores)
    assert runner.compute_alike(batches_of) == together
    assert numbers_of(runner.submit(batch(1, 2, 3, 4, 5, 6))()) == [1, 2, 3, 4, 5, 6]
    assert sorted(size for size, _ in network.calls) == sorted(shares)


def test_batches_of_less_than_a_share_are_computed_as_they_are(run):
    runner, network = run(cores=8)
    assert runner.compute_alike(3) == 3
    runner.submit(batch(1, 2, 3))()
    assert network.calls == [(3, 1)]


def test_each_share_runs_on_one_thread(run):
    runner, network = run(cores=2)
    runner.submit(batch(1, 2, 3, 4, 5))()
    assert sorted(network.calls) == [(2, 1), (3, 1)]


def test_the_callers_threads_and_those_started_later_compute_as_before(run):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run()[0].submit(batch(1))()
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), later) == (3, [3])
    finally:
        torch.set_num_threads(before)


def test_no_images_give_no_detections(run):
    assert run()[0].submit([])().counts == []


def test_shares_that_finish_in_another_order_are_put_back_in_order(run):
    second_is_done = threading.Event()

    def first_waits(number):
        if number == 1:
            assert second_is_done.wait(20)
        else:
            second_is_done.set()

    runner, _ = run(before=first_waits)
    assert numbers_of(runner.submit(batch(1, 2, 3, 4))()) == [1, 2, 3, 4]


def test_starting_a_batch_does_not_wait_for_its_detections(run):
    resume = threading.Event()
    runner, _ = run(before=lambda _: resume.wait(20))
    wait = runner.submit(batch(1, 2))
    resume.set()
    assert numbers_of(wait()) == [1, 2]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_batches_started_at_once_give_their_own_detections_in_any_order_of_waiting(run, order):
    runner, _ = run()
    waits = [runner.submit(batch(*range(start, start + 5))) for start in (0, 20, 40)]
    found = {index: numbers_of(waits[index]()) for index in order}
    assert found == {index: list(range(20 * index, 20 * index + 5)) for index in range(3)}


def test_an_error_in_a_share_is_raised_where_the_detections_are_waited_for(run):
    def fail(number):
        raise RuntimeError("oneDNN failed")

    wait = run(before=fail)[0].submit(batch(1, 2, 3))
    with pytest.raises(RuntimeError, match="oneDNN failed"):
        wait()


def test_what_is_not_an_image_is_refused_before_anything_starts(run):
    runner, network = run()
    with pytest.raises(ValueError, match="an image is"):
        runner.submit([*batch(1), "picture.jpg"])
    assert network.calls == []


def test_new_settings_apply_to_the_next_batch_and_not_to_one_under_way(run):
    started, resume = threading.Event(), threading.Event()

    def hold(number):
        started.set()
        assert resume.wait(20)

    runner, _ = run(before=hold)
    under_way = runner.submit(batch(1))
    assert started.wait(20)
    runner.settings = replace(runner.settings, score_threshold=1.0)
    following = runner.submit(batch(2))
    resume.set()
    assert under_way().counts == [1]
    assert following().counts == [0]


@pytest.mark.parametrize(
    ("images", "sizes"), [(16, {1, 2, 3, 4}), (4, {1, 2}), (1, {1}), (0, set())]
)
def test_warming_up_runs_every_size_of_share_that_batches_are_cut_into(run, images, sizes):
    runner, network = run(cores=2)
    runner.warm_up(images)
    assert {count for count, _ in network.calls} == sizes
    assert {threads for _, threads in network.calls} <= {1}


def test_the_default_batch_is_a_whole_share_for_each_core(run):
    assert run(cores=3)[0].default_batch == 3 * IMAGES_PER_SHARE


def test_the_threads_end_with_the_runner(run):
    runner, _ = run(cores=2)
    runner.submit(batch(1))()
    threads = list(runner._pool._threads)
    assert len(threads) == 2
    del runner
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


IN_A_PROCESS = """
import os, sys
import numpy as np
from ssd_core import Detector

detector = Detector.load(device="cpu", precision="fp32")
image = np.zeros((300, 300, 3), np.uint8)
{steps}
"""


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(
            "detector.submit([image] * 4)",
            id="a batch that nobody waits for",
        ),
        pytest.param(
            "detector.detect([image])\n"
            "child = os.fork()\n"
            "assert len(detector.detect([image])) == 1\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0)",
            id="a child forked after a batch",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_process_ends_by_itself_after(steps):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_PROCESS.format(steps=steps)],
        timeout=100, env=os.environ, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_each_step_of_a_share_is_reported_with_its_seconds(run):
    runner, _ = run(cores=2, before=lambda number: threading.Event().wait(0.02))
    runner.submit(batch(1))()  # while nobody listens
    reports = []
    runner.on_stage = lambda stage, seconds: reports.append((stage, seconds))
    runner.submit(batch(1, 2, 3))()
    assert sorted(stage for stage, _ in reports) == sorted(
        ["preprocess", "network", "decode_nms"] * 2
    )
    assert all(seconds >= 0.02 for stage, seconds in reports if stage == "network")
    assert all(seconds > 0 for _, seconds in reports)
