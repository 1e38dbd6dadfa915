"""A few frames of a recording: the very pictures that a replay saw."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from tests import clips
from tests.conftest import WALKWAY
from tests.unit.worker.sources.test_indexed_frames import KINDS, SIZE, kinds, make
from worker.errors import SourceError
from worker.sources.frames_at import FramePlace, frames_at
from worker.sources.indexed_frames import IndexedFrames
from worker.sources.recording import RecordingSource, probe_recording

WANTED = (0, 5, 17, 29)


def replayed(path):
    source = RecordingSource(probe_recording(path, "x"), None)
    return [item for item in source if hasattr(item, "frame_index")]


def place_of(frame, **changes):
    place = {
        "frame_index": frame.frame_index,
        "pts": frame.pts,
        "time_base": frame.time_base,
        "size": (frame.height, frame.width),
    }
    return FramePlace(**place | changes)


@pytest.mark.parametrize("name", kinds(*KINDS))
def test_the_frames_are_those_of_the_replay(tmp_path, name):
    path = make(tmp_path, name)
    frames = replayed(path)
    found = frames_at(path, [place_of(frames[n]) for n in WANTED])
    assert sorted(found) == list(WANTED)
    for n in WANTED:
        np.testing.assert_array_equal(found[n], frames[n].image)


def test_a_frame_is_found_by_its_time_without_decoding_what_is_before(tmp_path, monkeypatch):
    path = make(tmp_path, "closed.mp4")
    frames = replayed(path)
    monkeypatch.setattr(IndexedFrames, "__init__", None)
    found = frames_at(path, [place_of(frames[n]) for n in WANTED])
    np.testing.assert_array_equal(found[17], frames[17].image)


@pytest.mark.parametrize(
    "changes",
    [{"pts": None}, {"time_base": Fraction(1, 7)}, {"pts": 10**9}, {"size": (3, 4)}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_a_time_does_not_find_is_found_by_its_number(tmp_path, changes):
    path = make(tmp_path, "closed.mp4")
    frames = replayed(path)
    found = frames_at(path, [place_of(frames[17], **changes)])
    np.testing.assert_array_equal(found[17], frames[17].image)


def test_a_frame_beyond_the_end_is_one_line(tmp_path):
    path = clips.cut(WALKWAY, tmp_path / "clip.mp4", frames=3, size=SIZE)
    with pytest.raises(SourceError, match="has no frame 9"):
        frames_at(path, [FramePlace(9, None, Fraction(1, 10), SIZE)])


def test_a_folder_has_its_pictures_by_their_numbers(tmp_path):
    for n, frame in enumerate(replayed(make(tmp_path, "closed.mp4"))[:3]):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(frame.image).save(tmp_path / "photos" / f"{n}.png")
    frames = replayed(tmp_path / "photos")
    found = frames_at(tmp_path / "photos", [place_of(frames[2])])
    np.testing.assert_array_equal(found[2], frames[2].image)
