"""Keeps user names and passwords inside the process.

Takes URLs as they were typed and gives what may be shown of them: scheme, host and port. ``hide``
remembers the secrets of a URL for the life of the process, and ``redact`` takes them out of any
text: the last net under error messages, logs, tracebacks and the process title. Knows neither
cameras nor Redis, and reads nothing.
"""

import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

REDACTED = "***"
LEAST_LENGTH = 6
"""A shorter password is taken out with its URL only: on its own it may be any word of a log."""
SECRET_OPTIONS = ("password", "ssl_password", "username")
"""Options of a Redis URL that are shown to nobody."""
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)
NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""Stands in a URL for a secret, and is none."""
LOGIN = re.compile(r"://(?!USER:PASSWORD@)[^\s'\"]*@")
"""User and password of a URL that nobody named before; the messages' own example stays."""
HOW_TO_WRITE = "write @ : / # ? % [ ] in its user and password as %40 %3A %2F %23 %3F %25 %5B %5D"

_hidden: dict[str, str] = {}


def split_url(url: str) -> SplitResult:
    """The parts of a URL. Raises ValueError, without its text, if its host may be another.

    An ``@`` behind the host may be what is left of a password with a ``/`` in it: then the "host"
    is the password's beginning, and would be shown, and asked of a name server.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.netloc and "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("it is not clear which is its host")
    return parts


def shown(url: str) -> str:
    """A URL as it may be shown: path and options may hold passwords too."""
    scheme = url.partition("://")[0]
    try:
        parts = split_url(url)
    except ValueError:
        return f"{scheme}://..."
    if scheme == "unix":
        return f"{scheme}://{parts.path}"
    port = f":{parts.port}" if parts.port else ""
    return f"{scheme}://{parts.hostname or '...'}{port}"


def shown_argument(argument: str) -> str:
    """One argument of a command line, with what may be shown of the URL in it."""
    url = URL.search(argument)
    if url:
        return argument[: url.start()] + shown(url.group())
    if "@" not in argument:
        return argument
    name, equals, _ = argument.partition("=")  # most likely a URL whose scheme was forgotten
    return f"{name}=..." if equals and "@" not in name else "..."


def hide(text: str) -> None:
    """Let ``redact`` take the URL in a text, if there is one, and its secrets out from now on."""
    found = URL.search(text)
    if found is None:
        return
    url = found.group()
    _hidden[url] = shown(url)
    login, at, _ = url.partition("://")[2].rpartition("@")
    if at:
        _hidden[f"{login}@"] = f"{REDACTED}@"
        hide_value(login.partition(":")[2])
    try:
        options = parse_qsl(urlsplit(url).query)
    except ValueError:
        return
    for name, value in options:
        if name in SECRET_OPTIONS:
            hide_value(value)


def hide_value(secret: str) -> None:
    """Let ``redact`` take out a password, as it is and as it stands in a URL."""
    plain = unquote(secret)
    for form in (secret, plain, quote(plain, safe="")):
        if len(form) >= LEAST_LENGTH and not NAME.fullmatch(form):
            _hidden[form] = REDACTED


def redact(text: str) -> str:
    """The text without anything that was hidden, and without logins in any other URL."""
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
