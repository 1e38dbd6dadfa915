"""Reading settings: flags, ``SSD_WORKER_*`` variables and the ``--config`` file.

Order of precedence: flag, variable, file, default. Opens no file but that of ``--config``.
"""

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from worker.errors import UsageError
from worker.secrecy.redaction import redact_argument
from worker.settings.base import ENV_PREFIX, Settings
from worker.settings.coverage import CoverageSettings
from worker.settings.fields import COMMANDS, CamerasSettings, RunSettings, SubscribeSettings
from worker.settings.toml_lines import TomlError, read

SEVERAL = ("sources", "paths", "ids", "data", "checkpoints", "reported")
"""Fields that are lists of URLs and file names, which may contain any character."""

NAME_CAMERAS = (SubscribeSettings, CoverageSettings)
"""Commands whose ``cameras`` are ids, and not the file of cameras."""

_S = TypeVar("_S", bound=Settings)


def load_settings(settings_class: type[_S], command: str, arguments: list[str]) -> _S:
    """The settings of a command, from its arguments, the environment and the TOML file.

    Raises UsageError in one line. ``--help`` prints the help and exits with 0.
    """
    try:
        return _load_settings(settings_class, command, arguments)
    except UsageError as error:  # a quoted value may contain line breaks of any kind
        raise UsageError(" ".join(str(error).split())) from error


def _load_settings(settings_class: type[_S], command: str, arguments: list[str]) -> _S:
    variables = [value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)]
    if not all(map(_is_utf_8, arguments + variables)):
        # Events, keys and outputs are UTF-8: better to fail now than in the middle of a run.
        raise UsageError("an argument or variable is not UTF-8 text: rename the file that it names")
    content = _read_toml(_config_path(arguments))
    from_file = {
        name: value for name, value in content.items() if _is_for(settings_class, name, value)
    }

    class WithFile(settings_class):  # type: ignore[valid-type, misc]
        __doc__ = settings_class.__doc__
        model_config = SettingsConfigDict(cli_prog_name=f"ssd-worker {command}")

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            environment = _Environment(settings_cls)
            if settings_class in NAME_CAMERAS:
                # The variable names the file of `run`, not the cameras to subscribe to.
                environment.env_vars = _without_cameras(environment.env_vars)
            return (init_settings, environment, InitSettingsSource(settings_cls, from_file))

    try:
        formatter = _CamerasHelp if settings_class is CamerasSettings else _HelpFormatter
        source: Any = _CommandLine(WithFile, formatter_class=formatter)
        settings: _S = CliApp.run(WithFile, cli_args=arguments, cli_settings_source=source)
    except ValidationError as error:
        raise UsageError(_first_line(settings_class, error)) from None
    except SettingsError as error:
        message = str(error.__cause__ or error).removeprefix("error parsing CLI: ")
        raise UsageError(f"{message} (see ssd-worker {command} --help)") from None
    _check_that_cameras_are_named(settings, content)
    return settings


def _check_that_cameras_are_named(settings: Settings, content: dict[str, Any]) -> None:
    """Raises UsageError if a command that needs cameras has neither any nor a file of them."""
    if not isinstance(settings, RunSettings | CamerasSettings) or settings.cameras is not None:
        return
    tables = content.get("cameras")
    if isinstance(tables, dict) and tables:
        return
    if isinstance(settings, CamerasSettings):
        raise UsageError(
            "no cameras to check: give FILE, or --config FILE with [cameras.ID] tables"
        )
    if not settings.sources:
        raise UsageError(
            "no cameras to watch: give SOURCE, such as rtsp://HOST/PATH, or --cameras FILE"
        )


