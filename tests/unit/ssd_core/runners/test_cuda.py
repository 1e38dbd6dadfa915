import copy
import gc
import importlib
import threading
import weakref
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from ssd_core import Detector
from ssd_core.runners import cuda
from ssd_core.runners.cuda import IN_FLIGHT
from tests.conftest import KERNEL_DEVICE
from tests.params import mostly_long
from tests.unit.ssd_core.cuda_runners import (
    CPU,
    DEVICE,
    THRESHOLD,
    assert_found,
    each,
    found_alone,
    pictures,
    rgb,
    runner_of,
    yuv,
)

pytestmark = pytest.mark.kernels
pytest.importorskip("triton")
op = importlib.import_module("ssd_core.ops.yuv_to_input")


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch):
    """The interpreter takes as long for a small block as for a large one."""
    if KERNEL_DEVICE == "cpu":
        monkeypatch.setattr(op, "BLOCK_PIXELS", 32)
        monkeypatch.setattr(op, "BLOCK_TAPS", 32)


@pytest.fixture
def runner(network, spec):
    return runner_of(network, spec)


@pytest.fixture
def plane_runner(network, spec):
    return runner_of(network, spec, for_planes=True)


def padded(seed):
    """A picture whose rows are parts of longer ones."""
    image = yuv(seed)
    longer = {
        name: np.pad(getattr(image, name), ((0, 0), (0, 9)), constant_values=77)[:, :-9]
        for name in ("y", "u", "v")
    }
    return replace(image, **longer)


def interleaved(seed):
    """A picture whose chroma lies as in NV12."""
    image = yuv(seed)
    chroma = np.stack([image.u, image.v], axis=-1)
    return replace(image, u=chroma[..., 0], v=chroma[..., 1])


def in_tensors(seed):
    image = yuv(seed)
    return replace(image, **{name: torch.from_numpy(getattr(image, name)) for name in "yuv"})


# RGB


def test_the_pictures_of_these_tests_show_different_things(expect):
    found = expect(pictures(8))
    assert len({len(scores) for _, scores, _ in found}) > 2
    assert len({tuple(scores.tolist()) for _, scores, _ in found}) == 8


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_a_batch_of_any_size_finds_what_the_detector_finds(network, spec, count):
    images = pictures(count)
    detector = Detector(copy.deepcopy(network).cpu(), spec, CPU, torch.float32, THRESHOLD)
    expected = [(d.boxes_normalised, d.scores, d.labels) for d in detector.detect(images)]
    assert_found(runner_of(network, spec).submit(images)(), expected)


def test_images_are_scaled_whatever_their_size_and_kind(runner, expect):
    images = [rgb(1, 40, 30), torch.from_numpy(rgb(2)), rgb(3, 5, 90), torch.from_numpy(rgb(4, 7))]
    assert_found(runner.submit(images)(), expect(images))


def test_batches_of_changing_sizes_do_not_disturb_one_another(runner, expect):
    for seed, count in enumerate([3, 1, 8, 2, 5, 1]):
        images = pictures(count, 10 * seed)
        assert_found(runner.submit(images)(), expect(images))


@pytest.mark.parametrize(
    ("count", "computed"),
    [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (6, 6), (7, 8), (9, 12), (13, 16), (17, 24)],
)
def test_the_network_computes_powers_of_two_and_halves_between(network, spec, count, computed):
    sizes = set()

    def noted(x):
        sizes.add(len(x))
        return network(x)

    runner_of(noted, spec).submit(pictures(count))()
    assert sizes == {computed}


def test_cudnn_computes_the_network_by_the_same_algorithms_each_time(network, spec):
    seen = []

    def spy(x):
        flags = torch.backends.cudnn
        seen.append((flags.enabled, flags.deterministic, flags.benchmark))
        return network(x)

    runner_of(spy, spec).submit(pictures(1))()
    assert set(seen) == {(True, True, False)}


def test_planes_are_scaled_as_the_model_wants_them(network, spec):
    filtered, plain = replace(spec, antialias=True), replace(spec, antialias=False)
    expected = [found_alone(yuv(0), network, one) for one in (filtered, plain)]
    assert not torch.equal(expected[0][1], expected[1][1])
    for one, wanted in zip((filtered, plain), expected, strict=True):
        assert_found(runner_of(network, one, for_planes=True).submit([yuv(0)])(), [wanted])


def test_autocast_in_the_program_around_it_changes_no_number(network, spec, expect):
    images = pictures(3)
    expected = expect(images)
    with torch.autocast(KERNEL_DEVICE, torch.bfloat16):
        assert network(torch.zeros(1, 3, 8, 16, device=DEVICE))[0].dtype == torch.bfloat16
        found = runner_of(network, spec).submit(images)()
    assert_found(found, expected)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_detections_are_ordinary_tensors_whatever_mode_they_are_made_in(runner, mode):
    with mode():
        found = runner.submit(pictures(2))()
    for tensor in (found.boxes, found.scores, found.labels):
        assert len(tensor) > 0
        assert not tensor.is_inference()
        tensor += 1


