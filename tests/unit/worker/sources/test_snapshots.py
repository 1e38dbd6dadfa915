"""Snapshots of real decoded pictures; the time is the test's."""

import io
import logging
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.error import FFmpegError
from PIL import Image

from tests.clips import cut, pictures
from tests.clocks import Clock
from tests.conftest import WALKWAY
from tests.frames import frame
from tests.snapshots import NOON, pixels
from worker.frames import Frame
from worker.snapshots import read_snapshot
from worker.sources import snapshots
from worker.sources.capabilities import claim_gpu
from worker.sources.live import LiveSource
from worker.sources.orientation import UPRIGHT, Orientation
from worker.sources.snapshots import (
    BLURRED_PX,
    SnapshotMaker,
    SnapshotSettings,
    blurred_size,
    scaled_size,
)


@pytest.fixture(scope="module")
def picture():
    """768 x 576."""
    return next(pictures(WALKWAY, 1))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(snapshots, "time", clock)
    return clock


def live_frame(index=0, *, damaged=False, width=768, height=576):
    return replace(
        frame("gate", index, epoch=7),
        captured_at=NOON,
        captured_monotonic=123.0,
        damaged=damaged,
        width=width,
        height=height,
    )


def of_image(image):
    """A picture with these pixels, as a decoder gives it."""
    made = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24").reformat(
        format="yuv444p"
    )
    made.time_base = Fraction(1, 25)
    return made


def snapshot_of(picture, orientation=UPRIGHT, **settings):
    height, width = orientation.upright_size(picture.height, picture.width)
    maker = SnapshotMaker(SnapshotSettings(**settings))
    return maker.of(live_frame(width=width, height=height), picture, orientation)


def test_a_snapshot_shows_the_picture_and_says_which_one(picture):
    made = snapshot_of(picture, width_px=1920)
    assert (made.info.camera_id, made.info.epoch, made.info.frame_index) == ("gate", 7, 0)
    assert (made.info.time, made.info.blurred, made.captured_monotonic) == (NOON, False, 123.0)
    assert read_snapshot(made.jpeg) == (made.info, made.jpeg)
    expected = picture.to_ndarray(format="rgb24").astype(float)
    assert pixels(made.jpeg).shape == expected.shape
    assert abs(pixels(made.jpeg) - expected).mean() < 5


def test_a_snapshot_carries_nothing_but_its_comment(picture):
    image = Image.open(io.BytesIO(snapshot_of(picture).jpeg))
    assert not image.getexif()
    assert {*image.info} <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "comment"}


@pytest.mark.parametrize(
    ("size", "width", "expected"),
    [
        ((576, 768), 640, (480, 640)),
        ((1080, 1920), 640, (360, 640)),
        ((2160, 3840), 1920, (1080, 1920)),
        ((3840, 2160), 640, (1138, 640)),
        ((100, 200), 640, (100, 200)),
        ((100, 640), 640, (100, 640)),
        ((1, 8000), 640, (1, 640)),
    ],
)
def test_a_picture_keeps_its_proportions_and_is_never_enlarged(size, width, expected):
    assert scaled_size(*size, width) == expected


def test_a_picture_is_scaled_to_the_width_asked_for(picture):
    assert pixels(snapshot_of(picture, width_px=320).jpeg).shape == (240, 320, 3)


@pytest.mark.parametrize("orientation", [Orientation(1), Orientation(2), Orientation(3, True)])
def test_a_turned_picture_is_upright(picture, orientation):
    made = pixels(snapshot_of(picture, orientation, width_px=320).jpeg)
    width = 427 if orientation.quarter_turns % 2 else 320
    plain = pixels(snapshot_of(picture, width_px=width).jpeg)
    expected = orientation.upright(plain)
    assert made.shape == expected.shape
    assert abs(made - expected).mean() < 5


def test_a_picture_of_another_size_is_scaled_anew(picture, clock):
    maker = SnapshotMaker(SnapshotSettings(width_px=64))
    small = of_image(np.zeros((40, 80, 3), np.uint8))
    assert pixels(maker.of(live_frame(), picture, UPRIGHT).jpeg).shape == (48, 64, 3)
    clock.now += 1
    made = maker.of(live_frame(1, width=80, height=40), small, UPRIGHT)
    assert pixels(made.jpeg).shape == (32, 64, 3)


@pytest.mark.parametrize(("seconds", "fps", "expected"), [(1, 25, 10), (1, 12, 10), (2.5, 25, 4)])
def test_there_is_one_snapshot_in_each_period(clock, seconds, fps, expected):
    maker = SnapshotMaker(SnapshotSettings(seconds))
    dot = of_image(np.zeros((2, 2, 3), np.uint8))
    at = []
    for index in range(10 * fps):
        if maker.of(live_frame(index, width=2, height=2), dot, UPRIGHT):
            at.append(clock.now)
        clock.now += 1 / fps
    assert len(at) == expected
    assert np.diff(at) == pytest.approx(seconds, abs=1 / fps)


