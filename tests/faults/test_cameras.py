"""Every way in which a camera fails: the reason that is told, and how soon it is back.

At the source, against a camera that fails on command; test_cameras_opening.py has those that cannot
be opened, test_cameras_worker.py the whole worker, test_cameras_gst.py another's server.
"""

import time
from datetime import UTC, datetime

import pytest

from tests.conftest import wait_until
from tests.faults.rtsp_faults import RATE, SILENT, Camera, Clip, Swallower, noise
from tests.faults.watching import Watch
from worker.sources.liveness import PICTURELESS_SECONDS
from worker.sources.reasons import SILENCE_SECONDS

BACK_SECONDS = 5.0
BUSY_SECONDS = 1.0
"""For a machine that does other things as well."""


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
    def assert_back(watch, mended_at, within=BACK_SECONDS):
        seconds = watch.seconds_to_full_rate(mended_at)
        record_property("seconds_to_full_rate", round(seconds, 2))
        assert seconds < within + BUSY_SECONDS

    return assert_back


def wait_for_reason(watch, reason, since=0.0):
    return wait_until(
        lambda: next((d for d in watch.downs(since) if d.reason == reason), None), 20, reason
    )


def wait_for_visit(camera):
    seen = len(camera.visits)
    wait_until(lambda: len(camera.visits) > seen, 10, "the next attempt")


# Before the first frame, or when it comes back: what the handshake can do.


def test_a_camera_that_says_nothing_is_a_timeout_and_back_soon_at_the_worst_moment(
    camera, watch, assert_back
):
    camera.answers = {"DESCRIBE": SILENT}
    watched = watch(camera.url)
    started = time.monotonic()
    down = wait_for_reason(watched, "timeout")
    assert time.monotonic() - started < SILENCE_SECONDS + BUSY_SECONDS
    assert down.state == "down"
    wait_for_visit(camera)  # the worst moment: this attempt is never answered
    camera.answers = {}
    assert_back(watched, time.monotonic())
    assert [d.reason for d in watched.downs()] == ["timeout"]


@pytest.mark.parametrize(("status", "reason"), [(403, "unauthorized"), (503, "error")])
def test_a_camera_that_answers_no_tells_why(camera, watch, status, reason):
    camera.answers = {"DESCRIBE": status}
    assert wait_for_reason(watch(camera.url), reason).state == "down"


def test_a_host_that_swallows_packets_is_a_timeout(clip, watch, assert_back):
    swallower = Swallower()
    watched = watch(swallower.url)
    wait_for_reason(watched, "timeout")
    time.sleep(0.6)  # into the next attempt, whose SYN is lost, too
    swallower.stop()
    camera = Camera(clip, port=swallower.port)
    assert_back(watched, time.monotonic())
    camera.stop()


def test_a_host_without_a_name_is_told_as_such(watch):
    down = wait_for_reason(watch("rtsp://user:secret@no.such.host.invalid/x"), "unknown_host")
    assert "secret" not in down.detail


def test_a_camera_with_sound_alone_has_no_video_and_one_with_both_is_up_at_once(camera, watch):
    camera.audio = True  # announced, and never sent
    watched = watch(camera.url)
    started = time.monotonic()
    watched.wait_for_frames(3)
    assert time.monotonic() - started < 3
    watched.stop()
    camera.video = False
    assert wait_for_reason(watch(camera.url), "no_video").state == "down"


# In mid-stream.


def test_a_camera_that_closes_without_a_word_is_closed_and_back_at_once(camera, watch, assert_back):
    watched = watch(camera.url)
    watched.wait_for_frames()
    camera.hang_up()
    assert_back(watched, time.monotonic(), within=1.5)
    assert [d.reason for d in watched.downs()] == ["closed"]
    assert watched.ups()[1].epoch > watched.ups()[0].epoch


def test_a_server_that_restarts_is_refused_and_back(camera, watch, assert_back):
    watched = watch(camera.url)
    watched.wait_for_frames()
    camera.stop()
    wait_for_reason(watched, "refused")
    assert [d.reason for d in watched.downs()] == ["closed", "refused"]
    camera.start()
    assert_back(watched, time.monotonic())


def stall(session):
    session.send(20)
    session.hold()


def stall_with_reports(session):
    """As a server does whose publisher is gone."""
    session.send(20)
    while not session.gone.is_set():
        session.report()
        session.hold(0.5)


