"""One camera's table: which keys it may have, and what is wrong with the values.

Takes what tomllib read of ``[cameras.ID]``; gives a checked table, or every mistake in it by its
key. Shows keys and labels, and no other value: there may be a password in it. Opens nothing.
"""

from collections.abc import Collection
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, field_validator
from pydantic_core import ErrorDetails

from worker.secrecy.redaction import redact_argument
from worker.settings.base import Transport

Anchor = Literal["bottom", "centre"]
Snapshots = Literal[True, False, "blur"]
Point = tuple[float, float]
Polygon = tuple[Point, ...]

NOT_SUPPORTED_YET = ("tiles", "motion", "zones", "lines")
SMALLEST_AREA = 1e-9
"""Of the picture's: far below a pixel, far above the rounding of points that lie on a line."""


def _polygon(value: Any) -> Polygon:
    if not isinstance(value, list) or len(value) < 3:
        raise ValueError("expected at least 3 points: [[x, y], [x, y], [x, y]]")
    points = tuple(_point(number, point) for number, point in enumerate(value, 1))
    following = (*points[1:], points[0])
    doubled = (x * b - a * y for (x, y), (a, b) in zip(points, following, strict=True))
    if abs(sum(doubled)) / 2 < SMALLEST_AREA:
        raise ValueError("it has no area: its points lie on one line, or its sides cross")
    return points


def _point(number: int, value: Any) -> Point:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_fraction, value)):
        raise ValueError(f"point {number}: expected [x, y], fractions of the picture from 0 to 1")
    return float(value[0]), float(value[1])


def _is_fraction(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= 1


def _snapshots(value: Any) -> Any:
    if not isinstance(value, bool) and value != "blur":
        raise ValueError('expected true, false or "blur"')
    return value


class CameraTable(BaseModel):
    """A table as it was written; None for what it leaves to the general options."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    source: str = Field(min_length=1)
    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    labels: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1)
    score_threshold: float | None = Field(default=None, ge=0, lt=1)
    transport: Transport | None = None
    ignore: list[Annotated[Polygon, PlainValidator(_polygon)]] = []
    anchor: Anchor = "bottom"
    snapshots: Annotated[Snapshots, PlainValidator(_snapshots)] | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _split_labels(cls, value: Any) -> Any:
        """Text with commas is a list, too, as for ``--labels``; an item is one label as it is."""
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def check_table(
    table: Any, known_labels: Collection[str] | None
) -> tuple[CameraTable | None, list[tuple[str, str]]]:
    """The table, or None; and what is wrong with it: pairs of a key ("" for the whole) and a text.

    ``known_labels``: those of the model; None if they are not to be checked.
    """
    if not isinstance(table, dict):
        return None, [("", 'expected a table with a source: source = "rtsp://HOST/PATH"')]
    try:
        checked = CameraTable.model_validate(table)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        wrong = [_explain(detail) for detail in details]
        labels = table.get("labels")
        if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
            wrong += _unknown_labels(labels, known_labels)
        return None, wrong
    wrong = _unknown_labels(checked.labels or [], known_labels)
    return (None if wrong else checked), wrong


def _explain(error: ErrorDetails) -> tuple[str, str]:
    """The key, and the text without any value."""
    key, *items = error["loc"]
    key = str(key)
    if error["type"] == "extra_forbidden":
        return key, unknown_key(key, CameraTable.model_fields)
    if error["type"] == "missing":
        return key, 'source is missing: add source = "rtsp://HOST/PATH", or the path of a file'
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    item = {"ignore": "polygon", "labels": "label"}.get(key, "item")
    where = "".join(f"{item} {int(number) + 1}: " for number in items)
    return key, f"{key}: {where}{message[0].lower()}{message[1:]}"


def unknown_key(key: str, known: Collection[str]) -> str:
    """The text about a key that is not one of those known."""
    if key in NOT_SUPPORTED_YET:
        return f"{key} is not supported yet: remove it"
    close = get_close_matches(key, known, n=1)
    way_out = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"unknown key {redact_argument(key)}: {way_out}"


def _unknown_labels(labels: list[str], known: Collection[str] | None) -> list[tuple[str, str]]:
    if known is None:
        return []
    wrong = []
    for label in labels:
        if label in known:
            continue
        close = get_close_matches(label, known, n=1)
        way_out = f"did you mean {close[0]}?" if close else f"it knows {', '.join(known)}"
        wrong.append(
            ("labels", f"labels: the model does not know {redact_argument(label)}: {way_out}")
        )
    return wrong
