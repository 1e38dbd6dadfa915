from dataclasses import dataclass

import pytest

from worker.sources import thinning
from worker.sources.arrivals import Arrival
from worker.sources.sampling import Sampler
from worker.sources.thinning import (
    IN_TIME_SECONDS,
    KEY_FRAME_SECONDS,
    LATE_SECONDS,
    MOST_B_FRAMES,
    Thinner,
)

RATE = 25


@dataclass
class Packet:
    is_keyframe: bool
    size: int = 1000


class Stream:
    """Packets into a thinner, and what of them is decoded and accepted."""

    def __init__(self, fps=None, gop=25, index=0):
        self.sampler = Sampler(fps=fps)
        self.thinner = Thinner(self.sampler)
        self.gop = gop
        self.index = index
        self.decoded, self.accepted, self.gaps = [], [], []

    def send(self, packets, lag=0.0):
        for _ in range(packets):
            index, seconds = self.index, self.index / RATE
            arrival = Arrival(Packet(index % self.gop == 0), seconds, pts=index)
            chosen = self.thinner.take(arrival, seconds, lag)
            if chosen.gap:
                self.gaps.append((chosen.arrivals[0].pts, chosen.gap))
            for each in chosen.arrivals:
                self.decoded.append(each.pts)
                if self.sampler.accepts(
                    each.pts, each.pts / RATE, key_frame=each.packet.is_keyframe
                ):
                    self.accepted.append(each.pts)
            self.index += 1

    @property
    def counts(self):
        return self.sampler.skipped, self.thinner.dropped


def test_without_fps_and_lag_everything_is_decoded():
    stream = Stream()
    stream.send(100)
    assert stream.decoded == list(range(100))
    assert stream.gaps == []
    assert stream.counts == (0, 0)


def test_key_frames_alone_are_decoded_where_they_are_as_frequent_as_frames_are_wanted():
    stream = Stream(fps=1, gop=25)
    stream.send(500)
    # The first two groups show how far apart key frames are.
    assert stream.accepted == list(range(0, 500, 25))
    assert stream.decoded == [*range(26), *range(50, 500, 25)]
    assert stream.gaps == [(first, "skipped") for first in range(50, 500, 25)]
    held = 24  # since the last key frame
    assert len(stream.accepted) + stream.counts[0] + held == 500


def test_key_frames_a_little_off_the_rate_keep_it_on_average():
    stream = Stream(fps=1, gop=24)
    stream.send(24 * 100)
    assert len(stream.accepted) == pytest.approx(96, abs=1)
    assert all(index % 24 == 0 for index in stream.accepted)


def test_where_every_picture_is_a_key_frame_only_those_wanted_are_decoded():
    stream = Stream(fps=5, gop=1)
    stream.send(250)
    assert len(stream.accepted) == pytest.approx(50, abs=1)
    assert len(stream.decoded) <= len(stream.accepted) + 2


def test_between_two_key_frames_all_is_decoded_up_to_the_picture_that_is_wanted():
    stream = Stream(fps=1, gop=50)
    stream.send(50 * 6)
    assert stream.accepted == list(range(0, 300, 25))
    after_the_first_two_groups = [index for index in stream.decoded if index >= 100]
    wanted = [i for start in range(100, 300, 50) for i in range(start, start + 26)]
    assert after_the_first_two_groups == wanted


def test_a_key_frame_that_does_not_come_costs_no_picture_that_is_wanted():
    stream = Stream(fps=1, gop=25)
    stream.send(101)
    stream.gop = 10_000
    stream.send(100)
    assert stream.accepted[:5] == [0, 25, 50, 75, 100]
    assert stream.accepted[5:] == [125, 150, 175, 200]
    assert stream.decoded[-98:] == list(range(103, 201))


def test_what_is_held_is_bounded(monkeypatch):
    monkeypatch.setattr(thinning, "MAX_HELD_BYTES", 5000)
    stream = Stream(fps=1, gop=25)
    stream.send(60)
    assert stream.decoded[-7:] == list(range(50, 57))


@pytest.mark.parametrize(("fps", "few"), [(1, True), (5, False), (None, False)])
def test_what_no_other_depends_on_is_left_out_if_few_are_wanted(fps, few):
    stream = Stream(fps=fps, gop=100)
    stream.send(101)
    assert (stream.thinner.skip_frame == "NONREF") == few


def test_few_means_that_a_reference_lies_between_any_two_that_are_wanted():
    interval = (MOST_B_FRAMES + 1) / RATE
    for fps, few in [(1 / (interval * 1.01), True), (1 / (interval * 0.99), False)]:
        stream = Stream(fps=fps, gop=10)
        stream.send(51)
        assert (stream.thinner.skip_frame == "NONREF") == few


