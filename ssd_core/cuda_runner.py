"""A detector's batches on CUDA, without the host and the device waiting for one another.

Images in, raw detections out, one batch being computed while the next is prepared. Conversion of
video pictures, network and decode_nms are one CUDA graph per batch size, sizes being powers of two.
Planes go up from pinned memory on a stream of their own, results come back as one tensor. On a
device without streams and graphs the same steps run one after another.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from traceback import clear_frames
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ssd_core.errors import DeviceError
from ssd_core.models.zoo import ModelSpec
from ssd_core.ops.decode_nms import decode_nms, fallback
from ssd_core.plane_upload import PlaneUpload
from ssd_core.preprocess import Image, preprocess, require_rgb
from ssd_core.yuv import YuvImage

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Batches between ``submit`` and its result: one is computed, one is made ready."""
WARM_UPS = 2
"""Runs before a graph is captured: libraries choose their algorithms, and Triton compiles."""

Found: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Boxes (N, 4) fp32 xyxy in [0, 1], scores (N,) fp32, labels (N,) int64 of an image, on the CPU."""


class CudaRunner:
    """Runs one model. Threads may share it: they take turns."""

    def __init__(
        self,
        network: Callable[[Tensor], tuple[Tensor, Tensor]] | nn.Module,
        spec: ModelSpec,
        device: torch.device,
        dtype: torch.dtype,
        score_threshold: float,
    ) -> None:
        """``network`` is on the device, in ``dtype`` and channels_last."""
        self._network = network
        self._spec = spec
        self._device = device
        self._dtype = dtype
        self._score_threshold = score_threshold
        self._default_boxes_cxcywh = spec.default_boxes().to(device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:  # the network may be on its way to the device still
            self._stream.wait_stream(torch.cuda.current_stream(device))
        self._memory_pool: Any = None
        self._programs: dict[int, _Program] = {}
        self._slots = [_Slot(device) for _ in range(IN_FLIGHT)]
        self._largest: int | None = None
        self._lock = threading.RLock()
        self.takes_yuv = _yuv_kernel_works(device)
        """Whether ``submit`` takes YuvImages; decided once, with a warning where it does not."""

    @torch.inference_mode()
    def submit(self, images: Sequence[Image | YuvImage]) -> Callable[[], list[Found]]:
        """Start on a batch; the function that comes back waits for its detections and gives them.

        A batch that the device has no memory for is split, then and from then on, with one log
        line. Raises DeviceError if there is no memory for a single image.
        """
        waiting = list(images if self.takes_yuv else map(require_rgb, images))
        parts: list[_Part] = []
        with self._lock:
            if self._stream is not None:  # the caller's stream may be making the images still
                self._stream.wait_stream(torch.cuda.current_stream(self._device))
            while waiting:
                part = waiting[: self._largest]
                try:
                    parts.append(self._start(part))
                except RuntimeError as error:
                    self._split(len(part), error)
                else:
                    waiting = waiting[len(part) :]

        def wait() -> list[Found]:
            with self._lock:
                return [found for part in parts for found in part.result()]

        return wait

    @torch.inference_mode()
    def warm_up(self, batch: int) -> None:
        """Compile and capture now what batches up to ``batch`` images will need."""
        size = 1
        with self._lock:
            while size < 2 * batch and size <= (self._largest or size):
                try:
                    self._program(size)
                except RuntimeError as error:
                    self._split(size, error)
                size *= 2

    def _start(self, images: Sequence[Image | YuvImage]) -> "_Part":
        program = self._program(_bucket(len(images)))
        slot = self._slots.pop(0)
        self._slots.append(slot)
        slot.finish()
        slot.planes.start([image if isinstance(image, YuvImage) else None for image in images])
        with _on(self._stream):
            slot.planes.fill(program.tables)
            rgb = {i: image for i, image in enumerate(images) if not isinstance(image, YuvImage)}
            if rgb:  # no rows in the tables: the graph leaves them be
                x = preprocess(list(rgb.values()), self._spec, self._device, self._dtype)
                for row, i in enumerate(rgb):  # an index of rows would wait for the device
                    program.x[i].copy_(x[row])
            return slot.take(program.run(), images, self._stream)

    def _program(self, size: int) -> "_Program":
        if size not in self._programs:
            with _on(self._stream):
                program = _Program(size, self)
                for _ in range(WARM_UPS):
                    program.run()
            # The reference, where it stands in for the kernels, waits for the device.
            if self._stream is not None and not fallback.reason:
                with _on(self._stream):  # also where the capture fails and leaves its stream behind
                    self._memory_pool = program.capture(self._stream, self._memory_pool)
            self._programs[size] = program
        return self._programs[size]

    def _split(self, size: int, error: RuntimeError) -> None:
        """After ``error`` with a batch of ``size``: take smaller ones, if memory is the trouble."""
        if not _is_out_of_memory(error):
            raise error
        if size == 1:
            raise DeviceError(
                f"device {self._device}: no memory left for one image of {self._spec.name}: "
                "free memory on it, or use another device or a smaller model"
            ) from error
        clear_frames(error.__traceback__)  # they hold what did not fit
        self._largest = _bucket(size) // 2
        self._programs = {n: p for n, p in self._programs.items() if n <= self._largest}
        if self._stream is not None:
            torch.cuda.empty_cache()
        log.warning(
            "device %s has no memory for %d images at once: batches are split into %d",
            self._device, size, self._largest,
        )  # fmt: skip

    def compute(self, x: Tensor, tables: Any) -> Tensor:
        """What a graph holds: (B, 3, S, S) to (B, D * 6 + 1) fp32, all on the device.

        Pictures in ``tables`` are first written into ``x``. A row of the result has boxes, scores,
        labels and count of an image, so that one copy takes them home.
        """
        if tables is not None:
            from ssd_core.ops.yuv_to_input import yuv_to_input

            yuv_to_input(tables, x, self._spec.mean, self._spec.std)
        with same_algorithms():
            bbox_regression, cls_logits = self._network(x)
        found = decode_nms(
            bbox_regression,
            cls_logits,
            self._default_boxes_cxcywh,
            self._spec.activation,
            self._score_threshold,
            self._spec.iou_threshold,
            self._spec.candidates_per_class,
            self._spec.max_detections,
        )
        # fp32 holds class ids and counts exactly.
        columns = (found.boxes.flatten(1), found.scores, found.labels, found.count[:, None])
        return torch.cat([column.float() for column in columns], dim=1)

    def new_input(self, size: int) -> tuple[Tensor, Any]:
        """An input of ``size`` images, and tables for as many pictures: None without the kernel."""
        x = torch.zeros(size, 3, *self._spec.image_size, dtype=self._dtype, device=self._device)
        tables = None
        if self.takes_yuv:
            from ssd_core.ops.yuv_to_input import describe_images

            empty = [column.new_zeros(size, column.shape[1]) for column in describe_images([])]
            tables = type(describe_images([]))(*(table.to(self._device) for table in empty))
        return x.to(memory_format=torch.channels_last), tables


class _Program:
    """Input, steps and output for one batch size; memory that never moves."""

    def __init__(self, size: int, runner: CudaRunner) -> None:
        self.x, self.tables = runner.new_input(size)
        self._compute = runner.compute
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs = torch.empty(0)

    def run(self) -> Tensor:
        """Compute on the current stream: (B, D * 6 + 1), good until the next run of any program."""
        if self._graph is not None:
            self._graph.replay()
        else:
            self._outputs = self._compute(self.x, self.tables)
        return self._outputs

    def capture(self, stream: torch.cuda.Stream, memory_pool: Any) -> Any:
        """Turn the steps into a graph. Graphs that share a pool share memory: they run in turn."""
        graph = torch.cuda.CUDAGraph()
        stream.synchronize()
        # Other threads may use the device meanwhile, to decode frames for example.
        with torch.cuda.graph(
            graph, pool=memory_pool, stream=stream, capture_error_mode="thread_local"
        ):
            self._outputs = self._compute(self.x, self.tables)
        self._graph = graph
        return graph.pool()


class _Slot:
    """The host's side of a batch in flight."""

    def __init__(self, device: torch.device) -> None:
        self.planes = PlaneUpload(device)
        self._outputs = torch.empty(0)
        self._done = torch.cuda.Event() if device.type == "cuda" else None
        self._part: _Part | None = None
        self._images: Sequence[Image | YuvImage] = ()

    def take(
        self, outputs: Tensor, images: Sequence[Image | YuvImage], stream: torch.cuda.Stream | None
    ) -> "_Part":
        """Copy a program's outputs home, without waiting; keeps the images until they are there."""
        self._images = images
        if self._outputs.numel() < outputs.numel():
            pinned = stream is not None
            self._outputs = torch.empty(outputs.numel(), dtype=outputs.dtype, pin_memory=pinned)
        home = self._outputs[: outputs.numel()].view(outputs.shape)
        home.copy_(outputs, non_blocking=True)
        if self._done is not None and stream is not None:
            self._done.record(stream)
        self._part = _Part(self, home[: len(images)])
        return self._part

    def finish(self) -> None:
        """Wait for the batch, if there is one, and free the slot for the next."""
        if self._part is None:
            return
        if self._done is not None:
            self._done.synchronize()
        self._part.keep()
        self._part = None
        self._images = ()


