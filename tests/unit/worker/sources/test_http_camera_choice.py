"""Whether FFmpeg or ImageStream reads a camera, by what became of each; both are the test's."""

import errno
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from av.error import (
    ConnectionRefusedError as RefusedError,
    ExitError,
    InvalidDataError,
    OSError as FFmpegOSError,
)

from tests.clocks import Clock
from tests.unit.worker.sources.scripted_camera import Reader
from worker.sources import http_camera
from worker.sources.http_camera import LONGEST_AHEAD_SECONDS, HttpCamera
from worker.sources.image_stream import NoImagesError
from worker.sources.limits import Limits
from worker.sources.liveness import OPEN_SECONDS, READ_GRACE_SECONDS
from worker.sources.opening import FormatRefused
from worker.sources.reasons import SILENCE_SECONDS, ConnectionLost

URL = "http://camera/x"
LIMITS = Limits(max_streams=3)
TIMEOUTS = (10.0, 3.5)
INVALID = InvalidDataError(1, "invalid")
ENDED = FFmpegOSError(errno.EIO, "ended")
REFUSED = RefusedError(errno.ECONNREFUSED, "refused")
TIMED_OUT = ExitError(1, "timed out")


class Container:
    """What FFmpeg has opened. ``packets``: their sizes; seconds that pass as floats; errors."""

    def __init__(self, clock, name="mpegts", packets=()):
        self.format = SimpleNamespace(name=name)
        self._clock, self._packets = clock, packets
        self.is_open = True

    def demux(self):
        for packet in self._packets:
            if isinstance(packet, Exception):
                raise packet
            if isinstance(packet, float):
                self._clock.now += packet
            else:
                yield SimpleNamespace(size=packet)


class Images:
    """In the place of an ImageStream."""

    def __init__(self, script, connect, limits, **options):
        self.connect, self.limits, self.options = connect, limits, options
        self._script = script
        self.frozen = None
        self.is_open = False

    def begin(self, frozen):
        self.began_with = frozen
        error = self._script.images_error
        self.is_open = True
        if error is not None:
            raise error

    def close(self):
        self.is_open = False


class Script:
    """What the camera does next."""

    def __init__(self, monkeypatch):
        self.clock = Clock()
        self.seconds = 0.0
        """How long FFmpeg takes to open it."""
        self.name, self.packets = "mpegts", ()
        self.error = self.images_error = None
        self.asked = []
        """Who was, and in the end which of them."""
        self.ffmpeg = self.images = None
        monkeypatch.setattr(http_camera, "time", self.clock)
        monkeypatch.setattr(http_camera, "open_camera", self._open_camera)
        monkeypatch.setattr(http_camera, "ImageStream", self._image_stream)

    @contextmanager
    def _open_camera(self, *arguments, **options):
        self.asked.append("ffmpeg")
        self.arguments = arguments, options
        self.clock.now += self.seconds
        if self.error is not None:
            raise self.error
        self.ffmpeg = Container(self.clock, self.name, self.packets)
        yield self.ffmpeg
        self.ffmpeg.is_open = False

    def _image_stream(self, *arguments, **options):
        self.asked.append("images")
        self.images = Images(self, *arguments, **options)
        return self.images


@pytest.fixture
def script(monkeypatch):
    return Script(monkeypatch)


@pytest.fixture
def camera():
    return HttpCamera(URL, LIMITS, fps=None)


def opening(camera, reader=None, **options):
    return camera.open({"a": "b"}, reader or Reader(), timeout_seconds=TIMEOUTS, **options)


def asked(script, camera):
    """Who is asked by one connection."""
    script.asked = []
    with opening(camera):
        pass
    return script.asked


