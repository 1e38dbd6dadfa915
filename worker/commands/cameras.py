"""`ssd-worker cameras`: what would run, and all that is wrong, without opening a camera.

What would run goes to stdout, one line per camera or as JSON; what is wrong goes to stderr, one
line each. Labels are checked against the model, whose library is imported only if there are any.
"""

import json
import sys
from collections.abc import Collection, Iterator
from functools import cached_property

from worker.commands.tables import print_table
from worker.errors import UsageError
from worker.secrecy.redaction import redact, redact_url
from worker.settings.cameras import CameraSettings, Inspection, Problem, inspect_cameras
from worker.settings.fields import CamerasSettings


def check_cameras(settings: CamerasSettings) -> int:
    """Print what would run and what is wrong; returns 0 if all of it can run, else 2."""
    known_labels = _LabelsOnDemand(settings)
    try:
        wrong = _wrong_general_options(settings, known_labels)
        inspection = inspect_cameras(settings, known_labels)
    except UsageError as error:  # about the model or its weights
        wrong = [redact(str(error))]
        inspection = inspect_cameras(settings, None)
    if settings.as_json:
        print(json.dumps(_as_json(inspection, wrong)))
    elif inspection.cameras:
        print_table(_rows(inspection.cameras.values()))
    wrong += map(str, inspection.problems)
    for line in [*wrong, *(f"{warning} (warning only)" for warning in inspection.warnings)]:
        print(line, file=sys.stderr)
    if not wrong and not inspection.cameras:
        print("no cameras yet: `ssd-worker run` would wait for some", file=sys.stderr)
    return UsageError.exit_code if wrong else 0


class _LabelsOnDemand(Collection[str]):
    """The labels of the model, read when the first one is looked up: PyTorch takes seconds."""

    def __init__(self, settings: CamerasSettings) -> None:
        self._settings = settings

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        return _read_labels(self._settings)

    def __contains__(self, label: object) -> bool:
        return label in self._labels

    def __iter__(self) -> Iterator[str]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)


def _wrong_general_options(settings: CamerasSettings, known: Collection[str]) -> list[str]:
    """What is wrong with ``--labels``. Raises UsageError if model or weights cannot work."""
    if settings.labels is None and settings.weights is None and settings.model is None:
        return []
    labels = list(known)
    unknown = [label for label in settings.labels or () if label not in labels]
    if not unknown:
        return []
    named = ", ".join(unknown)
    return [f"--labels: the model does not know {named}: it knows {', '.join(labels)}"]


def _read_labels(settings: CamerasSettings) -> tuple[str, ...]:
    """The labels of the model, or of its weights if they bring their own. Raises UsageError."""
    from ssd_core.checkpoints.loading import load_model
    from ssd_core.errors import SsdError
    from ssd_core.models.zoo import get_spec

    try:
        spec = get_spec(settings.model)
    except SsdError as error:
        raise UsageError(f"--model: {error}") from error
    try:
        in_package = settings.weights is None and spec.weights is not None
        to_download = settings.weights == "coco" and spec.downloadable
        if not in_package and not to_download:
            _, spec, _ = load_model(settings.model, settings.weights)
    except SsdError as error:
        raise UsageError(str(error)) from error
    return spec.labels[1:]


def _rows(cameras: Collection[CameraSettings]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("CAMERA", "SOURCE", "FPS", "LABELS", "SCORE ABOVE", "TRANSPORT", "IGNORE", "SNAPSHOTS")
    ]
    for camera in cameras:
        rows.append(
            (
                camera.camera_id,
                _shown_source(camera),
                "all" if camera.fps is None else f"{camera.fps:g}",
                "all" if camera.labels is None else ", ".join(camera.labels),
                "model's" if camera.score_threshold is None else f"{camera.score_threshold:g}",
                camera.transport,
                _counted(len(camera.ignore), "polygon"),
                camera.snapshots,
            )
        )
    return rows


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}" if count else "-"


def _shown_source(camera: CameraSettings) -> str:
    return redact_url(camera.source) if "://" in camera.source else camera.source


def _as_json(inspection: Inspection, wrong: list[str]) -> dict[str, object]:
    general = [{"file": None, "line": None, "camera_id": None, "text": text} for text in wrong]
    return {
        "cameras": [
            {
                "camera_id": camera.camera_id,
                "source": _shown_source(camera),
                "fps": camera.fps,
                "labels": camera.labels,
                "score_threshold": camera.score_threshold,
                "transport": camera.transport,
                "ignore": camera.ignore,
                "anchor": camera.anchor,
                "snapshots": camera.snapshots,
            }
            for camera in inspection.cameras.values()
        ],
        "problems": [*general, *map(_problem_as_json, inspection.problems)],
        "warnings": [*map(_problem_as_json, inspection.warnings)],
    }


def _problem_as_json(problem: Problem) -> dict[str, object]:
    return {
        "file": str(problem.path),
        "line": problem.line,
        "camera_id": problem.camera_id,
        "text": redact(problem.text),
    }