def test_a_damaged_picture_gives_none_and_the_next_whole_one_does(picture, clock):
    maker = SnapshotMaker(SnapshotSettings())
    assert maker.of(live_frame(0, damaged=True), picture, UPRIGHT) is None
    clock.now += 0.04
    assert maker.of(live_frame(1), picture, UPRIGHT).info.frame_index == 1


@pytest.mark.parametrize(
    ("seconds", "fps", "period"), [(1, None, 1), (1, 5, 1), (1, 0.05, 20), (60, 0.05, 60)]
)
def test_a_snapshot_says_when_the_next_may_be_expected(picture, seconds, fps, period):
    maker = SnapshotMaker(SnapshotSettings(seconds), fps=fps)
    assert maker.of(live_frame(), picture, UPRIGHT).period_seconds == period


@pytest.mark.parametrize("unknown", ["captured_at", "captured_monotonic"])
def test_a_frame_of_which_nobody_knows_the_time_gives_none(picture, unknown):
    maker = SnapshotMaker(SnapshotSettings())
    assert maker.of(replace(live_frame(), **{unknown: None}), picture, UPRIGHT) is None
    assert maker.of(live_frame(), picture, UPRIGHT) is not None


def test_pictures_of_one_size_share_the_tables_of_one_scaler(picture, clock, monkeypatch):
    made = []
    monkeypatch.setattr(snapshots, "PictureConverter", lambda size: made.append(size) or Scaler())
    maker = SnapshotMaker(SnapshotSettings())
    for index, size in enumerate([(576, 768), (576, 768), (288, 352), (576, 768)]):
        maker.of(live_frame(index, height=size[0], width=size[1]), picture, UPRIGHT)
        clock.now += 1
    assert made == [(480, 640), (288, 352), (480, 640)]


class Scaler:
    def convert(self, picture, orientation):
        return np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "error", [ValueError("no"), OSError("no"), MemoryError("no"), FFmpegError(1, "no")]
)
def test_a_picture_that_cannot_be_converted_is_one_log_line(
    clock, caplog, monkeypatch, picture, error
):
    def refuse(*_, **__):
        raise error

    maker = SnapshotMaker(SnapshotSettings())
    monkeypatch.setattr(snapshots, "encoded", refuse)
    with caplog.at_level(logging.WARNING):
        for index in range(3):
            assert maker.of(live_frame(index), picture, UPRIGHT) is None
            clock.now += 1
    assert caplog.messages == [f"camera gate: cannot make a snapshot of its pictures: {error}"]


@pytest.mark.cuda
def test_a_picture_decoded_on_a_gpu_gives_the_snapshot_that_one_on_the_cpu_gives(tmp_path):
    if reason := claim_gpu(0):
        pytest.skip(f"no CUDA decoder: {reason}")
    clip = cut(WALKWAY, tmp_path / "clip.mp4", frames=3)
    made = []
    for gpu in (None, 0):
        source = LiveSource("gate", str(clip), (300, 300), iter([7]).__next__, as_planes=True,
                            gpu=gpu, snapshots=SnapshotSettings())  # fmt: skip
        frame = next(item for item in source if isinstance(item, Frame))
        source.stop()
        made.append(pixels(frame.snapshot.jpeg))
    assert made[0].shape == (480, 640, 3)
    assert abs(made[1] - made[0]).mean() < 1


def striped(size, period, colour=(255, 255, 255)):
    """Stripes of that period: text, a face or a plate is of such detail."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    image[:, np.arange(width) % period < period // 2] = colour
    return image


@pytest.mark.parametrize("size", [(360, 640), (1080, 1920), (640, 360), (72, 96)])
def test_nothing_that_is_small_in_a_picture_is_left_in_a_blurred_one(size):
    detail = max(size) // BLURRED_PX // 4 // 2 * 2 or 2
    sharp = pixels(snapshot_of(of_image(striped(size, detail))).jpeg)
    made = snapshot_of(of_image(striped(size, detail)), blur=True)
    blurred = pixels(made.jpeg)
    assert made.info.blurred
    assert blurred.shape == sharp.shape
    assert sharp.std() > 30
    assert blurred.std() < 12
    assert abs(blurred.mean() - sharp.mean()) < 5


def test_a_blurred_picture_holds_no_more_than_its_few_pixels(picture):
    made = pixels(snapshot_of(picture, blur=True).jpeg).astype(np.uint8)
    height, width = blurred_size(*made.shape[:2])
    assert (height, width) == (12, 16)
    image = Image.fromarray(made)
    again = image.resize((width, height), Image.Resampling.BOX).resize(
        image.size, Image.Resampling.BILINEAR
    )
    # From so few pixels nearly the same picture can be made: more was not in it.
    assert abs(np.asarray(again).astype(float) - made).mean() < 4
    sharp = pixels(snapshot_of(picture).jpeg)
    assert abs(sharp - made).mean() > 12


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((360, 640), (9, 16)),
        ((640, 360), (16, 9)),
        ((48, 64), (6, 8)),
        ((4, 4), (1, 1)),
        ((1, 640), (1, 16)),
        ((640, 1), (16, 1)),
    ],
)
def test_a_small_picture_is_blurred_too(size, expected):
    assert blurred_size(*size) == expected
