"""A run's curves for TensorBoard: the loss of each batch, and the results of each epoch.

The step of every curve is the number of batches so far. Each point is written at once. Needs the
package ``tensorboard``, which is imported only here and comes with the extra ``train``. If writing
fails later on, the run continues without curves.

This uses the parts of PyTorch's ``SummaryWriter``, but not the class itself: it writes in a thread,
which ends with a traceback when the disk is full.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ssd_core.errors import TrainingError
from ssd_core.training.loop import Epoch, Progress

log = logging.getLogger(__name__)


class TensorBoard:
    """Writes curves into a directory. A context manager."""

    def __init__(self, directory: Path, batches: int, measured: Sequence[Epoch]) -> None:
        """``batches``: per epoch. ``measured``: the epochs that the directory already has.

        Later points in it are hidden from now on: those of an interrupted epoch, or of a former
        run. Raises TrainingError if the directory cannot be written to.
        """
        from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
            Event,
            SessionLog,
        )
        from torch.utils.tensorboard import RecordWriter
        from torch.utils.tensorboard.summary import scalar

        self._directory = directory
        self._batches = batches
        self._event: Any = Event
        self._scalar: Any = scalar
        first = measured[-1].number * batches + 1 if measured else 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files of a directory in the order of their names.
            file = (directory / f"events.out.tfevents.{time.time_ns()}").open("xb")
            self._records: Any = RecordWriter(file)
            self._add(first, file_version="brain.Event:2")
            self._add(first, session_log=SessionLog(status=SessionLog.START))
            self._records.flush()
        except OSError as error:
            raise TrainingError(
                f"--tensorboard {directory}: cannot write there ({error.strerror}): choose another "
                "directory"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing more is written."""
        if self._records is not None:
            with suppress(OSError):  # it tries again to write what is left in its buffer
                self._records.close()
            self._records = None

    def batch(self, progress: Progress) -> None:
        """Add a batch."""
        values = {"loss": progress.batch_loss, "learning_rate": progress.learning_rate}
        self._write(progress.batch, {"batch": values})

    def epoch(self, epoch: Epoch) -> None:
        """Add what is known of an epoch, or of the starting weights."""
        values = {
            "loss": epoch.loss,
            "loss_boxes": epoch.regression_loss,
            "loss_classes": epoch.classification_loss,
            "learning_rate": epoch.learning_rate,
            "images_per_second": epoch.images_per_second,
        }
        self._write(epoch.number * self._batches, {"epoch": values, "validation": epoch.numbers})

    def _write(self, step: int, groups: Mapping[str, Mapping[str, float | None]]) -> None:
        if self._records is None:
            return
        try:
            for group, values in groups.items():
                for name, value in values.items():
                    if value is not None:
                        self._add(step, summary=self._scalar(f"{group}/{name}", value))
            self._records.flush()
        except OSError as error:
            log.warning(
                "--tensorboard %s: can no longer write there (%s): training continues without "
                "curves",
                self._directory,
                error.strerror,
            )
            self.close()

    def _add(self, step: int, **content: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **content)
        self._records.write(event.SerializeToString())
