"""Connection after connection of one camera; what each of them gives is up to the test."""

import logging
import math
import time
from dataclasses import replace

import pytest

from tests.clips import pictures
from tests.clocks import Clock
from tests.conftest import WALKWAY
from tests.frames import frame
from tests.snapshots import NOON
from worker.frames import StreamDown, StreamUp
from worker.sources import live
from worker.sources.connection import CameraSettings
from worker.sources.limits import Limits
from worker.sources.live import MAX_MISLED, SHORTEST_LOOP_SECONDS, STEADY_SECONDS, LiveSource
from worker.sources.liveness import WORK_SECONDS
from worker.sources.orientation import UPRIGHT
from worker.sources.snapshots import SnapshotMaker, SnapshotSettings

URL = "rtsp://camera/stream"
CONNECT_SECONDS = 0.25
BACKOFF_SECONDS = 1.5


class Attempt:
    """In the place of a Connection: its end, after so many seconds."""

    def __init__(self, reason="closed", *, up=False, seconds=1.0, misleads=False, left_out=(0, 0)):
        self.reason = reason
        self.detail = f"detail of {reason}"
        self.was_up = up
        self.timestamps_mislead = misleads
        self.up_at = None
        self._seconds = seconds
        self._left_out = left_out

    def begin(self, clock, next_epoch):
        self._clock, self._next_epoch = clock, next_epoch
        return self

    def items(self):
        if self.was_up:
            self.up_at = self._clock.now
            yield StreamUp("gate", self._next_epoch())
            yield "frame"
        self._clock.now += self._seconds

    def take_left_out(self):
        return self._left_out

    def ended(self, state, reason, detail, epoch):
        return StreamDown("gate", epoch, state, reason, detail)


class Source(LiveSource):
    """Waits by a clock, and stops when the script is at its end."""

    def __init__(self, clock, url, attempts, **options):
        self.epochs = iter(range(100, 200))
        super().__init__("gate", url, (30, 40), self.epochs.__next__, **options)
        self._clock, self.attempts = clock, list(attempts)
        self.begun, self.waited = [], []

    def connect(self, *arguments, **options):
        self.begun.append((arguments, options))
        return self.attempts.pop(0).begin(self._clock, self.epochs.__next__)

    def wait(self, seconds):
        self.waited.append(seconds)
        if not self.attempts:
            self.stop()


class Backoff:
    """As the real one, but constant; remembers what it was told."""

    told = []

    def seconds(self, reason, *, attempt_seconds, up_seconds):
        self.told.append((reason, attempt_seconds, up_seconds))
        return BACKOFF_SECONDS


class Turnstile:
    def seconds(self):
        return CONNECT_SECONDS


@pytest.fixture
def source(monkeypatch):
    clock = Clock()
    Backoff.told = []
    monkeypatch.setattr(live, "time", clock)
    monkeypatch.setattr(live, "Backoff", Backoff)
    monkeypatch.setattr(live, "CONNECTS", Turnstile())

    def make(*attempts, url=URL, **options):
        made = Source(clock, url, attempts, **options)
        monkeypatch.setattr(live, "Connection", made.connect)
        return made

    return make


def downs(items):
    return [(i.state, i.reason, i.epoch) for i in items if isinstance(i, StreamDown)]


def test_a_lost_camera_is_connected_again_after_a_wait(source):
    camera = source(Attempt(up=True), Attempt(up=True))
    assert list(camera) == [
        StreamUp("gate", 100), "frame",
        StreamDown("gate", 100, "down", "closed", "detail of closed"),
        StreamUp("gate", 101), "frame",
        StreamDown("gate", 101, "down", "closed", "detail of closed"),
    ]  # fmt: skip
    assert camera.waited == [CONNECT_SECONDS, BACKOFF_SECONDS] * 2


def test_a_reason_is_given_once_unless_the_camera_was_up_or_it_changes(source):
    camera = source(
        Attempt("refused"), Attempt("refused"), Attempt("timeout"), Attempt("refused"),
        Attempt("refused", up=True), Attempt("refused"), Attempt("refused"),
    )  # fmt: skip
    assert downs(camera) == [
        ("down", "refused", 100), ("down", "timeout", 100), ("down", "refused", 100),
        ("down", "refused", 101),
    ]  # fmt: skip


def test_the_backoff_is_told_how_an_attempt_ended_and_how_long_it_was_up(source):
    attempts = [Attempt("refused", seconds=2.0), Attempt("stall", up=True, seconds=30.0)]
    list(source(*attempts))
    assert Backoff.told == [("refused", 2.0, 0.0), ("stall", 30.0, 30.0)]


def test_the_epoch_of_a_camera_that_never_was_up_is_named_once(source):
    camera = source()
    assert (camera.current_epoch(), camera.current_epoch()) == (100, 100)


def test_a_stopped_source_says_nothing_more(source):
    camera = source(Attempt(up=True), Attempt(up=True))
    items = iter(camera)
    next(items)
    camera.stop()
    assert camera.is_stopped
    assert list(items) == ["frame"]
    assert list(camera) == []


def test_every_connection_gets_what_the_camera_was_given(source):
    limits = Limits(max_streams=3)
    camera = source(
        Attempt(), fps=5.0, as_planes=True, antialias=False, gpu=1, limits=limits,
        allow_playlists=True, transport="udp",
    )  # fmt: skip
    list(camera)
    [((camera_id, settings, reader, _), options)] = camera.begun
    assert (camera_id, reader) == ("gate", camera)
    assert settings == CameraSettings(
        URL, (30, 40), 5.0, True, False, 1, limits, True, "udp"
    )  # fmt: skip
    assert options == {
        "trust_timestamps": True, "http": None, "left_out": (0, 0), "snapshots": None,
    }  # fmt: skip


