"""A camera that fails on command, and a source that watches it; events for consumers."""

import pytest

from tests.events import detections_event
from tests.faults.rtsp_faults import Camera, Clip
from tests.faults.watching import BUSY_SECONDS, Watch
from worker.sinks.redis_stream import RedisStreamSink

BACK_SECONDS = 5.0
"""After the end of a fault a camera is back at its full rate."""


@pytest.fixture(scope="module")
def clip():
    return Clip.h264()


@pytest.fixture
def camera(clip):
    camera = Camera(clip)
    yield camera
    camera.stop()


@pytest.fixture
def watch(request):
    """Starts to watch a URL."""

    def start(url, **options):
        watch = Watch(url, **options)
        request.addfinalizer(watch.stop)
        return watch

    return start


@pytest.fixture
def assert_back(record_property):
    """Asserts that a camera was back in time, and records how long it took."""

    def assert_back(watch, mended_at, within=BACK_SECONDS):
        seconds = watch.seconds_to_full_rate(mended_at)
        record_property("seconds_to_full_rate", round(seconds, 2))
        assert seconds < within + BUSY_SECONDS

    return assert_back


@pytest.fixture
def publish(redis_server):
    """Publish live events numbered first to last of a camera."""
    sinks = []

    def publish(camera_id, first, last, server=redis_server):
        sinks.append(RedisStreamSink(server.url))
        sinks[-1].publish([detections_event(camera_id, seq=seq) for seq in range(first, last + 1)])

    yield publish
    for sink in sinks:
        sink.close()
