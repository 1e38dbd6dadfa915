"""Detector: images in, detections out. One class to load and call.

Puts preprocessing, the SSD and the decoding of its outputs together on one device in one
precision. Knows nothing of video.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssd_core.checkpoints.loading import load_model
from ssd_core.device import choose_device, choose_precision
from ssd_core.errors import DeviceError
from ssd_core.found import Detections, Found, joined, unpadded
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import MODELS, ModelSpec, get_spec
from ssd_core.ops import decode_nms
from ssd_core.ops.decode_nms import fallback
from ssd_core.preprocess import Image, preprocess, require_rgb
from ssd_core.runners.compiled import compile_network
from ssd_core.runners.cpu_fusion import fuse_for_cpu
from ssd_core.runners.cuda import CudaRunner
from ssd_core.runners.cuda_fusion import fuse_for_cuda
from ssd_core.yuv import YuvImage

DEFAULT_MODEL = next(iter(MODELS))
CPU_IMAGES_AT_ONCE = 8
"""Caches hold less of larger batches: MobileNet in bf16 does 124 images a second in batches
of 8, 101 of 32, 68 of 128 (two cores of an AMD EPYC, torch 2.14.1)."""


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
        self._network, self._implementation = self._fastest(blank, compile)
        self._runner = None
        if device.type == "cuda":
            self._runner = CudaRunner(self._network, spec, device, dtype, score_threshold)

    def _fastest(
        self, blank: Tensor, compile: bool
    ) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], str]:
        """The network as it runs best here, and what that is called; tried on ``blank``."""
        compiled = compile_network(self.model, blank) if compile else None
        if compiled is not None:
            return compiled, "compiled"
        if self.device.type == "cuda":
            fused = fuse_for_cuda(self.model, blank)
            return (self.model, "eager") if fused is None else (fused, "fused")
        return self.model, "fused" if fuse_for_cpu(self.model, self.dtype) else "eager"

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
        try:
            return cls(network, spec, torch_device, dtype, threshold, digest, compile)
        except torch.AcceleratorError as error:
            reason = str(error).partition("\n")[0]
            raise DeviceError(f"device {torch_device} cannot be used ({reason})") from error

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
    def hardware(self) -> str:
        """``cpu``, or the GPU and the versions that choose its algorithms."""
        if self.device.type != "cuda":
            return self.device.type
        cudnn = torch.backends.cudnn.version()
        return (
            f"{torch.cuda.get_device_name(self.device)}, torch {torch.__version__}, cuDNN {cudnn}"
        )

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

            def wait() -> Found:
                return found

        sizes = [(image.shape[0], image.shape[1]) for image in images]
        return lambda: wait().per_image(sizes, self.spec.labels)

    def warm_up(self, batch: int) -> None:
        """Prepare for batches up to ``batch`` images now, rather than when the first comes."""
        if self._runner is not None:
            self._runner.warm_up(batch)

    @torch.inference_mode()
    def _detect_here(self, images: Sequence[Image | YuvImage]) -> Found:
        rgb = [require_rgb(image) for image in images]
        return joined(
            [
                self._detect_at_once(rgb[start : start + CPU_IMAGES_AT_ONCE])
                for start in range(0, len(rgb), CPU_IMAGES_AT_ONCE)
            ]
        )

    def _detect_at_once(self, rgb: list[Image]) -> Found:
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
        return unpadded(*found)


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
