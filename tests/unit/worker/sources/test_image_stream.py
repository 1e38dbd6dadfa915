"""Images of a real HTTP server, read in a thread of their own as a connection does."""

import errno
import threading
from contextlib import contextmanager

import av
import pytest
from av.error import FFmpegError, OSError as FFmpegOSError

from tests.clocks import Clock
from tests.conftest import wait_until
from tests.http_cameras import Camera, head, snapshots, still_images
from worker.sources import image_stream as module
from worker.sources.image_stream import (
    FROZEN_POLLS,
    FROZEN_SECONDS,
    LONGEST_PREAMBLE_BYTES,
    TIME_BASE,
    ImageStream,
    NoImagesError,
    interrupting,
)
from worker.sources.limits import Limits, OverLimit
from worker.sources.opening import open_bytes, open_image
from worker.sources.reasons import ConnectionLost


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


OPEN, SILENCE, INTERVAL = 9.0, 4.0, 2.0


class Script:
    """Answers piece by piece: bytes, an error to raise, or seconds until the next piece."""

    def __init__(self, monkeypatch):
        self.clock = Clock()
        self.connects = []
        """When each was, and with which timeouts."""
        self.answers = []
        self.open = 0
        self.is_stopped = False
        monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(module, "wait_until", self._wait_until)

    def _wait_until(self, due, is_over):
        if not is_over():
            self.clock.now = max(self.clock.now, due)
        return not is_over()

    @contextmanager
    def connect(self, timeout_seconds):
        self.connects.append((self.clock.now - 1000.0, timeout_seconds))
        pieces = self.answers.pop(0)
        self.open += 1
        try:
            yield Answer(self.clock, pieces)
        finally:
            self.open -= 1

    def stream(self, *answers, interval_seconds=INTERVAL, limits=None):
        self.answers = list(answers)
        return ImageStream(
            self.connect,
            limits or Limits(),
            interval_seconds=interval_seconds,
            timeout_seconds=(OPEN, SILENCE),
            is_stopped=lambda: self.is_stopped,
        )


class Answer:
    def __init__(self, clock, pieces):
        self._clock, self._pieces = clock, pieces

    def demux(self):
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                yield av.Packet(piece)
            else:
                self._clock.now += piece


@pytest.fixture
def script(monkeypatch):
    return Script(monkeypatch)


def ends(number=errno.EIO):
    return FFmpegOSError(number, "x")


def contents(packets):
    return [bytes(packet) for packet in packets]


def test_an_answer_of_several_images_is_read_to_its_end(script, images):
    stream = script.stream([images[0], 0.5, images[1][:100], 0.25, images[1][100:], images[2]])
    stream.begin()
    assert script.connects == [(0.0, (OPEN, SILENCE))]
    packets = list(stream.demux())
    assert contents(packets) == images
    assert [float(packet.pts * TIME_BASE) for packet in packets] == [0.0, 0.75, 0.75]
    assert [packet.dts for packet in packets] == [packet.pts for packet in packets]
    assert {packet.time_base for packet in packets} == {TIME_BASE}
    assert all(packet.is_keyframe for packet in packets)
    assert {packet.stream.type for packet in packets} == {"video"}
    assert stream.format.name == "jpeg_pipe"
    assert stream.frozen is None


def test_each_kind_of_image_has_one_stream(script, images):
    png = still_images(1, kind="PNG")[0]
    stream = script.stream([images[0], png, images[1], png])
    stream.begin()
    packets = list(stream.demux())
    names = [packet.stream.codec_context.name for packet in packets]
    assert names == ["mjpeg", "png", "mjpeg", "png"]
    assert [packet.decode()[0].width for packet in packets] == [160] * 4
    assert packets[0].stream is packets[2].stream
    assert packets[0].stream is stream.streams.video[0]
    stream.close()


def test_a_snapshot_is_fetched_again_when_it_is_due(script, images):
    # The third one takes longer than the interval: the next is fetched at once, and then in time.
    stream = script.stream([images[0]], [images[1]], [5.0, images[2]], [images[0]], [images[1]])
    stream.begin()
    packets = stream.demux()
    found = [next(packets) for _ in range(5)]
    assert script.connects[1:] == [
        (at, (SILENCE, SILENCE)) for at in (INTERVAL, 2 * INTERVAL, 9.0, 9.0 + INTERVAL)
    ]
    assert [float(packet.pts * TIME_BASE) for packet in found] == [0.0, 2.0, 9.0, 9.0, 11.0]
    packets.close()
    assert script.open == 0


def test_a_snapshot_without_a_picture_ends_the_connection(script, images):
    stream = script.stream([images[0]], [b"busy"])
    stream.begin()
    packets = stream.demux()
    next(packets)
    with pytest.raises(ConnectionLost, match="its answer contains no whole picture") as lost:
        next(packets)
    assert lost.value.reason == "invalid_data"


@pytest.mark.parametrize(
    ("interval", "seconds"), [(INTERVAL, FROZEN_SECONDS), (20.0, FROZEN_POLLS * 20.0)]
)
def test_a_snapshot_that_stays_the_same_for_too_long_is_frozen(script, images, interval, seconds):
    same = [[images[1]] for _ in range(100)]
    stream = script.stream([images[0]], [images[0]], *same, interval_seconds=interval)
    stream.begin()
    found = []
    with pytest.raises(ConnectionLost) as lost:
        found += (bytes(packet) for packet in stream.demux())
    assert lost.value.reason == "stall"
    said = f"its picture has been the same, byte for byte, for {seconds:.0f} s"
    assert lost.value.detail == said
    assert script.connects[-1][0] == 2 * interval + seconds
    assert stream.frozen == images[1]