@pytest.mark.parametrize("script", [stall, stall_with_reports])
def test_a_stall_in_mid_stream_is_told_soon(camera, watch, assert_back, script):
    camera.script = script
    watched = watch(camera.url)
    down = wait_for_reason(watched, "stall")
    # 20 frames take one second; what FFmpeg held back until the timeout is no frame
    assert down.frames <= 20
    assert watched.items[-1][0] - watched.items[0][0] < 1 + SILENCE_SECONDS + BUSY_SECONDS
    camera.script = lambda session: session.send()
    assert_back(watched, time.monotonic())


def test_a_server_without_a_publisher_stalls_and_is_back_with_it(camera, watch, assert_back):
    camera.script = lambda session: session.hold()
    watched = watch(camera.url)
    wait_for_reason(watched, "stall")
    wait_for_visit(camera)
    camera.script = lambda session: session.send()
    assert_back(watched, time.monotonic())
    assert [d.reason for d in watched.downs()] == ["stall"]


def test_a_short_pause_ends_nothing_and_the_burst_after_it_is_read_at_once(camera, watch):
    def burst(session):
        session.send(20)
        session.hold(2)
        session.send(40, pause_seconds=0)
        session.send()

    camera.script = burst
    watched = watch(camera.url)
    watched.wait_for_frames(70)
    assert watched.downs() == []
    times = [at for at, _ in watched.items[1:]]
    gap = max(range(len(times) - 1), key=lambda i: times[i + 1] - times[i])
    assert times[gap + 1] - times[gap] > 1.5
    after = times[gap + 1 : gap + 36]
    assert after[-1] - after[0] < 1  # of 2 s of video: nothing stays late
    assert len(camera.visits) == 1


def test_noise_for_longer_than_a_hiccup_is_invalid_data_and_not_up(
    camera, clip, watch, assert_back
):
    bad, noisy = noise(clip), True

    def script(session):
        session.send(20)
        while noisy and not session.gone.is_set():
            session.send(5, clip=bad)
        session.send()

    camera.script = script
    watched = watch(camera.url)
    down = wait_for_reason(watched, "invalid_data")
    assert watched.items[-1][0] - watched.items[0][0] < 1 + 2 * PICTURELESS_SECONDS
    assert "decoded" in down.detail
    noisy = False
    assert_back(watched, time.monotonic())


def test_a_few_lost_pictures_do_not_end_a_connection(camera, clip, watch):
    def script(session):
        session.send(20)
        session.send(20, clip=noise(clip))
        session.send()

    camera.script = script
    watched = watch(camera.url)
    watched.wait_for_frames(60)
    assert watched.downs() == []


@pytest.mark.parametrize("jump", [-90_000, 90_000 * 3600, -90_000 * 7200])
@pytest.mark.parametrize("fps", [None, 10])
def test_timestamps_that_jump_stop_nothing_and_are_no_capture_times(camera, watch, jump, fps):
    def script(session):
        session.report()
        session.send(20)
        session.timestamp += jump
        session.send()

    camera.script = script
    watched = watch(camera.url, fps=fps)
    frames = watched.wait_for_frames(60 if fps is None else 30)
    assert watched.downs() == []
    assert frames[3].clock == "rtcp"
    now = datetime.now(UTC)
    assert all(abs((now - frame.captured_at).total_seconds()) < 30 for frame in frames)
    if abs(jump) > 90_000 * 5:
        assert frames[-1].clock == "arrival"
    if fps is not None:
        assert frames[-1].skipped == 1


def test_a_camera_whose_clock_was_never_set_gets_our_time(camera, watch):
    def script(session):
        session.ntp_offset_seconds = -1.7e9
        session.report()
        session.send()

    camera.script = script
    frames = watch(camera.url).wait_for_frames(10)
    assert {frame.clock for frame in frames} == {"arrival"}
    assert abs((datetime.now(UTC) - frames[-1].captured_at).total_seconds()) < 30


def test_a_camera_comes_back_with_another_size_and_codec(camera, watch, clip):
    watched = watch(camera.url)
    first = watched.wait_for_frames()[0]
    assert (first.height, first.width) == (144, 192)
    for other, size in ((Clip.h264((240, 352)), (240, 352)), (Clip.mpeg4(), (144, 192))):
        since = time.monotonic()
        camera.clip = other
        camera.hang_up()
        wait_until(lambda since=since: watched.downs(since), 5, "the loss")
        lost = watched.items[-1][0]
        frame = watched.wait_for_frames(20, since=lost)[-1]
        assert (frame.height, frame.width) == size
        assert frame.image.shape == (120, 160, 3)
    assert {d.reason for d in watched.downs()} == {"closed"}


