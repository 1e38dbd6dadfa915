"""PyTorch's state dicts: pickles of tensors, torchvision's ssd300_vgg16 and vgg16 among them.

Renames torchvision's tensors, and fetches its weights of COCO and ImageNet. Never runs code from a
file: pickles are read with ``weights_only=True``, and what that refuses is refused.
"""

import argparse
import logging
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path, PosixPath, PurePosixPath
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from ssd_core.checkpoints.state_dict import find_state_dict
from ssd_core.errors import CheckpointError
from ssd_core.models.zoo import MODELS, ModelSpec

log = logging.getLogger(__name__)

_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_ARRAY = np.zeros(0).__reduce__()[0]
PLAIN_CLASSES: list[Any] = [
    argparse.Namespace, SimpleNamespace, PosixPath, PurePosixPath,
    np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in "?bhilqBHILQefdU"),
    _NUMPY_SCALAR, (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    _NUMPY_ARRAY, (_NUMPY_ARRAY, "numpy.core.multiarray._reconstruct"),
]  # fmt: skip
"""Allowed besides PyTorch's own: training scripts, torchvision's too, save their options and scores
with the weights, many of them as NumPy's numbers (the names with ``core``: of NumPy 1). To make one
runs no code but its own, which does nothing."""
REFUSAL = "refused, not a plain file of tensors"

TORCHVISION_NAMES = (
    # (prefix in torchvision's ssd300_vgg16, prefix here); the longest match comes first
    ("backbone.scale_weight", "backbone.l2_norm.scale"),
    ("backbone.features.", "backbone.conv1_to_conv4_3."),
    ("backbone.extra.0.7.1.", "backbone.conv5_to_fc7.8."),
    ("backbone.extra.0.7.3.", "backbone.conv5_to_fc7.10."),
    ("backbone.extra.0.", "backbone.conv5_to_fc7."),
    *((f"backbone.extra.{k + 1}.", f"extra_layers.{k}.") for k in range(4)),
    ("head.classification_head.module_list.", "classification_heads."),
    ("head.regression_head.module_list.", "regression_heads."),
)
VGG16_LAYERS_TO_CONV4_3 = 23
"""Of ``features`` in torchvision's vgg16; those that follow are in its SSD's ``extra.0``."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The model's tensors by its own names, however they are wrapped. Raises CheckpointError."""
    return model_in(_read_pickle(path), path)


def model_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The model's tensors in what a file holds, by its own names. Raises CheckpointError."""
    try:
        tensors, place, others = find_state_dict(content)
    except CheckpointError as error:
        raise CheckpointError(
            f"weights {path}: {REFUSAL}: {error}: save the model's alone with "
            "torch.save(model.state_dict(), PATH)"
        ) from error
    if others:
        log.info(
            "weights %s: taken from %s, not from %s",
            path, _spoken(place), ", ".join(map(_spoken, others)),
        )  # fmt: skip
    return tensors


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with torchvision's names by the names used here; others as they are."""
    if any(name.startswith("backbone.features.") for name in tensors):
        return {_rename(name): tensor for name, tensor in tensors.items()}
    return tensors


def as_backbone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The convolutions of torchvision's vgg16, by the names used here for those of an SSD.

    Its classifier is left out, as an SSD has none of it.
    """
    found = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        layer, _, parameter = rest.partition(".")
        if part != "features" or not layer.isdecimal():
            continue
        beyond = int(layer) - VGG16_LAYERS_TO_CONV4_3
        place = f"features.{layer}" if beyond < 0 else f"extra.0.{beyond}"
        found[_rename(f"backbone.{place}.{parameter}")] = tensor
    return found


def download_coco(spec: ModelSpec) -> Path:
    """The file of COCO weights that torchvision publishes, from its cache if it is there.

    Raises CheckpointError if none are published for the model, or they cannot be downloaded.
    """
    if not spec.downloadable:
        raise CheckpointError(
            f"{spec.name}: no COCO weights are published for it: give --weights FILE"
        )
    from torchvision.models.detection import SSD300_VGG16_Weights  # slow to import, rarely needed

    weights = SSD300_VGG16_Weights.COCO_V1
    return _download(weights, _place_in_cache(weights), "give --weights FILE.pth")


def download_imagenet(spec: ModelSpec) -> Path:
    """The file of a VGG16 trained on ImageNet that torchvision publishes, from its cache if there.

    Of its three, that from which its own ssd300_vgg16 starts: it was trained on pixels in 0..255
    less their mean, as SSD's input is (torchvision/models/detection/ssd.py). Only the tensors of
    ``features`` have valid values. Raises CheckpointError if the model has another backbone, or the
    file cannot be downloaded.
    """
    if not spec.has_imagenet_backbone:
        others = " or ".join(name for name, each in MODELS.items() if each.has_imagenet_backbone)
        raise CheckpointError(
            f"{spec.name}: no ImageNet weights are published for its backbone: give --model "
            f"{others}, or other --weights"
        )
    from torchvision.models import VGG16_Weights  # slow to import, rarely needed

    weights = VGG16_Weights.IMAGENET1K_FEATURES
    path = _place_in_cache(weights)
    return _download(weights, path, f"put it at {path}")


def _place_in_cache(weights: Any) -> Path:
    """Where torchvision keeps the file of these weights (a member of its enumerations)."""
    return Path(str(torch.hub.get_dir()), "checkpoints", str(weights.url).rsplit("/", 1)[-1])


def _download(weights: Any, path: Path, way_out: str) -> Path:
    """Let torchvision fetch its file to ``path``, unless it is there. Raises CheckpointError."""
    if path.exists():  # from an earlier download, renamed when it was complete
        return path
    try:
        with redirect_stdout(sys.stderr):  # torch.hub reports the download on stdout
            weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot download {weights.url} ({error}): without a network, "
            f"fetch that file elsewhere and {way_out}"
        ) from error
    return path


def _read_pickle(path: Path) -> Any:
    """What the file holds. Raises CheckpointError."""
    try:
        with torch.serialization.safe_globals(PLAIN_CLASSES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises errors of many classes
        refused = re.search(r"Unsupported global: GLOBAL ([\w.]{1,100}) ", str(error))
        inside = f" (it holds {refused[1]})" if refused else ""
        raise CheckpointError(
            f"weights {path}: {REFUSAL}{inside}: "
            "save it again with torch.save(model.state_dict(), PATH)"
        ) from error


def _spoken(place: str) -> str:
    return place.rstrip(".") or "its top level"


def _rename(name: str) -> str:
    for theirs, ours in TORCHVISION_NAMES:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name
