from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from worker.sources.sampling import MediaTime, Sampler


def accepted(sampler, seconds):
    return [i for i, s in enumerate(seconds) if sampler.accepts(i, s)]


def test_stride_takes_every_nth_frame_and_counts_the_rest():
    sampler = Sampler(stride=3)
    assert sampler.accepts(0, None)
    assert sampler.take_skipped() == 0
    assert [sampler.accepts(i, None) for i in (1, 2, 3)] == [False, False, True]
    assert sampler.take_skipped() == 2
    assert sampler.take_skipped() == 0


def test_the_first_of_each_stride_is_by_frame_index_wherever_the_recording_is_entered():
    sampler = Sampler(stride=4)
    assert [i for i in range(6, 17) if sampler.accepts(i, None)] == [8, 12, 16]


def test_without_a_stride_or_a_rate_every_frame_is_taken():
    assert accepted(Sampler(), [i / 25 for i in range(10)]) == list(range(10))


def test_frames_without_a_time_are_taken_whatever_the_rate():
    sampler = Sampler(fps=1)
    assert accepted(sampler, [None] * 5) == list(range(5))
    assert sampler.take_skipped() == 0


@pytest.mark.parametrize(("rate", "fps", "expected"), [(30, 10, 100), (25, 10, 100), (10, 30, 100)])
def test_fps_is_met_on_average_and_never_exceeded(rate, fps, expected):
    frames = accepted(Sampler(fps=fps), [i / rate for i in range(rate * 10)])
    assert len(frames) == pytest.approx(min(expected, rate * 10), abs=1)


def test_timestamps_rounded_to_milliseconds_do_not_shift_the_frames_taken():
    seconds = [round(i / 30, 3) for i in range(300)]
    assert accepted(Sampler(fps=10), seconds) == list(range(0, 300, 3))


def test_fps_survives_timestamps_that_restart():
    seconds = [i / 10 for i in range(100)] + [i / 10 for i in range(100)]
    assert len(accepted(Sampler(fps=1), seconds)) == pytest.approx(20, abs=1)


def test_a_rate_that_does_not_divide_the_cameras_is_met_on_average():
    frames = accepted(Sampler(fps=8), [i / 30 for i in range(300)])
    assert len(frames) == pytest.approx(80, abs=1)
    assert {b - a for a, b in pairwise(frames)} == {3, 4}


def test_after_a_jump_back_the_next_frame_is_taken_at_once():
    seconds = [100.0, 100.5, 7.0, 7.5, 8.0]
    assert accepted(Sampler(fps=1), seconds) == [0, 2, 4]


def test_two_frames_with_one_time_are_not_a_jump_back():
    assert accepted(Sampler(fps=1), [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]) == [0, 4]


@pytest.mark.parametrize(("early_seconds", "frames"), [(0.0005, [0, 1]), (0.0006, [0])])
def test_a_frame_may_come_half_a_millisecond_early(early_seconds, frames):
    assert accepted(Sampler(fps=1), [0.0, 1 - early_seconds]) == frames


def test_after_a_gap_there_is_no_burst():
    seconds = [0.0, *(60 + i / 100 for i in range(100))]
    assert len(accepted(Sampler(fps=5), seconds)) <= 1 + 6


@given(st.lists(st.floats(0, 1000), max_size=60), st.floats(0.1, 100))
def test_two_samplers_make_the_same_decisions(seconds, fps):
    assert accepted(Sampler(fps=fps), seconds) == accepted(Sampler(fps=fps), seconds)


def test_with_a_stride_the_rate_is_of_the_frames_that_it_leaves():
    seconds = [i / 10 for i in range(20)]
    assert accepted(Sampler(stride=2, fps=5), seconds) == list(range(0, 20, 2))
    assert accepted(Sampler(stride=3, fps=5), seconds) == list(range(0, 20, 3))


def test_a_key_frame_may_come_half_an_interval_early():
    sampler = Sampler(fps=1)
    assert sampler.accepts(0, 0.0)
    assert not sampler.is_due(0.49, key_frame=True)
    assert sampler.is_due(0.5, key_frame=True)
    assert not sampler.is_due(0.5)


def test_times_that_a_video_does_not_state_follow_at_its_rate():
    time = MediaTime(0.04)
    assert [round(time.of(None), 2) for _ in range(3)] == [0.0, 0.04, 0.08]
    assert time.of(7.0) == 7.0
    assert time.of(None) == pytest.approx(7.04)


def test_what_is_not_even_decoded_is_skipped_too():
    sampler = Sampler(stride=2)
    assert sampler.interval_seconds == 0
    sampler.accepts(1, None)
    sampler.skip(3)
    sampler.skip(4)
    assert sampler.take_skipped() == 8
    assert sampler.take_skipped() == 0
