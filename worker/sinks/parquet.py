"""Parquet output: one row per analysed frame, its detections as a list of structs.

Frames without detections have a row too, which distinguishes "nothing seen" from "not looking".
"""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from worker.events import DetectionsEvent, Event
from worker.sinks.files import complete_or_absent, nothing

ROWS_AT_ONCE = 10_000

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("camera_id", pa.string()),
        ("frame_index", pa.int64()),
        ("file_name", pa.string()),
        ("pts", pa.int64()),
        ("time_base", pa.string()),
        ("pts_seconds", pa.float64()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("skipped", pa.int32()),
        ("model", pa.string()),
        ("model_digest", pa.string()),
        (
            "detections",
            pa.list_(
                pa.struct(
                    [
                        ("label", pa.string()),
                        ("class_id", pa.int32()),
                        ("score", pa.float32()),
                        ("box", pa.list_(pa.float32(), 4)),
                    ]
                )
            ),
        ),
    ]
)


def write_parquet(
    events: Iterable[Event], target: Path, on_complete: Callable[[Path], None] = nothing
) -> None:
    """Write the frames among the events to ``target``, which appears when complete.

    ``on_complete``: see ``complete_or_absent``. Raises SinkError if the file cannot be written.
    """
    rows = (_row(event) for event in events if isinstance(event, DetectionsEvent))
    with (
        complete_or_absent(target, on_complete) as path,
        pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer,
    ):
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=SCHEMA))


def _row(event: DetectionsEvent) -> dict[str, Any]:
    data = event.data
    row = data.model_dump(include=set(SCHEMA.names))
    return row | {
        "id": event.id,
        "time": event.time,
        "model": data.model.name,
        "model_digest": data.model.digest,
    }
