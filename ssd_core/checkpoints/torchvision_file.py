"""PyTorch's state dicts: pickles of tensors, torchvision's ssd300_vgg16 among them.

Renames torchvision's tensors, and fetches its COCO weights. Never runs code from a file: pickles
are read with ``weights_only=True``, and what that refuses is refused.
"""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from ssd_core.errors import CheckpointError
from ssd_core.models.zoo import ModelSpec

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
    """Tensors by the names used here. Raises CheckpointError."""
    tensors = _read_pickle(path)
    if any(name.startswith("backbone.features.") for name in tensors):
        tensors = {_rename(name): tensor for name, tensor in tensors.items()}
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


def _read_pickle(path: Path) -> dict[str, Tensor]:
    refusal = f"weights {path}: refused, not a plain file of tensors"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises errors of many classes
        raise CheckpointError(
            f"{refusal}: save it again with torch.save(model.state_dict(), PATH)"
        ) from error
    if isinstance(content, dict):
        for key in ("model", "state_dict"):  # training scripts wrap the weights like this
            if isinstance(content.get(key), dict):
                content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{refusal}: expected a dict of tensors by name")
    return content


def _rename(name: str) -> str:
    for theirs, ours in TORCHVISION_NAMES:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name
