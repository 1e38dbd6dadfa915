"""Errors of ssd_core that a user can cause: one line that says what is wrong and what to do.

SsdError(ValueError)
├── UnknownModelError     a model name that is not in the zoo
├── CheckpointError       weights that are missing, refused, or do not fit the model
├── DeviceError           a device or precision that this machine does not have
├── DataError             labelled images that are missing, damaged or contradictory
├── TrainingError         a training run that cannot begin or go on
└── EvaluationError       detections and labelled images that give no numbers
"""


class SsdError(ValueError):
    """Anything a caller asked of ssd_core that cannot be done as asked."""


class UnknownModelError(SsdError):
    """The model name is not in the zoo."""


class CheckpointError(SsdError):
    """The weights cannot be read, or do not fit the model."""


class DeviceError(SsdError):
    """The device or the precision is not available here."""


class DataError(SsdError):
    """Images or their annotations cannot be used: one line, or a headline and a line per fault."""


class TrainingError(SsdError):
    """A training run cannot begin, or cannot go on."""


class EvaluationError(SsdError):
    """There is nothing to evaluate, or no library for it."""
