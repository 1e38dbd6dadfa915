"""HTTP cameras that FFmpeg's demuxers refuse, and snapshots, read from real servers on loopback."""

import base64
import hashlib
import logging
import re
import time

import numpy as np
import pytest
from PIL import Image

from tests.conftest import wait_until
from tests.faults.watching import Watch, wait_for_reason
from tests.garbage import alive, no_search_for_cycles
from tests.http_cameras import Camera, head, part, snapshots, still_images, stream
from worker.sources import image_stream
from worker.sources.camera_pictures import CameraPictures
from worker.sources.image_stream import ImageStream
from worker.sources.limits import Limits

JPEG = b"Content-Type: image/jpeg"


@pytest.fixture(scope="module")
def images():
    return still_images()


@pytest.fixture(scope="module")
def png_images():
    return still_images(kind="PNG")


def multipart(boundary):
    return head(f"multipart/x-mixed-replace; boundary={boundary}")


REFUSED_BY_FFMPEG = {
    "type image/jpg": (part(b"Content-Type: image/jpg"), {}),
    "type with a size": (part(b"Content-Type: image/jpeg;size=12345"), {}),
    "another type": (part(b"Content-Type: application/octet-stream"), {}),
    "no type": (part(), {}),
    "no header": (part(length=None), {}),
    "no blank line": (part(JPEG, blank=False), {}),
    "no boundaries": (part(JPEG, boundary=b""), {}),
    "a boundary without dashes": (part(JPEG, boundary=b"frame"), {}),
    "a preamble": (part(JPEG), {"preamble": b"Welcome to your camera\r\n\r\n"}),
    "no first boundary": (
        part(length=None, tail=b"\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n", boundary=b""),
        {"preamble": JPEG + b"\r\n\r\n"},
    ),
    "a length too short": (part(JPEG, length=-500), {}),
    "a length too long": (part(JPEG, length=10), {}),
    "a length of another picture": (part(JPEG, length=2000), {}),
    "LF only, another type": (part(b"content-type: image/jpg", line_end=b"\n"), {}),
    "chunked, another type": (part(b"Content-Type: image/jpg"), {"chunked": True}),
    "another type, boundary quoted": (
        part(b"Content-Type: image/jpg"),
        {"header": multipart('"frame"')},
    ),
    "another type, boundary with dashes": (
        part(b"Content-Type: image/jpg"),
        {"header": multipart("--frame")},
    ),
}
READ_BY_FFMPEG = {
    "correct": (part(JPEG), {}),
    "no length": (part(JPEG, length=None), {}),
    "lower case": (part(b"content-type: image/jpeg"), {}),
    "LF only": (part(JPEG, line_end=b"\n"), {}),
    "chunked": (part(JPEG), {"chunked": True}),
    "boundary quoted": (part(JPEG), {"header": multipart('"frame"')}),
    "boundary with dashes": (part(JPEG), {"header": multipart("--frame")}),
}
SLOWLY_GIVEN_UP_BY_FFMPEG = {
    "pictures in a row": (lambda image: image, {"header": head("video/x-motion-jpeg")}),
    "pictures in a row, as one image": (lambda image: image, {"header": head("image/jpeg")}),
    "another type, and not called multipart": (
        part(b"Content-Type: image/jpg"),
        {"header": head("text/plain")},
    ),
    "a huge length": (part(JPEG, length=b"999999999"), {}),
    "LF only and no length": (part(JPEG, line_end=b"\n", length=None), {}),
    "no line break before the boundary": (part(JPEG, length=None, tail=b""), {}),
}


def assert_is_read(images, write, options, timeout=10):
    with Camera(stream(images, write, **options)) as camera, Watch(camera.url) as watch:
        found = watch.wait_for_frames(12, timeout=timeout)
        assert watch.downs() == []
        assert len(watch.ups()) == 1
    assert [frame.frame_index for frame in found] == list(range(len(found)))
    assert {(frame.width, frame.height) for frame in found} == {(160, 120)}
    assert {frame.clock for frame in found} == {"arrival"}
    return camera, found


USUAL = ["type image/jpg", "no header", "no boundaries", "no first boundary", "a length too long"]


