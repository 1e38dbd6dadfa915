"""Broken media: a short run, a long one with the long tests; and the harness can fail."""

import pytest

from tests.fuzz import misbehaving
from tests.fuzz.fuzz_media import WALKWAY, fuzz, play
from tests.fuzz.mutations import broken, make_clips
from tests.fuzz.watched import Watched

MEMORY_BYTES = 1 << 30


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(WALKWAY, tmp_path_factory.mktemp("clips"), ("mp4", "mjpeg"))


def test_sixty_broken_files_end_with_a_reason_or_an_error():
    result = fuzz(range(60), seed=1)
    assert result["findings"] == []
    assert result["cases"] == 60
    assert len(result["outcomes"]) >= 5, "cases that go all alike try nothing"
    assert result["peak_rss_bytes"] < MEMORY_BYTES


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_thousand_broken_files_end_with_a_reason_or_an_error():
    result = fuzz(range(2000), seed=0)
    assert result["findings"] == []
    assert result["slowest_case_seconds"] < 10
    assert result["peak_rss_bytes"] < MEMORY_BYTES


@pytest.mark.parametrize(
    ("bad", "finding"),
    [
        (misbehaving.hang, "hang"),
        (misbehaving.crash, "crash: SIGSEGV"),
        (misbehaving.leave, "crash: exit code 3"),
        (misbehaving.raise_an_error, "ValueError"),
        (misbehaving.take_memory, "memory"),
    ],
)
def test_a_forbidden_outcome_is_a_finding_with_its_file(tmp_path, bad, finding):
    result = fuzz(
        [7], seed=3, kinds=("mp4",), keep=tmp_path, play=bad, memory_bytes=300 << 20,
        hang_seconds=1 if bad is misbehaving.hang else 30,
    )  # fmt: skip
    (found,) = result["findings"]
    assert (found["seed"], found["case"], found["outcome"]) == (3, 7, finding)
    assert [path.name for path in tmp_path.iterdir()] == ["case-3-7.mp4"]


def test_after_a_finding_the_next_case_gets_a_new_child():
    result = fuzz(range(3), seed=0, kinds=("mp4",), play=misbehaving.crash_at_the_second)
    assert result["outcomes"] == {"fine": 2, "FINDING crash: SIGSEGV": 1}


def test_an_undamaged_file_yields_its_frames(clips, tmp_path):
    with Watched(play) as child:
        for clip in clips:
            path = tmp_path / f"whole{clip.ending}"
            path.write_bytes(clip.content)
            assert child.play(path, 0).text == "frames, ended: end_of_file"
            assert child.play(path, 3).text == "live, frames, ended: end_of_file"


def test_a_case_is_the_same_each_time(clips):
    cases = [broken(5, case, clips) for case in range(50)]
    assert cases == [broken(5, case, clips) for case in range(50)]
    assert len({case.content for case in cases}) > 40
    assert cases[0] != broken(6, 0, clips)
