"""Images of a real HTTP server, read in a thread of their own as a connection does."""

import threading

import pytest

from tests.conftest import wait_until
from tests.http_cameras import Camera, head, snapshots, still_images
from worker.sources.image_stream import ImageStream, NoImagesError, interrupting
from worker.sources.limits import Limits
from worker.sources.opening import open_bytes


@pytest.fixture(scope="module")
def images():
    return still_images(3)


def image_stream(camera, **options):
    def connect(timeout_seconds):
        return open_bytes(camera.url, {}, Limits(), timeout_seconds=timeout_seconds)

    return ImageStream(
        connect, Limits(), timeout_seconds=(5, 3.5), **{"is_stopped": lambda: False} | options
    )


@pytest.mark.parametrize("how", ["interrupted", "stopped"])
def test_whoever_waits_for_the_next_snapshot_is_not_waited_for(images, how):
    stopped = threading.Event()
    with Camera(snapshots(images)) as camera:
        stream = image_stream(camera, interval_seconds=1000, is_stopped=stopped.is_set)
        stream.begin()
        packets = []
        reader = threading.Thread(target=lambda: packets.extend(stream.demux()), daemon=True)
        with interrupting(stream if how == "interrupted" else None):
            reader.start()
            wait_until(lambda: len(camera.requests) == 1 and reader.is_alive(), what="the start")
        if how == "stopped":
            stopped.set()
        reader.join(10)
        assert not reader.is_alive()
        stream.close()
    assert len(packets) == 1


def test_packets_are_decoded_by_streams_with_the_limits(images):
    with Camera(snapshots(images)) as camera:
        stream = image_stream(camera, interval_seconds=0.01)
        stream.begin()
        packets = stream.demux()
        pictures = [next(packets).decode()[0] for _ in range(3)]
        assert stream.streams.video[0].codec_context.name == "mjpeg"
        packets.close()
        stream.close()
    assert [(picture.width, picture.height) for picture in pictures] == [(160, 120)] * 3
    assert [picture.pts for picture in pictures] == sorted({picture.pts for picture in pictures})


def test_an_answer_without_images_is_said_to_have_none():
    def answer(connection, _request):
        connection.sendall(head("text/plain") + b"x" * (1 << 20))

    with Camera(answer) as camera, pytest.raises(NoImagesError):
        image_stream(camera, interval_seconds=1).begin()