def test_past_a_second_what_no_other_depends_on_is_left_out():
    stream = Stream()
    stream.send(10, lag=LATE_SECONDS)
    assert (stream.thinner.skip_frame, stream.thinner.is_late) == ("DEFAULT", False)
    stream.send(10, lag=LATE_SECONDS + 0.01)
    assert (stream.thinner.skip_frame, stream.thinner.is_late) == ("NONREF", True)
    stream.send(3, lag=IN_TIME_SECONDS + 0.01)
    assert stream.thinner.skip_frame == "NONREF"
    stream.send(1, lag=IN_TIME_SECONDS)
    assert (stream.thinner.skip_frame, stream.thinner.is_late) == ("DEFAULT", False)
    assert stream.decoded == list(range(24))
    assert stream.thinner.dropped == 0


def test_past_that_decoding_resumes_at_a_key_frame_that_is_in_time():
    stream = Stream(gop=25)
    stream.send(9)
    stream.send(1, lag=KEY_FRAME_SECONDS)
    stream.send(1, lag=KEY_FRAME_SECONDS + 0.01)
    assert stream.thinner.is_late
    stream.send(20, lag=IN_TIME_SECONDS + 0.01)  # with a key frame that is not in time
    stream.send(5, lag=IN_TIME_SECONDS)
    assert stream.thinner.is_late
    stream.send(16, lag=IN_TIME_SECONDS)
    assert stream.decoded == [*range(10), 50, 51]
    assert stream.gaps == [(50, "dropped")]
    assert stream.thinner.dropped == 40
    assert not stream.thinner.is_late
    assert stream.thinner.skip_frame == "DEFAULT"


def test_what_was_held_is_dropped_when_it_is_late():
    stream = Stream(fps=1, gop=25)
    stream.send(60)
    stream.thinner.take(Arrival(Packet(False), 3.0, pts=60), 60 / RATE, KEY_FRAME_SECONDS + 0.1)
    assert stream.thinner.dropped == 10  # 51 to 60
    stream.thinner.take(Arrival(Packet(False), 3.0, pts=61), 61 / RATE, KEY_FRAME_SECONDS + 0.1)
    assert stream.thinner.dropped == 11


def test_a_stream_may_be_entered_within_a_group_of_pictures():
    stream = Stream(index=7)
    stream.send(60)
    assert stream.decoded == list(range(7, 67))


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_key_frames_whose_times_do_not_rise_say_nothing_of_the_rate(seconds):
    stream = Stream(fps=5, gop=10)
    stream.send(15)
    stream.thinner.take(Arrival(Packet(True), 3.0, pts=0), seconds + 10 / RATE, 0.0)
    assert stream.thinner.skip_frame == "DEFAULT"


def test_the_first_key_frame_that_is_not_too_early_is_taken():
    stream = Stream(fps=1, gop=10)
    stream.send(130)
    assert stream.accepted == [0, 20, 40, 70, 90, 120]


def test_a_key_frame_is_waited_for_no_longer_than_half_an_interval():
    stream = Stream(fps=1, gop=90)
    stream.send(360)
    stream.gop = 10_000  # the one at 14.4 s does not come
    stream.send(3)
    assert stream.accepted[-1] == 325
    stream.send(1)  # at 14.52 s
    assert stream.accepted[-1] == 350


def test_a_gap_says_whether_it_was_chosen():
    stream = Stream(fps=1, gop=25)
    stream.send(76)
    assert stream.gaps[-1] == (75, "skipped")
    stream.send(1, lag=KEY_FRAME_SECONDS + 0.1)
    stream.send(24)
    assert stream.gaps[-1] == (100, "dropped")


def test_what_is_held_when_the_connection_ends_is_skipped():
    stream = Stream(fps=1, gop=25)
    stream.send(60)
    skipped = stream.sampler.skipped
    stream.thinner.end()
    assert stream.sampler.skipped - skipped == 9  # 51 to 59
    stream.thinner.end()
    assert stream.sampler.skipped - skipped == 9


def test_a_gap_in_which_something_was_dropped_is_no_chosen_one_whatever_was_skipped_after_it():
    stream = Stream(fps=0.5, gop=25)
    stream.send(126)
    assert stream.gaps[-1] == (125, "skipped")
    stream.send(1, lag=KEY_FRAME_SECONDS + 0.1)
    stream.send(49)  # with the key frame at 150, which is not wanted
    assert stream.gaps[-1] == (175, "dropped")
    stream.send(50)
    assert stream.gaps[-1] == (225, "skipped")
