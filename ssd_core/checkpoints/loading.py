"""Checkpoints: a file of weights in, the model that it defines out.

A safetensors file written here defines its model whole: architecture, labels, input, default boxes,
thresholds. The other files (torchvision's ``.pth``, the bundled model's ``.tflite``, safetensors
without ``format`` in their metadata) hold weights only: the caller names their model, and the
zoo's spec defines it. A VGG16 trained on ImageNet gives a backbone to train from, and no model.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from ssd_core.checkpoints.labels import labels_for
from ssd_core.checkpoints.metadata import WAY_OUT, check_format, from_metadata
from ssd_core.checkpoints.safetensors_file import read_safetensors, save_checkpoint
from ssd_core.checkpoints.state_dict import StateDict, in_fp32
from ssd_core.checkpoints.tflite import state_dict_from_tflite
from ssd_core.checkpoints.torchvision_file import (
    as_backbone,
    download_coco,
    download_imagenet,
    model_in,
    read_state_dict,
    renamed,
)
from ssd_core.errors import CheckpointError
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import MODELS, ModelSpec, build_model, get_spec

__all__ = ["load_imagenet", "load_model", "read_checkpoint", "save_checkpoint"]

log = logging.getLogger(__name__)

MAX_NAMED_DIFFERENCES = 3
IMAGENET = "imagenet"
"""Names the weights of a backbone, in place of a file."""
NOT_OF_VGG16 = ("backbone.l2_norm.", "backbone.conv5_to_fc7.8.", "backbone.conv5_to_fc7.10.")
"""What SSD adds to VGG16 in the backbone: the scale of conv4_3, fc6 and fc7. (The paper subsamples
VGG16's own fc6 and fc7; torchvision's file does not have them, and its SSD begins them anew.)"""


def load_model(
    model: str | ModelSpec | None = None,
    weights: str | Path | None = None,
    labels: Sequence[str] | None = None,
) -> tuple[SSD, ModelSpec, str]:
    """A model with its weights: the network, its spec, and the digest of the weights.

    ``model`` names the architecture; None: the one that the file names, else the default.
    ``weights`` is a file (``.safetensors``, ``.pth``, ``.pt``, ``.ckpt``, ``.tflite``), ``"coco"``
    for the weights torchvision publishes, or None for those in the package. ``labels`` name the
    classes of the weights in their order, where the file does not or others are wanted; the
    background's may be left out. The digest is ``sha256:`` and the file's SHA-256.

    Raises UnknownModelError for the model; CheckpointError if there are no weights, they cannot be
    read, do not fit, or are for another model.
    """
    named = None if model is None else get_spec(model)
    path = find_weights(named or get_spec(None), weights)
    tensors, spec = read_checkpoint(path, named)
    spec = _with_all_labels(spec, labels, tensors, path)
    batch_norm = any(name.endswith("running_mean") for name in tensors)
    with torch.device("meta"):  # no time for numbers that are replaced at once
        network = build_model(spec, batch_norm=batch_norm)
    expected = network.state_dict()
    way_out = ": name their model" if model is None and weights is not None else ""
    check_fit(expected, tensors, path, spec, way_out)
    own = {name: tensor.to(expected[name].dtype).contiguous() for name, tensor in tensors.items()}
    network.load_state_dict(own, assign=True)
    digest = _sha256(path)
    return network, spec if digest == spec.digest else spec.with_own_weights(), f"sha256:{digest}"


def load_imagenet(spec: ModelSpec) -> tuple[StateDict, str]:
    """Of a VGG16 trained on ImageNet, the convolutions up to conv5_3, and the digest of its file.

    In fp32, by their names in the network of ``spec``. Raises CheckpointError if the model has
    another backbone, or the file cannot be downloaded or does not fit.
    """
    path = download_imagenet(spec)
    with torch.device("meta"):
        network = build_model(spec)
    expected = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name.startswith("backbone.") and not name.startswith(NOT_OF_VGG16)
    }
    tensors = _in_fp32(as_backbone(read_state_dict(path)), path)
    check_fit(expected, tensors, path, spec, ": delete the file, it is downloaded again")
    return tensors, f"sha256:{_sha256(path)}"


def find_weights(spec: ModelSpec, weights: str | Path | None) -> Path:
    """The file that holds the weights; fetches them first if ``weights`` is ``"coco"``."""
    if weights is None:
        if spec.weights is None:
            way_out = "--weights FILE" + (" or --weights coco" if spec.downloadable else "")
            raise CheckpointError(f"{spec.name} comes without weights: give {way_out}")
        return Path(str(files("ssd_core") / "weights" / spec.weights))
    if weights == "coco" and not Path(weights).exists():
        return download_coco(spec)
    if is_imagenet(weights):
        raise CheckpointError(
            f"weights {weights} are those of a backbone, from which only `train` starts: give "
            "--weights FILE, such as its output"
        )
    path = Path(weights)
    if not path.is_file():
        raise CheckpointError(f"weights {path}: no such file")
    return path


def read_checkpoint(path: Path, named: ModelSpec | None) -> tuple[StateDict, ModelSpec]:
    """Tensors by the names used here, in fp32, and the spec of their model.

    ``named`` is the model the caller asked for, if any. Raises CheckpointError.
    """
    spec = named or get_spec(None)
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        spec = _spec_of(metadata, named, tensors, path)
        if "format" not in metadata:
            tensors = model_in(tensors, path)
    elif path.suffix in (".pth", ".pt", ".ckpt"):
        tensors = read_state_dict(path)
    elif path.suffix == ".tflite":
        tensors = state_dict_from_tflite(path, spec)
    else:
        raise CheckpointError(
            f"weights {path}: cannot tell the format from the name: "
            "expected .safetensors, .pth, .pt, .ckpt or .tflite"
        )
    return renamed(_in_fp32(tensors, path)), spec


def is_imagenet(weights: str | Path | None) -> bool:
    """Whether these are the weights for ``load_imagenet``, and not a file of that name."""
    return weights == IMAGENET and not Path(IMAGENET).exists()


def check_fit(
    expected: StateDict, found: StateDict, path: Path, spec: ModelSpec, way_out: str = ""
) -> None:
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
        raise CheckpointError(f"weights {path} do not fit {spec.name}: {named}{tail}{way_out}")


def _in_fp32(tensors: StateDict, path: Path) -> StateDict:
    try:
        return in_fp32(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"weights {path}: {error}") from error


def _spec_of(
    metadata: dict[str, str], named: ModelSpec | None, tensors: StateDict, path: Path
) -> ModelSpec:
    """The spec of a safetensors file's model."""
    try:
        architecture = _architecture(metadata, named)
        spec = from_metadata(metadata, architecture) if "format" in metadata else None
    except CheckpointError as error:
        raise CheckpointError(f"weights {path}: {error}") from error
    if spec is not None:
        _check_shapes(spec, tensors, path)
        return spec
    if path.name != architecture.weights:
        log.info(
            "weights %s do not define their model: input, default boxes and thresholds are those "
            "of %s",
            path,
            architecture.name,
        )
    return _with_labels(architecture, metadata.get("labels"), path)


