"""Precision over recall as a picture: a curve per class, a dot at the working threshold.

An evaluation in, a PNG out. matplotlib is imported when it is needed: it comes with the extra
``train``.
"""

from pathlib import Path

import numpy as np

from ssd_core.evaluation.operating_points import Curve
from ssd_core.evaluation.results import Evaluation
from ssd_core.whole_files import written_whole

MAX_NAMED = 8
"""Curves that can be told apart; of more classes, those with most objects are named."""


def write_curves(evaluation: Evaluation, path: Path) -> None:
    """Write precision over recall at IoU 0.5. Raises OSError if it cannot write."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    curves = {
        label: Curve.of([ranking])
        for label, ranking in zip(evaluation.paired.names, evaluation.rankings, strict=True)
    }
    by_objects = sorted(curves, key=lambda label: -curves[label].objects)
    with_objects = [label for label in by_objects if curves[label].objects]
    for place, label in enumerate(with_objects):
        curve, own = curves[label], evaluation.per_class[label]
        named = place < MAX_NAMED
        average = f"AP50 {own.AP50:.2f}, " if own.AP50 is not None else ""
        (line,) = axes.plot(
            *_envelope(curve),
            color=f"C{place}" if named else "0.8",
            linewidth=1.8 if named else 0.8,
            zorder=2 if named else 1,
            label=f"{label} ({average}{curve.objects} objects)" if named else None,
        )
        point = own.working
        if named and point and point.precision is not None and point.recall is not None:
            axes.plot(point.recall, point.precision, "o", color=line.get_color(), zorder=3)
    more = len(with_objects) - MAX_NAMED
    if more > 0:
        axes.plot([], [], color="0.8", label=f"{more} more classes")
    if evaluation.working is not None:
        shown = f"working threshold: score above {evaluation.working.score_threshold:g}"
        axes.plot([], [], "o", color="0.3", label=shown)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        xlabel="recall",
        ylabel="precision (best at this recall or above)",
    )
    axes.set_title(f"Precision over recall at IoU 0.5, {evaluation.images} images")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    with written_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _envelope(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Recall and the best precision at that recall or a higher one, as AP takes it; then 0."""
    if not len(curve.scores):
        return np.zeros(1), np.zeros(1)
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    recall = np.concatenate([[0.0], curve.recall, curve.recall[-1:]])
    return recall, np.concatenate([best[:1], best, [0.0]])
