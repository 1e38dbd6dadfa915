"""Snapshots for tests."""

import io
import time
from datetime import UTC, datetime

import numpy as np
from PIL import Image

from worker.snapshots import Snapshot, SnapshotInfo

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def info_of(camera_id="gate", index=0, *, epoch=1, blurred=False):
    return SnapshotInfo(
        camera_id=camera_id, epoch=epoch, frame_index=index, time=NOON, blurred=blurred
    )


def jpeg_with(comment=None, **options):
    """A real JPEG, with and without a comment."""
    if comment is not None:
        options["comment"] = comment
    file = io.BytesIO()
    Image.new("RGB", (16, 8), (90, 120, 30)).save(file, "JPEG", **options)
    return file.getvalue()


def snapshot(camera_id="gate", index=0, *, epoch=1, age_seconds=0.0, now=None, period_seconds=1.0):
    info = info_of(camera_id, index, epoch=epoch)
    now = time.monotonic() if now is None else now
    return Snapshot(info, jpeg_with(info.to_json()), now - age_seconds, period_seconds)


def pixels(jpeg):
    """(H, W, 3) of a JPEG, as floating point."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(float)