class _Part:
    """Images that went through the device together."""

    def __init__(self, slot: _Slot, rows: Tensor) -> None:
        self._slot: _Slot | None = slot
        self._rows = rows

    def keep(self) -> None:
        """The rows are there: take them out of the slot's memory."""
        self._rows = self._rows.clone()
        self._slot = None

    def result(self) -> list[Found]:
        """The detections of each image; waits for the device."""
        if self._slot is not None:
            self._slot.finish()
        return [_unpack(row) for row in self._rows]


def _unpack(row: Tensor) -> Found:
    """A row of ``CudaRunner.compute``."""
    most, count = len(row) // 6, int(row[-1])
    boxes, scores, labels, _ = torch.split(row, [4 * most, most, most, 1])
    return boxes.view(most, 4)[:count], scores[:count], labels[:count].long()


def _bucket(images: int) -> int:
    """The batch size that is computed for so many images: the next power of two."""
    return 1 << (images - 1).bit_length()


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def same_algorithms() -> AbstractContextManager[Any]:
    """Convolutions by the same algorithms in every run: a replay that goes on gives equal numbers.

    ``enabled`` must be said: left out, it means no cuDNN at all.
    """
    flags: AbstractContextManager[Any] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=True
    )
    return flags


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory is the reason, also where a capture that failed for it raised another.

    Pinned memory and graphs say so in a plain AcceleratorError, cuDNN by finding no algorithm
    (pytorch#108645).
    """
    if error is None:
        return False
    if isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("out of memory", "unable to find an engine to execute")
    ):
        return True
    return _is_out_of_memory(error.__context__)


def _yuv_kernel_works(device: torch.device) -> bool:
    """Try the kernel on a picture of one pixel."""
    try:
        from ssd_core.ops.yuv_to_input import describe_images, yuv_to_input

        pixel = torch.full((1, 1), 128, dtype=torch.uint8, device=device)
        tables = describe_images([YuvImage(pixel, pixel, pixel, True, "bt601")])
        tables = type(tables)(*(table.to(device) for table in tables))
        yuv_to_input(tables, torch.zeros(1, 3, 1, 1, device=device), (0.0,) * 3, (1.0,) * 3)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # Triton's own errors have no common class
        fallback.take(error)
        return False
    return True
