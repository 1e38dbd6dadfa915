"""What training starts from: the network for own classes, with as much of other weights as fits.

Backbone, extra layers and box heads are kept whole; of the class heads the rows of classes that
have the same name; of a VGG16 trained on ImageNet, conv1_1 to conv5_3. Batch norm is folded, as it
is in the bundled model, and stays so: given back as an identity, it learnt no better (AP50 0.87 and
0.88 folded, measured as in ``recipe``). Knows neither images nor optimisers.
"""

import logging
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ssd_core.checkpoints.loading import is_imagenet, load_imagenet, load_model
from ssd_core.detector import fold_batch_norm
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import ModelSpec, build_model, get_spec

log = logging.getLogger(__name__)

PRIOR = 0.01
"""Share of default boxes that a new class claims at first (Lin et al. 2017, "Focal Loss for Dense
Object Detection", section 3.3, arXiv 1708.02002): else the background drowns the first steps."""
NEW_WEIGHT_STD = 0.01
"""Of the weights of a new class (the same section)."""
OWN_LICENCE = "the owner's; trained from weights under "
IMAGENET_LICENCE = "Creative Commons Attribution (VGG16 of the Visual Geometry Group, Oxford)"
"""https://www.robots.ox.ac.uk/~vgg/research/very_deep/"""


def starting_model(
    labels: tuple[str, ...],
    model: str | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> tuple[SSD, ModelSpec, str | None]:
    """The network to train for ``labels`` (class 0: background), its spec, and its weights' digest.

    ``model`` and ``weights`` as for ``load_model``; batch norm is folded. With ``"imagenet"`` the
    backbone starts from ``load_imagenet``. Other layers, and all without weights, given or in the
    package, begin as the paper's new ones do; without weights the digest is None. What is new
    depends on the seed. Raises UnknownModelError, CheckpointError.
    """
    named = None if model is None else get_spec(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if is_imagenet(weights):
            return _from_imagenet(get_spec(model), labels)
        if weights is None and named is not None and named.weights is None:
            _warn_of_untrained(named)
            return *_new(named, labels, base_licence=None), None
        return _trained(labels, model, weights)


def _warn_of_untrained(named: ModelSpec) -> None:
    weights = ["coco"] * named.downloadable + ["imagenet"] * named.has_imagenet_backbone + ["FILE"]
    log.warning(
        "%s comes without weights: it starts untrained, which takes far more images and time than "
        "starting from weights (%s)",
        named.name,
        " or ".join(f"--weights {each}" for each in weights),
    )


def _from_imagenet(named: ModelSpec, labels: tuple[str, ...]) -> tuple[SSD, ModelSpec, str]:
    tensors, digest = load_imagenet(named)
    network, spec = _new(named, labels, IMAGENET_LICENCE)
    network.load_state_dict(tensors, strict=False)
    log.info(
        "%s starts from a VGG16 trained on ImageNet; what follows its conv5_3 is new", named.name
    )
    return network, spec, digest


def _new(
    named: ModelSpec, labels: tuple[str, ...], base_licence: str | None
) -> tuple[SSD, ModelSpec]:
    """The network as the paper's new layers begin, but for class heads that know the background."""
    spec = _own(named, labels, base_licence)
    network = build_model(spec)
    for head, sizes in zip(network.classification_heads, spec.box_sizes, strict=True):
        _let_background_win(_convolution(head), len(sizes), spec.activation)
    return network, spec


def _trained(
    labels: tuple[str, ...], model: str | None, weights: str | Path | None
) -> tuple[SSD, ModelSpec, str]:
    base, base_spec, digest = load_model(model, weights)
    base = fold_batch_norm(base.eval())
    spec = _own(base_spec, labels, base_spec.licence)
    network = build_model(spec)
    heads = "classification_heads."
    kept = {name: x for name, x in base.state_dict().items() if not name.startswith(heads)}
    network.load_state_dict(kept, strict=False)
    rows = kept_classes(base_spec.labels, spec.labels)
    for head, old_head, sizes in zip(
        network.classification_heads, base.classification_heads, spec.box_sizes, strict=True
    ):
        _fill_class_head(
            _convolution(head), _convolution(old_head), len(sizes), rows, spec.activation
        )
    known = [label for label, row in zip(labels[1:], rows[1:], strict=True) if row is not None]
    if known:
        log.info("the weights know %s: what they learnt is kept", ", ".join(known))
    return network, spec, digest


def kept_classes(old: tuple[str, ...], new: tuple[str, ...]) -> list[int | None]:
    """For each new class the old one of the same name, capitals aside; the background's first."""
    by_name = {label.casefold(): index for index, label in enumerate(old) if index}
    return [0, *(by_name.get(label.casefold()) for label in new[1:])]


def _own(spec: ModelSpec, labels: tuple[str, ...], base_licence: str | None) -> ModelSpec:
    """The spec of the model for these labels, before it is known how it was trained."""
    licence = "the owner's"
    if base_licence is not None:
        licence = OWN_LICENCE + base_licence.removeprefix(OWN_LICENCE)
    return replace(spec, labels=labels, licence=licence, training="").with_own_weights()


@torch.no_grad()
def _fill_class_head(
    head: nn.Conv2d, old: nn.Conv2d, boxes: int, rows: list[int | None], activation: str
) -> None:
    """Rows of ``old`` for the classes that it has, such that the background wins for the others."""
    nn.init.normal_(head.weight, std=NEW_WEIGHT_STD)
    _let_background_win(head, boxes, activation)
    for new, given in ((head.weight, old.weight), (_bias(head), _bias(old))):
        by_class, old_by_class = (each.unflatten(0, (boxes, -1)) for each in (new, given))
        if activation == "softmax":  # scores are relative to the background's, which is kept
            by_class += old_by_class[:, :1]
        for index, row in enumerate(rows):
            if row is not None:
                by_class[:, index] = old_by_class[:, row]


@torch.no_grad()
def _let_background_win(head: nn.Conv2d, boxes: int, activation: str) -> None:
    """Biases with which all classes but the background have the share PRIOR."""
    bias = _bias(head).unflatten(0, (boxes, -1))
    odds = (1 - PRIOR) / PRIOR
    if activation == "softmax":
        bias[:, 1:] = -math.log(odds * (bias.shape[1] - 1))
        bias[:, 0] = 0
    else:
        bias.fill_(-math.log(odds))


def _convolution(head: nn.Module) -> nn.Conv2d:
    assert isinstance(head, nn.Conv2d)
    return head


def _bias(head: nn.Conv2d) -> Tensor:
    assert head.bias is not None
    return head.bias
