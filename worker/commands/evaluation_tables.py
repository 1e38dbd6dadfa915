"""What `ssd-worker evaluate` prints for people: the numbers of a model, or of two side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from worker.commands.tables import print_table

if TYPE_CHECKING:
    from ssd_core.evaluation import Comparison, Evaluation, OperatingPoint

NUMBERS_PER_ROW = 6


def print_evaluation(evaluation: "Evaluation") -> None:
    """A row per class and one for all, then the numbers of the metric."""
    with_ap50 = evaluation.metric == "coco"
    average = ("AP", "AP50") if with_ap50 else ("AP",)
    rows = [
        ("CLASS", "OBJECTS", *average, "PRECISION", "RECALL", "F1", "BEST F1", "AT SCORE"),
        *(
            (
                label,
                str(own.objects),
                *map(_shown, (own.AP, own.AP50)[: len(average)]),
                *_points(own.working, own.balanced),
            )
            for label, own in evaluation.per_class.items()
            if own.objects or (own.working is not None and own.working.precision is not None)
        ),
        (
            "all",
            str(evaluation.objects),
            *(_shown(evaluation.numbers[name]) for name in average),
            *_points(evaluation.working, evaluation.balanced),
        ),
    ]
    print_table(rows)
    silent = len(evaluation.per_class) + 2 - len(rows)
    if silent:
        print(f"classes with neither objects nor detections: {silent}")
    if evaluation.working is not None:
        print(
            f"\n{evaluation.images} images. Precision, recall and F1 at IoU 0.5 of detections "
            f"scoring above {evaluation.working.score_threshold:g};\n"
            "the best F1, and the score threshold that gives it on these images."
        )
    names = list(evaluation.numbers)
    for start in range(0, len(names) if with_ap50 else 0, NUMBERS_PER_ROW):
        print()
        part = names[start : start + NUMBERS_PER_ROW]
        print_table([part, [_shown(evaluation.numbers[name]) for name in part]])


def print_comparison(
    first: "Evaluation", second: "Evaluation", comparison: "Comparison", names: Sequence[str]
) -> None:
    """AP and AP50 of both by class, the twelve numbers of both, and what may be said."""
    a, b = names
    print_table(
        [
            ("CLASS", "OBJECTS", f"AP {a}", f"AP {b}", f"AP50 {a}", f"AP50 {b}"),
            *(
                (
                    label,
                    str(own.objects),
                    *map(_shown, (own.AP, other.AP, own.AP50, other.AP50)),
                )
                for (label, own), other in zip(
                    first.per_class.items(), second.per_class.values(), strict=True
                )
                if own.objects
            ),
        ]
    )
    print()
    intervals = {"AP": comparison.AP, "AP50": comparison.AP50}
    rows = [("ALL CLASSES", a, b, f"{b} - {a}", "95 % INTERVAL")]
    for name, number in first.numbers.items():
        other = second.numbers[name]
        difference, interval = "-", ""
        if number is not None and other is not None:
            difference = f"{other - number:+.3f}"
        if name in intervals:
            own = intervals[name]
            interval = f"{own.low:+.3f} to {own.high:+.3f}"
        rows.append((name, _shown(number), _shown(other), difference, interval))
    print_table(rows)
    print(f"\n{comparison.sentence(a, b)}")


def _points(
    working: "OperatingPoint | None", balanced: "OperatingPoint | None"
) -> tuple[str, str, str, str, str]:
    at = (None, None, None) if working is None else (working.precision, working.recall, working.f1)
    best = ("-", "-") if balanced is None else (_shown(balanced.f1), _digits(balanced))
    precision, recall, f1 = map(_shown, at)
    return precision, recall, f1, *best


def _digits(point: "OperatingPoint") -> str:
    return f"{point.score_threshold:g}"


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"
