"""The loader: each image once an epoch, the same whoever reads, and no process left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ssd_core.errors import DataError
from ssd_core.models.zoo import get_spec
from ssd_core.preprocess import preprocess
from ssd_core.training import loader as loader_module
from ssd_core.training.augment import LIGHT, PAPER
from ssd_core.training.data_sets.reading import read_data_set
from ssd_core.training.loader import BatchLoader, batches_of, default_workers, shuffled
from tests.conftest import ROOT, wait_until
from tests.labelled import coco, write

SMALL = replace(get_spec("ssd300_vgg16"), image_size=(32, 40))


@pytest.fixture
def data_set(tmp_path):
    objects = [("red", 5, 6, 25, 16), ("blue", 30, 20, 50, 38)]
    images = {f"{number}.png": (40 + number, 60, objects[: number % 3]) for number in range(11)}
    path, content = coco(tmp_path, images)
    content["annotations"][-1]["iscrowd"] = 1
    return read_data_set([write(path, content)])


def same(one, other):
    return one.indices == other.indices and all(
        torch.equal(a, b)
        for a, b in zip(
            [one.images, *one.boxes, *one.labels], [other.images, *other.boxes, *other.labels],
            strict=True,
        )
    )  # fmt: skip


def test_without_augmentation_images_come_as_the_detector_sees_them_in_order_if_wanted(data_set):
    batches = list(batches_of(data_set, SMALL, 4, shuffle=False))
    assert [batch.indices for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    images = [image.read() for image in data_set.images[4:8]]
    expected = preprocess(images, SMALL, torch.device("cpu"), torch.float32)
    assert torch.equal(batches[1].images, expected)
    boxes = torch.tensor([[5 / 60, 6 / 44, 25 / 60, 16 / 44]])
    assert torch.allclose(batches[1].boxes[0], boxes)
    assert batches[1].labels[0].tolist() == [1]
    assert batches[0].boxes[0].shape == (0, 4)
    assert batches[0].labels[0].dtype == torch.int64


def test_the_order_is_as_random_without_augmentation(data_set):
    plain = list(batches_of(data_set, SMALL, 4, seed=1, epoch=2))
    augmented = list(batches_of(data_set, SMALL, 4, seed=1, epoch=2, augment=PAPER))
    assert [batch.indices for batch in plain] == [batch.indices for batch in augmented]
    images = [data_set.images[index].read() for index in plain[0].indices]
    expected = preprocess(images, SMALL, torch.device("cpu"), torch.float32)
    assert torch.equal(plain[0].images, expected)


def test_images_are_augmented_as_much_as_is_wanted(data_set):
    light, paper, again = (
        next(batches_of(data_set, SMALL, 11, seed=1, augment=augment)).images
        for augment in (LIGHT, PAPER, LIGHT)
    )
    assert torch.equal(light, again)
    assert not torch.equal(light, paper)


def test_ignored_objects_are_not_learned(data_set):
    number = max(i for i, image in enumerate(data_set.images) if image.is_ignored.any())
    batch = list(batches_of(data_set, SMALL, 1, shuffle=False))[number]
    assert len(batch.boxes[0]) == len(data_set.images[number].boxes) - 1
    assert len(batch.labels[0]) == len(batch.boxes[0])


def test_each_epoch_has_each_image_once_in_an_order_of_its_own(data_set):
    orders = []
    with BatchLoader(data_set, SMALL, 4, seed=1, augment=PAPER) as loader:
        for epoch in (0, 1, 0):
            orders.append([index for batch in loader.epoch(epoch) for index in batch.indices])
            assert sorted(orders[-1]) == list(range(11))
        assert len(loader) == 3
    assert orders[0] == orders[2] != orders[1]
    other = [i for b in batches_of(data_set, SMALL, 4, seed=2, augment=PAPER) for i in b.indices]
    assert other != orders[0]


def test_augmentation_differs_from_epoch_to_epoch_and_not_with_the_batch(data_set):
    def inputs(batch, epoch):
        return {
            index: x
            for each in batches_of(data_set, SMALL, batch, seed=3, epoch=epoch, augment=PAPER)
            for index, x in zip(each.indices, each.images, strict=True)
        }

    one, other, next_epoch = inputs(4, 0), inputs(3, 0), inputs(4, 1)
    assert all(torch.equal(one[index], other[index]) for index in range(11))
    assert sum(torch.equal(one[index], next_epoch[index]) for index in range(11)) < 3


def test_loading_leaves_the_callers_chance_alone(data_set):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(batches_of(data_set, SMALL, 4, augment=PAPER))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shards", [2, 3, 4])
def test_shards_are_parts_of_the_same_batches(data_set, shards):
    whole = list(batches_of(data_set, SMALL, 4, seed=1, augment=PAPER))
    parts = []
    for shard in range(shards):
        with BatchLoader(
            data_set, SMALL, 4, seed=1, augment=PAPER, shard=(shard, shards)
        ) as loader:
            parts.append(list(loader.epoch(0)))
    for number, batch in enumerate(whole):
        for position, index in enumerate(batch.indices):
            part = parts[position % shards][number]
            assert part.indices[position // shards] == index
            assert torch.equal(part.images[position // shards], batch.images[position])
    assert sum(len(part[-1].indices) for part in parts) == 3
    assert parts[-1][-1].images.shape[1:] == (3, 32, 40)


def test_neighbouring_frames_come_a_few_in_a_row(data_set):
    image = data_set.images[0]
    images = [replace(image, together=f"x#{number // 20}") for number in range(100)]
    order = shuffled(images, seed=0, epoch=0)
    assert sorted(order) == list(range(100))
    follows = sum(b == a + 1 for a, b in pairwise(order))
    assert 80 <= follows < 95
    assert shuffled(images, seed=0, epoch=1) != order
    alone = shuffled([image] * 100, seed=0, epoch=0)
    assert sum(b == a + 1 for a, b in pairwise(alone)) < 10


def test_an_image_that_cannot_be_decoded_is_named(data_set, tmp_path):
    (tmp_path / "6.png").write_bytes((tmp_path / "6.png").read_bytes()[:60])
    batches = batches_of(data_set, SMALL, 4, shuffle=False)
    next(batches)
    with pytest.raises(DataError, match=r"6\.png: cannot be decoded") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


def test_a_batch_of_no_image_is_refused(data_set):
    with pytest.raises(ValueError, match="a batch is of 1 image or more, not 0"):
        BatchLoader(data_set, SMALL, 0)


def test_there_is_at_least_one_worker(monkeypatch):
    for cores, expected in ((1, 1), (2, 1), (6, 5), (96, 8)):
        monkeypatch.setattr(loader_module, "usable_cores", lambda cores=cores: cores)
        assert default_workers() == expected


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_processes_give_what_this_one_does(data_set, workers):
    with (
        BatchLoader(data_set, SMALL, 4, seed=1, augment=PAPER) as alone,
        BatchLoader(data_set, SMALL, 4, seed=1, augment=PAPER, workers=workers) as loader,
    ):
        for epoch in (0, 3):
            pairs = list(zip(alone.epoch(epoch), loader.epoch(epoch), strict=True))
            assert len(pairs) == 3
            assert all(same(*pair) for pair in pairs)


@pytest.mark.long
def test_an_epoch_may_be_left_early_and_another_begun(data_set):
    with BatchLoader(data_set, SMALL, 2, seed=1, augment=PAPER, workers=2) as loader:
        next(iter(loader.epoch(0)))
        second = list(loader.epoch(1))
    expected = list(batches_of(data_set, SMALL, 2, seed=1, epoch=1, augment=PAPER))
    assert all(same(*pair) for pair in zip(second, expected, strict=True))


@pytest.mark.long
def test_without_shared_memory_batches_come_through_pipes(data_set, monkeypatch):
    monkeypatch.setattr(
        loader_module.shutil, "disk_usage", lambda path: type("", (), {"free": 1 << 16})
    )
    with BatchLoader(data_set, SMALL, 4, seed=1, augment=PAPER, workers=2) as loader:
        batches = list(loader.epoch(0))
    expected = list(batches_of(data_set, SMALL, 4, seed=1, augment=PAPER))
    assert all(same(*pair) for pair in zip(batches, expected, strict=True))


@pytest.mark.long
def test_an_image_that_cannot_be_decoded_is_named_by_processes_too(data_set, tmp_path):
    (tmp_path / "6.png").unlink()
    with BatchLoader(data_set, SMALL, 4, workers=2) as loader:
        with pytest.raises(DataError, match=r"6\.png: cannot be decoded") as caught:
            list(loader.epoch(0))
        assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.mark.long
def test_a_process_that_is_killed_is_told_in_one_line(data_set):
    with BatchLoader(data_set, SMALL, 1, workers=1) as loader:
        batches = loader.epoch(0)
        next(batches)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(DataError, match="ended from outside, mostly for lack of memory"):
            list(batches)


PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
import sys, time
from dataclasses import replace
from pathlib import Path
from ssd_core.models.zoo import get_spec
from ssd_core.training.augment import PAPER
from ssd_core.training.loader import BatchLoader
from ssd_core.training.data_sets.reading import read_data_set
import multiprocessing

if __name__ == "__main__":
    data_set = read_data_set([Path(sys.argv[1])])
    spec = replace(get_spec("ssd300_vgg16"), image_size=(32, 40))
    with BatchLoader(data_set, spec, 2, augment=PAPER, workers=2) as loader:
        for epoch in range(100000):
            for batch in loader.epoch(epoch):
                if epoch == 0:
                    pids = [child.pid for child in multiprocessing.active_children()]
                    print(*pids, flush=True)
"""


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_the_program(data_set, tmp_path, sent):
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", tmp_path / "data.json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        pids = [int(each) for each in process.stdout.readline().split()]
        assert len(pids) == 2
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does
        else:
            process.send_signal(sent)
        _, errors = process.communicate(timeout=30)
        wait_until(lambda: not any(map(_is_alive, pids)), what="the end of the loader's processes")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if sent == signal.SIGINT:
        assert errors.count("Traceback") == 1, errors
        assert errors.rstrip().endswith("KeyboardInterrupt")


def _is_alive(pid):
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_thousand_images_are_told_apart_by_their_seeds():
    seeds = {
        int(np.random.SeedSequence([0, epoch, index]).generate_state(1, np.uint64)[0])
        for epoch in range(10)
        for index in range(100)
    }
    assert len(seeds) == 1000