def test_a_camera_that_is_connected_again_has_no_snapshot_before_the_next_is_due(source):
    snapshots = SnapshotSettings()
    camera = source(Attempt(up=True), Attempt(up=True), fps=0.1, snapshots=snapshots)
    list(camera)
    first, second = (options["snapshots"] for _, options in camera.begun)
    assert first is second
    assert isinstance(first, SnapshotMaker)
    picture = next(pictures(WALKWAY, 1))
    shown = replace(frame(), captured_at=NOON, captured_monotonic=0.0)
    assert first.of(shown, picture, UPRIGHT).period_seconds == 10


def test_what_reads_http_is_the_same_for_all_connections(source):
    camera = source(Attempt(), Attempt(), url="http://camera/x")
    list(camera)
    first, second = (options["http"] for _, options in camera.begun)
    assert first is not None
    assert first is second


@pytest.mark.parametrize("reason", ["end_of_file", "over_limit"])
@pytest.mark.parametrize("up", [True, False])
def test_a_file_ends_for_good(source, reason, up, caplog):
    caplog.set_level(logging.INFO)
    camera = source(Attempt(reason, up=up), Attempt(), url="x.mp4")
    assert downs(camera) == [("ended", reason, 100)]
    assert camera.waited == []
    assert [r.levelno for r in caplog.records if "ended" in r.getMessage()] == [logging.INFO]


def test_a_file_that_cannot_be_opened_is_tried_again(source, caplog):
    camera = source(Attempt("not_found"), Attempt("end_of_file", up=True), url="x.mp4")
    assert downs(camera) == [("down", "not_found", 100), ("ended", "end_of_file", 101)]
    assert camera.waited == [BACKOFF_SECONDS]
    assert [r.levelno for r in caplog.records if "down" in r.getMessage()] == [logging.WARNING]


def test_what_is_no_file_never_ends_for_good(source):
    camera = source(Attempt("over_limit", up=True), Attempt("end_of_file", up=True))
    assert [state for state, *_ in downs(camera)] == ["down", "down"]


def test_a_looped_file_begins_again_and_counts_what_a_round_left_out(source):
    camera = source(
        Attempt("end_of_file", up=True, seconds=0.2, left_out=(3, 1)),
        Attempt("end_of_file", up=True, seconds=5.0),
        Attempt("over_limit", up=True),
        url="x.mp4", loop=True,
    )  # fmt: skip
    assert downs(camera) == [("ended", "over_limit", 102)]
    assert [options["left_out"] for _, options in camera.begun] == [(0, 0), (3, 1), (0, 0)]
    assert camera.waited == [pytest.approx(SHORTEST_LOOP_SECONDS - 0.2), 0.0]


def test_what_a_round_left_out_is_counted_once(source):
    camera = source(
        Attempt("end_of_file", up=True, left_out=(3, 1)), Attempt("not_found"),
        Attempt("over_limit"), url="x.mp4", loop=True,
    )  # fmt: skip
    list(camera)
    assert [options["left_out"] for _, options in camera.begun] == [(0, 0), (3, 1), (0, 0)]


def test_a_looped_file_without_a_picture_ends(source):
    camera = source(Attempt("end_of_file"), Attempt(), url="x.mp4", loop=True)
    assert downs(camera) == [("ended", "end_of_file", 100)]


def misled(**options):
    return Attempt("late", up=True, misleads=True, **options)


def trusted(camera):
    list(camera)
    return [options["trust_timestamps"] for _, options in camera.begun]


def test_timestamps_that_mislead_twice_in_a_row_do_not_count_any_more(source, caplog):
    steady = Attempt(up=True, seconds=STEADY_SECONDS + 1)
    camera = source(misled(), misled(), steady, misled(), steady)
    assert trusted(camera) == [True, True, False, False, False]
    assert MAX_MISLED == 2
    assert caplog.text.count("its timestamps are too slow, twice in a row") == 1


@pytest.mark.parametrize(
    ("between", "trusts"),
    [
        (Attempt(up=True, seconds=STEADY_SECONDS + 1), True),
        (Attempt(up=True, seconds=STEADY_SECONDS), False),
        (Attempt(seconds=STEADY_SECONDS + 1), False),
    ],
)
def test_only_a_connection_that_lasted_shows_that_timestamps_do_not_mislead(
    source, between, trusts
):
    between.up_at = None
    camera = source(misled(), between, misled(), misled(), Attempt())
    assert trusted(camera) == [True, True, True, trusts, False]


def test_a_sign_of_life_is_due_after_each_wait_and_the_work_that_follows(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(live, "time", clock)
    camera = LiveSource("gate", URL, None, iter(range(9)).__next__)
    assert camera.due_at == math.inf
    camera.expect_sign_within(3.0)
    assert camera.due_at == clock.now + 3.0
    began = time.monotonic()
    camera.wait(0.05)
    assert time.monotonic() - began >= 0.05
    camera.stop()
    camera.wait(60.0)  # not at all
    assert time.monotonic() - began < 10
    assert camera.due_at == clock.now + 60.0 + WORK_SECONDS
