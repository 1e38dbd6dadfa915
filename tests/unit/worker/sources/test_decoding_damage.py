"""What is lost of a stream: real packets with parts missing, into a real decoder."""

import time

import pytest

from tests.unit.worker.sources.scripted_camera import RATE, clip, opened, with_content
from worker.sources.arrivals import ArrivalClock
from worker.sources.camera_pictures import Decoding
from worker.sources.limits import Limits, Meter

GOP = 8
FRAMES = 24
HURT = 10
"""The third picture of the second group."""


@pytest.fixture(scope="module")
def content():
    return clip(FRAMES, GOP)


def pictures_of(content, change=lambda number, packet: packet):
    clock = ArrivalClock(timed=False)
    found = []
    with opened(content, change) as container:
        decoding = Decoding(container.streams.video[0], Meter(Limits()))
        for packet in container.demux():
            found += decoding.decode(clock.date(packet, time.monotonic()))
    return found


@pytest.fixture(scope="module")
def damaged(content):
    """The numbers of the pictures that are damaged by a change."""

    def damaged(change):
        found = pictures_of(content, change)
        seconds = [picture.image.time - found[0].image.time for picture in found if picture.damaged]
        return [round(each * RATE) for each in seconds]

    return damaged


def cut_in_half(*numbers):
    def change(number, packet):
        content = bytes(packet)
        return with_content(packet, content[: len(content) // 2]) if number in numbers else packet

    return change


def test_without_loss_none_is_damaged(content, damaged):
    assert len(pictures_of(content)) == FRAMES
    assert damaged(lambda number, packet: packet) == []


def test_a_cut_picture_and_those_made_from_it_are_damaged_up_to_the_next_key_frame(damaged):
    assert damaged(cut_in_half(HURT)) == list(range(HURT, 2 * GOP))


def test_a_cut_key_frame_damages_its_whole_group_itself_included(damaged):
    assert damaged(cut_in_half(GOP)) == list(range(GOP, 2 * GOP))


def test_damage_in_each_of_two_groups_lasts_through_both(damaged):
    assert damaged(cut_in_half(HURT, 2 * GOP)) == list(range(HURT, FRAMES))


def test_a_packet_that_cannot_be_decoded_damages_those_after_it(content, damaged):
    def noise(number, packet):
        return with_content(packet, b"\0\0\1\x65" + b"\xff" * 50) if number == HURT else packet

    assert damaged(noise) == list(range(HURT + 1, 2 * GOP))
    assert len(pictures_of(content, noise)) == FRAMES - 1


def test_a_picture_of_a_packet_that_is_marked_is_damaged_and_so_are_those_made_from_it(damaged):
    def mark(number, packet):
        packet.is_corrupt = number == HURT
        return packet

    assert damaged(mark) == list(range(HURT, 2 * GOP))


def test_of_pictures_that_are_whole_each_a_marked_one_damages_only_itself(content):
    def mark(number, packet):
        packet.is_corrupt = number == HURT
        return packet

    found = pictures_of(clip(FRAMES, 1), mark)
    assert [index for index, picture in enumerate(found) if picture.damaged] == [HURT]


def test_packets_that_give_no_picture_are_counted_until_the_count_is_taken(content):
    with opened(content) as container:
        decoding = Decoding(container.streams.video[0], Meter(Limits()))
        decoding.skip_frame("NONKEY")
        clock = ArrivalClock(timed=False)
        packets = [clock.date(packet, time.monotonic()) for packet in container.demux()]
        found = [picture for arrival in packets for picture in decoding.decode(arrival)]
    assert len(found) == FRAMES // GOP
    # Those between two key frames; of those after the last, nothing says that they are missing.
    assert decoding.missing == (GOP - 1) * (FRAMES // GOP - 1)
