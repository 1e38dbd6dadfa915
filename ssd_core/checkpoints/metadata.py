"""A model's definition as the metadata of its weights file: a spec to strings and back.

``format`` is the version of this layout, ``model`` the name of the architecture; ``licence`` and
``training`` are text, everything else is JSON. Whoever has the file needs nothing else to detect.
Knows neither tensors nor files.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from ssd_core.errors import CheckpointError
from ssd_core.models.zoo import ModelSpec

FORMAT = 1
MOST_PIXELS = 4096
"""Of an input's height or width, and of a feature map's."""
MOST_LABELS = 10_000
MOST_BOXES_PER_CELL = 100
MOST_FEATURE_MAPS = 20
MOST_DETECTIONS = 100_000
"""Also of candidates per class. Far above any model: larger numbers are damage or an attack."""


def to_metadata(spec: ModelSpec) -> dict[str, str]:
    """The spec as a weights file carries it."""
    text = {"format": str(FORMAT), "model": spec.name}
    text |= {name: str(getattr(spec, name)) for name in TEXTS}
    return text | {name: json.dumps(getattr(spec, name)) for name in RULES}


def from_metadata(metadata: Mapping[str, str], architecture: ModelSpec) -> ModelSpec:
    """The spec that ``to_metadata`` wrote, for weights of its own; ``architecture`` builds it.

    Raises CheckpointError, without the file's name, for another format or damaged values.
    """
    check_format(metadata)
    fields: dict[str, Any] = {}
    for name in (*TEXTS, *RULES):
        if name not in metadata:
            raise CheckpointError(f"its metadata lacks {name!r}: {WAY_OUT}")
        if name in TEXTS:
            fields[name] = metadata[name]
            continue
        expected, rule = RULES[name]
        try:
            value = _as_tuples(json.loads(metadata[name]))
            valid = rule(value)
        except (ValueError, OverflowError, RecursionError):
            valid = False
        if not valid:
            raise CheckpointError(f"{name!r} in its metadata is not {expected}: {WAY_OUT}")
        fields[name] = value
    maps = len(fields["feature_maps"])
    for name in ("box_sizes", "cells"):
        if fields[name] is not None and len(fields[name]) != maps:
            raise CheckpointError(
                f"its metadata has {maps} feature maps, but {len(fields[name])} {name}: {WAY_OUT}"
            )
    return replace(architecture, **fields).with_own_weights()


def check_format(metadata: Mapping[str, str]) -> None:
    """Raise CheckpointError for a format that this version cannot read."""
    version = metadata["format"]
    if not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise CheckpointError(f"'format' in its metadata is not a version number: {WAY_OUT}")
    if int(version) > FORMAT:
        raise CheckpointError(
            f"it has format {int(version)}, this version reads formats up to {FORMAT}: "
            "update ssd-worker"
        )


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _is_number(value: Any, low: float, high: float) -> bool:
    """Whether it is a finite number with ``low`` < value <= ``high``."""
    return type(value) in (int, float) and isfinite(value) and low < value <= high


def _is_threshold(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_integer(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_list(value: Any, least: int, most: int, rule: Callable[[Any], bool]) -> bool:
    return isinstance(value, tuple) and least <= len(value) <= most and all(map(rule, value))


def _is_size(value: Any) -> bool:
    return _is_list(value, 2, 2, lambda side: _is_integer(side, 1, MOST_PIXELS))


def _is_pair(value: Any) -> bool:
    return _is_list(value, 2, 2, lambda number: _is_number(number, 0, MOST_PIXELS))


TEXTS = ("licence", "training")
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "labels": (
        "a JSON list of names, the background's first",
        lambda v: _is_list(v, 2, MOST_LABELS, lambda name: isinstance(name, str)),
    ),
    "image_size": (f"a height and a width of 1 to {MOST_PIXELS} pixels", _is_size),
    "mean": ("three numbers", lambda v: _is_list(v, 3, 3, lambda n: _is_number(n, -1e6, 1e6))),
    "std": ("three numbers above 0", lambda v: _is_list(v, 3, 3, lambda n: _is_number(n, 0, 1e6))),
    "antialias": ("true or false", lambda v: isinstance(v, bool)),
    "feature_maps": (
        f"a list of 1 to {MOST_FEATURE_MAPS} heights and widths of 1 to {MOST_PIXELS}",
        lambda v: _is_list(v, 1, MOST_FEATURE_MAPS, _is_size),
    ),
    "cells": (
        "null, or a pair of numbers above 0 for each feature map",
        lambda v: v is None or _is_list(v, 1, MOST_FEATURE_MAPS, _is_pair),
    ),
    "box_sizes": (
        "a list of (width, height) above 0 for each feature map",
        lambda v: _is_list(
            v, 1, MOST_FEATURE_MAPS, lambda sizes: _is_list(sizes, 1, MOST_BOXES_PER_CELL, _is_pair)
        ),
    ),
    "activation": ('"softmax" or "sigmoid"', lambda v: v in ("softmax", "sigmoid")),
    "score_threshold": ("a number from 0 to 1", _is_threshold),
    "iou_threshold": ("a number from 0 to 1", _is_threshold),
    "candidates_per_class": (
        f"a number from 1 to {MOST_DETECTIONS}",
        lambda v: _is_integer(v, 1, MOST_DETECTIONS),
    ),
    "max_detections": (
        f"a number from 1 to {MOST_DETECTIONS}",
        lambda v: _is_integer(v, 1, MOST_DETECTIONS),
    ),
}
"""What each field is, in words and as a check of the value, its lists as tuples."""
WAY_OUT = "write the file again with ssd_core.checkpoints.convert, or train again"
