"""How log lines look: as text for people, or one JSON object each, with the same fields.

Every line goes through ``redact``. A line that concerns one camera begins with ``camera ID: `` as
text and has its id in the field ``camera`` as JSON, which is taken from the arguments of the line
(``log.info("camera %s: up", camera_id)``), or from one of them that knows its camera, as errors do.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from worker.secrecy.redaction import redact

OF_CAMERA = "camera %s"
"""How the text of a line about one camera begins; its first argument is the id."""


class TextFormatter(logging.Formatter):
    """Time, level and message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One line, or several with a traceback."""
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """time, level, logger, message; camera and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object in one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        camera_id = camera_of(record)
        if camera_id is not None:
            line["camera"] = redact(camera_id)
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line)


def camera_of(record: logging.LogRecord) -> str | None:
    """The id of the camera that a line is about; None if it is about none, or several."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    if arguments and str(record.msg).startswith(OF_CAMERA):
        return str(arguments[0])
    of_arguments = (getattr(argument, "camera_id", None) for argument in arguments)
    return next((camera_id for camera_id in of_arguments if isinstance(camera_id, str)), None)


def set_up_logging(level: str, *, as_json: bool) -> None:
    """Log what this program says to stderr, from ``level`` on, and what libraries warn of."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    # Warnings and errors of libraries: Python's own handler would bypass the formatter.
    logging.lastResort = handler
    for package in ("worker", "ssd_core"):
        root = logging.getLogger(package)
        root.handlers[:] = [handler]
        root.setLevel(level.upper())
        root.propagate = False
