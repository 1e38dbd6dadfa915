"""SSD object detection: the model, its default boxes, its checkpoints and its post-processing."""

from ssd_core.detector import Detector
from ssd_core.found import Detections
from ssd_core.models.zoo import MODELS, build_model

__all__ = ["MODELS", "Detections", "Detector", "build_model"]
