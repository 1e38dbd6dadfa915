"""The cameras of a run, each with its settings: from arguments, ``--config`` and ``--cameras``.

Takes the settings of the command and reads the two files; gives the settings of every camera, with
the general options where its table does not say, or everything that is wrong with the cameras at
once, each with its line. Opens no camera and no recording. Never shows a source: there may be a
password in it.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from worker.errors import UsageError
from worker.secrecy.names import fill_in
from worker.secrecy.redaction import hide, redact, redact_argument
from worker.settings.base import CameraDefaults
from worker.settings.camera_table import Anchor, CameraTable, Polygon, check_table, unknown_key
from worker.settings.fields import COMMANDS, CamerasSettings, RunSettings
from worker.settings.naming import check_camera_id, check_source, parse_sources
from worker.settings.toml_lines import Document, TomlError, read
from worker.sources.opening import PROTOCOLS, scheme_of

log = logging.getLogger(__name__)

RTSP = ("rtsp", "rtsps")


@dataclass(frozen=True)
class CameraSettings:
    """What holds for one camera."""

    camera_id: str
    source: str = field(repr=False)
    """URL or path; names in braces are still in it. Never shown."""
    fps: float | None
    """Analyse at most this many frames per second; None: all."""
    labels: tuple[str, ...] | None
    """Publish only these; None: all."""
    score_threshold: float | None
    """Report detections scoring above this; None: the model's."""
    transport: Literal["auto", "tcp", "udp"]
    ignore: tuple[Polygon, ...]
    """Polygons of at least 3 points (x, y), fractions of the picture, origin top left."""
    anchor: Anchor
    """The point of a box that decides whether it lies in a polygon."""
    snapshots: Literal["off", "on", "blur"] = "off"
    """Whether pictures of it are published, and how."""


@dataclass(frozen=True)
class Problem:
    """Something wrong in a file of cameras."""

    line: int | None
    """Counted from 1; None if it is the whole file."""
    camera_id: str | None
    text: str
    path: Path

    def __str__(self) -> str:
        """One line, without secrets."""
        where = f"{self.path}:{self.line}" if self.line is not None else str(self.path)
        camera = f"camera {self.camera_id}: " if self.camera_id is not None else ""
        return redact(" ".join(f"{where}: {camera}{self.text}".split()))


class CamerasFileError(UsageError):
    """A file of cameras has mistakes: one line about the first, all of them in ``problems``."""

    def __init__(self, problems: tuple[Problem, ...], command: str) -> None:
        """``command`` lists them all."""
        more = len(problems) - 1
        tail = f"; and {more} more: `{' '.join(command.split())}` lists them" if more else ""
        super().__init__(f"{problems[0]}{tail}")
        self.problems = problems


@dataclass
class Inspection:
    """The cameras that can run, and what is wrong with others."""

    cameras: dict[str, CameraSettings] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    """About cameras that can run."""

    def result(self, command: str) -> dict[str, CameraSettings]:
        """The cameras; logs the warnings. Raises CamerasFileError if anything is wrong."""
        if self.problems:
            raise CamerasFileError(tuple(self.problems), command)
        for warning in self.warnings:
            log.warning("%s", warning)
        return self.cameras


def cameras_of(
    settings: RunSettings | CamerasSettings, known_labels: Collection[str] | None
) -> dict[str, CameraSettings]:
    """Every camera of a command: its arguments, the tables of ``--config``, then ``--cameras``.

    ``known_labels``: the model's; None if labels are not to be checked. Raises UsageError for an
    argument, CamerasFileError for what is wrong in the files, an id that is used twice included.
    """
    command = "ssd-worker cameras"
    if settings.cameras is not None:
        command += f" {settings.cameras}"
    if settings.config is not None:
        command += f" --config {settings.config}"
    return inspect_cameras(settings, known_labels).result(command)


def read_cameras(
    path: Path, general: CameraDefaults, known_labels: Collection[str] | None
) -> dict[str, CameraSettings]:
    """The cameras of a ``--cameras`` file. Raises CamerasFileError with all that is wrong in it."""
    inspector = _Inspector(general, known_labels)
    inspector.file(path)
    return inspector.found.result(f"ssd-worker cameras {path}")


def inspect_cameras(
    settings: RunSettings | CamerasSettings, known_labels: Collection[str] | None
) -> Inspection:
    """As ``cameras_of``, but what is wrong in the files is returned instead of raised."""
    inspector = _Inspector(settings, known_labels)
    if isinstance(settings, RunSettings):
        inspector.arguments(settings.sources)
    if settings.config is not None:
        inspector.file(settings.config, has_other_settings=True)
    if settings.cameras is not None:
        inspector.file(settings.cameras)
    return inspector.found


