"""What the feed sends to the viewers: one message is one server-sent event.

Its JSON is made once, however many viewers get it.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any


def to_json(value: Any) -> bytes:
    """Compact JSON, ASCII only, so that no line end of any kind is in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def frame(name: str, data: Any) -> bytes:
    """A server-sent event with JSON as its data."""
    return b"event: " + name.encode() + b"\ndata: " + to_json(data) + b"\n\n"


@dataclass(frozen=True)
class Message:
    """One server-sent event."""

    name: str
    """``camera``, ``detections``, ``change``, ``removed``, ``redis`` or ``replays``."""
    camera_id: str | None
    """The camera that it is about; None if it is about all."""
    data: Any

    @cached_property
    def frame(self) -> bytes:
        """As it is sent to a viewer who asked for everything."""
        return frame(self.name, self.data)
