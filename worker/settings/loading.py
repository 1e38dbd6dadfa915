"""Reading settings: flags, ``SSD_WORKER_*`` variables and the ``--config`` file.

Order of precedence: flag, variable, file, default. Opens nothing but the TOML file.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from worker.errors import UsageError
from worker.settings.fields import COMMANDS, ENV_PREFIX, Settings

_S = TypeVar("_S", bound=Settings)


def load_settings(settings_class: type[_S], command: str, arguments: list[str]) -> _S:
    """Settings of a command from its arguments, the environment and the TOML file.

    Raises UsageError in one line. ``--help`` prints and exits with 0.
    """
    try:
        return _load_settings(settings_class, command, arguments)
    except UsageError as error:  # what it quotes may have line breaks of any kind in it
        raise UsageError(" ".join(str(error).split())) from error


def _load_settings(settings_class: type[_S], command: str, arguments: list[str]) -> _S:
    variables = [value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)]
    if not all(map(_is_utf_8, arguments + variables)):
        # Events, keys and outputs are UTF-8: better now than in the middle of a run.
        raise UsageError("an argument or variable is not UTF-8 text: rename the file that it names")
    from_file = _read_toml(settings_class, _config_path(arguments))

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
            return (init_settings, env_settings, InitSettingsSource(settings_cls, from_file))

    try:
        source: Any = CliSettingsSource(WithFile, formatter_class=_HelpFormatter)
        settings: _S = CliApp.run(WithFile, cli_args=arguments, cli_settings_source=source)
    except ValidationError as error:
        raise UsageError(_first_line(error)) from None
    except SettingsError as error:
        message = str(error.__cause__ or error).removeprefix("error parsing CLI: ")
        raise UsageError(f"{message} (see ssd-worker {command} --help)") from None
    return settings


class _HelpFormatter(argparse.HelpFormatter):
    """Names values in a user's words instead of Python's, and leaves empty defaults out."""

    METAVARS = {
        "str": "TEXT",
        "int": "N",
        "float": "NUMBER",
        "Path": "PATH",
        "list[str]": "NAMES",
        "SOURCES": "SOURCE",
        "PATHS": "PATH",
        "CAMERAS": "CAMERA",
    }

    def _metavar_formatter(
        self, action: argparse.Action, default_metavar: str
    ) -> Callable[[int], tuple[str, ...]]:
        if isinstance(action.metavar, str):
            action.metavar = self.METAVARS.get(action.metavar, action.metavar)
        return super()._metavar_formatter(action, default_metavar)

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        return re.sub(r" ?\(default: (None|False|\[\])\)", "", text)


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


def _read_toml(settings_class: type[Settings], path: Path | None) -> dict[str, Any]:
    """The keys of the file that the command has; keys that no command has are an error."""
    if path is None:
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: {error}") from error
    every_key = {name for command in COMMANDS.values() for name in command.model_fields}
    unknown = sorted(set(content) - every_key)
    if unknown:
        raise UsageError(f"--config {path}: unknown setting {', '.join(unknown)}")
    return {name: value for name, value in content.items() if name in settings_class.model_fields}


def _first_line(error: ValidationError) -> str:
    """The first thing wrong, named by its flag; the value is left out, it may hold a password."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    shown = "--from" if name == "start" else f"--{name.replace('_', '-')}"
    if name in ("sources", "paths", "cameras"):
        shown = name.upper()
    return f"{shown}: {message[0].lower()}{message[1:]}"
