"""Frames for tests."""

from fractions import Fraction

import numpy as np

from worker.frames import Frame


def frame(camera_id="gate", index=0, *, epoch=1, skipped=0, dropped=0, pts=None, snapshot=None):
    return Frame(
        camera_id=camera_id,
        epoch=epoch,
        frame_index=index,
        pts=index if pts is None else pts,
        time_base=Fraction(1, 10),
        captured_at=None,
        clock="arrival",
        width=768,
        height=576,
        image=np.full((4, 4, 3), index % 256, dtype=np.uint8),
        skipped=skipped,
        dropped=dropped,
        snapshot=snapshot,
    )
