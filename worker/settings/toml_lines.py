"""TOML with line numbers, so that what is wrong in a file can be found in it.

Takes a file or its text; gives what tomllib reads in it, and the line of every key. Knows nothing
of settings.

No maintained library has line numbers in its public interface (tomlkit keeps the layout without
them), so the text is cut into statements here: tomllib has accepted it by then, and only strings,
comments and brackets decide where a statement ends. The keys of a statement, however they are
written (quoted, dotted, in an inline table), are read by tomllib itself.
"""

import re
import tomllib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOKEN = re.compile(
    r'''
      """(?:\\.|[^\\])*?"{3,5}    # up to two quotes may stand before the closing three
    | \'\'\'.*?\'{3,5}
    | "(?:\\.|[^"\\])*"
    | '[^']*'
    | \#[^\n]*
    | [\[\]{}\n]
    ''',
    re.VERBOSE | re.DOTALL,
)
WHERE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
"""How tomllib ends its messages."""
TWICE = re.compile(r"Cannot (declare|mutate|redefine|overwrite) |Duplicate ")
"""How it begins those about keys, which it quotes: a URL in the wrong place is a key."""

Key = tuple[str, ...]


class TomlError(ValueError):
    """The text is not TOML, or the file cannot be read. Quotes nothing from it."""

    def __init__(self, message: str, line: int | None) -> None:
        """``line``: counted from 1, if it is known."""
        super().__init__(message)
        self.line = line


class Document:
    """The content of a TOML file, and the lines that its keys are on."""

    def __init__(self, text: str) -> None:
        """Raises TomlError."""
        self.content = _parse(text)
        self._text = text
        self._lines: dict[Key, int] | None = None

    def line(self, *key: str) -> int | None:
        """The line where a key, or else the closest table around it, appears first.

        None if the file has none of them.
        """
        if self._lines is None:
            self._lines = _lines_of_keys(self._text)
        for length in range(len(key), 0, -1):
            if key[:length] in self._lines:
                return self._lines[key[:length]]
        return None


def read(path: Path) -> Document:
    """The content of a file. Raises TomlError, even if it cannot be read."""
    try:
        content = path.read_bytes()
        return Document(content.decode())
    except UnicodeDecodeError as error:
        raise TomlError("not UTF-8 text", content.count(b"\n", 0, error.start) + 1) from error
    except OSError as error:
        raise TomlError(error.strerror or "cannot be read", None) from error


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = WHERE.search(message)
        line = None
        if where is not None:
            message = message[: where.start()]
            line = int(where[1]) if where[1] else text.rstrip("\n").count("\n") + 1
        if TWICE.match(message):
            message = "a table or key is given twice"
        raise TomlError(f"not TOML: {message[0].lower()}{message[1:]}", line) from error
    except RecursionError as error:
        raise TomlError("brackets are nested too deeply", None) from error
    except ValueError as error:  # Python's limit on the digits of a number
        raise TomlError("a number has too many digits", None) from error


def _lines_of_keys(text: str) -> dict[Key, int]:
    lines: dict[Key, int] = {}
    table: Key = ()
    for line, statement in _statements(text):
        content = tomllib.loads(statement)
        keys = list(_keys(content))
        if statement.lstrip().startswith("["):
            table = keys[-1]
        else:
            keys = [(*table, *key) for key in keys]
        for key in keys:
            lines.setdefault(key, line)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each table header, and each key with its value, with the line that it begins on."""
    start = depth = 0
    line = first_line = 1
    for token in TOKEN.finditer(text + "\n"):
        if token[0] in ("[", "{"):
            depth += 1
        elif token[0] in ("]", "}"):
            depth -= 1
        line += token[0].count("\n")
        if token[0] == "\n" and depth == 0:
            yield first_line, text[start : token.end()]
            start, first_line = token.end(), line


def _keys(content: dict[str, Any]) -> Iterator[Key]:
    """Every key of nested tables, outer ones first. Not recursive: dotted keys nest any depth."""
    waiting: deque[tuple[Key, dict[str, Any]]] = deque([((), content)])
    while waiting:
        above, table = waiting.popleft()
        for name, value in table.items():
            yield (*above, name)
            if isinstance(value, dict):
                waiting.append(((*above, name), value))
