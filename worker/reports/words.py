"""Numbers and times of a report in words, for its page and its plots."""

from datetime import UTC, datetime

from worker.events import DetectionsEvent
from worker.reports.camera import CameraSum
from worker.reports.pictures import ShownFrame

SHORT_SECONDS = 600
"""Times of which the minutes tell too little."""


def moment(camera: CameraSum, at: float, *, exact: bool = False) -> str:
    """A point of a camera's time: a date, a position in a recording, or the number of a frame.

    No longer than it takes to tell it from others; exact: to the second, or a tenth of it.
    """
    if not camera.is_replay:
        timeline = camera.timeline
        is_short = timeline.end - timeline.start < SHORT_SECONDS
        is_a_day = date(timeline.start, "%j") == date(timeline.end - timeline.width, "%j")
        form = "%H:%M:%S" if exact or is_short else "%H:%M"
        return date(at, form if is_a_day else f"%Y-%m-%d {form}")
    if camera.counts_frames:
        return f"picture {at:,.0f}"
    return position(at, exact=exact)


def date(at: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Seconds since 1970 in UTC."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime(form)
    except (OverflowError, OSError, ValueError):
        return "beyond all years"


def position(seconds: float, *, exact: bool = False) -> str:
    """A position in a recording: 0:04, 1:02:33; exact: with tenths."""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    tenths = round(seconds * 10) if exact else int(seconds) * 10
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    end = f"{rest / 10:04.1f}" if exact else f"{rest // 10:02d}"
    return f"{sign}{hours}:{minutes:02d}:{end}" if hours else f"{sign}{minutes}:{end}"


def duration(seconds: float) -> str:
    """How long something took: 0.4 s, 12 s, 3 min 20 s, 5 h 7 min, 3 d 4 h."""
    if seconds < 10:
        return f"{round(seconds, 1):g} s"
    for (unit, length), (smaller, part) in (
        (("d", 86400), ("h", 3600)),
        (("h", 3600), ("min", 60)),
        (("min", 60), ("s", 1)),
    ):
        if seconds >= length:
            rest = int(seconds % length // part)
            whole = f"{seconds // length:,.0f} {unit}"
            return f"{whole} {rest} {smaller}" if rest else whole
    return f"{seconds:.0f} s"


def width_of_bins(camera: CameraSum) -> str:
    """Over how much one point of a chart is."""
    width = camera.timeline.width
    return f"{width:,.0f} pictures" if camera.counts_frames else duration(width)


def number(value: float) -> str:
    """A mean or maximum with as many digits as say something."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def detections_of(event: DetectionsEvent, most: int = 12) -> str:
    """What was detected in a frame, best first."""
    found = event.data.detections
    names = ", ".join(f"{each.label} {each.score:.2f}" for each in found[:most])
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"{names}{more}" if found else "nothing detected"


def place(frame: ShownFrame) -> str:
    """Which frame it is."""
    event = frame.event
    if event is None or event.data.mode == "live":
        time = frame.captured_at or (event and event.time)
        return f"snapshot of {date(time.timestamp())} UTC" if time else "snapshot"
    data = event.data
    if data.file_name is not None:
        return data.file_name
    at = "" if data.pts_seconds is None else f" at {position(data.pts_seconds, exact=True)}"
    return f"frame {data.frame_index:,}{at}"


def caption(frame: ShownFrame) -> str:
    """Which frame it is, and what was detected in it."""
    said = "no event has its boxes" if frame.event is None else detections_of(frame.event)
    name = place(frame)
    return f"{name[0].upper()}{name[1:]}: {said}"
