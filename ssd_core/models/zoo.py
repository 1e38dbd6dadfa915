"""The models: one frozen spec each, holding all that their weights depend on.

A spec says how pixels become the network's input, how the network is built, where its default
boxes lie and how its outputs become detections. Nothing else in the project has a model's numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.resources import files

from torch import Tensor, nn

from ssd_core.default_boxes import (
    SSD300_COCO_SCALES,
    SSD512_COCO_SCALES,
    BoxSize,
    paper_box_sizes,
    tf_od_box_sizes,
    tile_default_boxes,
)
from ssd_core.errors import UnknownModelError
from ssd_core.models import mobilenet, vgg
from ssd_core.models.ssd import SSD, initialise
from ssd_core.ops.decode_nms_settings import DecodeSettings


@dataclass(frozen=True)
class ModelSpec:
    """Everything that defines a model, its weights aside."""

    name: str
    image_size: tuple[int, int]
    """Network input, (height, width) in pixels."""
    mean: tuple[float, float, float]
    """Subtracted from RGB pixels in 0..255."""
    std: tuple[float, float, float]
    """Divides what is left."""
    antialias: bool
    """Whether images are filtered when they are scaled down (as in the model's own pipeline)."""
    feature_maps: tuple[tuple[int, int], ...]
    """(height, width) of each feature map."""
    cells: tuple[tuple[float, float], ...] | None
    """Cells that span the input per map, where steps are fixed; None: the size of the map."""
    box_sizes: tuple[tuple[BoxSize, ...], ...]
    """(width, height) of the default boxes of each map."""
    activation: str
    """"softmax" or "sigmoid"."""
    score_threshold: float
    """Default for detections; a detection has a score above it."""
    iou_threshold: float
    candidates_per_class: int
    max_detections: int
    labels: tuple[str, ...]
    """One per class; class 0 is the background."""
    licence: str
    """Of the weights."""
    network: Callable[["ModelSpec", bool], SSD]
    training: str = ""
    """How the weights were trained, in words or as JSON."""
    weights: str | None = None
    """File in ``ssd_core/weights`` of the weights that come with the package, if any do."""
    digest: str | None = None
    """SHA-256 of that file."""
    downloadable: bool = False
    """Whether ``weights="coco"`` fetches weights through torchvision."""
    has_imagenet_backbone: bool = False
    """Whether training can start from ``weights="imagenet"``: its backbone is a VGG16."""

    @property
    def num_classes(self) -> int:
        """Classes, background included."""
        return len(self.labels)

    def default_boxes(self) -> Tensor:
        """(A, 4) fp32 cxcywh in fractions of the input, in the order of the head outputs."""
        return tile_default_boxes(self.feature_maps, self.box_sizes, self.cells)

    def decode_settings(self, score_threshold: float | None = None) -> DecodeSettings:
        """How the outputs become detections; ``score_threshold`` replaces the model's own."""
        return DecodeSettings(
            self.activation,
            self.score_threshold if score_threshold is None else score_threshold,
            self.iou_threshold,
            self.candidates_per_class,
            self.max_detections,
        )

    def with_labels(self, labels: tuple[str, ...]) -> "ModelSpec":
        """The model for other classes, whose weights are not those in the package."""
        if labels == self.labels:
            return self
        return replace(self, labels=labels).with_own_weights()

    def with_own_weights(self) -> "ModelSpec":
        """The same model with other weights than those in the package."""
        return replace(self, weights=None, digest=None)


def build_model(model: str | ModelSpec, batch_norm: bool = False) -> SSD:
    """The untrained network of a model, in fp32 on PyTorch's default device.

    ``batch_norm`` builds MobileNet the way it is trained; without it, with batch norm folded into
    the convolutions. VGG has none. Raises UnknownModelError.
    """
    spec = get_spec(model)
    return spec.network(spec, batch_norm).float()  # also where PyTorch's default type is another


def get_spec(model: str | ModelSpec | None) -> ModelSpec:
    """The spec of a model name; None: the default. A spec is returned as it is.

    Raises UnknownModelError.
    """
    if model is None:
        return next(iter(MODELS.values()))
    if isinstance(model, ModelSpec):
        return model
    if model not in MODELS:
        close = get_close_matches(model, MODELS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UnknownModelError(f"unknown model {model!r}: {hint}known are {', '.join(MODELS)}")
    return MODELS[model]


def _mobilenet_ssd(spec: ModelSpec, batch_norm: bool) -> SSD:
    layers, channels = mobilenet.extra_layers(batch_norm)
    return _assemble(
        spec, mobilenet.MobileNetV2(batch_norm), mobilenet.MOBILENET_CHANNELS + channels, layers, 1
    )


def _ssd300_vgg16(spec: ModelSpec, batch_norm: bool) -> SSD:
    layers, channels = vgg.extra_layers_300()
    return _assemble(spec, vgg.VGG16(), vgg.VGG_CHANNELS + channels, layers, 3)


def _ssd512_vgg16(spec: ModelSpec, batch_norm: bool) -> SSD:
    layers, channels = vgg.extra_layers_512()
    return _assemble(spec, vgg.VGG16(), vgg.VGG_CHANNELS + channels, layers, 3)


def _assemble(
    spec: ModelSpec,
    backbone: nn.Module,
    channels: tuple[int, ...],
    extra_layers: list[nn.Module],
    head_kernel_size: int,
) -> SSD:
    boxes_per_cell = [len(sizes) for sizes in spec.box_sizes]
    model = SSD(
        backbone, extra_layers, channels, boxes_per_cell, spec.num_classes, head_kernel_size
    )
    initialise(model)
    return model


def _read_labels(name: str) -> tuple[str, ...]:
    text = (files("ssd_core") / "weights" / name).read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _square(*sizes: int) -> tuple[tuple[int, int], ...]:
    return tuple((size, size) for size in sizes)


def _steps(image_size: int, *steps: int) -> tuple[tuple[float, float], ...]:
    return tuple((image_size / step, image_size / step) for step in steps)


_COCO_LABELS = _read_labels("coco_labels.txt")
# torchvision's ssd300_vgg16: mean (0.48235, 0.45882, 0.40784) of pixels in 0..1, std 1/255.
_VGG_MEAN = (0.48235 * 255, 0.45882 * 255, 0.40784 * 255)
_VGG_RATIOS_300 = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
_VGG_RATIOS_512 = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))