@pytest.mark.parametrize(
    "name",
    [
        name if name in USUAL else pytest.param(name, marks=pytest.mark.long)
        for name in REFUSED_BY_FFMPEG
    ],
)
def test_a_stream_that_ffmpeg_refuses_is_read(images, name):
    _, found = assert_is_read(images, *REFUSED_BY_FFMPEG[name])
    differences = [np.abs(found[0].image.astype(int) - decoded(image)).mean() for image in images]
    assert min(differences) < 3


def decoded(image):
    import io

    picture = Image.open(io.BytesIO(image)).convert("RGB")
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("name", READ_BY_FFMPEG)
def test_a_stream_that_ffmpeg_reads_takes_one_connection(images, name):
    camera, _ = assert_is_read(images, *READ_BY_FFMPEG[name])
    assert len(camera.requests) == 1


@pytest.mark.long
@pytest.mark.parametrize("name", SLOWLY_GIVEN_UP_BY_FFMPEG)
def test_a_stream_that_ffmpeg_gives_up_after_seconds_is_read(images, name):
    assert_is_read(images, *SLOWLY_GIVEN_UP_BY_FFMPEG[name], timeout=25)


def test_the_pts_of_refused_streams_are_the_times_of_arrival(images):
    _, found = assert_is_read(images, *REFUSED_BY_FFMPEG["type image/jpg"])
    seconds = [float(frame.pts * frame.time_base) for frame in found]
    assert seconds == sorted(set(seconds))
    taken = (found[-1].captured_at - found[0].captured_at).total_seconds()
    assert seconds[-1] - seconds[0] == pytest.approx(taken, abs=0.5)


@pytest.mark.long
def test_a_length_that_turns_wrong_costs_one_reconnect(images):
    writers = [part(JPEG)] * 5 + [part(JPEG, length=-7)]
    numbers = iter(range(1 << 30))

    def write(image):
        return writers[next(numbers) % len(writers)](image)

    with Camera(stream(images, write)) as camera, Watch(camera.url) as watch:
        watch.wait_for_frames(60)
        assert [down.reason for down in watch.downs()] == ["invalid_data"]
        assert len(camera.requests) == 2


@pytest.mark.long
def test_a_slow_stream_shows_no_picture_that_waited_for_the_next_one(images):
    def slowly(image):
        time.sleep(1.3)
        return part(JPEG)(image)

    with Camera(stream(images, slowly)) as camera, Watch(camera.url) as watch:
        first = watch.wait_for_frames(1)[0]
        assert watch.downs() == []
    differences = [np.abs(first.image.astype(int) - decoded(image)).mean() for image in images[:3]]
    assert np.argmin(differences) == 1


def test_a_stream_of_images_that_ends_is_closed(images):
    write = part(b"Content-Type: image/jpg")
    with Camera(stream(images, write, count=5)) as camera, Watch(camera.url) as watch:
        assert watch.wait_for_down().reason == "closed"
        assert watch.downs()[0].frames == 5


def test_a_stream_that_has_ended_leaves_nothing_behind(images):
    answer = stream(images, part(b"Content-Type: image/jpg"), count=3)
    with no_search_for_cycles(), Camera(answer) as camera:
        with Watch(camera.url) as watch:
            wait_for_reason(watch, "closed")
            assert alive(ImageStream)
        assert alive(ImageStream, CameraPictures) == []


@pytest.mark.long
def test_a_stream_of_images_that_stops_is_a_stall(images):
    def answer(connection, request):
        stream(images, part(), count=5)(connection, request)
        connection.recv(1)  # until the worker hangs up

    with Camera(answer) as camera, Watch(camera.url) as watch:
        assert watch.wait_for_down().reason == "stall"
        assert watch.downs()[0].frames == 5


@pytest.mark.long
def test_half_a_picture_byte_by_byte_is_a_stall(images):
    def answer(connection, request):
        stream(images, part(), count=2)(connection, request)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    with Camera(answer) as camera, Watch(camera.url) as watch:
        assert watch.wait_for_down().reason == "stall"


def test_an_answer_that_is_neither_video_nor_image_is_named_as_before():
    def answer(connection, _request):
        connection.sendall(head("text/html", "Content-Length: 6") + b"Log in")

    with Camera(answer) as camera, Watch(camera.url) as watch:
        assert watch.wait_for_down().reason == "invalid_data"


