"""Frames by their index: in any order, the very pictures of a replay."""

import pickle
import random
import weakref
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tests import clips
from tests.conftest import WALKWAY
from worker.errors import SourceError
from worker.sources.decoding import DecodedPictures
from worker.sources.indexed_frames import MOST_OPEN, IndexedFrames, OpenDecoders
from worker.sources.recording import RecordingSource, probe_recording

FRAMES = 30
SIZE = (72, 96)
KINDS = {
    "closed.mp4": {"codec": "libx264", "options": {"g": "7", "bf": "3", "preset": "fast"}},
    "open.mkv": {
        "codec": "libx264",
        "options": {"g": "8", "bf": "3", "x264-params": "open-gop=1", "preset": "fast"},
    },
    "open.ts": {"codec": "libx264", "options": {"g": "8", "bf": "2", "preset": "fast"}},
    "one_key_frame.mp4": {"codec": "libx264", "options": {"g": "250", "preset": "fast"}},
    "refresh.mp4": {
        "codec": "libx264",
        "options": {"g": "10", "x264-params": "intra-refresh=1", "preset": "fast"},
    },
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=6:log-level=none"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "5", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "6", "bf": "2"}, "rate": 25},
    "raw.h264": {"codec": "libx264", "options": {"g": "6", "preset": "ultrafast"}},
    "stills.mjpeg": {"codec": "mjpeg", "options": {}},
}


OFTEN = ("closed.mp4", "open.ts")
"""The others are long: each is encoded and decoded."""


def kinds(*names):
    marks = {name: () if name in OFTEN else pytest.mark.long for name in names}
    return [pytest.param(name, marks=each) for name, each in marks.items()]


def make(tmp_path, name):
    return clips.cut(WALKWAY, tmp_path / name, frames=FRAMES, size=SIZE, **KINDS[name])


def replayed(path):
    source = RecordingSource(probe_recording(path, "x"), None)
    return [item.image for item in source if hasattr(item, "frame_index")]


@pytest.mark.parametrize("name", kinds(*KINDS))
def test_frames_in_random_order_are_those_of_a_replay(tmp_path, name):
    path = make(tmp_path, name)
    expected = replayed(path)
    frames = IndexedFrames(path, FRAMES - 1)
    assert frames.count == len(expected) >= FRAMES - 2
    order = list(range(len(expected)))
    random.Random(0).shuffle(order)
    for index in [*order, 3, 3, 4, 2]:
        assert np.array_equal(frames.read(index), expected[index]), index
    frames.close()


@pytest.mark.parametrize(
    "name", kinds("closed.mp4", "open.mkv", "hevc.mp4", "mpeg4.avi", "open.ts")
)
def test_key_frames_save_decoding(tmp_path, name, monkeypatch):
    frames = IndexedFrames(make(tmp_path, name), FRAMES - 1)
    decoded = []
    since = DecodedPictures.since

    def counted(self, pts):
        for picture in since(self, pts):
            decoded.append(picture)
            yield picture

    monkeypatch.setattr(DecodedPictures, "since", counted)
    frames.read(FRAMES - 12)  # where a seek too far would have to be noticed
    decoded.clear()
    frames.read(FRAMES - 2)
    frames.read(FRAMES - 12)
    assert 0 < len(decoded) <= 30
    assert frames.key_frame_before(FRAMES - 2) > 10, "it went back to the beginning"


def test_neighbours_are_decoded_on_the_way(tmp_path, monkeypatch):
    frames = IndexedFrames(make(tmp_path, "one_key_frame.mp4"), FRAMES - 1)
    frames.read(3)
    monkeypatch.setattr(IndexedFrames, "_begin", None)
    for index in (4, 5, 9, 20):
        frames.read(index)


def test_a_copy_in_another_process_has_a_decoder_of_its_own(tmp_path):
    path = make(tmp_path, "closed.mp4")
    frames = IndexedFrames(path, FRAMES - 1)
    expected = replayed(path)
    frames.read(12)
    copy = pickle.loads(pickle.dumps(frames))
    assert np.array_equal(copy.read(13), expected[13])
    assert np.array_equal(frames.read(14), expected[14])


def open_files(path):
    """How often it is open in this process."""
    links = Path("/proc/self/fd").iterdir()
    return sum(link.exists() and link.resolve() == path for link in links)


def test_of_many_recordings_a_few_are_open(tmp_path, monkeypatch):
    path = clips.cut(WALKWAY, tmp_path / "x.mp4", frames=3, size=SIZE)
    decoders = OpenDecoders()
    recordings = [IndexedFrames(path, 2, open_decoders=decoders) for _ in range(MOST_OPEN + 2)]
    expected = replayed(path)
    assert open_files(path) == 0
    for frames in recordings * 2:
        assert np.array_equal(frames.read(1), expected[1])
        assert open_files(path) <= MOST_OPEN
    assert open_files(path) == MOST_OPEN
    copies = pickle.loads(pickle.dumps(recordings))
    assert np.array_equal(copies[0].read(1), expected[1])
    for frames in [*recordings, copies[0]]:
        frames.close()
    assert open_files(path) == 0