_SSD300_VGG16 = ModelSpec(
    name="ssd300_vgg16",
    image_size=(300, 300),
    mean=_VGG_MEAN,
    std=(1.0, 1.0, 1.0),
    antialias=False,
    feature_maps=_square(38, 19, 10, 5, 3, 1),
    cells=_steps(300, 8, 16, 32, 64, 100, 300),
    box_sizes=paper_box_sizes(SSD300_COCO_SCALES, _VGG_RATIOS_300),
    activation="softmax",
    score_threshold=0.4,
    # NMS 0.45 per class, 400 candidates, 200 kept: the paper's section 3.1 and its code.
    iou_threshold=0.45,
    candidates_per_class=400,
    max_detections=200,
    labels=_COCO_LABELS,
    licence="BSD-3-Clause (torchvision's COCO weights)",
    training="COCO train2017 (torchvision)",
    network=_ssd300_vgg16,
    downloadable=True,
    has_imagenet_backbone=True,
)

_SSD512_VGG16 = replace(
    _SSD300_VGG16,
    name="ssd512_vgg16",
    image_size=(512, 512),
    feature_maps=_square(64, 32, 16, 8, 4, 2, 1),
    cells=_steps(512, 8, 16, 32, 64, 128, 256, 512),
    box_sizes=paper_box_sizes(SSD512_COCO_SCALES, _VGG_RATIOS_512),
    licence="the weights' own",
    training="",
    network=_ssd512_vgg16,
    downloadable=False,
)

_SSD_MOBILENET_V2_OID = ModelSpec(
    name="ssd_mobilenet_v2_oid",
    image_size=(300, 300),
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    antialias=True,
    feature_maps=_square(19, 10, 5, 3, 2, 1),
    cells=None,
    box_sizes=tf_od_box_sizes(6),
    activation="sigmoid",
    # MediaPipe's graph uses 0.5; at 0.4 most walkers of the sample clip are found.
    score_threshold=0.4,
    iou_threshold=0.5,
    candidates_per_class=100,
    max_detections=100,
    labels=_read_labels("ssd_mobilenet_v2_oid_labels.txt"),
    licence="Apache-2.0 (MediaPipe)",
    training="Open Images V4 (the MediaPipe authors)",
    network=_mobilenet_ssd,
    weights="ssd_mobilenet_v2_oid.safetensors",
    digest="41a4dff8988169f5515031b3b13904c2d92e44df3e513369b7992eef7c006491",
)

MODELS: dict[str, ModelSpec] = {
    spec.name: spec for spec in (_SSD_MOBILENET_V2_OID, _SSD300_VGG16, _SSD512_VGG16)
}
"""Every model by its name; the first is the default."""