def test_images_obey_the_limits(images):
    write = part(b"Content-Type: image/jpg")
    for limits in (Limits(max_pixels=1000), Limits(max_bytes_without_frame=1000)):
        with Camera(stream(images, write)) as camera, Watch(camera.url, limits=limits) as watch:
            assert watch.wait_for_down().reason == "over_limit"


@pytest.mark.parametrize("with_length", [True, False])
def test_a_snapshot_is_polled_within_one_connection_of_the_camera(images, with_length):
    with Camera(snapshots(images, with_length=with_length)) as camera:
        with Watch(camera.url, fps=10) as watch:
            watch.wait_for_frames(12)
            assert watch.downs() == []
            assert len(watch.ups()) == 1
        found = watch.frames()
    # The first request is FFmpeg's attempt; then each gives a frame, but for what was under way at
    # the end, however many that was: each request is answered with the next picture.
    shown = [number_of(frame.image, images) for frame in found]
    assert shown == [number % len(images) for number in range(1, len(found) + 1)]
    assert [frame.frame_index for frame in found] == list(range(len(found)))
    assert {frame.skipped for frame in found} == {0}
    assert {frame.clock for frame in found} == {"arrival"}


def number_of(picture, images):
    """Which of the images it is."""
    return np.argmin([np.abs(picture - decoded(image)).mean() for image in images])


def test_no_snapshot_is_fetched_in_vain_after_a_first_one_that_took_long(images):
    answer = snapshots(images)
    answers = iter(range(1 << 30))

    def slow_once(connection, request):
        if next(answers) == 1:  # after FFmpeg's attempt
            time.sleep(0.2)
        answer(connection, request)

    with Camera(slow_once) as camera, Watch(camera.url, fps=4) as watch:
        found = watch.wait_for_frames(3)
    assert [number_of(frame.image, images) for frame in found] == [1, 2, 3]
    assert {frame.skipped for frame in found} == {0}


AROUND_SNAPSHOTS = {
    "line breaks before it": (head("image/jpeg"), lambda image: b"\r\n" + image),
    "zeros after it": (head("image/jpeg"), lambda image: image + bytes(100)),
    "another type": (head("application/octet-stream"), lambda image: image),
    "no type": (head(None), lambda image: image),
    "a length too long": (head("image/jpeg", "Content-Length: 999999"), lambda image: image),
    "chunks": (
        head("image/jpeg", "Transfer-Encoding: chunked"),
        lambda image: b"%x\r\n%s\r\n0\r\n\r\n" % (len(image), image),
    ),
    "one part": (multipart("frame"), part(JPEG)),
    "one part of another type": (multipart("frame"), part(b"Content-Type: image/jpg")),
    "one part and the last boundary": (
        multipart("frame"),
        lambda image: part(JPEG)(image) + b"--frame--\r\n",
    ),
}


@pytest.mark.parametrize("name", AROUND_SNAPSHOTS)
def test_an_answer_with_one_picture_is_a_snapshot_whatever_surrounds_it(images, name):
    header, write = AROUND_SNAPSHOTS[name]
    numbers = iter(range(1 << 30))

    def answer(connection, _request):
        connection.sendall(header + write(images[next(numbers) % len(images)]))

    with Camera(answer) as camera, Watch(camera.url, fps=10) as watch:
        watch.wait_for_frames(6)
        assert watch.downs() == []


def test_a_png_snapshot_is_polled(png_images):
    with Camera(snapshots(png_images, "image/png")) as camera, Watch(camera.url, fps=10) as watch:
        found = watch.wait_for_frames(6)
        assert watch.downs() == []
    assert np.array_equal(found[0].image, decoded(png_images[1]))


@pytest.mark.long
@pytest.mark.parametrize(("fps", "interval_seconds"), [(4, 0.25), (None, 1.0)])
def test_snapshots_are_fetched_at_fps_or_once_a_second(images, fps, interval_seconds):
    began = time.monotonic()
    with Camera(snapshots(images)) as camera, Watch(camera.url, fps=fps) as watch:
        found = watch.wait_for_frames(4)
    for number, frame in enumerate(found[1:], start=1):
        assert frame.captured_monotonic - began >= number * interval_seconds