def test_what_ffmpeg_reads_takes_one_connection(script, camera):
    with opening(camera, allow_playlists=True, gpu=1) as container:
        assert container is script.ffmpeg
        assert container.is_open
    assert script.arguments == (
        (URL, {"a": "b"}, LIMITS),
        {"timeout_seconds": TIMEOUTS, "allow_playlists": True, "gpu": 1},
    )  # fmt: skip
    assert not script.ffmpeg.is_open
    assert script.asked == ["ffmpeg"]
    assert asked(script, camera) == ["ffmpeg"]


@pytest.mark.parametrize("name", ["jpeg_pipe", "mjpeg"])
def test_what_holds_pictures_back_is_read_as_images_from_then_on(script, camera, name):
    script.name = name
    reader = Reader()
    with opening(camera, reader) as container:
        assert container is script.images
        assert container.is_open
        assert not script.ffmpeg.is_open
    assert not script.images.is_open
    assert script.asked == ["ffmpeg", "images"]
    assert reader.signs == [2 * OPEN_SECONDS + READ_GRACE_SECONDS]
    assert asked(script, camera) == ["images"]


@pytest.mark.parametrize(("fps", "interval"), [(None, 1.0), (4.0, 0.25), (0.5, 2.0)])
def test_images_are_read_as_the_camera_is_set(script, monkeypatch, fps, interval):
    script.name = "mjpeg"
    reader = Reader()
    with opening(HttpCamera(URL, LIMITS, fps), reader) as images:
        assert images.limits is LIMITS
        assert images.options["interval_seconds"] == interval
        assert images.options["timeout_seconds"] == TIMEOUTS
        assert not images.options["is_stopped"]()
        reader.is_stopped = True
        assert images.options["is_stopped"]()
        monkeypatch.setattr(http_camera, "open_bytes", lambda *given, **named: (given, named))
        opened = images.connect((1.0, 2.0))
    assert opened == ((URL, {"a": "b"}, LIMITS), {"timeout_seconds": (1.0, 2.0)})


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (FormatRefused("x"), 0.0),
        (FormatRefused("x"), OPEN_SECONDS),
        (INVALID, 0.0),
        (INVALID, SILENCE_SECONDS - 0.5),
        (ENDED, SILENCE_SECONDS - 0.5),
        (TIMED_OUT, OPEN_SECONDS),
    ],
)
def test_where_bytes_arrived_that_ffmpeg_gave_up_images_are_tried(script, camera, error, seconds):
    script.error, script.seconds = error, seconds
    with opening(camera) as container:
        assert container is script.images
    assert script.asked == ["ffmpeg", "images"]
    assert asked(script, camera) == ["images"]


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (INVALID, SILENCE_SECONDS),
        (ENDED, SILENCE_SECONDS),
        (TIMED_OUT, OPEN_SECONDS - 0.5),
        (REFUSED, 0.0),
        (REFUSED, OPEN_SECONDS),
        (ConnectionLost("stall", "x"), 0.0),
    ],
)
def test_where_nothing_arrived_the_error_is_the_reason(script, camera, error, seconds):
    script.error, script.seconds = error, seconds
    with pytest.raises(type(error)), opening(camera):
        pass
    assert script.asked == ["ffmpeg"]


@pytest.mark.parametrize("error", [INVALID, FormatRefused("x")])
def test_an_answer_without_images_has_the_reason_that_ffmpeg_gave(script, camera, error):
    script.error, script.images_error = error, NoImagesError()
    with pytest.raises(type(error)) as raised, opening(camera):
        pass
    assert raised.value is error
    script.error = None
    assert asked(script, camera) == ["ffmpeg"]


def test_an_image_that_ffmpeg_took_for_one_and_that_is_none_is_named(script, camera):
    script.name, script.images_error = "mjpeg", NoImagesError()
    with pytest.raises(FormatRefused, match="no whole picture arrived"), opening(camera):
        pass


