"""The guarantees of every source, checked on all of them with real files and a real RTSP server."""

import itertools
import re
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.clips import SOUND_HZ, cut, pictures, set_rotation, silence
from tests.conftest import WALKWAY, wait_until
from worker.errors import SourceError
from worker.frames import Frame, StreamDown, StreamUp
from worker.sources.live import LiveSource
from worker.sources.recording import (
    RecordingSource,
    probe_recording,
    recording_digest,
    upright_images,
)

SIZE = (120, 160)


def epochs():
    return itertools.count(1000).__next__


def open_recording(path):
    return RecordingSource(probe_recording(path, "clip"), SIZE)


def open_live(path):
    return LiveSource("clip", str(path), SIZE, epochs())


@pytest.fixture(params=[open_recording, open_live])
def open_source(request):
    return request.param


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return cut(WALKWAY, tmp_path_factory.mktemp("sources") / "clip.mp4", frames=12)


def frames(items):
    return [item for item in items if isinstance(item, Frame)]


def test_a_source_yields_up_then_every_frame_in_order_then_down(open_source, clip):
    up, *between, down = list(open_source(clip))
    assert isinstance(up, StreamUp)
    assert isinstance(down, StreamDown)
    assert (down.state, down.reason, down.frames) == ("ended", "end_of_file", 12)
    assert [f.frame_index for f in between] == list(range(12))
    assert {f.epoch for f in between} == {up.epoch} == {down.epoch}
    seconds = [float(f.pts * f.time_base) for f in between]
    assert seconds == pytest.approx([i / 10 for i in range(12)])


def test_a_frame_has_the_picture_scaled_to_rgb(open_source, clip):
    first = frames(open_source(clip))[0]
    assert first.image.shape == (*SIZE, 3)
    assert first.image.dtype == np.uint8
    assert (first.width, first.height) == (768, 576)
    expected = next(pictures(clip, 1)).reformat(160, 120, "rgb24").to_ndarray()
    assert np.abs(first.image.astype(int) - expected).mean() < 3
    lawn = first.image[90:, 60:]
    assert lawn[..., 1].mean() > lawn[..., 2].mean() + 20  # green, and not blue: RGB order


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_a_rotated_picture_is_turned_upright(open_source, clip, tmp_path, degrees, turns):
    rotated = tmp_path / "rotated.mp4"
    rotated.write_bytes(clip.read_bytes())
    set_rotation(rotated, degrees)
    first = frames(open_source(rotated))[0]
    assert (first.width, first.height) == ((576, 768) if turns % 2 else (768, 576))
    plain = next(pictures(clip, 1))
    height, width = SIZE[::-1] if turns % 2 else SIZE
    expected = np.rot90(plain.reformat(width, height, "rgb24").to_ndarray(), turns)
    assert np.abs(first.image.astype(int) - expected).mean() < 3
    assert next(upright_images(rotated))[1].shape[:2] == (first.height, first.width)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", "mpeg4"),
        ("clip.avi", "mjpeg"),
        ("clip.mkv", "libx264"),
        ("clip.ts", "libx264"),
        ("clip.mov", "mjpeg"),
        ("clip.webm", "libvpx"),
        ("clip.h264", "libx264"),
    ],
)
def test_every_frame_of_every_kind_of_file_is_read(tmp_path, name, codec):
    path = cut(WALKWAY, tmp_path / name, frames=12, codec=codec, options={})
    found = list(open_recording(path))
    assert len(frames(found)) == 12
    assert found[-1].reason == "end_of_file"


def test_a_recording_without_pts_is_sampled_at_its_frame_rate(tmp_path):
    path = cut(WALKWAY, tmp_path / "clip.h264", frames=30, options={})
    recording = probe_recording(path, "clip")
    assert recording.rate == 25
    found = frames(RecordingSource(recording, SIZE, fps=5))
    assert {frame.pts for frame in found} == {None}
    assert [frame.frame_index for frame in found] == [0, 5, 10, 15, 20, 25]
    assert [frame.skipped for frame in found] == [0, 4, 4, 4, 4, 4]


def test_a_stopped_source_ends_soon(open_source, clip):
    source = open_source(clip)
    items = iter(source)
    next(items)
    next(items)
    source.stop()
    assert len(list(items)) <= 1


