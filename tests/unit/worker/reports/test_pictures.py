"""Heat maps, and the recording that belongs to events."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.events import PERSON
from tests.unit.worker.reports.events import recorded, seen
from worker.errors import SourceError
from worker.reports.camera import sums_of
from worker.reports.heat import HeatGrid
from worker.reports.pictures import (
    FIELD_GREY,
    HIGHEST_PX,
    WIDEST_PX,
    decode_jpeg,
    encode_jpeg,
    fitted,
    heat_colours,
    heat_map,
    is_recording_of,
    recording_beside,
)
from worker.sources.recording import recording_digest


def summed(*events):
    (camera,), _ = sums_of(iter(events), 10)
    return camera


@pytest.fixture
def clip(short_clip, tmp_path):
    return shutil.copy(short_clip, tmp_path / "clip.mp4")


def test_a_heat_map_is_hottest_where_most_detections_were_and_leaves_the_rest_grey():
    grid = HeatGrid()
    for _ in range(9):
        grid.add((0.5, 0.5, 1, 1))
    grid.add((0, 0, 0.25, 0.25))
    under = np.zeros((216, 384, 3), np.uint8)
    under[..., 2] = 90
    found = heat_map(grid.counts(), under, (1080, 1920)).astype(int)
    assert found.shape == (216, 384, 3)
    hottest, cool, none = found[160, 300], found[20, 40], found[20, 300]
    assert hottest.sum() > cool.sum() > none.sum()
    assert none.tolist() == [21, 21, 21]  # the mean of the picture, darker
    assert hottest.argmin() == 2  # yellow


def test_without_a_picture_the_field_has_the_shape_of_the_frames():
    found = heat_map(HeatGrid().counts(), None, (1920, 1080))
    assert found.shape == (HIGHEST_PX, round(HIGHEST_PX * 1080 / 1920), 3)
    assert (found == round(FIELD_GREY * 0.7)).all()
    assert heat_map(HeatGrid().counts(), None, (0, 0)).shape == (1, 1, 3)


def test_the_scale_gets_brighter_evenly():
    colours = heat_colours(np.arange(256, dtype=np.uint8)[None]).astype(int)[0]
    light = colours @ (299, 587, 114)
    assert (np.diff(light) > -2000).all()
    assert light[-1] > 200_000 > 5000 > light[0]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((576, 768), (576, 768)),
        ((2160, 3840), (540, WIDEST_PX)),
        ((3000, 1000), (HIGHEST_PX, 240)),
        ((1, 5000), (1, WIDEST_PX)),
    ],
)
def test_pictures_are_made_smaller_and_never_larger(size, shown):
    assert fitted(np.zeros((*size, 3), np.uint8)).shape == (*shown, 3)


def test_a_snapshot_that_is_damaged_is_one_line():
    jpeg = encode_jpeg(np.full((30, 40, 3), 200, np.uint8))
    assert abs(int(decode_jpeg(jpeg).mean()) - 200) < 3
    png = io.BytesIO()
    Image.new("RGB", (3, 3)).save(png, "PNG")
    for bad in (b"", jpeg[:200], png.getvalue()):
        with pytest.raises(SourceError, match="the snapshot cannot be decoded"):
            decode_jpeg(bad)


def test_the_recording_is_known_by_its_content(clip, tmp_path):
    digest = recording_digest(clip)
    replay, other = summed(recorded(0, PERSON, digest=digest)), summed(recorded(0, PERSON))
    assert is_recording_of(clip, replay)
    assert not is_recording_of(clip, other)
    assert not is_recording_of(clip, summed(seen(0, 0, 0)))
    with pytest.raises(SourceError, match="cannot read it"):
        is_recording_of(tmp_path / "none.mp4", replay)


def test_the_recording_beside_the_events_is_found_by_name_and_content(clip, tmp_path):
    tags = tmp_path / "tags.jsonl"
    replay = summed(recorded(0, PERSON, digest=recording_digest(clip)))
    (tmp_path / "clip.mov").write_bytes(b"another")
    (tmp_path / "clip.txt").write_bytes(clip.read_bytes())
    assert recording_beside(tags, replay) == clip
    assert recording_beside(tags, summed(recorded(0, PERSON))) is None
    assert recording_beside(tags, summed(seen(0, 0, 0))) is None
    clip.rename(tmp_path / "other.mp4")
    assert recording_beside(tags, replay) is None
