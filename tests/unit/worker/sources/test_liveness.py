import pytest

from tests.clocks import Clock
from worker.sources import liveness
from worker.sources.liveness import OPEN_SECONDS, PICTURELESS_SECONDS, Liveness
from worker.sources.reasons import SILENCE_SECONDS, ConnectionLost


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    return clock


def read(connection, clock, pictures, seconds, rate=10):
    """Packets for so long; every so many gives a picture (0: none)."""
    for index in range(round(seconds * rate)):
        clock.now += 1 / rate
        connection.packet(1 / rate, of_video=True)
        connection.decoded(1 if pictures and index % pictures == 0 else 0)


def test_pictures_keep_a_connection_alive_also_two_fields_to_each(clock):
    for pictures in (1, 2):
        read(Liveness(), clock, pictures, seconds=60)


def decode(connection, clock, pictures):
    """A window of packets with so many pictures each; the last comes at its end."""
    for index, given in enumerate(pictures):
        if index == len(pictures) - 1:
            clock.now += PICTURELESS_SECONDS
        connection.decoded(given)


def test_one_picture_in_three_packets_is_enough_and_in_four_is_not(clock):
    connection = Liveness()
    decode(connection, clock, [1, 0, 0])
    decode(connection, clock, [0, 1, 0, 0, 0, 1])
    decode(connection, clock, [0, 0, 1])
    with pytest.raises(ConnectionLost, match="1 of 4 packets could be decoded in 5 s"):
        decode(connection, clock, [0, 1, 0, 0])


def test_a_slow_camera_is_no_dead_one(clock):
    read(Liveness(), clock, 1, seconds=60, rate=0.4)


def test_silence_is_a_stall_also_if_a_packet_comes_late(clock):
    connection = Liveness()
    read(connection, clock, 1, seconds=10)
    with pytest.raises(ConnectionLost) as lost:
        connection.packet(SILENCE_SECONDS, of_video=True)
    assert lost.value.reason == "stall"


def test_sound_alone_is_a_stall(clock):
    connection = Liveness()
    read(connection, clock, 1, seconds=1)
    for _ in range(10):
        connection.packet(0.1, of_video=False)
    with pytest.raises(ConnectionLost, match="nothing arrived"):
        connection.packet(SILENCE_SECONDS - 1, of_video=False)


@pytest.mark.parametrize("every", [0, 7])
def test_packets_without_pictures_are_invalid_data(clock, every):
    connection = Liveness()
    read(connection, clock, 1, seconds=PICTURELESS_SECONDS * 2)
    began = clock.now
    with pytest.raises(ConnectionLost) as lost:
        read(connection, clock, every, seconds=60)
    assert lost.value.reason == "invalid_data"
    assert clock.now - began <= 2 * PICTURELESS_SECONDS + 0.2


def test_the_first_picture_may_take_until_the_next_key_frame(clock):
    connection = Liveness()
    read(connection, clock, 0, seconds=OPEN_SECONDS - 1)
    read(connection, clock, 1, seconds=30)
    with pytest.raises(ConnectionLost):
        read(Liveness(), clock, 0, seconds=OPEN_SECONDS + 1)


@pytest.mark.parametrize("silence_seconds", [1.5, SILENCE_SECONDS])
def test_silence_is_a_stall_from_the_second_it_was_given_on(clock, silence_seconds):
    connection = Liveness(silence_seconds)
    connection.opened(looked_into=True)
    connection.packet(silence_seconds - 0.25, of_video=True)
    assert connection.silent_seconds(silence_seconds - 0.25) == silence_seconds - 0.25
    connection.packet(silence_seconds - 0.25, of_video=False)
    with pytest.raises(ConnectionLost) as lost:
        connection.packet(0.25, of_video=True)
    assert (lost.value.reason, lost.value.detail) == (
        "stall",
        f"nothing arrived for {silence_seconds:.0f} s",
    )


@pytest.mark.parametrize("seconds", [OPEN_SECONDS, OPEN_SECONDS + 1])
def test_packets_without_a_first_picture_are_invalid_data(clock, seconds):
    connection = Liveness()
    connection.decoded(0)
    clock.now += seconds
    with pytest.raises(ConnectionLost, match=r"0 of 2 packets could be decoded in 1[01] s"):
        connection.decoded(0)


def test_a_connection_was_up_once_it_has_given_a_picture(clock):
    connection = Liveness()
    connection.decoded(0)
    assert not connection.was_up
    connection.decoded(1)
    assert connection.was_up


def test_packets_before_the_first_picture_do_not_count_against_those_after(clock):
    connection = Liveness()
    read(connection, clock, 0, seconds=OPEN_SECONDS - 1)
    decode(connection, clock, [1, 0, 1])


def test_time_spent_on_the_pictures_is_no_time_without_them(clock):
    connection = Liveness()
    connection.decoded(1)
    connection.decoded(0)
    clock.now += PICTURELESS_SECONDS
    connection.handed_on(1)
    for _ in range(9):  # too few pictures, but not for so long yet
        connection.decoded(0)
    clock.now += 1
    with pytest.raises(ConnectionLost, match="1 of 12 packets"):
        connection.decoded(0)


def test_time_spent_on_the_pictures_is_not_the_cameras(clock):
    connection = Liveness()
    for _ in range(10):
        read(connection, clock, 1, seconds=1)
        clock.now += 60
        connection.handed_on(60)


@pytest.mark.parametrize(
    ("seconds", "looked_into", "lost"),
    [
        (1, False, False),  # there is time left
        (SILENCE_SECONDS, False, True),
        (SILENCE_SECONDS + 0.1, False, True),
        (OPEN_SECONDS - 5.75, False, True),
        (SILENCE_SECONDS + 0.1, True, False),  # a slow handshake
        (OPEN_SECONDS, False, False),  # it was looking at something all the time
    ],
)
def test_a_camera_that_sent_nothing_while_it_was_looked_into_is_lost(
    clock, seconds, looked_into, lost
):
    connection = Liveness()
    clock.now += seconds
    if not lost:
        connection.opened(looked_into=looked_into)
        assert connection.silent_seconds() == 0
        assert connection.silent_seconds(read_seconds=2) == 2
        return
    with pytest.raises(ConnectionLost, match="nothing arrived for 4 s"):
        connection.opened(looked_into=looked_into)


def test_a_longer_silence_may_be_allowed(clock):
    connection = Liveness()
    read(connection, clock, 1, seconds=1)
    connection.allow_silence(3 * SILENCE_SECONDS)
    connection.packet(2 * SILENCE_SECONDS, of_video=True)
    with pytest.raises(ConnectionLost):
        connection.packet(3 * SILENCE_SECONDS, of_video=True)
