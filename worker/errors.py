"""Errors of the worker that a user can cause or must know of: one line, with a way out.

WorkerError                 exit code 1: the run failed
├── UsageError              exit code 2: what was typed or configured cannot work
├── DetectorError           the detector cannot go on, for want of memory for example
├── SourceError             a recording or camera cannot be read
├── SpoolError              events cannot be kept on disk
└── SinkError               events cannot be written
    ├── SinkUnavailable     for now: the same events may be written again later
    └── CameraRefused       never: those of one camera, others may
        └── Fenced          another worker owns the camera
"""


class WorkerError(Exception):
    """A failure with a message for the user."""

    exit_code = 1


class UsageError(WorkerError):
    """The command, its options or settings cannot work as given."""

    exit_code = 2


class DetectorError(WorkerError):
    """The detector cannot go on."""


class SourceError(WorkerError):
    """A source cannot be read."""


class SpoolError(WorkerError):
    """The spool cannot keep events, or give them back, now."""


class SinkError(WorkerError):
    """A sink cannot take events."""


class SinkUnavailable(SinkError):
    """A sink cannot take events now; writing the same events again is safe."""


class CameraRefused(SinkError):
    """A sink will not take the events of one camera; those of others it may."""

    def __init__(self, camera_id: str, message: str) -> None:
        super().__init__(message)
        self.camera_id = camera_id


class Fenced(CameraRefused):
    """A worker with a later epoch, or another replay, owns the camera's stream."""

    def __init__(self, camera_id: str, epoch: int, message: str) -> None:
        """``epoch``: the latest of the events that were refused."""
        super().__init__(camera_id, message)
        self.epoch = epoch
