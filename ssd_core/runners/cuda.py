"""A detector's batches on CUDA, with neither the host nor the device waiting for the other.

Images in, raw detections out, one batch being computed while the next is prepared. Images go up
from pinned memory on a stream of their own, kernels make them the network's input, network and
decode_nms are one CUDA graph per batch size, and results come back as one tensor. On a device
without streams and graphs the same steps run one after another.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from traceback import clear_frames
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssd_core.errors import DeviceError
from ssd_core.failures import chain_of, is_out_of_memory, raise_if_of_device
from ssd_core.found import Found, joined, packed, unpacked
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import ModelSpec
from ssd_core.ops import DecodeSettings
from ssd_core.ops.decode_nms import decode_nms, fallback
from ssd_core.preprocess import Image, preprocess, require_rgb
from ssd_core.runners.compiled import compile_network
from ssd_core.runners.cuda_fusion import fuse_for_cuda
from ssd_core.runners.graph_memory import GraphMemory
from ssd_core.runners.plane_upload import ALIGNMENT_BYTES, Upload
from ssd_core.runners.runner import Network, OnStage
from ssd_core.yuv import YuvImage

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Batches between ``submit`` and its result: one is computed, one is made ready."""
WARM_UPS = 2
"""Runs before a graph is captured: libraries choose their algorithms, and Triton compiles."""


