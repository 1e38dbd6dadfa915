from types import SimpleNamespace

import pytest

from worker.sources.arrivals import Arrival
from worker.sources.presentation import PresentationOrder


def arrival(pts, run=0):
    return Arrival(SimpleNamespace(pts=pts), 0.0, pts=pts, run=run)


class Decoder:
    """Pictures of packets, ``depth`` of them held back, in presentation order."""

    def __init__(self, depth):
        self.depth = depth
        self.order = PresentationOrder()
        self._held = []

    def decode(self, pts, place, *, lost=False, run=0):
        """pts of the arrivals of the pictures that come out; ``place``: in presentation."""
        self.order.sent(arrival(pts, run))
        if not lost:
            self._held.append((place, pts))
        return [self._out()] if len(self._held) > self.depth else []

    def _out(self):
        first = min(self._held)
        self._held.remove(first)
        found, missing = self.order.came_out(first[1], self.depth)
        return found.pts, missing


DECODING_ORDER = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11]
"""Places in presentation of packets with two B-frames."""


def test_without_b_frames_a_picture_is_of_its_packet():
    decoder = Decoder(0)
    assert [decoder.decode(i * 10, i) for i in range(4)] == [[(i * 10, 0)] for i in range(4)]


@pytest.mark.parametrize("stamps", ["presentation", "decoding"])
def test_with_b_frames_pts_rise_however_they_are_stamped(stamps):
    decoder = Decoder(1)
    out = []
    for index, place in enumerate(DECODING_ORDER):
        out += decoder.decode(place if stamps == "presentation" else index, place)
    assert out == [(i, 0) for i in range(len(out))]
    assert len(out) == 12


def test_a_lost_picture_shifts_no_other():
    decoder = Decoder(0)
    decoder.decode(0, 0)
    assert decoder.decode(10, 1, lost=True) == []
    assert decoder.decode(20, 2) == [(20, 1)]
    assert decoder.decode(30, 3) == [(30, 0)]


@pytest.mark.parametrize("lost", [4, 6])
def test_a_lost_picture_shifts_no_other_among_b_frames(lost):
    decoder = Decoder(1)
    out = []
    for place in DECODING_ORDER:
        out += decoder.decode(place, place, lost=place == lost)
    assert out == [(i, int(i == lost + 1)) for i in range(12) if i != lost]


def test_after_a_jump_the_order_begins_anew():
    decoder = Decoder(0)
    decoder.decode(100, 0)
    decoder.decode(110, 1, lost=True)
    assert decoder.decode(5, 2, run=1) == [(5, 0)]
    assert decoder.decode(6, 3, run=1) == [(6, 0)]


def test_after_a_flush_nothing_is_expected():
    order = PresentationOrder()
    order.sent(arrival(1))
    order.sent(arrival(2))
    assert order.flush() == 2
    order.sent(arrival(9))
    assert order.came_out(9, 0)[0].pts == 9


def test_a_picture_without_pts_is_of_the_packet_without():
    order = PresentationOrder()
    for pts in (0, 3, None):
        order.sent(arrival(pts))
    found, _ = order.came_out(None, 0)
    assert found.pts is None


def test_a_picture_that_nothing_was_sent_for_is_of_the_last_packet():
    order = PresentationOrder()
    assert order.came_out(5, 0) == (None, 0)
    order.sent(arrival(7))
    order.came_out(7, 0)
    assert order.came_out(8, 0)[0].pts == 7


def test_after_a_jump_forward_nothing_of_before_is_missing():
    order = PresentationOrder()
    order.sent(arrival(100))
    order.sent(arrival(5000, run=1))
    found, missing = order.came_out(5000, 0)
    assert (found.pts, missing) == (5000, 0)


def test_after_a_jump_the_stamps_may_be_of_another_kind():
    decoder = Decoder(1)
    for place in DECODING_ORDER:
        decoder.decode(place, place)
    decoder._held.clear()
    out = []
    for index, place in enumerate(DECODING_ORDER):
        out += decoder.decode(100 + index, 100 + place, run=1)
    assert out == [(100 + i, 0) for i in range(12)]


def test_a_repeated_stamp_is_no_sign_of_b_frames():
    decoder = Decoder(1)
    out = []
    for index, place in enumerate(DECODING_ORDER):
        out += decoder.decode(max(index - 1, 0), place)
    assert out == [(max(i - 1, 0), 0) for i in range(12)]


def test_a_picture_without_pts_where_every_packet_has_one_is_of_the_first():
    order = PresentationOrder()
    order.sent(arrival(0))
    order.sent(arrival(3))
    found, missing = order.came_out(None, 0)
    assert (found.pts, missing) == (0, 0)


def test_a_decoder_that_holds_back_less_than_it_says_loses_nothing():
    order = PresentationOrder()
    for pts in (1, 2):
        order.sent(arrival(pts))
        found, missing = order.came_out(pts, 1)
        assert (found.pts, missing) == (pts, 0)


def test_a_picture_from_before_all_packets_is_of_the_last():
    order = PresentationOrder()
    for pts in (5, 9, 7):
        order.sent(arrival(pts))
    found, missing = order.came_out(3, 0)
    assert (found.pts, missing) == (7, 0)


def test_what_was_flushed_is_missing_once():
    order = PresentationOrder()
    order.sent(arrival(1))
    assert [order.flush(), order.flush()] == [1, 0]