def test_of_too_many_recordings_the_one_that_was_opened_first_is_closed(tmp_path, monkeypatch):
    path = clips.cut(WALKWAY, tmp_path / "x.mp4", frames=3, size=SIZE)
    decoders = OpenDecoders()
    recordings = [IndexedFrames(path, 2, open_decoders=decoders) for _ in range(MOST_OPEN + 1)]
    for frames in recordings:
        frames.read(0)
    monkeypatch.setattr(IndexedFrames, "_begin", None)
    for frames in recordings[1:]:
        frames.read(1)


def test_a_closed_recording_keeps_neither_file_nor_scaler(tmp_path):
    path = clips.cut(WALKWAY, tmp_path / "x.mp4", frames=3, size=SIZE)
    frames = IndexedFrames(path, 2)
    frames.read(1)
    decoder, converter = frames._decoder, weakref.ref(frames._converter)
    assert open_files(path) == 1
    frames.close()
    assert open_files(path) == 0, "whatever still refers to the decoder"
    assert decoder is not None
    assert converter() is None


def test_the_first_pass_ends_at_the_last_frame_that_is_wanted(tmp_path):
    path = make(tmp_path, "closed.mp4")
    assert IndexedFrames(path, 4).count == 5
    assert IndexedFrames(path, 1000).count == FRAMES


def test_frames_are_upright_as_in_a_replay(tmp_path):
    path = clips.set_rotation(make(tmp_path, "closed.mp4"), 90)
    frames = IndexedFrames(path, FRAMES - 1)
    assert frames.size(20) == (96, 72)
    expected = replayed(path)
    for index in (20, 2):
        assert np.array_equal(frames.read(index), expected[index])


def test_an_orientation_stated_at_key_frames_holds_for_those_between(tmp_path):
    plain = make(tmp_path, "open.ts")
    path = clips.with_display_orientation(plain, tmp_path / "turned.ts", quarter_turns=1)
    frames = IndexedFrames(path, FRAMES - 1)
    expected = replayed(path)
    assert expected[9].shape == (96, 72, 3)
    for index in (24, 9, 10):
        assert np.array_equal(frames.read(index), expected[index])


def test_damage_gives_the_frames_of_a_replay(tmp_path):
    path = make(tmp_path, "closed.mp4")
    content = bytearray(path.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    expected = replayed(path)
    frames = IndexedFrames(path, FRAMES - 1)
    assert frames.count == len(expected)
    for index in random.Random(1).sample(range(len(expected)), 12):
        assert np.array_equal(frames.read(index), expected[index]), index


def too_far(since):
    return lambda self, pts: since(self, pts + 10_000_000)


def with_other_content(since):
    def wrong(self, pts):
        for decoded in since(self, pts):
            other = av.VideoFrame.from_ndarray(np.full((108, 96), 9, np.uint8), "yuv420p")
            other.pts = decoded.picture.pts
            yield replace(decoded, picture=other)

    return wrong


@pytest.mark.parametrize("wrong", [too_far, with_other_content])
def test_a_seek_to_another_picture_is_noticed_and_decoded_from_the_beginning(
    tmp_path, monkeypatch, caplog, wrong
):
    path = make(tmp_path, "closed.mp4")
    frames = IndexedFrames(path, FRAMES - 1)
    monkeypatch.setattr(DecodedPictures, "since", wrong(DecodedPictures.since))
    expected = replayed(path)
    assert np.array_equal(frames.read(27), expected[27])
    assert "decoded from its beginning again and again" in caplog.text
    assert np.array_equal(frames.read(20), expected[20])
    assert len(caplog.messages) == 1


def test_a_file_that_has_changed_or_is_gone_is_told(tmp_path):
    path = make(tmp_path, "closed.mp4")
    frames = IndexedFrames(path, FRAMES - 1)
    path.rename(tmp_path / "old.mp4")
    with pytest.raises(SourceError, match=r"closed\.mp4"):
        frames.read(3)
    clips.cut(WALKWAY, path, frames=FRAMES, size=(90, 96))
    with pytest.raises(SourceError, match="frame 3 has changed or is gone"):
        frames.read(3)
    clips.cut(WALKWAY, path, frames=2, size=SIZE)
    with pytest.raises(SourceError, match="frame 3 has changed or is gone"):
        frames.read(3)


def test_a_file_without_a_picture_is_refused(tmp_path):
    with pytest.raises(SourceError):
        IndexedFrames(clips.audio_only(tmp_path / "sound.mp4"), 3)
    path = clips.cut(WALKWAY, tmp_path / "cut.mp4", frames=2, size=SIZE)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 8])
    with pytest.raises(SourceError, match="no frame in it can be decoded"):
        IndexedFrames(path, 3)


def test_a_moving_picture_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "moving.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "rgb8"
        for index in range(5):
            image = np.full((24, 32, 3), 50 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    frames = IndexedFrames(path, 4)
    expected = replayed(path)
    for index in (4, 1, 3):
        assert np.array_equal(frames.read(index), expected[index])