def test_whoever_waits_for_a_batch_holds_the_runner(runner, monkeypatch):
    """Else two threads could unpack one batch, or the next one write over it meanwhile."""
    held = []
    result = cuda._Part.result

    def spy(part):
        held.append(runner._lock._is_owned())
        return result(part)

    monkeypatch.setattr(cuda._Part, "result", spy)
    runner.submit(pictures(2))()
    assert held == [True]


def test_no_images_give_no_detections(runner):
    assert_found(runner.submit([])(), [])


def test_what_is_no_image_raises_value_error_and_spoils_nothing(runner, expect):
    before = pictures(2)
    wait = runner.submit(before)
    with pytest.raises(ValueError, match="an image is"):
        runner.submit([rgb(7), np.zeros((4, 4), np.uint8)])
    assert_found(runner.submit(pictures(2, 20))(), expect(pictures(2, 20)))
    assert_found(wait(), expect(before))


# Video pictures


@pytest.mark.parametrize("count", mostly_long(1, 3, 2, 5, fast=2))
def test_video_pictures_are_found_in_like_their_network_input(plane_runner, expect, count):
    assert plane_runner.takes_yuv
    images = [yuv(seed) for seed in range(count)]
    assert_found(plane_runner.submit(images)(), expect(images))


@pytest.mark.long
@pytest.mark.parametrize("kind", mostly_long(padded, interleaved, in_tensors))
def test_planes_may_be_views_or_tensors(plane_runner, expect, kind):
    images = [kind(1), yuv(2), kind(3)]
    assert_found(plane_runner.submit(images)(), expect(images))


def test_video_pictures_are_turned_upright_in_their_own_colours(plane_runner, expect):
    images = [yuv(1, quarter_turns=1), yuv(1, matrix="bt709"), yuv(1, full_range=False), yuv(1)]
    found = plane_runner.submit(images)()
    assert_found(found, expect(images))
    assert len({tuple(scores.tolist()) for _, scores, _ in each(found)}) == 4


