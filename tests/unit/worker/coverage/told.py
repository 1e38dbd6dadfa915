"""A camera's events at given seconds, and its intervals in the same seconds."""

from datetime import UTC, datetime, timedelta

from tests.events import camera_event, detections_event
from worker.coverage import intervals

T0 = datetime(2026, 11, 20, 3, tzinfo=UTC)
EPOCH = round(T0.timestamp() * 1000)


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def seconds_of(time):
    return round((time - T0).total_seconds(), 3)


def epoch_at(seconds):
    """That of a connection made then."""
    return EPOCH + round(seconds * 1000)


def _event(event, seconds, published, **data):
    event = event.model_copy(
        update={"time": at(seconds), "data": event.data.model_copy(update=data)}
    )
    if published is not None:
        event._place = ("stream", f"{EPOCH + round(published * 1000)}-{event.data.seq}")
    return event


def state(
    seconds, state="up", reason="heartbeat", *, epoch=EPOCH, seq=0, frames=0, dropped=0,
    published=None,
):  # fmt: skip
    event = camera_event(epoch=epoch, seq=seq, state=state, reason=reason)
    return _event(event, seconds, published, frames=frames, dropped=dropped)


def frame(
    seconds, *, epoch=EPOCH, seq, index=None, skipped=0, dropped=0, clock="arrival",
    published=None,
):  # fmt: skip
    event = detections_event(epoch=epoch, seq=seq)
    index = seq - 1 if index is None else index
    data = {"frame_index": index, "skipped": skipped, "dropped": dropped, "clock": clock}
    return _event(event, seconds, published, **data)


def frames(start, end, *, epoch=EPOCH, seq=1, **options):
    """One a second."""
    return [frame(t, epoch=epoch, seq=seq + n, **options) for n, t in enumerate(range(start, end))]


def found(events, start=None, end=None):
    """The intervals of the only camera."""
    start, end = (None if t is None else at(t) for t in (start, end))
    (only,) = intervals(events, start=start, end=end).values()
    return only


def told(events, start=None, end=None):
    """[(from second, to second, state, reason)] of the only camera."""
    return [
        (seconds_of(i.start), seconds_of(i.end), i.state, i.reason)
        for i in found(events, start, end)
    ]
