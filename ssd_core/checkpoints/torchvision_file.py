"""PyTorch's state dicts: pickles of tensors, torchvision's ssd300_vgg16 among them.

Renames torchvision's tensors, and fetches its COCO weights. Never runs code from a file: pickles
are read with ``weights_only=True``, and what that refuses is refused.
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
from ssd_core.models.zoo import ModelSpec

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


def download_coco(spec: ModelSpec) -> Path:
    """The file of COCO weights that torchvision publishes, from its cache if it is there.

    Raises CheckpointError if none are published for the model, or they cannot be downloaded.
    """
    if not spec.downloadable:
        raise CheckpointError(
            f"{spec.name}: no COCO weights are published for it: give --weights FILE"
        )
    from torchvision.models.detection import SSD300_VGG16_Weights  # slow to import, rarely needed

    url = SSD300_VGG16_Weights.COCO_V1.url
    path = Path(str(torch.hub.get_dir()), "checkpoints", str(url).rsplit("/", 1)[-1])
    if path.exists():  # from an earlier download, renamed when it was complete
        return path
    try:
        with redirect_stdout(sys.stderr):  # torch.hub reports the download on stdout
            SSD300_VGG16_Weights.COCO_V1.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot download {url} ({error}): without a network, "
            "fetch that file elsewhere and give --weights FILE.pth"
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
