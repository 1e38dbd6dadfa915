"""Names in braces, in the URLs of cameras and of Redis: placeholders for secrets kept elsewhere.

``rtsp://{GATE_USER}:{GATE_PASSWORD}@camera.local/stream`` takes both from ``--secrets``, a TOML
file of names or a directory with one file per name (as Docker, Kubernetes and systemd provide), or
else from the environment, and percent-encodes them, so that they may contain any character. Braces
have no other meaning in a URL, and shells leave them alone. Errors contain names, never values.
"""

import os
import re
import tomllib
from pathlib import Path
from urllib.parse import quote

from worker.errors import UsageError
from worker.secrecy.redaction import NAME, hide_value

READABLE_BY_OTHERS = 0o004


def fill_in(text: str, secrets: Path | None) -> str:
    """A URL, or ``CAMERA_ID=URL``, with its names in braces replaced; other text is unchanged.

    Raises UsageError for an unknown name, and if the secrets cannot be read.
    """
    if "://" not in text or not NAME.search(text):
        return text
    known = _read_names(secrets) if secrets is not None and not secrets.is_dir() else {}

    def value(name: re.Match[str]) -> str:
        found = _find(name[1], known, secrets)
        hide_value(found)
        return quote(found, safe="")

    return NAME.sub(value, text)


def fill_in_secret(text: str, secrets: Path | None) -> str:
    """A secret that stands by itself: what a name in braces stands for; other text is unchanged.

    Raises UsageError for an unknown name, and if the secrets cannot be read.
    """
    name = NAME.fullmatch(text)
    if name is None:
        return text
    known = _read_names(secrets) if secrets is not None and not secrets.is_dir() else {}
    found = _find(name[1], known, secrets)
    hide_value(found)
    return found


def _find(name: str, known: dict[str, str], secrets: Path | None) -> str:
    if name in known:
        return known[name]
    if secrets is not None and secrets.is_dir():
        try:
            return (secrets / name).read_text(encoding="utf-8").rstrip("\r\n")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UsageError(f"--secrets {secrets / name}: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"--secrets {secrets / name}: not UTF-8 text") from error
    if name not in os.environ:
        where = f"neither in --secrets {secrets} nor" if secrets is not None else "not"
        raise UsageError(
            f"{{{name}}} is {where} in the environment: set it, or write a literal {{ as %7B"
        )
    return os.environ[name]


def _read_names(path: Path) -> dict[str, str]:
    """The names and values of a TOML file, which others must not be able to read."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & READABLE_BY_OTHERS:
                raise UsageError(f"--secrets {path}: every user can read it: chmod 600 {path}")
            names = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--secrets {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f'--secrets {path}: expected lines of NAME = "TEXT" (TOML)') from error
    for name, value in names.items():
        if not isinstance(value, str):
            raise UsageError(f'--secrets {path}: {name}: expected "TEXT" in quotes')
    return names
