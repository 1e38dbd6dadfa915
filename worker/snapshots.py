"""Snapshots: a camera's picture as a JPEG for people to look at, which says what it shows.

A leaf: the value that goes from source to sink, and how readers get it back. What a picture shows
stands in the JPEG itself, as compact JSON in its comment (COM), so that neither can be taken for
that of another moment. Knows neither how pictures are made nor where they are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

# Markers of ITU-T T.81, table B.1.
START_OF_IMAGE = b"\xff\xd8"
COMMENT, START_OF_SCAN, END_OF_IMAGE = 0xFE, 0xDA, 0xD9
STANDALONE = {0x01, *range(0xD0, 0xD9)}
"""TEM, RST0 to RST7 and SOI: markers without a length."""


class SnapshotInfo(BaseModel):
    """Which picture a snapshot shows."""

    model_config = ConfigDict(frozen=True)

    camera_id: str
    epoch: int = Field(ge=0)
    frame_index: int = Field(ge=0)
    """With ``epoch``: as in the event of the frame, if it has one."""
    time: AwareDatetime
    """When the picture was captured, UTC."""
    blurred: bool = False

    def to_json(self) -> str:
        """Compact JSON."""
        return self.model_dump_json()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One picture of a camera."""

    info: SnapshotInfo
    jpeg: bytes = field(repr=False)
    """Its comment holds ``info``."""
    captured_monotonic: float
    """When it was captured, by the monotonic clock."""
    period_seconds: float = 1.0
    """When the camera's next one may be expected."""


def read_snapshot(data: bytes) -> tuple[SnapshotInfo, bytes]:
    """What a stored snapshot shows, and its JPEG.

    Raises ValueError for anything else than a JPEG with such a comment.
    """
    for comment in _comments(data):
        try:
            return SnapshotInfo.model_validate_json(comment), data
        except ValidationError:  # somebody else's comment
            continue
    raise ValueError("not a snapshot: expected a JPEG whose comment says what it shows")


def _comments(jpeg: bytes) -> Iterator[bytes]:
    """The comments in front of a JPEG's scan."""
    position = len(START_OF_IMAGE) if jpeg.startswith(START_OF_IMAGE) else len(jpeg)
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        marker = jpeg[position + 1]
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            return
        if marker == 0xFF or marker in STANDALONE:  # 0xFF: fill before a marker
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker == COMMENT:
            yield jpeg[position + 4 : position + 2 + length]
        position += 2 + max(length, 2)
