"""Batches of a data set, read and augmented in processes of their own.

What a batch holds depends on the data set, the seed, the epoch and its place alone: not on how many
processes read, nor on how fast. Nothing is kept but the batches that wait. Processes start once and
serve all epochs; they end with the loader, and when the program does, however it ends.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ssd_core.cores import usable_cores
from ssd_core.errors import DataError
from ssd_core.models.zoo import ModelSpec
from ssd_core.training.augment import Augmentation, augmented_input, network_input
from ssd_core.training.data import DataSet, LabelledImage

PREFETCHED = 2
"""Batches that wait per process."""
MOST_TOGETHER = 8
"""Neighbouring frames of a recording in a row. More would be decoded faster, but make batches of
one scene: at one key frame in 250, all frames labelled, 8 cost 16 decoded frames for each."""
MOST_WORKERS = 8
SHARED_MEMORY = Path("/dev/shm")


class Batch(NamedTuple):
    """Images ready for the network, and what is in them."""

    images: Tensor
    """(B, 3, S, S) fp32."""
    boxes: list[Tensor]
    """Per image (N, 4) fp32 xyxy in [0, 1]; without the ignored ones."""
    labels: list[Tensor]
    """Per image (N,) int64 from 1 on."""
    indices: list[int]
    """Of the images, in the data set."""


def default_workers() -> int:
    """Processes that read; a core is left to the program."""
    return min(max(usable_cores() - 1, 1), MOST_WORKERS)


def batches_of(
    data_set: DataSet,
    spec: ModelSpec,
    batch: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    augment: Augmentation | None = None,
    shuffle: bool = True,
    workers: int = 0,
) -> Iterator[Batch]:
    """The batches of one epoch; see ``BatchLoader``."""
    with BatchLoader(
        data_set, spec, batch, seed=seed, augment=augment, shuffle=shuffle, workers=workers
    ) as loader:
        yield from loader.epoch(epoch)


class BatchLoader:
    """Batches of a data set, epoch by epoch. A context manager: its processes end with it."""

    def __init__(
        self,
        data_set: DataSet,
        spec: ModelSpec,
        batch: int,
        *,
        seed: int = 0,
        augment: Augmentation | None = None,
        shuffle: bool = True,
        workers: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """``batch``: images in all shards together. ``workers``: processes; 0: this one reads.

        ``augment``: what is done to images; None: nothing, they are the detector's own input.
        ``shuffle``: in a random order, another one in each epoch; else in that of the data set.
        ``shard`` (n, of): of each batch, images n, n + of, n + 2 of... Raises ValueError for a
        batch below 1.
        """
        if batch < 1:
            raise ValueError(f"a batch is of 1 image or more, not {batch}")
        self._data_set = data_set
        self._batch = batch
        self._seed = seed
        self._shuffle = shuffle
        self._sampler = _Places()
        self._shard = shard
        share = -(-batch // shard[1])
        self._loader: DataLoader[Any] = _AnyNumberOfWorkers(
            _Inputs(data_set, spec, seed, augment, _by_pipe(spec, share, workers)),
            batch_sampler=self._sampler,
            num_workers=workers,
            collate_fn=_as_it_is,
            # Else it would draw from PyTorch's own, which belongs to the caller.
            generator=torch.Generator(),
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCHED if workers else None,
            multiprocessing_context=_context() if workers else None,
            worker_init_fn=_begin_worker if workers else None,
        )

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return -(-len(self._data_set.images) // self._batch)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All batches of an epoch. Raises DataError for an image that cannot be decoded.

        An epoch that is left early must be left for good: another one is begun after it.
        """
        order = list(range(len(self._data_set.images)))
        if self._shuffle:
            order = shuffled(self._data_set.images, self._seed, epoch)
        shard, shards = self._shard
        self._sampler.batches = [
            [(epoch, index) for index in order[start : start + self._batch][shard::shards]]
            for start in range(0, len(order), self._batch)
        ]
        try:
            for item in self._loader:
                yield _received(item)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(
                "a process that reads images was ended from outside, mostly for lack of memory: "
                "take fewer (--workers) or smaller batches (--batch)"
            ) from error

    def close(self) -> None:
        """End the processes."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self._loader._iterator = None


def shuffled(images: Sequence[LabelledImage], seed: int, epoch: int) -> list[int]:
    """The indices of images in the random order of an epoch.

    Neighbouring frames of a recording come a few in a row: between two frames far apart, a decoder
    starts at a key frame again.
    """
    runs: list[list[int]] = []
    for name, group in groupby(range(len(images)), key=lambda index: images[index].together):
        members = list(group)
        most = MOST_TOGETHER if name else 1
        runs += [members[at : at + most] for at in range(0, len(members), most)]
    order = np.random.default_rng([seed, epoch]).permutation(len(runs))
    return [index for run in order for index in runs[run]]


class _Places(Sampler[list[tuple[int, int]]]):
    """(epoch, index) of the images of each batch; set before an epoch."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _AnyNumberOfWorkers(DataLoader[Any]):
    """Without PyTorch's warning of more processes than cores: the user has asked for them."""

    def check_worker_number_rationality(self) -> None:
        """Nothing to say."""