def test_a_camera_that_changes_its_size_in_mid_stream_is_read_on(camera, watch):
    larger = Clip.h264((240, 352))

    def script(session):
        session.send(20)
        session.frame = 0  # a key frame, with its parameter sets
        session.send(clip=larger)

    camera.script = script
    watched = watch(camera.url)
    wait_until(lambda: watched.frames() and watched.frames()[-1].height == 240, 10, "the new size")
    assert watched.downs() == []
    assert watched.frames()[-1].image.shape == (120, 160, 3)


def test_a_camera_that_only_sends_by_udp_is_read_that_way(camera, watch):
    camera.transports = ("udp",)
    watched = watch(camera.url)
    watched.wait_for_frames(20)
    assert camera.requests.count("SETUP") == 2  # TCP first, and then UDP in the same connection
    assert len(camera.visits) == 1


def test_packets_lost_on_the_way_cost_their_pictures_and_no_connection(camera, watch):
    def script(session):
        session.drop = lambda sequence: sequence > 60 and sequence % 25 == 0
        session.send()

    camera.transports = ("udp",)
    camera.script = script
    watched = watch(camera.url)
    frames = watched.wait_for_frames(60)
    assert watched.downs() == []
    assert frames[-1].frame_index >= 59
    seconds = watched.items[60][0] - watched.items[10][0]
    assert seconds < 50 / RATE * 2


def test_a_udp_camera_that_vanishes_stalls(camera, watch, assert_back):
    camera.transports = ("udp",)
    watched = watch(camera.url)
    watched.wait_for_frames(20)
    for session in camera.sessions:
        session.frozen.set()
    wait_for_reason(watched, "stall")
    assert_back(watched, time.monotonic())


# Again and again.


def test_a_camera_that_gives_one_frame_and_dies_is_not_hammered(camera, watch):
    camera.script = lambda session: session.send(3)
    watched = watch(camera.url)
    time.sleep(8)
    assert 3 <= len(camera.visits) <= 10  # without a back-off 16 to 32
    assert all(down.reason == "closed" for down in watched.downs())


def test_a_source_stops_within_its_timeout_wherever_it_hangs(clip, watch):
    swallower, silent = Swallower(), Camera(clip, answers={"DESCRIBE": SILENT})
    stalled = Camera(clip, script=lambda session: session.hold())
    sources = [watch(c.url) for c in (swallower, silent, stalled)]
    wait_until(lambda: silent.visits and stalled.visits, 5, "the connects")
    for source in sources:
        source.source.stop()
    assert all(source.stop() < SILENCE_SECONDS + BUSY_SECONDS for source in sources)
    for server in (swallower, silent, stalled):
        server.stop()


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_minute_of_noise_is_survived(camera, clip, watch, assert_back):
    bad, noisy = noise(clip), True

    def script(session):
        while noisy and not session.gone.is_set():
            session.send(5, clip=bad)
        session.send()

    watched = watch(camera.url)
    watched.wait_for_frames(20)
    camera.script = script
    camera.hang_up()
    time.sleep(60)
    assert "invalid_data" in [d.reason for d in watched.downs()]
    noisy = False
    assert_back(watched, time.monotonic())


@pytest.mark.long
@pytest.mark.parametrize("seconds", [30])
def test_a_camera_is_back_soon_after_a_long_time_away(camera, watch, assert_back, seconds):
    watched = watch(camera.url)
    watched.wait_for_frames(20)
    camera.stop()
    time.sleep(seconds)
    camera.start()
    assert_back(watched, time.monotonic())


@pytest.mark.long
def test_a_camera_that_loses_its_power_is_back_within_ten_seconds(camera, watch, assert_back):
    watched = watch(camera.url)
    watched.wait_for_frames(20)
    nobody = camera.unplug()
    wait_for_reason(watched, "stall")
    wait_for_reason(watched, "timeout")
    nobody.stop()  # booting: the kernel refuses, the server is not up yet
    wait_for_reason(watched, "refused")
    time.sleep(3)
    camera.start()
    assert_back(watched, time.monotonic(), within=10)
