"""A stream that fails while it is watched: the reason reported, and how soon it is back.

At the source, against a camera that fails on command. See test_cameras.py.
"""

import time

import pytest

from tests.conftest import wait_until
from tests.faults.rtsp_faults import RATE, Clip, noise
from tests.faults.watching import BUSY_SECONDS, wait_for_reason
from worker.frames import Frame, StreamLate
from worker.sources.liveness import PICTURELESS_SECONDS
from worker.sources.reasons import SILENCE_SECONDS


def stall(session):
    session.send(20)
    session.hold()


def stall_with_reports(session):
    """Behave as a server whose publisher has left."""
    session.send(20)
    while not session.gone.is_set():
        session.report()
        session.hold(0.5)


def test_a_camera_that_closes_silently_is_closed_and_back_at_once(camera, watch, assert_back):
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


@pytest.mark.parametrize(
    "script", [pytest.param(stall, marks=pytest.mark.long), stall_with_reports]
)
def test_a_stall_in_mid_stream_is_reported_soon(camera, watch, assert_back, script):
    camera.script = script
    watched = watch(camera.url)
    down = wait_for_reason(watched, "stall")
    # 20 frames take one second; the one that FFmpeg held back until the timeout is not a frame
    assert down.frames <= 20
    assert watched.seconds_until(down) < 1 + SILENCE_SECONDS + BUSY_SECONDS
    camera.script = lambda session: session.send()
    assert_back(watched, time.monotonic())


@pytest.mark.long
def test_a_short_pause_does_not_disconnect_and_the_burst_after_it_is_read_at_once(camera, watch):
    def burst(session):
        session.send(20)
        session.hold(2)
        session.send(40, pause_seconds=0)
        session.send()

    camera.script = burst
    watched = watch(camera.url)
    watched.wait_for_frames(70)
    assert watched.downs() == []
    times = [at for at, item in watched.items if isinstance(item, Frame)]
    gap = max(range(len(times) - 1), key=lambda i: times[i + 1] - times[i])
    assert times[gap + 1] - times[gap] > 1.5
    after = times[gap + 1 : gap + 36]
    assert after[-1] - after[0] < 1  # of 2 s of video: the latency recovers
    assert any(isinstance(item, StreamLate) for _, item in watched.items)
    assert len(camera.visits) == 1


@pytest.mark.long
def test_prolonged_noise_is_invalid_data_and_not_up(camera, clip, watch, assert_back):
    bad, noisy = noise(clip), True

    def script(session):
        session.send(20)
        while noisy and not session.gone.is_set():
            session.send(5, clip=bad)
        session.send()

    camera.script = script
    watched = watch(camera.url)
    down = wait_for_reason(watched, "invalid_data")
    assert watched.seconds_until(down) < 1 + 2 * PICTURELESS_SECONDS
    assert "decoded" in down.detail
    noisy = False
    assert_back(watched, time.monotonic())


@pytest.mark.long
@pytest.mark.parametrize(
    "jump", [-90_000, 90_000 * 3600, pytest.param(-90_000 * 7200, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("fps", [pytest.param(None, marks=pytest.mark.long), 10])
def test_timestamps_that_jump_stop_nothing_and_are_not_capture_times(camera, watch, jump, fps):
    def script(session):
        session.report()
        session.send(20)
        session.timestamp += jump
        session.send()

    camera.script = script
    watched = watch(camera.url, fps=fps)
    frames = watched.wait_for_frames(60 if fps is None else 30)
    # A lower timestamp is a new epoch; two hours back are 11 ahead, in 32 bits.
    expected = ["timestamps"] if jump == -90_000 else []
    assert [down.reason for down in watched.downs()] == expected
    assert frames[3].clock == "rtcp"
    since = time.monotonic() - time.time()
    for at, item in watched.items:
        if isinstance(item, Frame):
            assert abs(at - since - item.captured_at.timestamp()) < BUSY_SECONDS
    if abs(jump) > 90_000 * 5:
        assert frames[-1].clock == "arrival"
    if fps is not None:  # about every second one, also on the far side of the jump
        assert 5 <= sum(frame.skipped for frame in frames[-10:]) <= 20


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


def test_a_camera_that_changes_its_size_in_mid_stream_stays_connected(camera, watch):
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


def test_packet_loss_costs_pictures_and_not_the_connection(camera, watch):
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


@pytest.mark.long
def test_a_udp_camera_that_vanishes_stalls(camera, watch, assert_back):
    camera.transports = ("udp",)
    watched = watch(camera.url)
    watched.wait_for_frames(20)
    for session in camera.sessions:
        session.frozen.set()
    wait_for_reason(watched, "stall")
    assert_back(watched, time.monotonic())


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
def test_a_camera_that_loses_its_power_is_back_within_ten_seconds(camera, watch, assert_back):
    watched = watch(camera.url)
    watched.wait_for_frames(20)
    nobody = camera.unplug()
    wait_for_reason(watched, "stall")
    wait_for_reason(watched, "timeout")
    nobody.stop()  # booting: the kernel refuses connections, the server is not up yet
    wait_for_reason(watched, "refused")
    time.sleep(3)
    camera.start()
    assert_back(watched, time.monotonic(), within=10)
