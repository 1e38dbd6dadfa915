"""Events for tests, as the worker makes them."""

from datetime import UTC, datetime

from worker.events import (
    CameraData,
    CameraEvent,
    Detection,
    DetectionsData,
    DetectionsEvent,
    ModelInfo,
)

MODEL = ModelInfo(name="ssd_mobilenet_v2_oid", digest="sha256:00")
PERSON = Detection(label="Person", class_id=4, score=0.9, box=(0.1, 0.2, 0.3, 0.4))


def detections_event(camera_id="gate", *, epoch=1, seq=0, mode="live", detections=(PERSON,)):
    return DetectionsEvent(
        id=f"{camera_id}/{epoch}/{seq}",
        source=f"ssd-worker/{camera_id}",
        time=datetime(2026, 1, 1, tzinfo=UTC) if mode == "live" else None,
        data=DetectionsData(
            camera_id=camera_id, mode=mode, epoch=epoch, seq=seq, frame_index=seq, pts=seq,
            time_base="1/10", pts_seconds=seq / 10, clock="arrival", width=768, height=576,
            skipped=0, dropped=0, model=MODEL, detections=detections,
        ),
    )  # fmt: skip


def camera_event(camera_id="gate", *, epoch=1, seq=0, mode="live", state="up", reason="connected"):
    return CameraEvent(
        id=f"{camera_id}/{epoch}/{seq}",
        source=f"ssd-worker/{camera_id}",
        time=datetime(2026, 1, 1, tzinfo=UTC) if mode == "live" else None,
        data=CameraData(
            camera_id=camera_id, mode=mode, epoch=epoch, seq=seq, state=state, reason=reason,
            frames=0, dropped=0,
        ),
    )  # fmt: skip
