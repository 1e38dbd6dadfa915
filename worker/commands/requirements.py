"""What a command needs, checked before anything slow is loaded: libraries, places to write to."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from worker.errors import UsageError

INSTALL = "pip install 'ssd-worker[train]'"
INSTALL_PLOTS = "pip install 'ssd-worker[plots]'"


def check_libraries(wanted: Mapping[str, str], install: str = INSTALL) -> None:
    """Raise UsageError for the first library that is missing: its import name by what needs it."""
    for what, library in wanted.items():
        if find_spec(library) is None:
            raise UsageError(f"{what} needs {library.replace('_', '-')}: {install}")


def check_place(path: Path, *, may_exist: bool) -> None:
    """Raise UsageError unless a file can be written there. Changes nothing."""
    if path.exists() and not may_exist:
        raise UsageError(f"{path}: exists already: choose another name or give --overwrite")
    if path.is_dir():
        raise UsageError(f"{path}: is a directory: give the name of a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the directory {path.parent} does not exist: create it")
    try:
        _write_to(path.with_name(f".{path.name}.probe"))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot write there ({error.strerror}): choose another place"
        ) from error


def check_directory(option: str, path: Path) -> None:
    """Make the directory of an option; raise UsageError unless files can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        _write_to(path / ".probe")
    except OSError as error:
        raise UsageError(
            f"{option} {path}: cannot write there ({error.strerror}): choose another directory"
        ) from error


def _write_to(probe: Path) -> None:
    probe.touch()
    probe.unlink()