class CudaRunner:
    """Runs one model. Threads may share it: they take turns."""

    works_ahead = True
    default_batch = 16

    def __init__(
        self,
        network: Network,
        spec: ModelSpec,
        device: torch.device,
        dtype: torch.dtype,
        settings: DecodeSettings,
        implementation: str = "eager",
    ) -> None:
        """``network`` is on the device, in ``dtype`` and channels_last."""
        self.network = network
        self.implementation = implementation
        self.on_stage: OnStage | None = None
        """Network and decode_nms are one graph, and reported as ``network``."""
        self._spec = spec
        self._device = device
        self._dtype = dtype
        self._settings = settings
        self._default_boxes_cxcywh = spec.default_boxes().to(device)
        self._stream: torch.cuda.Stream | None = None
        self._memory: GraphMemory | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            # The network may still be on its way to the device.
            self._stream.wait_stream(torch.cuda.current_stream(device))
            self._memory = GraphMemory(device, self._stream)
        self._programs: dict[int, _Program] = {}
        self._slots = [_Slot(device) for _ in range(IN_FLIGHT)]
        self._largest: int | None = None
        self._lock = threading.RLock()
        self.takes_yuv = self._conversions_work()
        """Whether ``submit`` takes YuvImages; decided once, with a warning if it does not."""

    @classmethod
    def for_model(
        cls,
        model: SSD,
        spec: ModelSpec,
        device: torch.device,
        dtype: torch.dtype,
        settings: DecodeSettings,
        compile: bool = False,
    ) -> "CudaRunner":
        """With the model's network as it runs fastest here; ``model`` is on the device."""
        blank = torch.zeros(1, 3, *spec.image_size, dtype=dtype, device=device)
        blank = blank.to(memory_format=torch.channels_last)
        compiled = compile_network(model, blank) if compile else None
        if compiled is not None:
            return cls(compiled, spec, device, dtype, settings, "compiled")
        fused = fuse_for_cuda(model, blank)
        if fused is not None:
            return cls(fused, spec, device, dtype, settings, "fused")
        return cls(model, spec, device, dtype, settings, "eager")

    @property
    def settings(self) -> DecodeSettings:
        """How outputs are decoded, from the next ``submit`` on."""
        return self._settings

    @settings.setter
    def settings(self, settings: DecodeSettings) -> None:
        """Graphs hold the settings: each is captured again when a batch of its size comes."""
        with self._lock:
            if settings != self._settings:
                self._drop_programs()
                self._settings = settings

    def compute_alike(self, batch: int) -> int:
        """A batch is computed as a whole: see ``Runner``."""
        return batch

    @torch.inference_mode()
    def submit(self, images: Sequence[Image | YuvImage]) -> Callable[[], Found]:
        """Start on a batch; the function returned waits for its detections and returns them.

        A batch that the device has no memory for is split, then and from then on, with one log
        line. Raises DeviceError if there is no memory for a single image, and AcceleratorError if
        nothing runs on the device any more.
        """
        waiting = list(images if self.takes_yuv else map(require_rgb, images))
        parts: list[_Part] = []
        with self._lock:
            self._wait_for_images()
            while waiting:
                part = waiting[: self._largest]
                try:
                    parts.append(self._start(part))
                except RuntimeError as error:
                    self._split(len(part), error)
                else:
                    waiting = waiting[len(part) :]

        def wait() -> Found:
            with self._lock:
                return joined([part.result() for part in parts])

        return wait

    @torch.inference_mode()
    def warm_up(self, batch: int) -> None:
        """Compile and capture now what batches up to ``batch`` images will need."""
        with self._lock:
            waiting = buckets_up_to(batch)
            while waiting and waiting[0] <= (self._largest or batch * 2):
                try:
                    self._program(waiting[0])
                except RuntimeError as error:
                    self._split(waiting[0], error)
                    waiting = buckets_up_to(batch)  # the split dropped the smaller ones, too
                else:
                    waiting.pop(0)

    def _wait_for_images(self) -> None:
        """Wait until images are complete, on the caller's stream and on the default one.

        FFmpeg copies what a GPU decoded on the default stream, and has put that copy there before
        it hands the picture on (nvdec.c: ``output_stream`` of cuvidMapVideoFrame, then
        cuMemcpy2DAsync). It overwrites a picture that was released on the same stream; a
        slot releases its images when the device is done with them.
        """
        if self._stream is None:
            return
        for stream in {
            torch.cuda.current_stream(self._device),
            torch.cuda.default_stream(self._device),
        }:
            self._stream.wait_stream(stream)

    def _start(self, images: Sequence[Image | YuvImage]) -> "_Part":
        program = self._program(bucket(len(images)))
        slot = self._slots.pop(0)
        self._slots.append(slot)
        slot.finish()
        ready = [image if self._is_ready(image) else None for image in images]
        others = [row for row, image in enumerate(ready) if image is None]
        with _on(self._stream):
            slot.time_steps(self.on_stage)
            slot.mark("began")
            # First, as it refuses what is not an image: nothing is under way yet.
            rgb = [require_rgb(images[row]) for row in others]
            made = preprocess(rgb, self._spec, self._device, self._dtype)
            slot.upload.start(ready)
            # The graph computes rows left over from a larger batch, too: they are not read.
            inputs, spec = program.x[: len(images)], self._spec
            slot.upload.convert_into(inputs, spec.mean, spec.std, spec.antialias)
            if others:
                self._place(made, others, program)
            slot.mark("converted")
            outputs = program.run()
            slot.mark("computed")
            return slot.take(outputs, images, self._stream)

    def _place(self, made: Tensor, rows: Sequence[int], program: "_Program") -> None:
        if len(rows) == rows[-1] - rows[0] + 1:
            program.x[rows[0] : rows[-1] + 1].copy_(made)
            return
        for row, x in zip(rows, made, strict=True):  # an index of rows would wait for the device
            program.x[row].copy_(x)

    def _is_ready(self, image: Image | YuvImage) -> bool:
        """Whether ``Upload`` takes it: a video picture, or RGB of the network's size."""
        if not self.takes_yuv or isinstance(image, YuvImage):
            return self.takes_yuv
        if tuple(getattr(image, "shape", ())) != (*self._spec.image_size, 3):
            return False
        if isinstance(image, np.ndarray):
            return image.dtype == np.uint8
        if not isinstance(image, Tensor) or image.dtype != torch.uint8:
            return False
        aligned = image.is_contiguous() and image.data_ptr() % ALIGNMENT_BYTES == 0
        return image.device.type == "cpu" or aligned

    def _program(self, size: int) -> "_Program":
        if size in self._programs:
            return self._programs[size]
        with _on(self._stream), self._memory.in_use() if self._memory else nullcontext():
            program = _Program(size, self)
            for _ in range(WARM_UPS):
                program.run()
        # The reference, where it stands in for the kernels, waits for the device.
        if self._memory is not None and not fallback.reason:
            program.capture(self._memory)
        self._programs[size] = program
        return program

    def _split(self, size: int, error: RuntimeError) -> None:
        """After ``error`` with a batch of ``size``: take smaller ones, if memory is the trouble."""
        if not is_out_of_memory(error):
            raise_if_of_device(error)
            raise error
        if size == 1:
            raise DeviceError(
                f"device {self._device}: no memory left for one image of {self._spec.name}: "
                "free memory on it, or use another device or a smaller model"
            ) from error
        for link in chain_of(error):
            clear_frames(link.__traceback__)  # they hold what did not fit
        self._largest = bucket(size) // 2
        # Smaller batches are captured again, too: the pool keeps what the larger one took.
        self._drop_programs()
        log.warning(
            "device %s has no memory for %d images at once: batches are split into %d",
            self._device, size, self._largest,
        )  # fmt: skip

    def _drop_programs(self) -> None:
        """Forget every program, once the device is done with them, and free their memory."""
        if self._stream is not None:
            self._stream.synchronize()
        self._programs.clear()
        if self._stream is not None:
            self._memory = GraphMemory(self._device, self._stream)
            torch.cuda.empty_cache()

    def compute(self, x: Tensor) -> Tensor:
        """What a graph holds: (B, 3, S, S) to (B, D * 6 + 1) fp32, all on the device."""
        with same_algorithms(), torch.autocast(self._device.type, enabled=False):
            bbox_regression, cls_logits = self.network(x)
        outputs = bbox_regression, cls_logits, self._default_boxes_cxcywh
        return packed(*decode_nms(*outputs, self._settings))

    def new_input(self, size: int) -> Tensor:
        """An input of ``size`` images."""
        x = torch.zeros(size, 3, *self._spec.image_size, dtype=self._dtype, device=self._device)
        return x.to(memory_format=torch.channels_last)

    def _conversions_work(self) -> bool:
        """Try the kernels that make images the network's input, on a batch without an image."""
        try:
            from ssd_core.ops.rgb_to_input import rgb_to_input
            from ssd_core.ops.yuv_to_input import describe_images, yuv_to_input

            x = self.new_input(1)
            tables = describe_images([])
            empty = (column.new_zeros(1, column.shape[1]).to(self._device) for column in tables)
            yuv_to_input(type(tables)(*empty), x, self._spec.mean, self._spec.std)
            addresses = torch.zeros(1, dtype=torch.int64, device=self._device)
            rgb_to_input(addresses, x, self._spec.mean, self._spec.std)
        except Exception as error:  # Triton's own errors have no common class
            fallback.take(error)
            return False
        return True