def test_a_camera_that_is_still_frozen_is_not_up_and_with_another_picture_it_is(script, images):
    stream = script.stream([images[0]])
    with pytest.raises(ConnectionLost, match="still the same, byte for byte") as lost:
        stream.begin(frozen=images[0])
    assert lost.value.reason == "stall"
    assert stream.frozen == images[0]
    stream = script.stream([images[1]])
    stream.begin(frozen=images[0])
    assert stream.frozen is None


@pytest.mark.parametrize("end", [ends(), b""])
def test_an_answer_may_end_with_an_error_or_with_nothing(script, images, end):
    stream = script.stream([images[0], images[1], end, images[2]])
    stream.begin()
    assert contents(stream.demux()) == images[:2]


@pytest.mark.parametrize("error", [(0.0, errno.ECONNRESET), (SILENCE, errno.EIO)])
def test_other_errors_are_raised_and_so_is_one_after_silence(script, images, error):
    seconds, number = error
    stream = script.stream([images[0], images[1], seconds, ends(number)])
    stream.begin()
    with pytest.raises(FFmpegError):
        list(stream.demux())


def test_an_error_after_less_than_silence_is_the_end(script, images):
    stream = script.stream([images[0], images[1], SILENCE - 0.5, ends()])
    stream.begin()
    assert contents(stream.demux()) == images[:2]


def test_an_answer_without_an_image_in_its_beginning_is_not_read_on(script, images):
    piece = b"x" * (LONGEST_PREAMBLE_BYTES // 4)
    stream = script.stream([*[piece] * 4, b"x" * 7, images[0]])
    stream.begin()  # the last seven may begin an image
    with pytest.raises(NoImagesError):
        script.stream([*[piece] * 4, b"x" * 8, images[0]]).begin()


def test_what_comes_between_images_may_be_longer(script, images):
    stream = script.stream([images[0], b"x" * (LONGEST_PREAMBLE_BYTES + 100), images[1]])
    stream.begin()
    assert contents(stream.demux()) == images[:2]


@pytest.mark.parametrize(("pauses", "ends"), [(7, False), (8, True)])
def test_bytes_that_become_no_picture_are_a_stall(script, images, pauses, ends):
    pieces = [images[0], *[0.5, b"x"] * pauses, images[1]]
    stream = script.stream(pieces)
    stream.begin()
    if not ends:
        assert contents(stream.demux()) == images[:2]
        return
    with pytest.raises(ConnectionLost, match="no whole picture arrived for 4 s") as lost:
        list(stream.demux())
    assert lost.value.reason == "stall"


def test_the_time_that_an_image_keeps_its_taker_busy_is_no_silence(script, images):
    stream = script.stream([images[0], 1.0, images[1], 1.0, b"x", images[2]])
    stream.begin()
    packets = stream.demux()
    for _ in images[:2]:
        next(packets)
        script.clock.now += 100.0
    next(packets)


def test_silence_counts_from_what_was_heard_last(script, images):
    stream = script.stream([images[0], 1.0, images[1][:50], 2.5, images[1][50:]])
    script.clock.now += 3.0
    assert stream.silent_seconds == 3.0
    stream.begin()
    assert stream.silent_seconds == 0.0
    script.clock.now += 2.0
    assert stream.silent_seconds == 2.0
    packets = stream.demux()
    next(packets)
    next(packets)
    assert stream.silent_seconds == 0.0


def test_while_it_connects_silence_counts_from_then(script, images):
    stream = script.stream([images[0]])
    script.clock.now += 3.0
    connect = script.connect

    @contextmanager
    def slowly(timeout_seconds):
        assert stream.silent_seconds == 0.0
        script.clock.now += 1.5
        assert stream.silent_seconds == 1.5
        with connect(timeout_seconds) as container:
            yield container

    stream._connect = slowly
    stream.begin()


def test_a_read_may_take_an_interval_and_three_silences(script):
    assert script.stream().longest_read_seconds == INTERVAL + 3 * SILENCE


@pytest.mark.parametrize("how", ["interrupted", "stopped"])
def test_an_answer_is_not_read_on_when_it_is_over(script, images, how):
    stream = script.stream(images)
    stream.begin()
    packets = stream.demux()
    next(packets)
    if how == "interrupted":
        stream.interrupt()
    else:
        script.is_stopped = True
    assert len(list(packets)) <= 1


def test_closing_ends_the_answer(script, images):
    stream = script.stream(images)
    stream.close()
    stream.begin()
    assert script.open == 1
    stream.close()
    assert script.open == 0


def test_an_image_over_the_limit_is_refused_before_the_camera_is_open(script, images):
    with pytest.raises((OverLimit, FFmpegError)):
        script.stream([images[0]], limits=Limits(max_pixels=10)).begin()


def test_closing_closes_the_decoders_of_images(script, images, monkeypatch):
    opened = []

    @contextmanager
    def counted(*arguments):
        with open_image(*arguments) as container:
            opened.append(arguments[1])
            yield container
            opened.remove(arguments[1])

    monkeypatch.setattr(module, "open_image", counted)
    stream = script.stream(images)
    stream.begin()
    assert opened == ["jpeg"]
    list(stream.demux())
    stream.close()
    assert opened == []
