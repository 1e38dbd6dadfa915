"""Detector: images in, detections out. One class to load and call.

Puts preprocessing, the SSD and the decoding of its outputs together on one device in one
precision. Knows nothing of video.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssd_core.checkpoints.loading import load_model
from ssd_core.device import choose_device, choose_precision
from ssd_core.errors import DeviceError
from ssd_core.found import Detections
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import ModelSpec
from ssd_core.ops.decode_nms import fallback
from ssd_core.preprocess import Image, preprocess
from ssd_core.runners.cpu import CpuRunner
from ssd_core.runners.cuda import CudaRunner
from ssd_core.runners.runner import OnStage, Runner
from ssd_core.yuv import YuvImage


class Detector:
    """A loaded model, ready to detect. Threads may share it.

    PyTorch's settings in the program around it change nothing: default type, default device,
    autocast and gradients. What it returns are ordinary tensors without gradients, for the caller
    to change; so are the outputs of ``model``, whose parameters take no gradients.

    On a CPU each core the process may use computes its own share of a batch, in threads that end
    with the detector; see ``runners/cpu.py``.
    """

    def __init__(
        self,
        model: SSD,
        spec: ModelSpec,
        device: torch.device,
        dtype: torch.dtype,
        score_threshold: float | None = None,
        digest: str = "",
        compile: bool = False,
    ) -> None:
        """See ``Detector.load``."""
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.digest = digest
        self.model = fold_batch_norm(model.eval()).requires_grad_(False)
        self.model.to(device, dtype).to(memory_format=torch.channels_last)
        settings = spec.decode_settings(score_threshold)
        self._runner: Runner
        with torch.autocast(device.type, enabled=False):
            if device.type == "cuda":
                self._runner = CudaRunner.for_model(
                    self.model, spec, device, dtype, settings, compile
                )
            else:
                self._runner = CpuRunner.for_model(self.model, spec, dtype, settings, compile)

    @classmethod
    def load(
        cls,
        model: str | ModelSpec | None = None,
        *,
        weights: str | Path | None = None,
        labels: Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        score_threshold: float | None = None,
        compile: bool = False,
    ) -> "Detector":
        """Load a model by its name, or the model that a weights file defines.

        ``model``: a name, or None for the model of the weights file, else ``ssd_mobilenet_v2_oid``.
        ``weights``: a file, ``"coco"``, or None for the weights in the package. ``labels``: names
        of the classes in their order, with or without the background's, for weights that do not
        bring them. ``device``: ``auto``, ``cpu`` or ``cuda[:N]``. ``precision``: ``auto`` (bf16 on
        a CPU that has it in hardware, else fp32; bf16 or fp16 on CUDA), ``fp32``, ``bf16``,
        ``fp16``.
        ``score_threshold``: default from the model's spec. ``compile``: run the network through
        torch.compile, which takes up to minutes at the start.

        Raises UnknownModelError, CheckpointError, DeviceError.
        """
        torch_device = choose_device(device)
        dtype = choose_precision(precision, torch_device)
        network, spec, digest = load_model(model, weights, labels)
        try:
            return cls(network, spec, torch_device, dtype, score_threshold, digest, compile)
        except torch.AcceleratorError as error:
            reason = str(error).partition("\n")[0]
            raise DeviceError(f"device {torch_device} cannot be used ({reason})") from error

    def preprocess(self, images: Sequence[Image]) -> Tensor:
        """(B, 3, S, S) network input on the device; images are (H, W, 3) uint8 RGB of any size."""
        return preprocess(images, self.spec, self.device, self.dtype)

    @property
    def score_threshold(self) -> float:
        """A detection has a score above it. A new value applies from the next ``submit`` on.

        On CUDA the next batch of each size then captures its graph again, which takes a moment.
        Raises ValueError unless the value is at least 0.
        """
        return self._runner.settings.score_threshold

    @score_threshold.setter
    def score_threshold(self, score_threshold: float) -> None:
        self._runner.settings = replace(self._runner.settings, score_threshold=score_threshold)

    @property
    def implementation(self) -> str:
        """How the network runs, and without which kernels: the last digits of scores depend on it.

        ``fused``, ``eager`` or ``compiled``; with ``, reference`` where no Triton kernels run.
        """
        return f"{self._runner.implementation}{', reference' if fallback.reason else ''}"

    @property
    def hardware(self) -> str:
        """``cpu``, or the GPU and the versions that choose its algorithms."""
        if self.device.type != "cuda":
            return self.device.type
        cudnn = torch.backends.cudnn.version()
        return (
            f"{torch.cuda.get_device_name(self.device)}, torch {torch.__version__}, cuDNN {cudnn}"
        )

    @property
    def on_stage(self) -> OnStage | None:
        """Called with each step and its seconds: ``preprocess``, ``network`` and ``decode_nms``.

        From the threads that compute, once for each batch or share of one. On CUDA network and
        decode_nms are one graph: both are in ``network``. None: nothing is measured.
        """
        return self._runner.on_stage

    @on_stage.setter
    def on_stage(self, on_stage: OnStage | None) -> None:
        self._runner.on_stage = on_stage

    @property
    def gpu_memory_bytes(self) -> int | None:
        """What PyTorch holds of the GPU's memory, in this process; None on a CPU."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else None

    @property
    def takes_yuv(self) -> bool:
        """Whether ``submit`` takes YuvImages, which are then faster than RGB."""
        return self._runner.takes_yuv

    @property
    def works_ahead(self) -> bool:
        """Whether it computes on a device of its own, while its caller's cores do other work."""
        return self._runner.works_ahead

    @property
    def default_batch(self) -> int:
        """The batch size that gives nearly the highest throughput."""
        return self._runner.default_batch

    def compute_alike(self, batch: int) -> int:
        """Compute from now on as on every machine with this device, however many cores it has.

        The last digits of scores depend on how many images are computed together. Returns how many
        are in batches of ``batch`` images: batches that begin at a multiple of that number give
        equal results, however long they are.
        """
        return self._runner.compute_alike(batch)

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Detections of each image; an image is (H, W, 3) uint8 RGB of any size.

        Raises ValueError for anything that is not an image.
        """
        return self.submit(images)()

    def submit(self, images: Sequence[Image | YuvImage]) -> Callable[[], list[Detections]]:
        """Start on a batch; the function returned waits for its detections.

        The device, or the other cores, work meanwhile, and the next batch can be submitted. Images
        must not change until their detections are returned. Raises ValueError for anything that is
        not an image, and for YuvImages if ``takes_yuv`` is false.
        """
        wait = self._runner.submit(images)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        return lambda: wait().per_image(sizes, self.spec.labels)

    def warm_up(self, batch: int) -> None:
        """Prepare for batches of up to ``batch`` images now instead of when the first comes."""
        self._runner.warm_up(batch)


def fold_batch_norm(model: SSD) -> SSD:
    """Fold every batch norm into the convolution before it, in place; the model is in eval mode."""
    for module in model.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            convolution, norm = module[index], module[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(convolution, norm)
                module[index + 1] = nn.Identity()
    return model
