"""Keeps user names and passwords inside the process.

Takes URLs as typed and gives what may be displayed of them: scheme, host and port. ``hide``
remembers the secrets of a URL for the life of the process, and ``redact`` removes them from any
text: the last safety net under error messages, logs, tracebacks and the process title. Knows
neither cameras nor Redis, and reads nothing.
"""

import re
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

REDACTED = "***"
MIN_LENGTH = 6
"""A shorter password is removed with its URL only: on its own it may be any word of a log."""
SECRET_OPTIONS = ("password", "ssl_password", "username")
"""Options of a Redis URL that are secret."""
SECRET_FLAGS = ("--auth-token", "--auth-password")
"""Options of the command line whose values are secrets."""
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)
NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""A placeholder in a URL, and not itself a secret."""
LOGIN = re.compile(r"://(?!USER:PASSWORD@)[^\s'\"]*@")
"""User and password of any URL that was not hidden, except the example in our own messages."""
HOW_TO_WRITE = "write @ : / # ? % [ ] in its user and password as %40 %3A %2F %23 %3F %25 %5B %5D"

_hidden: dict[str, str] = {}


def split_url(url: str) -> SplitResult:
    """The parts of a URL. Raises ValueError, without quoting it, if its host is ambiguous.

    An ``@`` after the host may be the end of a password that contains a ``/``: then the "host" is
    the beginning of the password, and would be displayed, and looked up in DNS.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.netloc and "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("its host is ambiguous")
    return parts


def redact_url(url: str) -> str:
    """The scheme, host and port of a URL: its path and options may contain passwords too."""
    scheme = url.partition("://")[0]
    try:
        parts = split_url(url)
    except ValueError:
        return f"{scheme}://..."
    if scheme == "unix":
        return f"{scheme}://{parts.path}"
    port = f":{parts.port}" if parts.port else ""
    return f"{scheme}://{parts.hostname or '...'}{port}"


def redact_argument(argument: str) -> str:
    """An argument of a command line, with the URL in it redacted."""
    url = URL.search(argument)
    if url:
        return argument[: url.start()] + redact_url(url.group())
    if "@" not in argument:
        return argument
    name, equals, _ = argument.partition("=")  # most likely a URL without its scheme
    return f"{name}=..." if equals and "@" not in name else "..."


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """A command line for others to see; ``redact`` removes its secrets from now on."""
    shown = []
    flag = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if flag in SECRET_FLAGS:
            hide_value(argument)
            shown.append(REDACTED)
        elif name in SECRET_FLAGS and equals:
            hide_value(value)
            shown.append(f"{name}={REDACTED}")
        else:
            shown.append(redact_argument(argument))
        flag = argument
    return shown


def hide(text: str) -> None:
    """Make ``redact`` remove the URL in a text, if any, and its secrets from now on."""
    found = URL.search(text)
    if found is None:
        return
    url = found.group()
    scheme, separator, rest = url.partition("://")
    for form in (url, scheme.lower() + separator + rest):  # FFmpeg is given the second
        _hidden[form] = redact_url(form)
    login, at, _ = url.partition("://")[2].rpartition("@")
    if at:
        _hidden[f"{login}@"] = f"{REDACTED}@"
        hide_value(login.partition(":")[2])
    try:
        query = urlsplit(url).query
    except ValueError:
        return
    for option in query.split("&"):
        name, _, value = option.partition("=")
        if name in SECRET_OPTIONS:
            hide_value(value)
            hide_value(value.replace("+", " "))  # what a + means among options


def hide_value(secret: str) -> None:
    """Make ``redact`` remove a password, plain and percent-encoded."""
    plain = unquote(secret)
    for form in (secret, plain, quote(plain, safe="")):
        if len(form) >= MIN_LENGTH and not NAME.fullmatch(form):
            _hidden[form] = REDACTED


def redact(text: str) -> str:
    """The text without anything hidden before, and without logins in any other URL."""
    hidden = _hidden.copy()  # another thread may be hiding more
    for secret in sorted(hidden, key=len, reverse=True):
        text = text.replace(secret, hidden[secret])
    return LOGIN.sub(f"://{REDACTED}@", text)


def redact_tracebacks() -> None:
    """Pass the tracebacks of bugs, in any thread or destructor, through ``redact``."""
    sys.excepthook = _print_redacted

    def print_redacted(caught: Any) -> None:
        _print_redacted(caught.exc_type, caught.exc_value, caught.exc_traceback)

    threading.excepthook = sys.unraisablehook = print_redacted


def _print_redacted(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
