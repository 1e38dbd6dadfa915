"""What a run keeps on disk while it lasts: its state, its best weights, its figures.

A folder beside the output, ``own.safetensors.training``: ``state.pt``, from which a run goes on;
``best.safetensors``, the best weights so far, ready for use; ``epochs.csv``, a row per epoch, which
stays when the run is done, with the pictures of ``figures``. Each file is whole or not there:
written under another name, then renamed. Knows no images.
"""

import csv
import fcntl
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

from ssd_core.checkpoints.safetensors_file import read_safetensors, save_checkpoint
from ssd_core.errors import CheckpointError, TrainingError
from ssd_core.failures import chain_of, one_line
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import ModelSpec
from ssd_core.whole_files import written_whole

State = dict[str, Any]
FORMAT = 2
"""Version of what is in a state."""
DIGESTS = {
    "data": "the data set has changed since it began",
    "validation": "the validation set is another than when it began",
    "weights": "the weights to start from have changed since it began",
    "augmentation": "the augmentation is another than when it began (--augment, --flip)",
}
"""Messages for settings whose values mean nothing to people."""


class RunFolder:
    """The folder of the run that makes ``output``. Made with the first file in it."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(f"{output.name}.training")
        self._lock: IO[bytes] | None = None

    @property
    def best(self) -> Path:
        """The best weights so far."""
        return self.path / "best.safetensors"

    @property
    def state(self) -> Path:
        """Where the run stands."""
        return self.path / "state.pt"

    def claim(self) -> None:
        """Make the folder, for this process alone until ``release``. Raises TrainingError."""
        try:
            self.path.mkdir(exist_ok=True)
            file = (self.path / "lock").open("ab")
        except OSError as error:
            raise TrainingError(
                f"{self.path}: cannot write there ({error.strerror}): choose another output"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise TrainingError(
                f"{self.path}: another process is training there: wait for it, or choose another "
                "output"
            ) from error
        self._lock = file

    def release(self) -> None:
        """Let other processes have the folder; without anything in it, it goes."""
        if self._lock is None:
            return
        lock = self.path / "lock"
        with suppress(OSError):
            if list(self.path.iterdir()) == [lock]:
                lock.unlink()
                self.path.rmdir()
        self._lock.close()
        self._lock = None

    def clear(self) -> None:
        """Remove what a former run has left."""
        self.clear_state()
        for name in ("epochs.csv", "curves.png", "samples.png"):
            (self.path / name).unlink(missing_ok=True)

    def clear_state(self) -> None:
        """Remove what is of no use once the output is there."""
        self.state.unlink(missing_ok=True)
        self.best.unlink(missing_ok=True)

    def made_by(self) -> Any:
        """The settings of the run that made the output that exists; None if it does not say."""
        try:
            _, metadata = read_safetensors(self.output)
            return json.loads(metadata["training"])["settings"]
        except (CheckpointError, KeyError, TypeError, ValueError):
            return None

    def save(self, state: State) -> None:
        """Replace the state. Raises TrainingError; the state before then stays."""
        write_whole(self.state, lambda file: torch.save({"format": FORMAT, **state}, file))

    def load(self, settings: Mapping[str, Any]) -> State | None:
        """The state, if there is one. Raises TrainingError if it is of a run that is not this."""
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)
            same_format = state["format"] == FORMAT
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.PickleError) as error:
            raise TrainingError(
                f"{self.state}: cannot be read ({type(error).__name__}): start again with "
                "--overwrite"
            ) from error
        if not same_format:
            raise TrainingError(
                f"{self.state}: written by another version of ssd-worker: go on with that, or "
                "start again with --overwrite"
            )
        _check_same(settings, state["settings"], self.path)
        return dict(state)

    def write_best(self, network: SSD, spec: ModelSpec) -> None:
        """Replace the best weights so far. Raises TrainingError."""
        write_weights(self.best, network, spec)

    def write_epochs(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``epochs.csv``: a column for each key of the first row. Raises TrainingError."""

        def write(file: IO[bytes]) -> None:
            lines = _Text(file)
            writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

        write_whole(self.path / "epochs.csv", write)


class _Text:
    """A binary file for the csv module, which writes text."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode())


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """``written_whole`` for what is written to a file object. Raises TrainingError."""
    try:
        with written_whole(path) as partial, partial.open("wb") as file:
            write(file)
    except (OSError, RuntimeError) as error:
        # torch.save raises an error of its own when it is to end a file that it could not write.
        reasons = [e.strerror for e in chain_of(error) if isinstance(e, OSError) and e.strerror]
        reason = reasons[-1] if reasons else one_line(error)
        raise TrainingError(f"cannot write {path} ({reason})") from error


def write_weights(
    path: Path, network: SSD, spec: ModelSpec, dtype: torch.dtype | None = None
) -> None:
    """Write a weights file that defines its model, whole or not at all; ``dtype`` converts.

    Raises TrainingError.
    """
    partial = path
    try:
        with written_whole(path) as partial:
            save_checkpoint(network, partial, spec, dtype)
    except (CheckpointError, OSError) as error:
        raise TrainingError(str(error).replace(str(partial), str(path))) from error


def _check_same(settings: Mapping[str, Any], saved: Mapping[str, Any], folder: Path) -> None:
    """Raise TrainingError, naming what differs, unless both are the settings of one run."""
    changed = []
    for name in sorted({*settings, *saved}):
        before, now = saved.get(name), settings.get(name)
        if before == now:
            continue
        option = "lr" if name == "learning_rate" else name
        changed.append(DIGESTS.get(name, f"{option} was {before}, is {now}"))
    if changed:
        raise TrainingError(
            f"cannot resume the run in {folder}: {'; '.join(changed)}: give what it began with, or "
            "start again with --overwrite"
        )
