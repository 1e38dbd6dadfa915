"""One connection to a camera: real packets and a real decoder; the time is the test's."""

import io
import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import av
import pytest
from av.error import InvalidDataError, TimeoutError as TimedOutError

from ssd_core.yuv import YuvImage
from tests.clips import audio_only
from tests.faults.numbered_camera import number_in
from tests.snapshots import pixels
from tests.unit.worker.sources.scripted_camera import (
    BEGAN,
    RATE,
    SIZE,
    Reader,
    Script,
    clip,
    opened,
    with_content,
)
from worker.frames import Frame, StreamDown, StreamLate, StreamUp
from worker.sources import connection, pacing, snapshots
from worker.sources.camera_pictures import CATCH_UP_SECONDS
from worker.sources.connection import (
    LATE_INTERVAL_SECONDS,
    PLAYLIST_SILENCE_SECONDS,
    STALE_SECONDS,
    CameraSettings,
    Connection,
    microseconds,
)
from worker.sources.limits import Limits, OverLimit
from worker.sources.liveness import OPEN_SECONDS, READ_GRACE_SECONDS
from worker.sources.opening import FormatRefused
from worker.sources.reasons import SILENCE_SECONDS, ConnectionLost
from worker.sources.snapshots import SnapshotMaker, SnapshotSettings