class _Inputs(Dataset[Any]):
    """Makes batches; lives in each process."""

    def __init__(
        self,
        data_set: DataSet,
        spec: ModelSpec,
        seed: int,
        augment: Augmentation | None,
        by_pipe: bool,
    ) -> None:
        self._images = data_set.images
        self._spec = spec
        self._seed = seed
        self._augment = augment
        self._by_pipe = by_pipe

    def __getitems__(self, places: list[tuple[int, int]]) -> Any:
        """The batch; a DataError is returned, for one that is raised gets a traceback."""
        try:
            with _one_thread():
                batch = self._made(places)
        except DataError as error:
            return error
        if not self._by_pipe:
            return batch
        return batch._replace(images=batch.images.contiguous().numpy())  # type: ignore[arg-type]

    def _made(self, places: list[tuple[int, int]]) -> Batch:
        # Read in the order of the data set, in which a recording is decoded forwards.
        in_order = sorted(set(places), key=lambda place: place[1])
        inputs = {place: self._input(*place) for place in in_order}
        made = [inputs[place] for place in places]
        images = torch.empty(0, 3, *self._spec.image_size)
        if made:
            images = torch.stack([x for x, _, _ in made])
        return Batch(
            images,
            [boxes for _, boxes, _ in made],
            [labels for _, _, labels in made],
            [index for _, index in places],
        )

    def _input(self, epoch: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image = self._images[index]
        pixels = image.read()
        counts = ~image.is_ignored
        boxes = torch.from_numpy(image.boxes[counts])
        labels = torch.from_numpy(image.classes[counts])
        if self._augment is None:
            x, boxes = network_input(pixels, boxes, self._spec)
            return x, boxes, labels
        seed = np.random.SeedSequence([self._seed, epoch, index]).generate_state(1, np.uint64)
        return augmented_input(pixels, boxes, labels, self._spec, int(seed[0]), self._augment)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in the loader's own processes: the last digits of a sum depend on the threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _as_it_is(item: Any) -> Any:
    return item


def _received(item: Any) -> Batch:
    if isinstance(item, DataError):
        raise item
    if isinstance(item.images, np.ndarray):
        item = item._replace(images=torch.from_numpy(item.images))
    batch: Batch = item
    return batch


def _by_pipe(spec: ModelSpec, batch: int, workers: int) -> bool:
    """Whether batches must come through pipes, for want of shared memory.

    Containers have 64 MB by default, and a process that asks for more is killed (SIGBUS).
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return False
    height, width = spec.image_size
    needed = 4 * 3 * height * width * batch * (PREFETCHED + 2) * workers
    return shutil.disk_usage(SHARED_MEMORY).free < 2 * needed


def _context() -> Any:
    """How processes start: never by forking this one, which has threads."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _begin_worker(worker: int) -> None:
    """Ctrl-C goes to all processes of a terminal; the program decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_program, daemon=True).start()


def _end_with_program() -> None:
    """PyTorch watches the parent: of a process of a fork server, that is not the program."""
    program = multiprocessing.parent_process()
    if program is not None:
        program.join()
        os._exit(1)
