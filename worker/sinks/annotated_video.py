"""Annotated video: the analysed frames of a recording with their detections drawn, as H.264 MP4.

Made after the replay, from the finished journal and a second pass over the recording, so it holds
every analysed frame once even if the replay was killed and resumed. It begins at 0; frames keep
their distances, the last one its own duration, and pixels their shape.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import supervision as sv
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from ssd_core.cores import usable_cores
from worker.errors import SinkError
from worker.events import Detection, DetectionsEvent, Event
from worker.frames import ShownPicture
from worker.sinks.files import complete_or_absent, nothing

# Visually lossless enough for looking at boxes, and about ten times faster than x264's default.
# Without B-frames, so that MP4, which stores the distances of frames in decoding order, has theirs.
X264_OPTIONS = {"preset": "veryfast", "crf": "23", "bf": "0"}
FINEST_TIME_BASE = Fraction(1, 90_000)
"""Of transport streams; in nanoseconds, MP4 could not show a picture for longer than 2 s."""
LONGEST_TICKS = (1 << 31) - 1
"""How long MP4 can show a picture, in units of the time base: 6.6 h of a transport stream."""
UNSTATED, BT709 = 2, 1
"""Codes of ITU-T H.273 for primaries, transfer and matrix alike."""

RGBImage = Any
"""(H, W, 3) uint8 array."""


def write_annotated(
    frames: Iterable[ShownPicture],
    events: Iterable[Event],
    target: Path,
    rate: Fraction,
    on_frame: Callable[[], None] = lambda: None,
    *,
    pixel_aspect: Fraction = Fraction(1),
    on_complete: Callable[[Path], None] = nothing,
) -> None:
    """Draw each event on its frame and write ``target``, which appears when complete.

    ``frames`` yields every frame of the recording, in order. ``rate`` is the recording's average
    frame rate, used for events without pts. ``pixel_aspect`` is the width of its pixels by their
    height. ``on_complete``: see ``complete_or_absent``. Raises SinkError if the file cannot be
    written.
    """
    analysed = (event for event in events if isinstance(event, DetectionsEvent))
    try:
        with (
            complete_or_absent(target, on_complete) as path,
            av.open(_as_file(path), "w") as container,
        ):
            video: _Video | None = None
            for event, shown in _paired(frames, analysed):
                if video is None:
                    video = _Video(container, shown, event, rate, pixel_aspect)
                video.add(event, shown)
                on_frame()
            if video is not None:
                video.finish()
    except av.error.FFmpegError as error:
        raise SinkError(f"cannot write {target}: {error.strerror}") from error


def _as_file(path: Path) -> str:
    """As FFmpeg takes it for a file: a relative name with a colon in it would be a URL."""
    return str(path) if path.is_absolute() else f"./{path}"


class _Video:
    """The video stream of the output, as large as its first picture."""

    def __init__(
        self,
        container: Any,
        first: ShownPicture,
        event: DetectionsEvent,
        rate: Fraction,
        pixel_aspect: Fraction,
    ) -> None:
        self._container = container
        height, width = first.image.shape[:2]
        self._size = height - height % 2, width - width % 2
        stream = container.add_stream("libx264", rate=rate, options=X264_OPTIONS)
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.thread_count = usable_cores()
        has_pts = event.data.pts is not None
        time_base = Fraction(event.data.time_base) if has_pts else 1 / rate
        codec.time_base = max(time_base, FINEST_TIME_BASE)
        codec.sample_aspect_ratio = pixel_aspect
        # What is tagged is what is written below: without tags players guess by the height.
        codec.colorspace, codec.color_range = BT709, ColorRange.MPEG
        codec.color_primaries = BT709 if first.primaries == UNSTATED else first.primaries
        codec.color_trc = BT709 if first.transfer == UNSTATED else first.transfer
        self._stream = stream
        self._annotate = Annotator(self._fitted(first.image))
        self._reformatter = VideoReformatter()
        self._next_pts = _RisingPts(rate, codec.time_base)
        self._stays: dict[int, int] = {}

    def add(self, event: DetectionsEvent, shown: ShownPicture) -> None:
        """Draw an event on its picture, and append it."""
        time_base = self._stream.codec_context.time_base
        pts = event.data.pts
        if pts is not None:
            pts = round(pts * Fraction(event.data.time_base) / time_base)
        # Drawn before it is fitted: boxes are fractions of the picture itself.
        drawn = self._fitted(self._annotate(shown.image, event.data.detections))
        picture = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(drawn, format="rgb24"),
            self._size[1],
            self._size[0],
            "yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        picture.pts, picture.time_base = self._next_pts(pts), time_base
        if shown.stays_seconds is not None:
            self._stays[picture.pts] = max(1, round(shown.stays_seconds / time_base))
        self._mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._mux(self._stream.encode(None))

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            # The muxer uses it for the last one; the others last until the next.
            packet.duration = self._stays.pop(packet.pts, packet.duration)
            self._container.mux(packet)

    def _fitted(self, image: RGBImage) -> RGBImage:
        """The image in the size of the video, with bars where its shape is another."""
        height, width = image.shape[:2]
        to_height, to_width = self._size
        if abs(height - to_height) <= 1 and abs(width - to_width) <= 1:
            return image
        scale = min(to_height / height, to_width / width)
        new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (to_height - new_height) // 2, (to_width - new_width) // 2
        fitted = np.zeros((to_height, to_width, 3), np.uint8)
        fitted[top : top + new_height, left : left + new_width] = cv2.resize(
            image, (new_width, new_height), interpolation=cv2.INTER_AREA
        )
        return fitted


class Annotator:
    """Draws detections with line widths and text sizes that suit the size of the picture."""

    def __init__(self, image: RGBImage) -> None:
        """Choose widths and sizes for pictures as large as ``image``."""
        height, width = image.shape[:2]
        text_scale, text_thickness, padding = _text_style(height, width)
        self._boxes = sv.BoxAnnotator(
            thickness=sv.calculate_optimal_line_thickness((width, height))
        )
        self._labels = sv.LabelAnnotator(
            text_scale=text_scale,
            text_thickness=text_thickness,
            text_padding=padding,
            text_color=sv.Color.BLACK,
            smart_position=True,
        )

    def __call__(self, image: RGBImage, detections: Iterable[Detection]) -> RGBImage:
        """A copy of (H, W, 3) RGB with the boxes, labels and scores on it."""
        found = list(detections)
        if not found:
            return image
        height, width = image.shape[:2]
        drawn = sv.Detections(
            xyxy=np.array([d.box for d in found]) * [width, height, width, height],
            confidence=np.array([d.score for d in found]),
            class_id=np.array([d.class_id for d in found]),
        )
        # supervision draws in BGR.
        scene = np.ascontiguousarray(image[:, :, ::-1])
        scene = self._boxes.annotate(scene, drawn)
        labels = [f"{d.label} {d.score:.2f}" for d in found]
        return np.ascontiguousarray(self._labels.annotate(scene, drawn, labels)[:, :, ::-1])


class _RisingPts:
    """Timestamps from 0 on: the recording's, shifted if they restart or leap, made up if missing.

    Recordings that were put together may go on with the timestamps of another day.
    """

    def __init__(self, rate: Fraction, time_base: Fraction) -> None:
        self._interval = max(1, round(1 / rate / time_base))
        self._offset = 0
        self._last: int | None = None

    def __call__(self, pts: int | None) -> int:
        if self._last is None:
            self._offset = -(pts or 0)
            self._last = 0
        elif pts is None:
            self._last += self._interval
        else:
            if not 0 < pts + self._offset - self._last <= LONGEST_TICKS:
                self._offset = self._last + self._interval - pts
            self._last = pts + self._offset
        return self._last


def _text_style(height: int, width: int) -> tuple[float, int, int]:
    """Text scale, thickness and padding: readable from 320 px to 4K."""
    shorter = min(height, width)
    return max(0.35, shorter / 1400), max(1, round(shorter / 900)), max(2, round(shorter / 250))


def _paired(
    frames: Iterable[ShownPicture], events: Iterator[DetectionsEvent]
) -> Iterator[tuple[DetectionsEvent, ShownPicture]]:
    """Each event with the picture of its frame; frames that were not analysed are skipped."""
    event = next(events, None)
    for shown in frames:
        if event is not None and shown.frame_index == event.data.frame_index:
            yield event, shown
            event = next(events, None)
        if event is None:  # stop here: decoding the next frame may be what ended the replay
            return