def _architecture(metadata: dict[str, str], named: ModelSpec | None) -> ModelSpec:
    """The named model, or the one that the file names, else the default."""
    if "format" in metadata:
        check_format(metadata)
    name = metadata.get("model")
    if name is None:
        if "format" in metadata:
            raise CheckpointError(f"its metadata lacks 'model': {WAY_OUT}")
        return named or get_spec(None)
    if named is not None:
        if name != named.name:
            raise CheckpointError(
                f"it is for {name[:100]!r}, not for {named.name}: "
                "leave out the model, or give its own"
            )
        return named
    if name not in MODELS:
        raise CheckpointError(
            f"it is for an unknown model, {name[:100]!r}: known are {', '.join(MODELS)}"
        )
    return MODELS[name]


def _check_shapes(spec: ModelSpec, tensors: StateDict, path: Path) -> None:
    """Raise CheckpointError unless spec and tensors describe one network.

    On the meta device, which computes shapes only: what a damaged file claims takes no memory.
    """
    batch_norm = any(name.endswith("running_mean") for name in tensors)
    with torch.device("meta"), torch.no_grad():
        network = build_model(spec, batch_norm=batch_norm).eval()
        check_fit(network.state_dict(), tensors, path, spec)
        try:
            maps = network.feature_maps(torch.empty(1, 3, *spec.image_size))
        except RuntimeError as error:  # an input too small for the last maps
            raise CheckpointError(
                f"weights {path}: an input of {spec.image_size} is too small for {spec.name}"
            ) from error
    found = tuple(tuple(map_.shape[2:]) for map_ in maps)
    if found != spec.feature_maps:
        raise CheckpointError(
            f"weights {path}: its metadata has feature maps of {spec.feature_maps}, "
            f"the network of {spec.name} has {found}: {WAY_OUT}"
        )


def _with_labels(spec: ModelSpec, labels: str | None, path: Path) -> ModelSpec:
    """The spec with the labels of a file that has no ``format``, if it brings any."""
    if labels is None:
        return spec
    try:
        names = json.loads(labels)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"weights {path}: its `labels` metadata is not a JSON list of names: write it again"
        )
    return spec.with_labels(tuple(names))


def _with_all_labels(
    spec: ModelSpec, labels: Sequence[str] | None, tensors: StateDict, path: Path
) -> ModelSpec:
    """The spec with a label for each class that the tensors have, from ``labels`` if given."""
    classes = _classes_in(tensors, spec)
    if labels is not None:
        try:
            return spec.with_labels(labels_for(classes or spec.num_classes, labels))
        except CheckpointError as error:
            raise CheckpointError(f"weights {path}: {error}") from error
    if classes in (None, spec.num_classes):
        return spec
    raise CheckpointError(
        f"weights {path} have {classes} classes, the background's among them, and {spec.name} has "
        f"{spec.num_classes}: convert them with a file of their labels: "
        f"python -m ssd_core.checkpoints.convert {spec.name} {path} OUT.safetensors --labels FILE"
    )


def _classes_in(tensors: StateDict, spec: ModelSpec) -> int | None:
    """Classes that every class head is made for; None where the heads do not agree, or lack."""
    found: set[int | None] = set()
    for head, sizes in enumerate(spec.box_sizes):
        for part in ("weight", "bias"):
            tensor = tensors.get(f"classification_heads.{head}.{part}")
            outputs = len(tensor) if tensor is not None and tensor.ndim else 0
            classes, left_over = divmod(outputs, len(sizes))
            found.add(None if left_over or classes < 2 else classes)
    return found.pop() if len(found) == 1 else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