FRAMES = 50
GOP = 10
URL = "rtsp://camera/stream"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""When the script begins."""


class Camera(Script):
    """What a connection opens, and how it was asked to."""

    def __init__(self, monkeypatch):
        super().__init__(monkeypatch, connection, pacing, snapshots)
        monkeypatch.setattr(connection, "datetime", self)
        monkeypatch.setattr(connection, "open_camera", self.open)
        self.content = clip(FRAMES, GOP)
        self.change = None
        self.error = None
        self.asked = None

    def now(self, zone):
        """In the place of ``datetime``."""
        assert zone is UTC
        return NOON + timedelta(seconds=self.clock.now - BEGAN)

    @contextmanager
    def open(self, *arguments, **options):
        self.asked = arguments, options
        if self.error is not None:
            raise self.error
        with opened(self.content, self.change) as container:
            yield container


@pytest.fixture
def camera(monkeypatch):
    return Camera(monkeypatch)


class Read:
    """A connection, read to its end."""

    def __init__(self, url=URL, *, stop_after=None, busy=lambda item: 0.0, clock=None,
                 connection_options=None, **settings):  # fmt: skip
        epochs = iter(range(7, 100))
        self.reader = Reader(clock)
        self.connection = Connection(
            "gate",
            CameraSettings(url, **settings),
            self.reader,
            epochs.__next__,
            **(connection_options or {}),
        )
        self.items = []
        for item in self.connection.items():
            self.items.append(item)
            if seconds := busy(item):
                clock.now += seconds
            if stop_after is not None and len(self.items) == stop_after:
                self.reader.is_stopped = True

    def of(self, kind):
        return [item for item in self.items if isinstance(item, kind)]

    @property
    def frames(self):
        return self.of(Frame)

    @property
    def numbers(self):
        return [number_in(frame.image, SIZE) for frame in self.frames]

    @property
    def left_out(self):
        """(skipped, dropped), in all."""
        rest = self.connection.ended("down", "closed")
        counted = [*self.frames, *self.of(StreamLate), *self.of(StreamDown), rest]
        return sum(item.skipped for item in counted), sum(item.dropped for item in counted)


def test_a_connection_is_up_with_its_first_frame_and_gives_all_of_them(camera):
    read = Read()
    up, *frames = read.items
    assert up == StreamUp("gate", 7)
    assert read.numbers == list(range(FRAMES))
    assert [frame.frame_index for frame in frames] == list(range(FRAMES))
    assert {(frame.camera_id, frame.epoch, frame.width, frame.height) for frame in frames} == {
        ("gate", 7, SIZE[1], SIZE[0])
    }
    seconds = [float((frame.pts - frames[0].pts) * frame.time_base) for frame in frames]
    assert seconds == pytest.approx([number / RATE for number in range(FRAMES)])
    assert [frame.captured_monotonic - BEGAN for frame in frames] == pytest.approx(seconds)
    times = [(frame.captured_at - NOON).total_seconds() for frame in frames]
    assert times == pytest.approx(seconds, abs=1e-5)
    assert {frame.clock for frame in frames} == {"arrival"}
    assert not any(frame.damaged for frame in frames)
    assert (read.connection.reason, read.connection.detail) == ("closed", "")
    assert (read.connection.was_up, read.connection.up_at) == (True, BEGAN)
    assert read.left_out == (0, 0)


def test_the_end_of_a_connection_says_what_it_gave(camera):
    ended = Read().connection.ended("down", "closed", "gone")
    assert ended == StreamDown("gate", 7, "down", "closed", "gone", frames=FRAMES)


def test_a_connection_that_never_was_up_ends_in_the_epoch_it_is_given(camera):
    camera.error = OSError(1, "x")
    read = Read()
    assert read.items == []
    assert not read.connection.was_up
    ended = read.connection.ended("down", "error", epoch=3)
    assert (ended.epoch, ended.frames) == (3, 0)


def test_a_connection_that_was_not_begun_has_a_reason(camera):
    never = Connection("gate", CameraSettings(URL), Reader(), iter([7]).__next__)
    assert (never.reason, never.detail, never.timestamps_mislead) == ("closed", "", False)


def test_damaged_pictures_are_frames_that_say_so(camera):
    def cut(number, packet):
        return with_content(packet, bytes(packet)[: packet.size // 2]) if number == 15 else packet

    camera.change = cut
    assert [frame.frame_index for frame in Read().frames if frame.damaged] == [*range(15, 20)]


def snapshots_of(read):
    return [frame.snapshot for frame in read.frames if frame.snapshot is not None]


def test_a_frame_in_each_period_brings_a_snapshot_of_its_own_picture(camera):
    maker = SnapshotMaker(SnapshotSettings())
    read = Read(connection_options={"snapshots": maker})
    with_snapshot = [frame for frame in read.frames if frame.snapshot is not None]
    assert [frame.frame_index for frame in with_snapshot] == [0, RATE]
    for frame in with_snapshot:
        made = frame.snapshot
        assert (made.info.camera_id, made.info.epoch) == (frame.camera_id, frame.epoch)
        assert (made.info.frame_index, made.info.time) == (frame.frame_index, frame.captured_at)
        assert made.captured_monotonic == frame.captured_monotonic
        assert number_in(pixels(made.jpeg), SIZE) == frame.frame_index
    again = Read(connection_options={"snapshots": maker})
    assert [made.info.frame_index for made in snapshots_of(again)] == [0]


def test_frames_bring_no_snapshot_unless_it_is_asked_for(camera):
    assert snapshots_of(Read()) == []


def test_a_damaged_picture_is_no_snapshot(camera):
    camera.change = lambda number, packet: (
        with_content(packet, bytes(packet)[: packet.size // 2]) if number == 0 else packet
    )
    read = Read(connection_options={"snapshots": SnapshotMaker(SnapshotSettings())})
    assert read.frames[0].damaged
    first = snapshots_of(read)[0].info.frame_index
    assert [frame.damaged for frame in read.frames[: first + 1]] == [True] * first + [False]


def test_frames_have_the_size_that_is_asked_for(camera):
    assert Read(image_size=(48, 64)).frames[0].image.shape == (48, 64, 3)
    camera.clock.now = BEGAN
    assert isinstance(Read(as_planes=True).frames[0].image, YuvImage)


def test_what_was_left_out_before_is_counted_with_the_first_item(camera):
    first, second = Read(connection_options={"left_out": (3, 4)}).frames[:2]
    assert (first.skipped, first.dropped) == (3, 4)
    assert (second.skipped, second.dropped) == (0, 0)


def test_of_fps_frames_the_others_are_skipped_and_key_frames_preferred(camera):
    camera.content = clip(100, GOP)
    read = Read(fps=2.5)
    assert [number % GOP for number in read.numbers] == [0] * 10
    assert read.left_out == (90, 0)


def test_a_source_that_is_stopped_gives_no_further_item(camera):
    read = Read(stop_after=5)
    assert len(read.items) == 5
    assert read.connection.reason == "closed"


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (OverLimit("too large"), "over_limit", "too large"),
        (FormatRefused("no video"), "invalid_data", "no video"),
        (ConnectionLost("stall", "nothing arrived"), "stall", "nothing arrived"),
        (TimedOutError(110, "timed out"), "timeout", "no whole packet arrived in time"),
        (ConnectionResetError(104, "reset"), "closed", "reset"),
        (ValueError("a bug"), "internal_error", ""),
    ],
)
def test_whatever_fails_is_a_reason(camera, caplog, error, reason, detail):
    camera.error = error
    read = Read()
    assert (read.connection.reason, read.connection.detail) == (reason, detail)
    assert ("please report this traceback" in caplog.text) == (reason == "internal_error")


def test_what_fails_once_it_is_read_says_so(camera):
    camera.ends_with = TimedOutError(110, "timed out")
    read = Read()
    assert len(read.frames) == FRAMES
    assert read.connection.reason == "stall"


def test_the_read_that_failed_counts_as_silence(camera):
    camera.ends_with = InvalidDataError(1, "x")
    camera.read_seconds = SILENCE_SECONDS
    connection = Read().connection
    assert (connection.reason, connection.detail) == ("stall", "nothing arrived for 4 s")
    camera.read_seconds = 0.0
    camera.clock.now = BEGAN
    assert Read().connection.reason == "invalid_data"


def test_silence_before_it_is_open_counts_from_the_start(camera, monkeypatch):
    def silent(*_, **__):
        camera.clock.now += SILENCE_SECONDS
        raise InvalidDataError(1, "x")

    monkeypatch.setattr(connection, "open_camera", silent)
    assert Read().connection.reason == "timeout"


def test_a_camera_without_video_says_so(camera, tmp_path):
    camera.content = audio_only(tmp_path / "x.mp4").read_bytes()
    connection = Read().connection
    assert connection.reason == "no_video"
    assert connection.detail == "there is no video stream that can be decoded"


def test_other_video_streams_are_named(camera, caplog):
    caplog.set_level(logging.INFO)
    Read()
    assert "analysing video stream" not in caplog.text
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        streams = [container.add_stream("mpeg2video", RATE) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for stream in streams:
            for number in range(5):
                image = av.VideoFrame(*SIZE[::-1], "yuv420p")
                image.pts = number
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
    camera.content = file.getvalue()
    camera.clock.now = BEGAN
    Read()
    assert "analysing video stream" in caplog.text


@pytest.mark.parametrize(
    ("transport", "expected"),
    [
        ("auto", {"rtsp_transport": "tcp+udp", "rtsp_flags": "prefer_tcp+filter_src"}),
        ("tcp", {"rtsp_transport": "tcp"}),
        ("udp", {"rtsp_transport": "udp", "rtsp_flags": "filter_src"}),
    ],
)
def test_rtsp_is_opened_for_video_alone_with_its_transport(camera, transport, expected):
    limits = Limits(max_streams=3)
    Read(transport=transport, limits=limits, gpu=None)
    (url, options, given), keywords = camera.asked
    assert (url, given) == (URL, limits)
    assert options == expected | {
        "fpsprobesize": "0", "allowed_media_types": "video", "timeout": "3500000",
    }  # fmt: skip
    assert keywords == {
        "timeout_seconds": (OPEN_SECONDS, SILENCE_SECONDS), "allow_playlists": False, "gpu": None,
    }  # fmt: skip


@pytest.mark.parametrize("url", ["rtmp://camera/x", "http://camera/x"])
def test_others_are_opened_with_a_timeout_for_each_read(camera, url):
    Read(url, allow_playlists=True)
    (_, options, _), keywords = camera.asked
    assert options == {"fpsprobesize": "0", "rw_timeout": "3500000"}
    assert keywords["allow_playlists"]
    assert keywords["timeout_seconds"] == (OPEN_SECONDS, PLAYLIST_SILENCE_SECONDS)
    assert camera.options["silence_seconds"] == PLAYLIST_SILENCE_SECONDS


def test_rtsp_is_no_playlist(camera):
    Read(allow_playlists=True)
    assert camera.asked[1]["timeout_seconds"] == (OPEN_SECONDS, SILENCE_SECONDS)
    assert camera.options["name"] == "camera gate"


def test_http_cameras_open_themselves(camera):
    class Http:
        def open(self, options, reader, **keywords):
            self.asked = options, reader, keywords
            return camera.open()

    http = Http()
    read = Read("http://camera/x", connection_options={"http": http})
    options, reader, keywords = http.asked
    assert options["rw_timeout"] == microseconds(SILENCE_SECONDS)
    assert reader is read.reader
    assert keywords["timeout_seconds"] == (OPEN_SECONDS, SILENCE_SECONDS)
    assert len(read.frames) == FRAMES


def test_opening_may_take_two_steps(camera):
    assert Read().reader.signs[0] == 2 * OPEN_SECONDS + READ_GRACE_SECONDS


def test_a_camera_is_up_with_the_first_picture_of_now(camera):
    camera.waits = lambda number: 0.7 if number == 0 else 0.0
    read = Read()
    assert read.numbers == list(range(5, FRAMES))  # 0.5 s late
    assert read.left_out == (0, 0)


def test_a_camera_whose_pictures_stay_late_is_up_after_a_while(camera):
    camera.content = clip(90, GOP)
    camera.waits = lambda number: 0.7
    read = Read()
    assert read.connection.up_at - (BEGAN + 0.7) == pytest.approx(CATCH_UP_SECONDS)
    assert read.numbers[0] == round(CATCH_UP_SECONDS * RATE)


def test_what_was_dropped_before_the_camera_was_up_is_not_counted(camera):
    camera.waits = lambda number: 1.6 if number == 0 else 0.0
    camera.content = clip(100, GOP)
    assert Read().left_out == (0, 0)


def back_by(seconds, first=20):
    def change(number, packet):
        if number >= first and packet.pts is not None:
            packet.pts -= round(90_000 * seconds)
            packet.dts -= round(90_000 * seconds)
        return packet

    return change


def test_timestamps_that_jump_back_begin_an_epoch(camera, caplog):
    camera.change = back_by(1.0)
    read = Read()
    down = read.items[21]
    assert down == StreamDown("gate", 7, "down", "timestamps", "", frames=20)
    assert read.items[22] == StreamUp("gate", 8)
    assert [frame.frame_index for frame in read.frames] == [*range(20), *range(30)]
    assert [frame.epoch for frame in read.frames] == [7] * 20 + [8] * 30
    assert len(read.of(StreamDown)) == 1
    assert "its timestamps jumped back: a new epoch begins" in caplog.text


def test_a_clock_of_this_host_that_is_set_back_begins_an_epoch(camera, caplog, monkeypatch):
    now = camera.now
    camera.now = lambda zone: (
        now(zone) - timedelta(seconds=3600 if camera.clock.now >= BEGAN + 1 else 0)
    )
    read = Read()
    assert [down.reason for down in read.of(StreamDown)] == ["timestamps"]
    assert [frame.frame_index for frame in read.frames] == [*range(25), *range(25)]
    assert "the clock for its times jumped back" in caplog.text


def test_a_picture_whose_timestamp_is_below_the_last_one_is_dropped(camera):
    camera.change = lambda number, packet: (
        back_by(0.1)(number, packet) if number in (20, 21) else packet
    )
    read = Read()
    others = [*range(20), *range(22, FRAMES)]
    assert read.numbers == [frame.frame_index for frame in read.frames] == others
    assert read.frames[20].dropped == 2
    assert read.left_out == (0, 2)


def test_a_picture_with_the_timestamp_of_the_last_one_is_a_frame(camera):
    camera.change = lambda n, packet: back_by(1 / RATE)(n, packet) if n == 20 else packet
    assert Read().numbers == list(range(FRAMES))


def test_a_picture_without_a_timestamp_is_a_frame_like_the_others(camera):
    def without(number, packet):
        if number == 20:
            packet.pts = packet.dts = None
        return packet

    camera.change = without
    assert Read().numbers == list(range(FRAMES))


def test_timestamps_that_jump_ahead_begin_no_epoch(camera):
    camera.change = back_by(-10.0)
    read = Read()
    assert read.of(StreamDown) == []
    assert read.numbers == list(range(FRAMES))


@pytest.mark.parametrize("back", [0.0, 2 / RATE])
def test_a_jump_to_and_fro_between_two_pictures_begins_no_epoch(camera, back):
    def change(number, packet):
        if number == 22:
            packet = with_content(packet, b"\0\0\1\x65" + b"\xff" * 50)
            return back_by(-10.0, 22)(number, packet)
        return back_by(back, 23)(number, packet)

    camera.change = change
    read = Read()
    assert read.of(StreamDown) == []
    assert len(read.frames) == FRAMES - 1


def test_timestamps_of_http_that_jump_back_begin_an_epoch(camera):
    camera.change = back_by(1.2)
    assert len(Read("http://camera/x").of(StreamDown)) == 1


def test_a_packet_that_is_faster_than_all_before_takes_the_times_for_fps_not_back(camera):
    camera.content = clip(FRAMES, FRAMES)
    camera.late = lambda number: 0.3 if number < 10 else 0.0
    assert Read(fps=5).numbers[:3] == [0, 5, 18]


def without_size(content):
    """The clip, with its parameter sets turned into padding."""
    return content.replace(b"\0\0\0\1\x67", b"\0\0\0\1\x0c")


@pytest.mark.parametrize(("known", "reason"), [(True, "closed"), (False, "stall")])
def test_silence_while_it_is_looked_into_is_a_stall_unless_the_pictures_are_known(
    camera, known, reason, monkeypatch
):
    content = camera.content if known else without_size(camera.content)

    @contextmanager
    def slowly(*_, **__):
        camera.clock.now += 4.0
        with opened(content) as container:
            yield container

    camera.late = lambda number: 4.0
    monkeypatch.setattr(connection, "open_camera", slowly)
    assert Read().connection.reason == reason


def test_a_stream_of_images_limits_silence_itself(camera, monkeypatch):
    class Images:
        longest_read_seconds = 40.0
        silent_seconds = 5.0

        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

    @contextmanager
    def images(*_, **__):
        with opened(camera.content) as container:
            yield Images(container)

    monkeypatch.setattr(connection, "open_camera", images)
    monkeypatch.setattr(connection, "ImageStream", Images)
    camera.reads = lambda number: 30.0
    camera.ends_with = InvalidDataError(1, "x")
    read = Read()
    assert camera.options["silence_seconds"] == 40.0
    assert len(read.frames) == FRAMES
    assert read.connection.detail == "nothing arrived for 5 s"


def test_no_picture_is_handed_on_that_is_older_than_it_may_be(camera):
    camera.content = clip(100, GOP)
    delay = STALE_SECONDS + 0.5
    # Then what was held up comes at once.
    camera.late = lambda number: 0.0 if number < 30 else max(delay - max(number - 59, 0) / RATE, 0)
    read = Read()
    first = read.numbers[30]
    assert 60 < first <= 72  # timestamps may be a little too slow
    assert read.numbers == [*range(30), *range(first, 100)]
    assert read.left_out == (0, first - 30)
    late = read.of(StreamLate)
    assert [item.lag_seconds for item in late[:2]] == pytest.approx([2.5, 2.5], abs=0.3)
    assert (late[0].camera_id, late[0].epoch) == ("gate", 7)
    assert late[1].dropped == round(LATE_INTERVAL_SECONDS * RATE)


def test_late_pictures_that_are_not_too_old_are_handed_on_and_said_to_be_late(camera):
    camera.content = clip(100, GOP)
    camera.late = lambda number: 1.5 if number >= 30 else 0.0
    read = Read()
    assert read.numbers == list(range(100))
    # Once a second.
    assert len(read.of(StreamLate)) == 3


def test_before_it_is_up_a_camera_is_not_said_to_be_late(camera):
    camera.waits = lambda number: 1.2
    assert Read().items == []


def test_packets_that_waited_too_long_count_as_dropped(camera):
    camera.content = clip(100, GOP)
    camera.waits = lambda number: 1.48 if number == 15 else 0.0
    read = Read()
    assert read.numbers == [*range(15), *range(40, 100)]
    assert read.left_out == (0, 25)


def test_what_waits_at_the_end_counts_as_dropped(camera):
    camera.left = 11  # and the end
    assert Read().left_out == (0, 10)


def late_for_too_long(camera):
    camera.content = clip(100, GOP)
    camera.late = lambda number: 3.0 if number >= 10 else 0.0
    return Read()


def test_timestamps_alone_may_mislead(camera):
    connection = late_for_too_long(camera).connection
    assert connection.reason == "late"
    assert connection.timestamps_mislead
    assert connection._pictures is not None
    connection._pictures.has_reports = True
    assert not connection.timestamps_mislead
    camera.late = lambda number: 0.0
    camera.clock.now = BEGAN
    assert not Read().connection.timestamps_mislead
    camera.error = ConnectionLost("late", "before there was a picture")
    assert not Read().connection.timestamps_mislead


@pytest.mark.parametrize("how", ["not trusted", "HTTP"])
def test_timestamps_that_do_not_count_are_never_late(camera, how):
    camera.content = clip(100, GOP)
    camera.late = lambda number: 3.0 if number >= 10 else 0.0
    if how == "HTTP":
        read = Read("http://camera/x")
    else:
        read = Read(connection_options={"trust_timestamps": False})
    assert read.connection.reason == "closed"
    assert len(read.frames) == 100


def file_of(content, path):
    path.write_bytes(content)
    return str(path)


def test_a_file_is_played_at_its_own_speed_and_ends(camera, tmp_path):
    url = file_of(clip(FRAMES, GOP, file_format="mp4"), tmp_path / "x.mp4")
    read = Read(url, clock=camera.clock)
    assert read.connection.reason == "end_of_file"
    assert read.numbers == list(range(FRAMES))
    at = [frame.captured_monotonic - BEGAN for frame in read.frames]
    assert at == pytest.approx([number / RATE for number in range(FRAMES)])


def test_a_file_is_sampled_as_in_a_replay(camera, tmp_path):
    url = file_of(clip(FRAMES, 1, file_format="mp4"), tmp_path / "x.mp4")
    read = Read(url, clock=camera.clock, fps=5)
    assert read.numbers == list(range(0, FRAMES, 5))
    assert read.left_out == (40, 0)


def test_a_file_without_timestamps_is_played_at_its_rate(camera, tmp_path):
    url = file_of(clip(FRAMES, GOP, file_format="h264"), tmp_path / "x.h264")
    read = Read(url, clock=camera.clock)
    at = [frame.captured_monotonic - BEGAN for frame in read.frames]
    assert at == pytest.approx([number / RATE for number in range(FRAMES)])


def test_a_file_that_is_stopped_ends(camera, tmp_path):
    url = file_of(clip(FRAMES, GOP, file_format="mp4"), tmp_path / "x.mp4")
    assert len(Read(url, clock=camera.clock, stop_after=5).items) == 5


def test_a_file_that_does_not_exist_says_so(camera, tmp_path):
    connection = Read(str(tmp_path / "missing.mp4")).connection
    assert connection.reason == "not_found"


def test_a_file_that_could_not_be_read_to_its_end_is_closed(camera, monkeypatch, tmp_path):
    def recording(path, limits, meter, gpu):
        meter.read_error = "input/output error"
        return opened(camera.content)

    monkeypatch.setattr(connection, "open_recording", recording)
    assert Read("x.mp4", clock=camera.clock).connection.reason == "closed"
