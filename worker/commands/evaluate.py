"""`ssd-worker evaluate`: how good a model is on labelled images; which of two is better.

Reads images and weights, prints tables or one JSON object, and draws pictures if asked. The numbers
are ssd_core's.
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.commands.console import progress_bar, told
from worker.commands.evaluation_tables import print_comparison, print_evaluation
from worker.commands.requirements import check_directory, check_libraries
from worker.commands.wiring import prepare_device
from worker.errors import DetectorError, UsageError
from worker.settings.learning import EvaluateSettings
from worker.sources.limits import Limits

if TYPE_CHECKING:
    from ssd_core import Detections, Detector
    from ssd_core.evaluation import Comparison, Evaluation
    from ssd_core.training.data import DataSet

log = logging.getLogger(__name__)

NAMES = ("A", "B")


def run_evaluate(settings: EvaluateSettings) -> int:
    """Evaluate, or compare; returns the exit code."""
    check_libraries(_libraries(settings))
    if settings.plots is not None:
        check_directory("--plots", settings.plots)
    # torch takes seconds to import: only once the settings are known to be good.
    import torch

    from ssd_core.errors import SsdError

    try:
        return _evaluate(settings)
    except SsdError as error:
        raise told(error) from error
    except torch.OutOfMemoryError as error:
        raise DetectorError(
            f"--device {settings.device}: no memory left: give a lower --max-batch, free memory, "
            "or use another device"
        ) from error


def _libraries(settings: EvaluateSettings) -> dict[str, str]:
    """The optional libraries that are needed, by what needs them."""
    wanted = {"--metric coco": "faster_coco_eval"} if settings.metric == "coco" else {}
    if settings.plots is not None:
        wanted["--plots"] = "matplotlib"
    if len(settings.checkpoints) == 2:
        wanted["the comparison of two"] = "scipy"
    return wanted


def _evaluate(settings: EvaluateSettings) -> int:
    from ssd_core.evaluation import compare
    from ssd_core.evaluation.paired import no_common_class
    from ssd_core.training.data_sets.reading import read_data_set
    from worker.commands.recordings import Recordings

    # Weights first: a data set of recordings takes its time.
    detectors = [_load(settings, weights) for weights in _weights(settings)]
    data_set = read_data_set(
        [Path(settings.data)],
        images=settings.images,
        skip_invalid=settings.skip_invalid,
        recordings=Recordings(Limits()),
    )
    classes = [detector.spec.labels[1:] for detector in detectors]
    known = set(classes[0]).intersection(*classes)
    if known.isdisjoint(data_set.labels[1:]):
        raise UsageError(no_common_class(data_set.labels[1:], sorted(known)))
    _warn_of_unknown(data_set, known, len(detectors))
    for detector, weights in zip(detectors, _weights(settings), strict=True):
        _warn_of_learnt(detector.spec.training, data_set.digest, weights)
    evaluations = []
    for detector, name in zip(detectors, NAMES, strict=False):
        threshold = settings.score_threshold
        threshold = detector.spec.score_threshold if threshold is None else threshold
        found = _detect(detector, data_set, settings, threshold, name if len(detectors) > 1 else "")
        evaluations.append(_measure(found, data_set, settings, known, threshold))
    comparison = None
    if len(evaluations) == 2:
        comparison = compare(*evaluations, groups=_groups(data_set))
    if settings.plots is not None:
        _draw(evaluations, data_set, settings.plots)
    models = [_described(*each) for each in zip(detectors, _weights(settings), strict=True)]
    _print(settings, models, evaluations, comparison)
    return 0


def _weights(settings: EvaluateSettings) -> list[str | None]:
    """What was named, None for the weights in the package."""
    return [*settings.checkpoints] or [settings.weights]


def _is_model(weights: str | None) -> bool:
    """Whether a model was named in place of a file: its weights in the package are meant."""
    from ssd_core import MODELS

    return weights in MODELS and not Path(weights).exists()


def _load(settings: EvaluateSettings, weights: str | None) -> "Detector":
    from ssd_core import Detector

    model = settings.model
    if _is_model(weights):
        if model not in (None, weights):
            raise UsageError(f"--model {model} and {weights}: name one of them")
        model, weights = weights, None
    device = str(prepare_device(settings.device))
    return Detector.load(model, weights=weights, device=device, precision=settings.precision)


def _warn_of_unknown(data_set: "DataSet", known: set[str], models: int) -> None:
    unknown = [label for label in data_set.labels[1:] if label not in known]
    if not unknown:
        return
    alike = {label.casefold(): label for label in known}
    named = [
        f"{label} (it has {alike[label.casefold()]})" if label.casefold() in alike else label
        for label in unknown
    ]
    who = "the model does not know" if models == 1 else "not both models know"
    log.warning("left out are the classes that %s: %s", who, ", ".join(named))


def _warn_of_learnt(training: str, digest: str, weights: str | None) -> None:
    """Say so if this is the data set that the weights have seen; ``training`` is their record."""
    try:
        run = json.loads(training)["settings"]
        learnt, chosen = run["data"], run["validation"]
    except (ValueError, KeyError, TypeError):  # weights that were trained elsewhere
        return
    if digest == learnt:
        log.warning(
            "%s were trained on this data set: the numbers say nothing about other images", weights
        )
    elif digest == chosen:
        log.warning("%s are the best epoch's on this data set: the numbers flatter them", weights)


def _groups(data_set: "DataSet") -> list[str] | None:
    """What is drawn together: the frames of a recording, if there are enough recordings."""
    from ssd_core.evaluation.comparison import MIN_GROUPS

    recordings = {image.recording for image in data_set.images} - {""}
    if len(recordings) >= MIN_GROUPS:
        return [image.recording or image.name for image in data_set.images]
    if recordings:
        log.warning(
            "frames of %d recordings: frames that look alike make the interval too narrow; "
            "with %d recordings or more they are drawn together",
            len(recordings),
            MIN_GROUPS,
        )
    return None


def _detect(
    detector: "Detector",
    data_set: "DataSet",
    settings: EvaluateSettings,
    score_threshold: float,
    name: str,
) -> "list[Detections]":
    from ssd_core.evaluation import DETECTION_THRESHOLD, detect_all

    with progress_bar(f"detecting {name}".strip(), len(data_set.images)) as advance:
        return detect_all(
            detector,
            data_set,
            batch=settings.max_batch,
            score_threshold=min(DETECTION_THRESHOLD, score_threshold),
            on_progress=advance,
        )


def _measure(
    found: "list[Detections]",
    data_set: "DataSet",
    settings: EvaluateSettings,
    known: set[str],
    score_threshold: float,
) -> "Evaluation":
    from ssd_core.evaluation import DETECTION_THRESHOLD, evaluate

    return evaluate(
        found,
        data_set,
        metric=settings.metric,
        known=known,
        score_threshold=score_threshold,
        floor=min(DETECTION_THRESHOLD, score_threshold),
    )


def _draw(evaluations: "list[Evaluation]", data_set: "DataSet", plots: Path) -> None:
    from ssd_core.evaluation.curves import write_curves
    from ssd_core.evaluation.pages import write_mistakes

    for evaluation, name in zip(evaluations, NAMES, strict=False):
        prefix = f"{name}-" if len(evaluations) > 1 else ""
        curves, misses, false_alarms = (
            plots / f"{prefix}{what}.png" for what in ("precision-recall", "misses", "false-alarms")
        )
        write_curves(evaluation, curves)
        write_mistakes(evaluation, data_set, misses, false_alarms)
        log.info("pictures: %s, %s, %s", curves, misses, false_alarms)


def _described(detector: "Detector", weights: str | None) -> dict[str, Any]:
    return {
        "name": detector.spec.name,
        "weights": "in the package" if weights is None or _is_model(weights) else weights,
        "digest": detector.digest,
        "device": detector.hardware,
        "precision": str(detector.dtype).removeprefix("torch."),
    }


def _print(
    settings: EvaluateSettings,
    models: list[dict[str, Any]],
    evaluations: "list[Evaluation]",
    comparison: "Comparison | None",
) -> None:
    described = [
        {"model": model, **evaluation.as_json()}
        for model, evaluation in zip(models, evaluations, strict=True)
    ]
    if comparison is None:
        if settings.as_json:
            print(json.dumps(described[0], allow_nan=False))
        else:
            print_evaluation(evaluations[0])
    elif settings.as_json:
        print(
            json.dumps(
                {**dict(zip(NAMES, described, strict=True)), **comparison.as_json(*NAMES)},
                allow_nan=False,
            )
        )
    else:
        for name, model in zip(NAMES, models, strict=True):
            print(f"{name}: {model['weights']} ({model['name']})")
        print()
        print_comparison(evaluations[0], evaluations[1], comparison, NAMES)
