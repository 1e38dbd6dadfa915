"""A detector's batches on the CPU: every core runs the network on its own share of a batch.

Images in, raw detections out. Usually all cores share each layer instead: threads that share a
layer wait for one another at its end, and the wait is long on a machine that does anything else,
such as decoding frames. With one of two cores busy elsewhere, batches of 4 went at 50 to 60
images/s in two shares, and at 3 to 6 with two threads per layer (AMD EPYC, torch 2.15.0). The price
is paid by a single image on an idle machine, which one core computes alone.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ssd_core.cores import usable_cores
from ssd_core.found import Found, joined, unpadded
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import ModelSpec
from ssd_core.ops import DecodeSettings, decode_nms
from ssd_core.preprocess import Image, as_tensor, preprocess, require_rgb
from ssd_core.runners.compiled import compile_network
from ssd_core.runners.cpu_fusion import fuse_for_cpu
from ssd_core.runners.runner import Network, OnStage
from ssd_core.yuv import YuvImage

CPU = torch.device("cpu")
IMAGES_PER_SHARE = 4
"""With both cores free, replays went at 127 frames/s in shares of 2 and 148 in shares of 4; larger
ones gain little, and live frames wait for one another (Xeon with AMX, torch 2.15.0)."""


class CpuRunner:
    """Runs one model on the cores that this process may use. Threads may share it."""

    takes_yuv = False
    works_ahead = False

    def __init__(
        self,
        network: Network,
        spec: ModelSpec,
        dtype: torch.dtype,
        settings: DecodeSettings,
        implementation: str = "eager",
    ) -> None:
        """``network`` is in ``dtype`` and channels_last."""
        self.network = network
        self.implementation = implementation
        self.settings = settings
        self.on_stage: OnStage | None = None
        self._spec = spec
        self._dtype = dtype
        self._default_boxes_cxcywh = spec.default_boxes()
        self._threads = usable_cores()
        self._alike = False
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = 0

    @classmethod
    def for_model(
        cls,
        model: SSD,
        spec: ModelSpec,
        dtype: torch.dtype,
        settings: DecodeSettings,
        compile: bool = False,
    ) -> "CpuRunner":
        """With the model's network as it runs fastest here; ``model`` may be changed for that."""
        blank = torch.zeros(1, 3, *spec.image_size, dtype=dtype, device=CPU)
        blank = blank.to(memory_format=torch.channels_last)
        compiled = compile_network(model, blank) if compile else None
        if compiled is not None:
            return cls(compiled, spec, dtype, settings, "compiled")
        implementation = "fused" if fuse_for_cpu(model, dtype) else "eager"
        return cls(model, spec, dtype, settings, implementation)

    @property
    def default_batch(self) -> int:
        """A whole share for each core."""
        return IMAGES_PER_SHARE * self._threads

    def compute_alike(self, batch: int) -> int:
        """Cut batches into the same shares whatever the number of cores: see ``Runner``."""
        self._alike = True
        return IMAGES_PER_SHARE if batch % IMAGES_PER_SHARE == 0 else batch

    def submit(self, images: Sequence[Image | YuvImage]) -> Callable[[], Found]:
        """Start on a batch; the function returned waits for its detections.

        Images must not change until then. Raises ValueError for anything that is not an image.
        """
        tensors = [as_tensor(require_rgb(image)) for image in images]
        pool, settings = self._started_pool(), self.settings
        shares = [
            pool.submit(self._run_share, tensors[start : start + size], settings)
            for start, size in self._shares(len(tensors))
        ]
        return lambda: joined([share.result() for share in shares])

    def warm_up(self, batch: int) -> None:
        """Run shares of every size that batches of up to ``batch`` images are cut into.

        Weights are laid out in memory for each size when it first runs.
        """
        blank = torch.from_numpy(np.zeros((*self._spec.image_size, 3), np.uint8))
        largest = max((size for _, size in self._shares(batch)), default=0)
        for size in range(1, largest + 1):
            shares = [
                self._started_pool().submit(self._run_share, [blank] * size, self.settings)
                for _ in range(self._threads)
            ]
            for share in shares:
                share.result()

    def _shares(self, images: int) -> list[tuple[int, int]]:
        return shares_of(images, 1 if self._alike else self._threads)

    @torch.inference_mode()
    def _run_share(self, images: Sequence[Tensor], settings: DecodeSettings) -> Found:
        began = time.perf_counter()
        inputs = preprocess(images, self._spec, CPU, self._dtype)
        preprocessed = time.perf_counter()
        outputs = self.network(inputs)
        computed = time.perf_counter()
        found = unpadded(*decode_nms(*outputs, self._default_boxes_cxcywh, settings))
        if (on_stage := self.on_stage) is not None:
            on_stage("preprocess", preprocessed - began)
            on_stage("network", computed - preprocessed)
            on_stage("decode_nms", time.perf_counter() - computed)
        return found

    def _started_pool(self) -> ThreadPoolExecutor:
        """The cores' threads, started by the first batch: in each process that a fork leads to.

        Shares queue up there, so that a core that is done starts on the next batch at once. The
        threads end with the runner.
        """
        with self._lock:
            if self._pool is None or self._pool_pid != os.getpid():
                self._pool, self._pool_pid = start_pool(self._threads), os.getpid()
            return self._pool


def shares_of(images: int, threads: int) -> list[tuple[int, int]]:
    """(first image, size) of the shares that a batch is cut into, each for one core.

    Not above the size that is fastest, however large the batch: memory grows with it.
    """
    size = max(1, min(-(-images // threads), IMAGES_PER_SHARE))
    return [(start, min(size, images - start)) for start in range(0, images, size)]


def start_pool(threads: int) -> ThreadPoolExecutor:
    """Threads that each compute alone in PyTorch; other threads keep their number of threads."""
    others = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "detect", initializer=_compute_alone)
    all_started = threading.Barrier(threads)
    for start in [pool.submit(all_started.wait) for _ in range(threads)]:
        start.result()
    # Threads that start later get what any thread set last.
    torch.set_num_threads(others)
    return pool


def _compute_alone() -> None:
    """In a new thread: one thread for each of PyTorch's loops."""
    torch.get_num_threads()  # else the number is taken from the other threads later
    torch.set_num_threads(1)
