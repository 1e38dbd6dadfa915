"""Checkpoints: files of weights in, a model that has them out.

Reads safetensors, torchvision's ``ssd300_vgg16`` state dict (``.pth``, or fetched by torchvision)
and the ``.tflite`` of the bundled MobileNet. Writes safetensors. Never runs code from a file:
pickles are read with ``weights_only=True``, and what that refuses is refused.
"""

import hashlib
import json
import sys
from contextlib import redirect_stdout
from importlib.resources import files
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssd_core.checkpoints.tflite import state_dict_from_tflite
from ssd_core.errors import CheckpointError
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import ModelSpec, build_model

StateDict = dict[str, Tensor]

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
MAX_NAMED_DIFFERENCES = 3


def load_model(spec: ModelSpec, weights: str | Path | None = None) -> tuple[SSD, ModelSpec, str]:
    """A model with its weights: the network, its spec, and the digest of the weights.

    ``weights`` is a file (``.safetensors``, ``.pth``, ``.pt``, ``.tflite``), ``"coco"`` for the
    weights torchvision publishes, or None for those in the package. The spec differs from the one
    given where the file brings labels of its own. The digest is ``sha256:`` and the file's SHA-256.

    Raises CheckpointError if there are no weights, they cannot be read, or do not fit.
    """
    path = find_weights(spec, weights)
    state_dict, labels = read_checkpoint(path, spec)
    if labels is not None:
        spec = spec.with_labels(labels)
    batch_norm = any(name.endswith("running_mean") for name in state_dict)
    model = build_model(spec, batch_norm=batch_norm)
    check_fit(model.state_dict(), state_dict, path, spec)
    model.load_state_dict(state_dict)
    return model, spec, f"sha256:{_sha256(path)}"


def find_weights(spec: ModelSpec, weights: str | Path | None) -> Path:
    """The file that holds the weights; fetches them first if ``weights`` is ``"coco"``."""
    if weights is None:
        if spec.weights is None:
            way_out = "--weights FILE" + (" or --weights coco" if spec.downloadable else "")
            raise CheckpointError(f"{spec.name} comes without weights: give {way_out}")
        return Path(str(files("ssd_core") / "weights" / spec.weights))
    if weights == "coco" and not Path(weights).exists():
        return _download_coco(spec)
    path = Path(weights)
    if not path.is_file():
        raise CheckpointError(f"weights {path}: no such file")
    return path


def read_checkpoint(path: Path, spec: ModelSpec) -> tuple[StateDict, tuple[str, ...] | None]:
    """Tensors by the names used here, in fp32, and the labels if the file brings them."""
    labels = None
    if path.suffix == ".safetensors":
        state_dict, labels = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        state_dict = _read_pickle(path)
    elif path.suffix == ".tflite":
        state_dict = state_dict_from_tflite(path, spec)
    else:
        raise CheckpointError(
            f"weights {path}: cannot tell the format from the name: "
            "expected .safetensors, .pth, .pt or .tflite"
        )
    if any(name.startswith("backbone.features.") for name in state_dict):
        state_dict = {_rename(name): tensor for name, tensor in state_dict.items()}
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state_dict.items()
    }, labels


def save_checkpoint(
    model: SSD, path: str | Path, spec: ModelSpec, dtype: torch.dtype | None = None
) -> None:
    """Write the model's weights as safetensors, with its name and labels; ``dtype`` converts.

    Raises CheckpointError if the file cannot be written.
    """
    tensors = {
        name: (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = {"model": spec.name, "labels": json.dumps(spec.labels)}
    try:
        save_file(tensors, str(path), metadata=metadata)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot write {path} ({error})") from error


def check_fit(expected: StateDict, found: StateDict, path: Path, spec: ModelSpec) -> None:
    """Raise CheckpointError naming the first tensors that differ, unless every one fits."""
    differences = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        wanted = list(expected[name].shape) if name in expected else "nothing"
        got = list(found[name].shape) if name in found else "nothing"
        if wanted != got:
            differences.append(f"{name}: expected {wanted}, found {got}")
    if differences:
        more = len(differences) - MAX_NAMED_DIFFERENCES
        named = "; ".join(differences[:MAX_NAMED_DIFFERENCES])
        tail = f"; and {more} more" if more > 0 else ""
        raise CheckpointError(f"weights {path} do not fit {spec.name}: {named}{tail}")


def _read_safetensors(path: Path) -> tuple[StateDict, tuple[str, ...] | None]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies, so that the model does not hold the file mapped.
            state_dict = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weights {path}: not a safetensors file ({error})") from error
    labels = metadata.get("labels")
    if labels is None:
        return state_dict, None
    try:
        names = json.loads(labels)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"weights {path}: the labels in it are no JSON list of names")
    return state_dict, tuple(names)


def _read_pickle(path: Path) -> StateDict:
    refusal = f"weights {path}: refused, not a plain file of tensors"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way there is
        raise CheckpointError(
            f"{refusal}: save it again with torch.save(model.state_dict(), PATH)"
        ) from error
    if isinstance(content, dict):
        for key in ("model", "state_dict"):  # training scripts wrap the weights so
            if isinstance(content.get(key), dict):
                content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{refusal}: expected a dict of tensors by name")
    return content


def _download_coco(spec: ModelSpec) -> Path:
    if not spec.downloadable:
        raise CheckpointError(f"{spec.name}: nobody publishes COCO weights for it")
    from torchvision.models.detection import SSD300_VGG16_Weights  # slow to import, rarely needed

    url = SSD300_VGG16_Weights.COCO_V1.url
    path = Path(str(torch.hub.get_dir()), "checkpoints", str(url).rsplit("/", 1)[-1])
    if path.exists():  # from an earlier download, renamed when it was complete
        return path
    try:
        with redirect_stdout(sys.stderr):  # torch.hub tells of the download on stdout
            SSD300_VGG16_Weights.COCO_V1.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot download {url} ({error}): without a network, "
            "fetch that file elsewhere and give --weights FILE.pth"
        ) from error
    return path


def _rename(name: str) -> str:
    for theirs, ours in TORCHVISION_NAMES:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
