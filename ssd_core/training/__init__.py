"""How SSD learns: matching of default boxes with objects, and the MultiBox loss.

Stands on the models and their default boxes; the detector and its runners know nothing of it.
"""

from ssd_core.training.loss import MultiBoxLosses, multibox_loss
from ssd_core.training.matching import match_default_boxes

__all__ = ["MultiBoxLosses", "match_default_boxes", "multibox_loss"]
