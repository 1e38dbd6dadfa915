"""Which tensors of a training script's file are the model's: nested dicts in, one state dict out.

Training scripts wrap weights: in dicts (``model``, ``state_dict``, ``ema``), and in modules, whose
names then stand before every tensor's (``module.`` of DataParallel, ``model.`` of Lightning). Both
make a path to the model. It ends where the heads are: every SSD has them under one of two names, so
whatever wraps a model need not be known.

Knows neither files nor models.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ssd_core.errors import CheckpointError

StateDict = dict[str, Tensor]

WRAPPER = r"(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""What DataParallel, torch.compile, FSDP and activation checkpointing put into the names of parts
of a model, too. No part of an SSD has one of these names."""
FIRST_HEADS = ("head.classification_head.module_list.0.weight", "classification_heads.0.weight")
"""Weights of the first class head in torchvision's SSD, and here."""
DOT = rf"\.(?:{WRAPPER})*"
FIRST_HEAD = re.compile(
    rf"(?:^|(?<=\.))(?:{'|'.join(name.replace('.', DOT) for name in FIRST_HEADS)})$"
)
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?|shadow)(?:[._]|$)", re.IGNORECASE)
"""In a path to averaged weights, as torch.optim.swa_utils, torchvision, timm, Lightning and
Ultralytics name them."""
BOOKKEEPING = {"n_averaged"}
"""Tensors that belong to a wrapper: torch's AveragedModel counts in it."""
MOST_LEVELS = 20
"""Of dicts within dicts that are looked into."""


def find_state_dict(content: Any) -> tuple[StateDict, str, list[str]]:
    """The model's tensors by their own names, the path to them, and the paths of other copies.

    ``content`` is what the file holds. Averaged weights go before those that they are averages of,
    if they are complete. Without heads, the largest dict of tensors is returned as it is: what it
    lacks is for the caller to say. Raises CheckpointError, without the file's name, where there are
    no tensors by name, and where it is not clear which of several models is meant.
    """
    dicts = dict(_dicts_of_tensors(content, set()))
    if not dicts:
        raise CheckpointError("expected a dict of tensors by name")
    models: dict[str, StateDict] = {}
    for path, tensors in dicts.items():
        models |= _models(path, tensors)
    if not models:
        path = max(dicts, key=lambda path: len(dicts[path]))
        return dicts[path], path, []
    path = _choose(models)
    return models[path], path, [other for other in models if other != path]


def in_fp32(tensors: StateDict) -> StateDict:
    """The tensors with every floating-point one in fp32.

    Raises CheckpointError, without the file's name, for a tensor that cannot be weights: with NaN
    or infinity in it, also such as only fp32 makes of a number, or without numbers of its own.
    """
    converted = {}
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(
                f"{name[:200]} is not a plain tensor: save the model's with "
                "torch.save(model.state_dict(), PATH) on the CPU"
            )
        if tensor.is_complex():
            raise CheckpointError(
                f"{name[:200]} holds complex numbers, which no weights are: save real ones"
            )
        if tensor.is_floating_point():
            tensor = tensor.float()
            if not tensor.isfinite().all():
                raise CheckpointError(
                    f"{name[:200]} holds NaN or infinity, and so would all results: "
                    "take weights from before the training diverged"
                )
        converted[name] = tensor
    return converted


def _dicts_of_tensors(
    content: Any, seen: set[int], path: str = "", level: int = 0
) -> Iterator[tuple[str, StateDict]]:
    """Every dict with tensors by name, once, and the path to it, which ends in a dot or is empty.

    ``seen``: ids of those looked into, as a pickle may hold a dict that holds itself.
    """
    if not isinstance(content, Mapping | list | tuple) or id(content) in seen:
        return
    seen.add(id(content))
    if isinstance(content, Mapping):
        members = {name: value for name, value in content.items() if isinstance(name, str)}
        tensors = {name: value for name, value in members.items() if isinstance(value, Tensor)}
        if tensors or not (content or level):
            yield path, tensors
    else:
        members = {str(index): value for index, value in enumerate(content)}
    if level < MOST_LEVELS:
        for name, value in members.items():
            yield from _dicts_of_tensors(value, seen, f"{path}{name}.", level + 1)


def _models(path: str, tensors: StateDict) -> dict[str, StateDict]:
    """The models in one dict, by the path to each: tensors by the names that follow the path.

    A tensor belongs to the longest prefix that its name has.
    """
    found = (FIRST_HEAD.search(name) for name in tensors)
    prefixes = sorted({match.string[: match.start()] for match in found if match}, key=len)
    models: dict[str, StateDict] = {path + prefix: {} for prefix in prefixes}
    for name, tensor in tensors.items():
        for prefix in reversed(prefixes):
            if name.startswith(prefix):
                if name.rpartition(".")[2] not in BOOKKEEPING:
                    own_name = re.sub(rf"(?:^|(?<=\.)){WRAPPER}", "", name[len(prefix) :])
                    models[path + prefix][own_name] = tensor
                break
    return models


def _choose(models: dict[str, StateDict]) -> str:
    """The path of the model that is meant. Raises CheckpointError if that is not clear."""
    averaged = [path for path in models if AVERAGED.search(path)]
    plain = [path for path in models if path not in averaged]
    names = {name for path in plain for name in models[path]}
    complete = [path for path in averaged if models[path].keys() >= names]
    chosen = complete or plain or averaged
    if len(chosen) > 1:
        named = ", ".join(path.rstrip(".") or "the file itself" for path in chosen)
        raise CheckpointError(f"it holds several models ({named})")
    return chosen[0]