def test_video_pictures_and_images_share_a_batch(plane_runner, expect):
    images = [rgb(1), yuv(2), rgb(3, 30, 30), yuv(4, 12, 8), yuv(5)]
    for order in ([0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [1, 3, 4, 0, 2]):
        mixed = [images[index] for index in order]
        assert_found(plane_runner.submit(mixed)(), expect(mixed))


@pytest.mark.long
def test_images_are_not_overdrawn_by_the_video_pictures_of_an_earlier_batch(plane_runner, expect):
    kinds = [(yuv, yuv), (rgb, rgb), (rgb, yuv), (yuv, rgb), (rgb, rgb)]
    for index, (first, second) in enumerate(kinds):
        images = [first(10 * index), second(10 * index + 1)]
        assert_found(plane_runner.submit(images)(), expect(images))


@pytest.mark.long
def test_planes_grow_with_the_pictures_and_serve_smaller_ones_again(plane_runner, expect):
    small, large = [yuv(1, 6, 4), yuv(2, 6, 4)], [yuv(3, 40, 30), yuv(4, 23, 51)]
    for images in (small, large, small, [*small, large[0]], small[:1]):
        assert_found(plane_runner.submit(images)(), expect(images))


@pytest.mark.long
def test_planes_of_waiting_batches_are_not_written_over(plane_runner, expect):
    batches = [[yuv(seed, 8 + seed, 10)] for seed in range(2 * IN_FLIGHT)]
    started = [(plane_runner.submit(images), images) for images in batches]
    for wait, images in reversed(started):
        assert_found(wait(), expect(images))


# Several batches


@pytest.mark.parametrize(
    "order",
    [pytest.param(o, marks=[pytest.mark.long] * (o[0] == 0)) for o in permutations(range(3))],
)
def test_batches_in_flight_may_be_waited_for_in_any_order(plane_runner, expect, order):
    batches = [pictures(2), [yuv(3)], pictures(4, 40)]
    waits = [plane_runner.submit(images) for images in batches]
    for index in order:
        assert_found(waits[index](), expect(batches[index]))


@pytest.mark.parametrize("newest_first", [False, True])
def test_more_batches_than_slots_keep_their_results(runner, expect, newest_first):
    batches = [pictures(1 + index % 3, 10 * index) for index in range(3 * IN_FLIGHT + 1)]
    started = [(runner.submit(images), images) for images in batches]
    for wait, images in reversed(started) if newest_first else started:
        assert_found(wait(), expect(images))


def test_a_batch_may_be_waited_for_twice(runner, expect):
    wait = runner.submit(pictures(3))
    assert_found(wait(), expect(pictures(3)))
    assert_found(wait(), expect(pictures(3)))


def test_results_in_hand_stay_as_they_are_when_other_batches_run(runner, expect):
    found = runner.submit(pictures(2))()
    for index in range(2 * IN_FLIGHT):
        runner.submit(pictures(2, 50 + index))()
    assert_found(found, expect(pictures(2)))


def test_a_batch_that_nobody_waits_for_leaves_the_others_alone(runner, expect):
    for index in range(3 * IN_FLIGHT):
        runner.submit(pictures(2, 30 + index))
    assert_found(runner.submit(pictures(3))(), expect(pictures(3)))


def test_images_are_kept_until_their_batch_is_done_and_no_longer(plane_runner):
    images = [yuv(1), rgb(2), rgb(3, 30, 30)]
    alive = [weakref.ref(image if isinstance(image, np.ndarray) else image.y) for image in images]
    wait = plane_runner.submit(images)
    del images
    gc.collect()
    assert all(reference() is not None for reference in alive)
    wait()
    gc.collect()
    assert not any(reference() is not None for reference in alive)


def test_threads_share_a_runner(plane_runner, expect):
    threads = range(4)
    batches = [
        [pictures(1 + index % 3, 100 * thread + 10 * index) for index in range(8)]
        for thread in threads
    ]
    for of_thread in batches:
        of_thread[3].append(yuv(len(of_thread)))
    expected = [[expect(images) for images in of_thread] for of_thread in batches]
    found = [[] for _ in threads]

    def work(thread):
        waits = []
        for images in batches[thread]:
            waits.append(plane_runner.submit(images))
            if len(waits) > IN_FLIGHT:
                found[thread].append(waits.pop(0)())
        found[thread].extend(wait() for wait in waits)

    workers = [threading.Thread(target=work, args=(thread,)) for thread in threads]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    for thread in threads:
        for one, other in zip(found[thread], expected[thread], strict=True):
            assert_found(one, other)


def test_detections_are_not_fetched_while_another_thread_uses_the_runner(runner, expect):
    wait = runner.submit(pictures(1))
    found = []
    thread = threading.Thread(target=lambda: found.append(wait()), daemon=True)
    with runner._lock:
        thread.start()
        thread.join(0.2)
        assert found == []
    thread.join(60)
    assert_found(found[0], expect(pictures(1)))


# Warming up


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [(1, {1}), (2, {1, 2}), (3, {1, 2, 3}), (7, {1, 2, 3, 4, 6, 8}), (12, {1, 2, 3, 4, 6, 8, 12})],
)
def test_warming_up_prepares_every_size_that_such_batches_need(network, spec, batch, sizes):
    prepared = set()

    def noted(x):
        prepared.add(len(x))
        return network(x)

    runner = runner_of(noted, spec)
    runner.warm_up(batch)
    assert prepared == sizes
    runner.submit(pictures(batch))()
    assert prepared == sizes


def test_warming_up_changes_no_result(plane_runner, expect):
    wait = plane_runner.submit(pictures(3))
    plane_runner.warm_up(8)
    assert_found(wait(), expect(pictures(3)))
    assert_found(plane_runner.submit([rgb(1), yuv(2)])(), expect([rgb(1), yuv(2)]))


# Other settings


def test_new_settings_apply_to_the_next_batch_of_a_size_that_ran_before(plane_runner, expect):
    images = pictures(3)
    under_way = plane_runner.submit(images)
    plane_runner.settings = replace(plane_runner.settings, score_threshold=1.0)
    assert plane_runner.submit(images)().counts == [0, 0, 0]
    assert_found(under_way(), expect(images))
    plane_runner.settings = replace(plane_runner.settings, score_threshold=THRESHOLD)
    assert_found(plane_runner.submit(images)(), expect(images))


def test_equal_settings_keep_the_programs(plane_runner):
    plane_runner.warm_up(2)
    programs = dict(plane_runner._programs)
    plane_runner.settings = replace(plane_runner.settings)
    assert plane_runner._programs == programs
    assert programs


@pytest.mark.cuda
def test_the_steps_of_a_batch_are_timed_by_the_device(runner):
    runner.submit(pictures(1, 2))()  # while nobody listens
    reports = []
    runner.on_stage = lambda stage, seconds: reports.append((stage, seconds))
    waiting = [runner.submit(pictures(1, 2)) for _ in range(IN_FLIGHT)]
    for wait in waiting:
        wait()
    assert [stage for stage, _ in reports] == ["preprocess", "network"] * IN_FLIGHT
    assert all(0 < seconds < 10 for _, seconds in reports)