class _Program:
    """Input, steps and output for one batch size; memory that never moves."""

    def __init__(self, size: int, runner: CudaRunner) -> None:
        self.x = runner.new_input(size)
        self._compute = runner.compute
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs = torch.empty(0, device="cpu")

    def run(self) -> Tensor:
        """Compute on the current stream: (B, D * 6 + 1), good until the next run of any program."""
        if self._graph is not None:
            self._graph.replay()
        else:
            self._outputs = self._compute(self.x)
        return self._outputs

    def capture(self, memory: GraphMemory) -> None:
        """Turn the steps, which ran before, into a graph."""
        self._outputs = torch.empty(0, device="cpu")
        self._graph, self._outputs = memory.capture(lambda: self._compute(self.x))


class _Slot:
    """The host's side of a batch in flight."""

    def __init__(self, device: torch.device) -> None:
        self.upload = Upload(device)
        self._outputs = torch.empty(0, device="cpu")
        # Without "blocking" a core does nothing but ask whether the batch is done.
        self._done = torch.cuda.Event(blocking=True) if device.type == "cuda" else None
        self._part: _Part | None = None
        self._images: Sequence[Image | YuvImage] = ()
        self._on_cuda = device.type == "cuda"
        self._on_stage: OnStage | None = None
        self._marks: dict[str, torch.cuda.Event] = {}
        """Events of the batch's steps, if they are timed."""

    def time_steps(self, on_stage: OnStage | None) -> None:
        """Report the next batch's steps once it is done, without waiting for any of them."""
        self._on_stage = on_stage if self._on_cuda else None

    def mark(self, step: str) -> None:
        """The current stream has come to a step of the batch."""
        if self._on_stage is not None:
            if step not in self._marks:
                self._marks[step] = torch.cuda.Event(enable_timing=True)
            self._marks[step].record()

    def take(
        self, outputs: Tensor, images: Sequence[Image | YuvImage], stream: torch.cuda.Stream | None
    ) -> "_Part":
        """Copy a program's outputs to the host, without waiting; keeps the images until then."""
        self._images = images
        if self._outputs.numel() < outputs.numel():
            pinned = stream is not None
            self._outputs = torch.empty(
                outputs.numel(), dtype=outputs.dtype, device="cpu", pin_memory=pinned
            )
        home = self._outputs[: outputs.numel()].view(outputs.shape)
        home.copy_(outputs, non_blocking=True)
        if self._done is not None and stream is not None:
            self._done.record(stream)
        self._part = _Part(self, home[: len(images)])
        return self._part

    def finish(self) -> None:
        """Wait for the slot's batch, if any, and free the slot for the next."""
        if self._part is None:
            return
        if self._done is not None:
            self._done.synchronize()
        self._report()
        self._part.unpack()
        self._part = None
        self._images = ()

    def _report(self) -> None:
        """How long the steps took, by the device's clock; the batch is done."""
        if self._on_stage is None:
            return
        began, converted, computed = (self._marks[s] for s in ("began", "converted", "computed"))
        self._on_stage("preprocess", began.elapsed_time(converted) / 1000)
        self._on_stage("network", converted.elapsed_time(computed) / 1000)


class _Part:
    """Images that went through the device together."""

    def __init__(self, slot: _Slot, rows: Tensor) -> None:
        self._slot = slot
        self._rows = rows
        self._found: Found | None = None

    def unpack(self) -> None:
        """Copy the rows, which have arrived, out of the slot's memory."""
        self._found = unpacked(self._rows.numpy())

    def result(self) -> Found:
        """The detections; waits for the device."""
        if self._found is None:
            self._slot.finish()
        assert self._found is not None
        return self._found


def bucket(images: int) -> int:
    """The batch size computed for this many images: a power of two, or half as much again.

    So less than a third of a batch is padding.
    """
    power = 1 << (images - 1).bit_length()
    return power * 3 // 4 if power >= 4 and images <= power * 3 // 4 else power


def buckets_up_to(images: int) -> list[int]:
    """Every batch size that up to this many images are computed in."""
    return sorted({bucket(count) for count in range(1, images + 1)})


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def same_algorithms() -> AbstractContextManager[Any]:
    """Convolutions by the same algorithms in every run: a resumed replay gives equal numbers.

    ``enabled`` must be given: left out, cuDNN is disabled.
    """
    flags: AbstractContextManager[Any] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=True
    )
    return flags