class _Inspector:
    """Collects cameras from one place after another."""

    def __init__(self, general: CameraDefaults, known_labels: Collection[str] | None) -> None:
        self.found = Inspection()
        self._general = general
        self._known_labels = known_labels
        self._places: dict[str, str] = {}
        """Where each camera id was given first, in words."""

    def arguments(self, arguments: list[str]) -> None:
        """Add ``SOURCE`` and ``CAMERA_ID=SOURCE``. Raises UsageError."""
        filled = [fill_in(argument, self._general.secrets) for argument in arguments]
        sources = parse_sources(filled)
        check_sources(sources)
        for given, known, (camera_id, source) in zip(
            arguments, filled, sources.items(), strict=True
        ):
            with_names = given if source == known else given.partition("=")[2]
            self._places[camera_id] = "as a SOURCE"
            self._add(camera_id, CameraTable(source=with_names))

    def file(self, path: Path, *, has_other_settings: bool = False) -> None:
        """Add the cameras of a file. Raises nothing: what is wrong in it is in ``found``."""
        try:
            document = read(path)
        except TomlError as error:
            self.found.problems.append(Problem(error.line, None, str(error), path))
            return
        content = document.content
        tables = content.get("cameras", {})
        problems = []
        if not has_other_settings:
            unknown = (key for key in content if key != "cameras")
            problems += [Problem(document.line(key), None, _not_here(key), path) for key in unknown]
        if isinstance(tables, dict):
            for camera_id, table in tables.items():
                problems += self._table(camera_id, table, document, path)
        elif not has_other_settings:  # there, text names a file, and a list is for `subscribe`
            text = "cameras: expected a table for each camera, such as [cameras.gate]"
            problems.append(Problem(document.line("cameras"), None, text, path))
        self.found.problems += sorted(problems, key=lambda problem: problem.line or 0)

    def _table(self, camera_id: str, table: Any, document: Document, path: Path) -> list[Problem]:
        """Add the camera of a table; returns what is wrong with it instead, if anything is."""
        shown_id = redact_argument(camera_id)
        line = document.line("cameras", camera_id)
        checked, wrong = check_table(table, self._known_labels)
        source = table.get("source") if isinstance(table, dict) else table
        if isinstance(source, str):
            hide(source)
        if isinstance(table, dict) and isinstance(source, str) and source:
            wrong += [("source", f"source: {text}") for text in self._source_problems(source)]
        if camera_id in self._places:
            place = self._places[camera_id]
            wrong.append(("", f"the id is given twice, also {place}: choose another id"))
        problems = [
            Problem(document.line("cameras", camera_id, *filter(None, [key])), shown_id, text, path)
            for key, text in wrong
        ]
        try:
            check_camera_id(camera_id)
        except UsageError as error:
            problems.append(Problem(line, None, str(error), path))
        self._places.setdefault(camera_id, f"in {path}:{line}")
        if checked is not None and not problems:
            for text in self._warnings(checked):
                self.found.warnings.append(Problem(line, camera_id, text, path))
            self._add(camera_id, checked)
        return problems

    def _source_problems(self, source: str) -> list[str]:
        try:
            filled = fill_in(source, self._general.secrets)
            check_source(filled)
            _check_that_it_can_be_opened(filled)
        except UsageError as error:
            return [str(error)]
        return []

    def _warnings(self, table: CameraTable) -> Iterator[str]:
        for other in self.found.cameras.values():
            if other.source == table.source:
                yield f"has the same source as camera {other.camera_id}: both are analysed"
                break
        if table.transport is not None and scheme_of(table.source) not in RTSP:
            yield "transport has no effect: its source is not an rtsp:// URL"

    def _add(self, camera_id: str, table: CameraTable) -> None:
        """Add a camera, with the general options where its table does not say."""
        general = self._general
        labels = table.labels if table.labels is not None else general.labels
        score_threshold = table.score_threshold
        if score_threshold is None:
            score_threshold = general.score_threshold
        self.found.cameras[camera_id] = CameraSettings(
            camera_id=camera_id,
            source=table.source,
            fps=table.fps if table.fps is not None else general.fps,
            labels=tuple(labels) if labels is not None else None,
            score_threshold=score_threshold,
            transport=table.transport or general.transport,
            ignore=tuple(table.ignore),
            anchor=table.anchor,
            snapshots=_snapshots(table, general),
        )


def _snapshots(table: CameraTable, general: CameraDefaults) -> Literal["off", "on", "blur"]:
    """What holds for a camera: only its own table can switch on what is off in general.

    ``true`` does not undo ``--snapshot-blur``.
    """
    wanted = general.snapshots if table.snapshots is None else table.snapshots
    if not wanted:
        return "off"
    return "blur" if wanted == "blur" or general.snapshot_blur else "on"


def _not_here(key: str) -> str:
    """The text about a key of a file of cameras that is not ``cameras``."""
    if any(key in command.model_fields for command in COMMANDS.values()):
        return f"{key} is a general option: move it to the --config file, or into a camera's table"
    return unknown_key(key, ["cameras"])


def check_sources(sources: Mapping[str, str]) -> None:
    """Raise UsageError for the first URL, by camera id, that no camera has, or a missing file."""
    for camera_id, source in sources.items():
        try:
            _check_that_it_can_be_opened(source)
        except UsageError as error:
            shown = f"camera {camera_id}" if "://" in source else source
            raise UsageError(f"{shown}: {error}") from error


def _check_that_it_can_be_opened(source: str) -> None:
    """Raises UsageError for a URL that no camera has, or a file that does not exist."""
    if "://" in source:
        if scheme_of(source) not in PROTOCOLS:
            known = ", ".join(f"{scheme}://" for scheme in PROTOCOLS)
            raise UsageError(f"not the URL of a camera: expected one of {known}")
        return
    try:
        if Path(source).is_dir():
            raise UsageError(
                "is a directory: give a file in it (`ssd-worker replay` analyses its pictures)"
            )
        if not Path(source).exists():
            raise UsageError("no such file (a camera is a URL such as rtsp://HOST/PATH)")
    except OSError as error:
        raise UsageError(f"{error.strerror}") from error