@pytest.mark.long
def test_waiting_for_the_next_snapshot_is_no_silence(images):
    with Camera(snapshots(images)) as camera, Watch(camera.url, fps=0.27) as watch:
        watch.wait_for_frames(2)
        assert watch.downs() == []


def test_a_snapshot_that_fails_brings_the_camera_down_with_the_reason(images):
    with Camera(snapshots(images)) as camera, Watch(camera.url, fps=10) as watch:
        watch.wait_for_frames(3)
        camera.answer = lambda connection, _: connection.sendall(head(None, status="404 X"))
        assert watch.wait_for_down().reason == "not_found"
        busy = head("text/html", "Content-Length: 4") + b"busy"
        camera.answer = lambda connection, _: connection.sendall(busy)
        wait_for_reason(watch, "invalid_data")
        since = time.monotonic()
        camera.answer = snapshots(images)
        watch.wait_for_frames(3, since)
        assert len(watch.ups()) == 2


def test_a_snapshot_camera_that_dies_is_refused(images):
    with Camera(snapshots(images)) as camera, Watch(camera.url, fps=10) as watch:
        watch.wait_for_frames(3)
        camera.stop()
        assert watch.wait_for_down().reason == "refused"


@pytest.mark.long
def test_a_snapshot_that_never_changes_is_frozen_until_it_does(images, monkeypatch):
    monkeypatch.setattr(image_stream, "FROZEN_SECONDS", 1.0)
    with Camera(snapshots(images[:1])) as camera, Watch(camera.url, fps=10) as watch:
        down = watch.wait_for_down()
        assert (down.state, down.reason) == ("down", "stall")
        assert "the same, byte for byte" in down.detail
        requests = len(camera.requests)
        wait_until(lambda: len(camera.requests) > requests + 2, 15, "further attempts")
        assert len(watch.ups()) == len(watch.downs()) == 1
        camera.answer = snapshots(images[1:2] * 100)
        wait_until(lambda: len(watch.ups()) == 2, 15, "another picture")


def test_a_stop_ends_the_wait_for_the_next_snapshot(images):
    with Camera(snapshots(images)) as camera, Watch(camera.url, fps=0.01) as watch:
        watch.wait_for_frames(1)
        assert watch.stop() < 5
        assert watch.downs() == []


def test_snapshots_with_a_login_and_a_query_are_fetched_and_nothing_of_it_is_logged(images, caplog):
    caplog.set_level(logging.DEBUG)
    secret = f"admin:cam:{'s3kr3t-word'}"

    def md5(text):
        return hashlib.md5(text.encode()).hexdigest()

    def answer(connection, request):
        given = dict(re.findall(r'(\w+)="?([^",\r]*)"?', request.partition("Digest ")[2]))
        expected = md5(f"{md5(secret)}:abc:{md5('GET:' + given.get('uri', ''))}")
        if given.get("response") == expected and given["uri"] == "/video?channel=1&key=t0k3n":
            serve(connection, request)
        else:
            asks = 'WWW-Authenticate: Digest realm="cam", nonce="abc"'
            connection.sendall(head(None, asks, "Content-Length: 0", status="401 X"))

    serve = snapshots(images)
    with Camera(answer) as camera:
        url = camera.url.replace("//", "//admin:s3kr3t-word@") + "?channel=1&key=t0k3n"
        with Watch(url, fps=10) as watch:
            watch.wait_for_frames(5)
            assert watch.downs() == []
            camera.answer = lambda connection, _: connection.sendall(head(None, status="503 X"))
            detail = watch.wait_for_down().detail
    for said in (detail, caplog.text):
        assert "s3kr3t" not in said
        assert "t0k3n" not in said


def test_basic_authorization_is_sent(images):
    expected = base64.b64encode(b"admin:s3kr3t-word").decode()

    def answer(connection, request):
        if f"Authorization: Basic {expected}" in request:
            stream(images, part())(connection, request)
        else:
            asks = 'WWW-Authenticate: Basic realm="cam"'
            connection.sendall(head(None, asks, "Content-Length: 0", status="401 X"))

    with Camera(answer) as camera:
        url = camera.url.replace("//", "//admin:s3kr3t-word@")
        with Watch(url) as watch:
            watch.wait_for_frames(5)
            assert watch.downs() == []
