"""A run's curves for TensorBoard: the loss of each batch, and what each epoch came to.

The step of every curve is the number of batches so far. Each point is on disk when it is added.
Needs the package ``tensorboard``, which is imported when it is needed: it comes with the extra
``train``. No run depends on its curves: it goes on without them if they can no longer be written.

PyTorch's ``SummaryWriter`` writes in a thread, which dies of a full disk with a traceback; its
parts are used here without it.
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
        """``batches``: in an epoch. ``measured``: the epochs that were written before.

        TensorBoard no longer shows what else is there: curves of an epoch that was interrupted, or
        of a run that began again. Raises TrainingError if it cannot write there.
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
        """Nothing more is added."""
        if self._records is not None:
            with suppress(OSError):  # it would write once more what could not be written
                self._records.close()
            self._records = None

    def batch(self, progress: Progress) -> None:
        """Add a batch."""
        values = {"loss": progress.batch_loss, "learning_rate": progress.learning_rate}
        self._write(progress.batch, {"batch": values})

    def epoch(self, epoch: Epoch) -> None:
        """Add an epoch, or the starting weights: what is known of it."""
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
                "--tensorboard %s: cannot write there any more (%s): the training goes on without "
                "curves",
                self._directory,
                error.strerror,
            )
            self.close()

    def _add(self, step: int, **content: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **content)
        self._records.write(event.SerializeToString())
