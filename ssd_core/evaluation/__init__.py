"""How good a detector is on labelled images: AP and AR, operating points, one against another.

Detections and labelled images in, numbers and pictures out. Stands on the detector and on the data
sets of ``training``; knows neither how weights were learned nor commands and files of settings.
"""

from ssd_core.evaluation.comparison import Comparison, Difference, compare
from ssd_core.evaluation.detecting import DETECTION_THRESHOLD, detect_all
from ssd_core.evaluation.operating_points import OperatingPoint
from ssd_core.evaluation.results import ClassEvaluation, Evaluation, evaluate

__all__ = [
    "DETECTION_THRESHOLD",
    "ClassEvaluation",
    "Comparison",
    "Difference",
    "Evaluation",
    "OperatingPoint",
    "compare",
    "detect_all",
    "evaluate",
]