def test_a_resumed_recording_yields_the_same_frames(clip):
    recording = probe_recording(clip, "clip")
    whole = frames(RecordingSource(recording, SIZE, stride=2))
    resumed = list(RecordingSource(recording, SIZE, stride=2, first_seq=4))
    assert resumed[0].first_seq == 4
    assert [f.frame_index for f in frames(resumed)] == [f.frame_index for f in whole[4:]]
    assert [f.skipped for f in frames(resumed)] == [f.skipped for f in whole[4:]]
    assert np.array_equal(frames(resumed)[0].image, whole[4].image)


def test_the_digest_names_the_content_and_not_the_file(clip, tmp_path):
    copy = tmp_path / "other-name.mp4"
    copy.write_bytes(clip.read_bytes())
    assert recording_digest(copy) == recording_digest(clip)
    copy.write_bytes(clip.read_bytes() + b"x")
    assert recording_digest(copy) != recording_digest(clip)


def test_the_digest_is_sha256_over_size_and_edges(tmp_path):
    import hashlib

    path = tmp_path / "big"
    content = bytes(range(256)) * (3 << 12)  # 3 MiB
    path.write_bytes(content)
    edge = 1 << 20
    expected = hashlib.sha256(str(len(content)).encode() + content[:edge] + content[-edge:])
    assert recording_digest(path) == expected.hexdigest()


@pytest.mark.parametrize(("name", "codec"), [("clip.ts", "libx264"), ("clip.avi", "mjpeg")])
def test_damage_in_the_middle_is_skipped_the_same_way_each_time(tmp_path, name, codec):
    damaged = cut(WALKWAY, tmp_path / name, frames=60, codec=codec, options={"g": "10"})
    content = bytearray(damaged.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    damaged.write_bytes(content)
    first, second = (frames(open_recording(damaged)) for _ in range(2))
    assert 20 < len(first) <= 60
    assert [f.frame_index for f in first] == list(range(len(first)))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))


def test_packets_that_cannot_be_decoded_are_reported(tmp_path):
    damaged = cut(WALKWAY, tmp_path / "clip.avi", frames=20, codec="mjpeg", options={})
    content = bytearray(damaged.read_bytes())
    third = [m.start() for m in re.finditer(b"00dc", content)][2]
    content[third + 8 : third + 12_000] = bytes(11_992)
    damaged.write_bytes(content)
    *_, ended = open_recording(damaged)
    assert ended.reason == "damaged"
    assert "damaged" in ended.detail


def test_a_damaged_file_played_live_continues_after_the_damage_and_ends(tmp_path):
    damaged = cut(WALKWAY, tmp_path / "damaged.avi", frames=20, codec="mjpeg", options={})
    content = bytearray(damaged.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 60_000] = bytes(60_000)
    damaged.write_bytes(content)
    items = list(open_live(damaged))
    assert len(frames(items)) > 10
    assert [type(i) for i in items if not isinstance(i, Frame)] == [StreamUp, StreamDown]
    assert items[-1].state == "ended"


@pytest.mark.parametrize("rate", [1, 2])
@pytest.mark.parametrize("name", ["slow.mp4", "slow.mkv"])
def test_a_slow_recording_whose_last_frame_lasts_long_is_not_truncated(tmp_path, name, rate):
    path = cut(WALKWAY, tmp_path / name, frames=6, rate=rate)
    items = list(open_recording(path))
    assert [float(f.pts * f.time_base) for f in frames(items)] == [i / rate for i in range(6)]
    assert (items[-1].reason, items[-1].detail) == ("end_of_file", "")


@pytest.mark.parametrize("name", ["slow.mp4", "slow.mkv"])
def test_a_slow_recording_that_is_cut_off_is_truncated(tmp_path, name):
    whole = cut(WALKWAY, tmp_path / f"whole-{name}", frames=10, rate=1, options={"g": "1"})
    path = tmp_path / name
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    items = list(open_recording(path))
    assert 2 <= len(frames(items)) <= 8
    assert items[-1].reason == "truncated"
    assert items[-1].detail == f"{len(frames(items))} of about 10 frames could be read"


def test_a_recording_that_starts_at_an_edit_or_lacks_a_frame_count_is_not_truncated(tmp_path):
    whole = cut(WALKWAY, tmp_path / "whole.mp4", frames=60, options={"g": "30"})
    trimmed = tmp_path / "trimmed.mkv"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        audio = target.add_stream("aac", rate=SOUND_HZ)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
        for index in range(900):  # the sound continues long after the pictures
            target.mux(audio.encode(silence(index)))
    items = list(open_recording(trimmed))
    assert len(frames(items)) == 60
    assert items[-1].reason == "end_of_file"


