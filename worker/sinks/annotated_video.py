"""Annotated video: the analysed frames of a recording with their detections drawn, as H.264 MP4.

Made after the replay, from the finished journal and a second pass over the recording, so it holds
every analysed frame once even if the replay was killed and resumed. Frames keep their pts.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import supervision as sv

from ssd_core.cores import usable_cores
from worker.errors import SinkError
from worker.events import Detection, DetectionsEvent, Event
from worker.sinks.files import complete_or_absent

# Visually lossless enough for looking at boxes, and about ten times faster than x264's default.
X264_OPTIONS = {"preset": "veryfast", "crf": "23"}

RGBImage = Any
"""(H, W, 3) uint8 array."""


def write_annotated(
    frames: Iterable[tuple[int, RGBImage]],
    events: Iterable[Event],
    target: Path,
    rate: Fraction,
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Draw each event on its frame and write ``target``, which appears when complete.

    ``frames`` yields (frame_index, RGB image) for every frame of the recording, in order. ``rate``
    is the recording's average frame rate, used for events without pts. Raises SinkError if the file
    cannot be written.
    """
    analysed = (event for event in events if isinstance(event, DetectionsEvent))
    try:
        with complete_or_absent(target) as path, av.open(_as_file(path), "w") as container:
            stream: Any = None
            annotate: Any = None
            next_pts = _RisingPts(rate)
            for event, image in _paired(frames, analysed):
                if stream is None:
                    stream, annotate = _open_stream(container, image, event, rate), Annotator(image)
                picture = av.VideoFrame.from_ndarray(
                    annotate(image, event.data.detections), format="rgb24"
                )
                time_base = stream.codec_context.time_base
                picture.pts, picture.time_base = next_pts(event.data.pts, time_base), time_base
                container.mux(stream.encode(picture))
                on_frame()
            if stream is not None:
                container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise SinkError(f"cannot write {target}: {error.strerror}") from error


def _as_file(path: Path) -> str:
    """As FFmpeg takes it for a file: a relative name with a colon in it would be a URL."""
    return str(path) if path.is_absolute() else f"./{path}"


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
    """Timestamps for a muxer: the recording's, shifted if they restart, made up if missing."""

    def __init__(self, rate: Fraction) -> None:
        self._rate = rate
        self._offset = 0
        self._last: int | None = None

    def __call__(self, pts: int | None, time_base: Fraction) -> int:
        if self._last is None:
            self._last = pts or 0
            return self._last
        following = self._last + max(1, round(1 / self._rate / time_base))
        if pts is None:
            self._last = following
        else:
            if pts + self._offset <= self._last:
                self._offset = following - pts
            self._last = pts + self._offset
        return self._last


def _text_style(height: int, width: int) -> tuple[float, int, int]:
    """Text scale, thickness and padding: readable from 320 px to 4K."""
    shorter = min(height, width)
    return max(0.35, shorter / 1400), max(1, round(shorter / 900)), max(2, round(shorter / 250))


def _paired(
    frames: Iterable[tuple[int, RGBImage]], events: Iterator[DetectionsEvent]
) -> Iterator[tuple[DetectionsEvent, RGBImage]]:
    """Each event with the image of its frame; frames that were not analysed are skipped."""
    event = next(events, None)
    for frame_index, image in frames:
        if event is not None and frame_index == event.data.frame_index:
            yield event, image
            event = next(events, None)
        if event is None:  # stop here: decoding the next frame may be what ended the replay
            return


def _open_stream(container: Any, image: RGBImage, event: DetectionsEvent, rate: Fraction) -> Any:
    height, width = image.shape[:2]
    stream = container.add_stream("libx264", rate=rate, options=X264_OPTIONS)
    stream.width, stream.height, stream.pix_fmt = width - width % 2, height - height % 2, "yuv420p"
    stream.codec_context.time_base = (
        Fraction(event.data.time_base) if event.data.pts is not None else 1 / rate
    )
    stream.codec_context.thread_count = usable_cores()
    return stream
