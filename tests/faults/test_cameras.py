"""A failing camera: the reason reported, how often it is retried, and how soon it is back.

At the source, against a camera that fails on command. test_cameras_opening.py and
test_cameras_streams.py cover the faults one by one, test_cameras_worker.py the whole worker,
test_cameras_gst.py a server by others.
"""

import time
from datetime import UTC, datetime

import pytest
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext

from tests.conftest import wait_until
from tests.faults.rtsp_faults import SILENT, Camera, Swallower, noise
from tests.faults.watching import BUSY_SECONDS, wait_for_reason, wait_for_visit
from tests.garbage import alive, no_search_for_cycles
from worker.sources.camera_pictures import CameraPictures
from worker.sources.reasons import SILENCE_SECONDS

# Faults of the handshake, before the first frame or at a reconnect.


@pytest.mark.long
def test_a_silent_camera_is_a_timeout_and_back_soon_at_the_worst_moment(camera, watch, assert_back):
    camera.answers = {"DESCRIBE": SILENT}
    watched = watch(camera.url)
    started = time.monotonic()
    down = wait_for_reason(watched, "timeout")
    assert time.monotonic() - started < SILENCE_SECONDS + BUSY_SECONDS
    assert down.state == "down"
    asked = len(camera.requests)
    # The worst moment: the question of the next attempt is never answered.
    wait_until(lambda: camera.requests[asked:].count("DESCRIBE"), 10, "the next attempt")
    camera.answers = {}
    assert_back(watched, time.monotonic())
    assert [d.reason for d in watched.downs()] == ["timeout"]


@pytest.mark.parametrize(("status", "reason"), [(403, "unauthorized"), (503, "error")])
def test_a_camera_that_refuses_reports_its_reason(camera, watch, status, reason):
    camera.answers = {"DESCRIBE": status}
    assert wait_for_reason(watch(camera.url), reason).state == "down"


@pytest.mark.long
def test_a_host_that_swallows_packets_is_a_timeout(clip, watch, assert_back):
    swallower = Swallower()
    watched = watch(swallower.url)
    wait_for_reason(watched, "timeout")
    time.sleep(0.6)  # into the next attempt, whose SYN is lost, too
    swallower.stop()
    camera = Camera(clip, port=swallower.port)
    assert_back(watched, time.monotonic())
    camera.stop()


def test_a_host_name_without_an_address_is_unknown_host(watch):
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


@pytest.mark.long
def test_a_server_without_a_publisher_stalls_and_is_back_with_it(camera, watch, assert_back):
    camera.script = lambda session: session.hold()
    watched = watch(camera.url)
    wait_for_reason(watched, "stall")
    wait_for_visit(camera)
    camera.script = lambda session: session.send()
    assert_back(watched, time.monotonic())
    assert [d.reason for d in watched.downs()] == ["stall"]


def test_a_few_lost_pictures_do_not_end_a_connection(camera, clip, watch):
    def script(session):
        session.send(20)
        session.send(20, clip=noise(clip))
        session.send()

    camera.script = script
    watched = watch(camera.url)
    watched.wait_for_frames(60)
    assert watched.downs() == []


def test_a_camera_whose_clock_was_never_set_gets_this_hosts_time(camera, watch):
    def script(session):
        session.ntp_offset_seconds = -1.7e9
        session.report()
        session.send()

    camera.script = script
    frames = watch(camera.url).wait_for_frames(10)
    assert {frame.clock for frame in frames} == {"arrival"}
    assert abs((datetime.now(UTC) - frames[-1].captured_at).total_seconds()) < 30


def test_a_camera_that_only_sends_by_udp_is_read_that_way(camera, watch):
    camera.transports = ("udp",)
    watched = watch(camera.url)
    watched.wait_for_frames(20)
    assert camera.requests.count("SETUP") == 2  # TCP first, and then UDP in the same connection
    assert len(camera.visits) == 1


# Repeated connects.


@pytest.mark.long
def test_lost_connections_leave_nothing_behind(camera, watch):
    camera.script = lambda session: session.send(3)
    with no_search_for_cycles():
        watched = watch(camera.url)
        wait_until(lambda: len(watched.downs()) == 5, 60, "the last connection")
        assert len(alive(CameraPictures)) <= 1  # the last one is kept until the next
        watched.stop()
        assert alive(CameraPictures, InputContainer, VideoCodecContext) == []


@pytest.mark.long
def test_a_camera_that_sends_one_frame_and_dies_is_not_hammered(camera, watch):
    camera.script = lambda session: session.send(3)
    watched = watch(camera.url)
    time.sleep(6)
    assert 3 <= len(camera.visits) <= 8  # without a back-off 12 to 24
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
@pytest.mark.parametrize("seconds", [30])
def test_a_camera_is_back_soon_after_a_long_outage(camera, watch, assert_back, seconds):
    watched = watch(camera.url)
    watched.wait_for_frames(20)
    camera.stop()
    time.sleep(seconds)
    camera.start()
    assert_back(watched, time.monotonic())
