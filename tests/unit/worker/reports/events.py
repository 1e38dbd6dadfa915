"""Events of a recording or a camera, for reports."""

from datetime import UTC, datetime, timedelta

from tests.events import PERSON, camera_event, detections_event
from worker.events import Detection

CAR = Detection(label="Car", class_id=5, score=0.5, box=(0.6, 0.2, 0.8, 0.4))
BEGIN = datetime(2026, 11, 27, 12, tzinfo=UTC)
DIGEST = "ab" * 32


def changed(event, seconds=None, **data):
    update = {"data": event.data.model_copy(update=data)}
    if seconds is not None:
        update["time"] = BEGIN + timedelta(seconds=seconds)
    return event.model_copy(update=update)


def recorded(index, *detections, camera_id="clip", digest=DIGEST, **data):
    """A frame of a replay at 10 frames a second."""
    event = detections_event(
        camera_id, epoch=0, seq=index, mode="replay", detections=tuple(detections)
    )
    return changed(event.model_copy(update={"id": f"{digest}/{index}"}), **data)


def end_of_recording(seq, *, camera_id="clip", reason="end_of_file", detail="", digest=DIGEST):
    event = camera_event(camera_id, epoch=0, seq=seq, mode="replay", state="ended", reason=reason)
    event = event.model_copy(update={"id": f"{digest}/ended"})
    return changed(event, frames=seq, detail=detail)


def seen(seq, seconds, index, *detections, epoch=1, **data):
    """A frame of a live camera."""
    event = detections_event(epoch=epoch, seq=seq, detections=tuple(detections) or (PERSON,))
    return changed(event, seconds, frame_index=index, **data)


def state(seq, seconds, name, reason, *, epoch=1, **data):
    return changed(camera_event(epoch=epoch, seq=seq, state=name, reason=reason), seconds, **data)