def test_a_recording_without_a_decodable_frame_is_an_error(clip, tmp_path):
    path = tmp_path / "noise.mp4"
    content = bytearray(clip.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"noise\.mp4"):
        list(open_recording(path))


def test_an_rtsp_camera_is_read_and_lost_with_a_reason(rtsp_server):
    url = rtsp_server.publish(WALKWAY, "walkway.mp4")
    source = LiveSource("gate", url, SIZE, epochs())
    items = []

    def read():
        for item in source:
            items.append(item)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    wait_until(lambda: len(frames(items)) > 5, what="frames")
    rtsp_server.stop()
    down = wait_until(lambda: next((i for i in items if isinstance(i, StreamDown)), None))
    source.stop()
    reader.join(10)
    assert not reader.is_alive()
    assert (down.state, down.reason) == ("down", "closed")
    assert isinstance(items[0], StreamUp)
    assert down.frames >= 6
    assert {f.clock for f in frames(items)} <= {"rtcp", "arrival"}
    assert all(f.captured_at.tzinfo is not None for f in frames(items))


def test_an_rtsp_url_may_be_in_capitals(rtsp_server):
    url = rtsp_server.publish(WALKWAY, "walkway.mp4").replace("rtsp://", "RTSP://")
    source = LiveSource("gate", url, SIZE, epochs())
    up, first = itertools.islice(source, 2)
    source.stop()
    assert isinstance(up, StreamUp)
    assert (first.width, first.height) == (768, 576)


@pytest.mark.parametrize(("path", "reason"), [("missing.mp4", "not_found"), (None, "refused")])
def test_a_camera_that_cannot_be_opened_gives_its_reason_once(rtsp_server, path, reason):
    url = f"rtsp://user:secret@127.0.0.1:{rtsp_server.port}/{path}"
    if path is None:
        rtsp_server.stop()
    source = LiveSource("gate", url, SIZE, epochs())
    items = iter(source)
    down = next(items)
    assert (down.state, down.reason, down.epoch) == ("down", reason, 1000)
    assert "secret" not in down.detail
    threading.Timer(3, source.stop).start()
    assert list(items) == []  # retried meanwhile, and failed for the same reason


def test_a_recording_played_live_holds_each_frame_until_its_time(clip):
    import time

    started = time.monotonic()
    arrivals = [time.monotonic() - started for item in open_live(clip) if isinstance(item, Frame)]
    assert arrivals[-1] - arrivals[0] == pytest.approx(1.1, abs=0.5)


def test_a_recording_of_few_frames_played_live_is_not_late(tmp_path):
    path = cut(WALKWAY, tmp_path / "slow.mp4", frames=2, rate=Fraction(2, 5))
    items = list(open_live(path))
    assert [type(item) for item in items] == [StreamUp, Frame, Frame, StreamDown]
    first, second = frames(items)
    # Of when it was due, not of when it was decoded: right after the first.
    assert (second.captured_at - first.captured_at).total_seconds() > 1


def test_what_a_looped_recording_skips_at_its_end_is_counted_in_the_next_round(clip):
    length = sum(isinstance(item, Frame) for item in open_recording(clip))
    source = LiveSource("gate", str(clip), (30, 30), itertools.count(1).__next__, fps=5, loop=True)
    counted, rounds = 0, 0
    for item in source:
        if isinstance(item, StreamUp):
            rounds += 1
        else:
            counted += item.skipped
            if rounds == 3:  # the first frame of a round is analysed
                break
            counted += 1
    source.stop()
    assert counted == 2 * length


def test_a_frame_tells_how_long_it_took_to_decode_and_when_it_was_ready(open_source, clip):
    began = time.monotonic()
    found = frames(open_source(clip))
    ended = time.monotonic()
    assert all(0 < frame.decode_seconds < ended - began for frame in found)
    ready = [frame.read_at for frame in found]
    assert ready == sorted(ready)
    assert began < ready[0]
    assert ready[-1] < ended


def test_waiting_for_a_camera_is_no_time_of_decoding(clip):
    """The clip is played at 10 frames per second."""
    assert all(frame.decode_seconds < 0.09 for frame in frames(open_live(clip)))
