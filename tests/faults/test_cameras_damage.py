"""What is lost on the way: a picture that shows something older in places says so."""

import time

import av
import numpy as np
import pytest

from tests.conftest import wait_until
from tests.faults.numbered_camera import NumberedCamera, frame_of, number_in, numbered_clip
from tests.faults.watching import SIZE, Watch
from tests.http_cameras import Camera, head
from worker.sources.conversion import PictureConverter

PICTURE_SIZE = 480, 640
RATE = 25
GOP = 64
LOST = range(150, 190, 6)
"""Packets of several pictures in a row, one of which others are made from."""
VISIBLE = 0.3
"""Mean difference from which a picture is not the one that was sent, in levels of 255."""


@pytest.fixture(
    scope="module",
    params=[0, pytest.param(2, marks=pytest.mark.long)],
    ids=["no B-frames", "B-frames"],
)
def clip(request):
    return numbered_clip(PICTURE_SIZE, GOP, request.param, moving=True)


@pytest.fixture(scope="module")
def sent(clip):
    """The image of each picture of the clip."""
    convert = PictureConverter(SIZE).convert
    decoder = av.CodecContext.create("h264", "r")
    units = (b"".join(b"\0\0\0\1" + nal for nal in unit) for unit in clip.clip.units)
    found = [image for unit in units for image in decoder.decode(av.Packet(unit))]
    return [convert(image).astype(int) for image in [*found, *decoder.decode(None)]]


def is_as_sent(frame, sent):
    image = sent[number_in(frame.image, PICTURE_SIZE)]
    return np.abs(frame.image - image).mean() < VISIBLE


def frames_with_loss(clip, is_lost, seconds):
    camera = NumberedCamera(clip, is_lost=is_lost)
    camera.transports = ("udp",)
    with camera, Watch(camera.url) as watch:
        frames = watch.wait_for_frames(seconds * RATE)
        assert watch.downs() == []
    return frames


@pytest.mark.long
def test_a_picture_that_lost_packets_is_damaged_and_so_are_those_made_from_it(clip, sent):
    frames = frames_with_loss(clip, lambda sequence: sequence in LOST, 2 * GOP // RATE + 1)
    as_sent = [is_as_sent(frame, sent) for frame in frames]
    assert 10 < as_sent.count(False) <= GOP
    passed_on = [f for f, right in zip(frames, as_sent, strict=True) if not right and not f.damaged]
    # Pictures between two others are shown before the damaged one that they are made from.
    assert len(passed_on) <= clip.reordered * 2
    first = next(index for index, frame in enumerate(frames) if frame.damaged)
    assert not any(frame.damaged for frame in frames[first + GOP :])


def test_without_loss_no_picture_is_damaged(clip, sent):
    frames = frames_with_loss(clip, lambda sequence: False, 2)
    assert all(is_as_sent(frame, sent) for frame in frames)
    assert not any(frame.damaged for frame in frames)


@pytest.mark.parametrize(
    "codec",
    [
        "libx264",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("libx265", "mpeg2video")),
    ],
)
@pytest.mark.long
def test_a_hole_in_a_transport_stream_damages_pictures(codec, tmp_path):
    """Over HTTP, which is in order: the hole was there before it, as with SRT or UDP."""
    content = transport_stream(codec, tmp_path / "x.ts")
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    hole = next(
        at for at in range(len(packets) * 2 // 5, len(packets)) if not packets[at][1] & 0x40
    )
    del packets[hole : hole + 3]

    def play(connection, _):
        connection.sendall(head("video/mp2t"))
        began = time.monotonic()
        for at, packet in enumerate(packets):
            connection.sendall(packet)
            due = began + at / len(packets) * 10
            time.sleep(max(due - time.monotonic(), 0))

    with Camera(play) as camera, Watch(camera.url) as watch:
        wait_until(lambda: any(frame.damaged for frame in watch.frames()), 30, "the damage")
        assert not any(frame.damaged for frame in watch.frames()[:20])
        wait_until(lambda: not watch.frames()[-1].damaged, 10, "the next key frame")


def transport_stream(codec, path):
    with av.open(path, "w", format="mpegts") as container:
        stream = container.add_stream(codec, RATE)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        stream.gop_size, stream.max_b_frames = 50, 0
        if codec.startswith("libx"):
            stream.options = {"preset": "ultrafast", "x265-params": "log-level=none:scenecut=0"}
        for number in range(10 * RATE):
            container.mux(stream.encode(frame_of(number, (240, 320), moving=True)))
        container.mux(stream.encode(None))
    return path.read_bytes()