def _without_cameras(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    cameras = f"{ENV_PREFIX}cameras".lower()
    return {name: value for name, value in variables.items() if name.lower() != cameras}


class _Environment(EnvSettingsSource):
    """Takes a variable of sources as a JSON list of them or, if it is none, as one source."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if field_name not in SEVERAL or not isinstance(value, str):
            return super().decode_complex_value(field_name, field, value)
        with suppress(ValueError, RecursionError):
            listed = json.loads(value)
            if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
                return listed
        return [value] if value else []


class _CommandLine(CliSettingsSource[Any]):
    """Takes sources and paths as they were typed.

    pydantic-settings reads each value of a list as JSON or as several values separated by commas,
    but file names and URLs may contain commas, brackets and quotes.
    """

    def _merge_parsed_list(self, parsed_list: list[str], field_name: str) -> str:
        if field_name in SEVERAL:
            return json.dumps(parsed_list)
        return super()._merge_parsed_list(parsed_list, field_name)


class _HelpFormatter(argparse.HelpFormatter):
    """Names values in a user's words instead of Python's, and omits empty defaults."""

    METAVARS = {
        "str": "TEXT",
        "int": "N",
        "float": "NUMBER",
        "Path": "PATH",
        "list[str]": "NAMES",
        "SOURCES": "SOURCE",
        "PATHS": "PATH",
        "CAMERAS": "CAMERA",
        "IDS": "ID",
        "REPORTED": "SOURCE",
        "CHECKPOINTS": "WEIGHTS",
        "ACTION": "list|purge",
    }

    def _metavar_formatter(
        self, action: argparse.Action, default_metavar: str
    ) -> Callable[[int], tuple[str, ...]]:
        if isinstance(action.metavar, str):
            action.metavar = self.METAVARS.get(action.metavar, action.metavar)
        return super()._metavar_formatter(action, default_metavar)

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        return re.sub(r" ?\(default: (None|False|\[\]|\0|)\)", "", text)


class _CamerasHelp(_HelpFormatter):
    """Of the command whose cameras are a file."""

    METAVARS = _HelpFormatter.METAVARS | {"CAMERAS": "FILE"}


def _is_utf_8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _config_path(arguments: list[str]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        known, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return None  # `--config` without a file: the full parser says so
    path = known.config or os.environ.get(f"{ENV_PREFIX}CONFIG")
    return Path(path) if path else None


def _read_toml(path: Path | None) -> dict[str, Any]:
    """The content of the file. Raises UsageError for a key that no command has."""
    if path is None:
        return {}
    try:
        content = read(path).content
    except TomlError as error:
        where = f"{path}:{error.line}" if error.line is not None else path
        raise UsageError(f"--config {where}: {error}") from error
    every_key = {name for command in COMMANDS.values() for name in command.model_fields}
    unknown = sorted(set(content) - every_key)
    if unknown:
        raise UsageError(
            f"--config {path}: unknown setting {', '.join(map(redact_argument, unknown))}"
        )
    for key, value in content.items():
        if isinstance(value, str) and "\0" in value:
            raise UsageError(f"--config {path}: {key} contains a NUL character: remove it")
    return content


def _is_for(settings_class: type[Settings], name: str, value: Any) -> bool:
    """Whether a command takes this key of a file that commands share.

    ``cameras`` is one key for three things: the file of `run` (text), cameras with settings of
    their own (tables, read in ``worker.settings.cameras``), and what consumers read (a list).
    """
    if name == "cameras" and isinstance(value, dict):
        return False
    if name == "cameras" and isinstance(value, list) != (settings_class in NAME_CAMERAS):
        return False
    return name in settings_class.model_fields


IN_WORDS = {
    "start": "start, new or the id of an entry, such as 1767225600000-0",
    "key_prefix": "letters, digits, '.', '_' and '-'",
}
"""What the pattern of a field means."""


def _first_line(settings_class: type[Settings], error: ValidationError) -> str:
    """The first error, named by its flag; the value is left out, as it may hold a password."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        message = f"use {IN_WORDS[str(first['loc'][0])]}"
    if not first["loc"]:
        return message
    return f"{_flag(settings_class, str(first['loc'][0]))}: {message[0].lower()}{message[1:]}"


def _flag(settings_class: type[Settings], name: str) -> str:
    """A field as it is typed: its flag, or the name that the help gives a positional argument."""
    if name in (*SEVERAL, "action") or (name == "cameras" and settings_class is not RunSettings):
        return "FILE" if settings_class is CamerasSettings else name.upper()
    kebab = name.replace("_", "-")
    shortcut = (settings_class.model_config.get("cli_shortcuts") or {}).get(kebab, kebab)
    return f"--{shortcut}"
