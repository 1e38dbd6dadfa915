"""Errors of the worker that a user can cause or needs to see: one line, with a way out.

WorkerError                 exit code 1: the run failed
├── UsageError              exit code 2: the command, options or settings cannot work
├── DetectorError           the detector cannot continue, for lack of memory for example
├── SourceError             a recording or camera cannot be read
├── SpoolError              events cannot be kept on disk
└── SinkError               events cannot be written
    ├── SinkUnavailable     for now: retrying the same events is safe
    └── CameraRefused       ever, for one camera; other cameras are not affected
        ├── Fenced          the camera's stream has later events
        └── TakenOver       another worker owns the camera
"""


class WorkerError(Exception):
    """A failure with a message for the user."""

    exit_code = 1


class UsageError(WorkerError):
    """The command, its options or settings cannot work as given."""

    exit_code = 2


class DetectorError(WorkerError):
    """The detector cannot continue."""


class SourceError(WorkerError):
    """A source cannot be read."""


class SpoolError(WorkerError):
    """The spool cannot store events, or read them back."""


class SinkError(WorkerError):
    """A sink cannot write events."""


class SinkUnavailable(SinkError):
    """A sink cannot write events for now; retrying the same events is safe."""


class CameraRefused(SinkError):
    """A sink will never accept the events of one camera; other cameras are not affected."""

    def __init__(self, camera_id: str, message: str) -> None:
        super().__init__(message)
        self.camera_id = camera_id


class Fenced(CameraRefused):
    """The camera's stream has events of a later epoch, or of another replay."""

    def __init__(self, camera_id: str, epoch: int, message: str) -> None:
        """``epoch``: the latest epoch among the refused events."""
        super().__init__(camera_id, message)
        self.epoch = epoch


class TakenOver(CameraRefused):
    """Another worker has become the owner of a camera."""

    def __init__(self, camera_id: str, owner: str = "") -> None:
        """``owner``: the other worker, if known."""
        by = f" ({owner})" if owner else ""
        super().__init__(
            camera_id,
            f"camera {camera_id}: another worker{by} has taken over its stream; "
            "give each camera to one worker, or another id with ID=SOURCE",
        )