@pytest.mark.parametrize(("error", "first"), [(INVALID, "images"), (ENDED, "ffmpeg")])
def test_a_camera_that_refuses_a_second_connection_right_away_is_read_by_the_next(
    script, camera, error, first
):
    script.error, script.images_error = error, REFUSED
    with pytest.raises(RefusedError), opening(camera):
        pass
    script.error = script.images_error = None
    assert asked(script, camera) == [first]


def test_a_camera_that_has_no_images_any_more_is_read_by_ffmpeg_at_once(script, camera):
    script.name = "mjpeg"
    assert asked(script, camera) == ["ffmpeg", "images"]
    script.name, script.images_error = "mpegts", NoImagesError()
    script.asked = []
    with opening(camera) as container:
        assert container is script.ffmpeg
    assert script.asked == ["images", "ffmpeg"]
    script.images_error = None
    assert asked(script, camera) == ["ffmpeg"]


def test_a_frozen_picture_is_known_to_the_next_connection(script, camera):
    script.name = "mjpeg"
    with opening(camera) as images:
        assert images.began_with is None
        images.frozen = b"frozen"
    with opening(camera) as images:
        assert images.began_with == b"frozen"
    with opening(camera) as images:
        assert images.began_with is None


def test_a_multipart_stream_that_ffmpeg_reads_loses_no_packet(script, camera):
    script.name, script.packets = "mpjpeg", (1, 2, 3, 4)
    with opening(camera) as container:
        assert container.is_open
        assert container.format.name == "mpjpeg"
        assert [packet.size for packet in container.demux()] == [1, 2, 3, 4]
    assert not script.ffmpeg.is_open
    assert script.asked == ["ffmpeg"]


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [(LONGEST_AHEAD_SECONDS, [1, 2, 3]), (LONGEST_AHEAD_SECONDS + 0.5, [2, 3])],
)
def test_a_picture_that_waited_too_long_for_the_second_is_left_out(script, camera, seconds, sizes):
    script.name, script.packets = "mpjpeg", (1, seconds, 2, 3)
    with opening(camera) as container:
        assert [packet.size for packet in container.demux()] == sizes


@pytest.mark.parametrize(
    "packets",
    [(INVALID,), (1, INVALID), (1, ENDED), (1,), (1, 0), (0, 1), (ENDED,), ()],
    ids=["no header", "no second header", "an end", "one", "one and nothing", "nothing and one",
         "an end at once", "none"],
)  # fmt: skip
def test_a_multipart_stream_that_ffmpeg_cannot_read_is_read_as_images(script, camera, packets):
    script.name, script.packets = "mpjpeg", packets
    assert asked(script, camera) == ["ffmpeg", "images"]
    assert not script.ffmpeg.is_open


def test_why_a_multipart_stream_was_refused_is_said(script, camera):
    script.name, script.images_error = "mpjpeg", NoImagesError()
    script.packets = (1, INVALID)
    with pytest.raises(FormatRefused, match="its multipart headers cannot be read"):
        asked(script, camera)
    script.packets = (1, ENDED)
    with pytest.raises(FormatRefused, match="its only picture cannot be read"):
        asked(script, camera)
    script.packets = (ENDED,)
    with pytest.raises(FFmpegOSError, match="ended"):
        asked(script, camera)


@pytest.mark.parametrize("packets", [(REFUSED,), (1, REFUSED)])
def test_other_errors_of_a_multipart_stream_are_raised(script, camera, packets):
    script.name, script.packets = "mpjpeg", packets
    with pytest.raises(RefusedError):
        asked(script, camera)
    assert script.asked == ["ffmpeg"]


@pytest.mark.parametrize(("error", "first"), [(INVALID, "images"), (ENDED, "ffmpeg")])
def test_a_header_that_cannot_be_read_later_is_raised_and_then_images_are_read(
    script, camera, error, first
):
    script.name, script.packets = "mpjpeg", (1, 2, 3, error)
    with pytest.raises(type(error)), opening(camera) as container:
        list(container.demux())
    assert asked(script, camera) == [first]
