"""Detector: images in, detections out. One class to load and call.

Puts preprocessing, the SSD and the decoding of its outputs together on one device in one
precision. Knows nothing of video.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssd_core.checkpoint import load_model
from ssd_core.compiled import compile_network
from ssd_core.cpu_fusion import fuse_for_cpu
from ssd_core.cuda_runner import CudaRunner, Found
from ssd_core.device import choose_device, choose_precision
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import MODELS, ModelSpec, get_spec
from ssd_core.ops import decode_nms
from ssd_core.ops.decode_nms import fallback
from ssd_core.preprocess import Image, preprocess, require_rgb
from ssd_core.yuv import YuvImage

DEFAULT_MODEL = next(iter(MODELS))
CPU_IMAGES_AT_ONCE = 8
"""Caches hold less of larger batches: MobileNet in bf16 does 124 images a second in batches
of 8, 101 of 32, 68 of 128 (two cores of an AMD EPYC, torch 2.14.1)."""


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first. Tensors are on the CPU."""

    boxes: Tensor
    """(N, 4) fp32 xyxy in pixels of the image."""
    scores: Tensor
    """(N,) fp32 in [0, 1]."""
    labels: Tensor
    """(N,) int64 class ids; never 0, the background."""
    names: list[str]
    """Label of each detection."""
    boxes_normalised: Tensor
    """(N, 4) fp32 xyxy in [0, 1] of the image."""

    def __len__(self) -> int:
        return len(self.names)


class Detector:
    """A loaded model, ready to detect."""

    def __init__(
        self,
        model: SSD,
        spec: ModelSpec,
        device: torch.device,
        dtype: torch.dtype,
        score_threshold: float,
        digest: str = "",
        compile: bool = False,
    ) -> None:
        """See ``Detector.load``."""
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.digest = digest
        self.score_threshold = score_threshold
        self.model = fold_batch_norm(model.eval())
        self.model.to(device, dtype).to(memory_format=torch.channels_last)
        self._default_boxes_cxcywh = spec.default_boxes().to(device)
        blank = torch.zeros(1, 3, *spec.image_size, dtype=dtype, device=device)
        blank = blank.to(memory_format=torch.channels_last)
        compiled = compile_network(self.model, blank) if compile else None
        fused = False
        if device.type == "cpu" and compiled is None:
            fused = fuse_for_cpu(self.model, dtype)
        self._network = self.model if compiled is None else compiled
        self._runner = None
        if device.type == "cuda":
            self._runner = CudaRunner(self._network, spec, device, dtype, score_threshold)
        network = "eager" if compiled is None else "compiled"
        self._implementation = "fused" if fused else network

    @classmethod
    def load(
        cls,
        model: str | ModelSpec = DEFAULT_MODEL,
        *,
        weights: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        score_threshold: float | None = None,
        compile: bool = False,
    ) -> "Detector":
        """Load a model by name.

        ``weights``: a file, ``"coco"``, or None for the weights in the package. ``device``:
        ``auto``, ``cpu`` or ``cuda[:N]``. ``precision``: ``auto`` (bf16 on a CPU that has it in
        hardware, else fp32; bf16 or fp16 on CUDA), ``fp32``, ``bf16``, ``fp16``.
        ``score_threshold``: default from the model's spec. ``compile``: run the network through
        torch.compile, which takes up to minutes at the start.

        Raises UnknownModelError, CheckpointError, DeviceError.
        """
        spec = get_spec(model)
        torch_device = choose_device(device)
        dtype = choose_precision(precision, torch_device)
        network, spec, digest = load_model(spec, weights)
        threshold = spec.score_threshold if score_threshold is None else score_threshold
        return cls(network, spec, torch_device, dtype, threshold, digest, compile)

    def preprocess(self, images: Sequence[Image]) -> Tensor:
        """(B, 3, S, S) network input on the device; images are (H, W, 3) uint8 RGB of any size."""
        return preprocess(images, self.spec, self.device, self.dtype)

    @property
    def implementation(self) -> str:
        """How the network runs, and without which kernels: the last digits of scores depend on it.

        ``fused``, ``eager`` or ``compiled``; with ``, reference`` where no Triton kernels run.
        """
        return f"{self._implementation}{', reference' if fallback.reason else ''}"

    @property
    def takes_yuv(self) -> bool:
        """Whether ``submit`` takes YuvImages, and is better served with them."""
        return self._runner is not None and self._runner.takes_yuv

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Detections of each image; an image is (H, W, 3) uint8 RGB of any size.

        Raises ValueError for anything that is not an image.
        """
        return self.submit(images)()

    def submit(self, images: Sequence[Image | YuvImage]) -> Callable[[], list[Detections]]:
        """Start on a batch; the function that comes back waits for its detections.

        On CUDA the device works meanwhile, and the next batch can be submitted; on the CPU all is
        done at once. Raises ValueError for YuvImages where ``takes_yuv`` is false.
        """
        if self._runner is not None:
            wait = self._runner.submit(images)
        else:
            found = self._detect_here(images)

            def wait() -> list[Found]:
                return found

        return lambda: [
            self._detections(image, *of_image)
            for image, of_image in zip(images, wait(), strict=True)
        ]

    def warm_up(self, batch: int) -> None:
        """Prepare for batches up to ``batch`` images now, rather than when the first comes."""
        if self._runner is not None:
            self._runner.warm_up(batch)

    @torch.inference_mode()
    def _detect_here(self, images: Sequence[Image | YuvImage]) -> list[Found]:
        if len(images) == 0:
            return []
        rgb = [require_rgb(image) for image in images]
        return [
            found
            for start in range(0, len(rgb), CPU_IMAGES_AT_ONCE)
            for found in self._detect_at_once(rgb[start : start + CPU_IMAGES_AT_ONCE])
        ]

    def _detect_at_once(self, rgb: list[Image]) -> list[Found]:
        bbox_regression, cls_logits = self._network(self.preprocess(rgb))
        found = decode_nms(
            bbox_regression,
            cls_logits,
            self._default_boxes_cxcywh,
            self.spec.activation,
            self.score_threshold,
            self.spec.iou_threshold,
            self.spec.candidates_per_class,
            self.spec.max_detections,
        )
        return [
            (found.boxes[i, :count], found.scores[i, :count], found.labels[i, :count])
            for i, count in enumerate(found.count.tolist())
        ]

    def _detections(
        self, image: Image | YuvImage, boxes_normalised: Tensor, scores: Tensor, labels: Tensor
    ) -> Detections:
        height, width = image.shape[:2]
        return Detections(
            boxes=boxes_normalised * torch.tensor([width, height, width, height]),
            scores=scores,
            labels=labels,
            names=[self.spec.labels[label] for label in labels.tolist()],
            boxes_normalised=boxes_normalised,
        )


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
