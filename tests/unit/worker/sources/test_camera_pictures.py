"""Real packets and a real decoder; when packets arrive and have their turn is up to the test."""

import pytest

from tests.faults.numbered_camera import number_in
from tests.unit.worker.sources.scripted_camera import (
    BEGAN,
    RATE,
    SIZE,
    Reader,
    Script,
    clip,
    opened,
    with_content,
)
from worker.sources import arrivals, camera_pictures
from worker.sources.arrivals import ArrivalClock
from worker.sources.camera_pictures import (
    CATCH_UP_SECONDS,
    RECONNECT_AFTER_SECONDS,
    RECONNECT_LAG_SECONDS,
    CameraPictures,
    Decoding,
    Late,
    Picture,
    of_file,
)
from worker.sources.intake import READ_WAITED_SECONDS
from worker.sources.limits import Limits, Meter, OverLimit
from worker.sources.liveness import OPEN_SECONDS, READ_GRACE_SECONDS, WORK_SECONDS, Liveness
from worker.sources.reasons import ConnectionLost
from worker.sources.sampling import Sampler

FRAMES = 50
GOP = 10


@pytest.fixture(scope="module")
def content():
    return clip(FRAMES, GOP)


@pytest.fixture
def script(monkeypatch):
    return Script(monkeypatch)


class Read:
    """A connection's pictures, read to their end."""

    def __init__(self, content, *, change=None, fps=None, limits=None, trust=True, busy=0.0,
                 script=None):  # fmt: skip
        """``busy``: how long each picture keeps who takes it, by the clock of ``script``."""
        self.items, self.dropped = [], []
        self.sampler, self.liveness = Sampler(fps=fps), Liveness(5.0)
        self.meter, self.reader = Meter(limits or Limits()), Reader()
        self.lost = None
        self.chosen = 0
        with opened(content, change) as container:
            self.pictures = CameraPictures(
                container, container.streams.video[0], self.sampler, self.liveness, self.meter,
                self.reader, silence_seconds=5.0, trust_timestamps=trust, thread_name="camera x",
            )  # fmt: skip
            try:
                for item in self.pictures:
                    self.items.append(item)
                    self.dropped.append(self.pictures.dropped)
                    if isinstance(item, Picture):
                        self._choose(item)
                    if busy and isinstance(item, Picture):
                        script.clock.now += busy
            except (ConnectionLost, OverLimit, OSError) as error:
                self.lost = error

    def _choose(self, picture):
        """As a connection does."""
        self.chosen += self.sampler.accepts(
            len(self.found) - 1, picture.arrival.captured_at, key_frame=picture.image.key_frame
        )

    @property
    def found(self):
        return [item for item in self.items if isinstance(item, Picture)]

    @property
    def late(self):
        return [item for item in self.items if isinstance(item, Late)]

    @property
    def numbers(self):
        return [number_in(p.image.to_ndarray(format="rgb24"), SIZE) for p in self.found]


def test_every_picture_comes_in_order_with_the_arrival_of_its_packet(script, content):
    read = Read(content)
    assert read.lost is None
    assert read.numbers == list(range(FRAMES))
    arrived = [picture.arrival.at for picture in read.found]
    assert arrived == pytest.approx([BEGAN + number / RATE for number in range(FRAMES)])
    assert read.late == []
    assert (read.pictures.dropped, read.sampler.skipped) == (0, 0)
    assert read.liveness.was_up


def test_reading_begins_as_a_connection_wants_it(script, content):
    read = Read(content)
    assert script.caught_up == [CATCH_UP_SECONDS]
    assert script.options["name"] == "camera x"
    assert script.options["silence_seconds"] == 5.0
    assert not script.options["is_stopped"]()
    read.reader.is_stopped = True
    assert script.options["is_stopped"]()


def test_a_sign_of_life_is_due_after_each_read_and_each_picture(script, content):
    signs = Read(content).reader.signs
    reading = 5.0 + READ_GRACE_SECONDS
    # The first picture may take as long as opening.
    end = [WORK_SECONDS, reading]  # what the decoder still held
    assert signs == [reading, OPEN_SECONDS, reading, *[WORK_SECONDS, reading] * (FRAMES - 1), *end]


def test_sound_is_counted_and_neither_dated_nor_decoded(script):
    content = clip(FRAMES, GOP, sound=True)
    read = Read(content)
    assert read.lost is None
    assert read.numbers == list(range(FRAMES))
    assert len(read.reader.signs) > 2 * FRAMES + 10


def test_what_is_read_without_a_picture_is_limited_sound_included(script):
    def only_sound(number, packet):
        return packet if packet.stream.type == "audio" else None

    read = Read(
        clip(FRAMES, GOP, sound=True), change=only_sound, limits=Limits(max_bytes_without_frame=100)
    )
    assert isinstance(read.lost, OverLimit)
    assert not read.found
    assert len(read.reader.signs) < 10  # at once, not at the end


def test_pictures_end_what_counts_for_the_limit(script, content):
    largest = Limits(max_bytes_without_frame=len(content) // 4)
    assert Read(content, limits=largest).lost is None


def test_a_picture_over_the_limit_ends_reading(script, content):
    read = Read(content, limits=Limits(max_pixels=SIZE[0] * SIZE[1] - 1))
    assert isinstance(read.lost, OverLimit)


def from_packet(first, seconds):
    return lambda number: seconds if number >= first else 0.0


LONG_FRAMES = GOP + round(RECONNECT_AFTER_SECONDS * RATE) + 2
"""Of a clip that is late for so long from its second group on."""


def test_pictures_that_arrive_late_for_too_long_end_the_connection(script):
    script.late = from_packet(GOP, RECONNECT_LAG_SECONDS + 1)
    read = Read(clip(LONG_FRAMES, GOP))
    assert isinstance(read.lost, ConnectionLost)
    assert (read.lost.reason, read.lost.detail) == ("late", "its pictures arrive 3 s late")


def test_pictures_that_arrive_late_for_a_while_only_do_not_end_it(script):
    last = GOP + round(RECONNECT_AFTER_SECONDS * RATE)
    script.late = lambda number: RECONNECT_LAG_SECONDS + 1 if GOP <= number <= last - 1 else 0.0
    assert Read(clip(LONG_FRAMES, GOP)).lost is None


def test_lateness_that_is_interrupted_begins_again(script):
    content = clip(GOP + 100, GOP)
    script.late = lambda n: 0.0 if n < GOP or n == 60 else RECONNECT_LAG_SECONDS + 1
    assert Read(content).lost is None


def test_a_burst_after_a_pause_is_not_late_for_long(script):
    """What follows without waiting was there before: it catches up by itself."""
    script.late = from_packet(GOP, RECONNECT_LAG_SECONDS + 1)
    script.reads = lambda number: READ_WAITED_SECONDS / 2
    assert Read(clip(LONG_FRAMES, GOP)).lost is None
    script.reads = lambda number: READ_WAITED_SECONDS
    script.clock.now = BEGAN
    assert Read(clip(LONG_FRAMES, GOP)).lost is not None


@pytest.mark.parametrize("how", ["not trusted", "a format without a camera's timestamps"])
def test_timestamps_that_do_not_count_make_nothing_late(script, how):
    script.late = from_packet(GOP, RECONNECT_LAG_SECONDS + 1)
    if how == "not trusted":
        read = Read(clip(LONG_FRAMES, GOP), trust=False)
    else:
        read = Read(clip(LONG_FRAMES, GOP, file_format="matroska"))
    assert read.lost is None
    assert read.late == []


def test_packets_that_wait_too_long_are_dropped_up_to_a_key_frame_in_time(script):
    script.waits = lambda number: 1.48 if number == 15 else 0.0
    read = Read(clip(60, GOP))
    assert read.numbers == [*range(15), *range(40, 60)]
    assert read.pictures.dropped == 25
    assert read.late[0].lag_seconds == pytest.approx(1.48)
    assert len(read.late) == 25
    assert read.sampler.skipped == 0


def test_what_is_dropped_is_counted_as_it_happens(script):
    script.waits = lambda number: 1.48 if number == 15 else 0.0
    read = Read(clip(60, GOP))
    assert read.dropped == [*[0] * 15, *range(1, 26), *[25] * 20]


def test_pictures_that_are_late_on_their_way_say_so_too(script, content):
    script.late = from_packet(40, 1.5)
    assert [late.lag_seconds > 1.0 for late in Read(content).late] == [True] * 10


@pytest.mark.parametrize(("begins", "b_frames"), [(0, 2), (6, 2), (6, 7)])
def test_while_late_what_no_other_picture_needs_is_not_decoded_and_counts_as_dropped(
    script, begins, b_frames
):
    script.waits = from_packet(begins, 1.2)
    read = Read(clip(FRAMES, 2 * FRAMES, b_frames=b_frames, pyramid=b_frames > 2))
    assert len(read.found) < FRAMES * 3 // 4
    assert read.pictures.dropped + len(read.found) == FRAMES
    assert read.sampler.skipped == 0


def test_late_pictures_that_are_not_decoded_are_no_failures_of_the_decoder(script):
    script.waits = from_packet(2, 1.2)
    assert Read(clip(7 * RATE, 200, b_frames=3)).lost is None


@pytest.mark.parametrize("b_frames", [0, 2])
def test_after_a_gap_by_lateness_no_picture_of_before_it_is_shown(script, b_frames):
    script.waits = lambda number: 1.48 if number == 15 else 0.0
    read = Read(clip(60, GOP, b_frames=b_frames))
    gap = next(i for i, n in enumerate(read.numbers) if n != i)
    assert gap > GOP
    assert read.numbers[gap] % GOP == 0
    assert read.pictures.dropped + len(read.found) == 60
    assert read.sampler.skipped == 0


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(("fps", "gop"), [(1.0, GOP), (3.0, GOP), (1.0, 40)])
def test_of_few_wanted_pictures_the_others_count_as_skipped(script, fps, gop, b_frames):
    read = Read(clip(105, gop, b_frames=b_frames), fps=fps)
    assert 3 < read.chosen <= len(read.found) <= 105
    assert read.pictures.dropped == 0
    assert read.sampler.skipped + read.chosen == 105


def test_packets_that_cannot_be_decoded_are_neither_skipped_nor_dropped(script, content):
    read = Read(content, change=lambda n, packet: noise_in(packet) if n == 15 else packet)
    assert len(read.found) == FRAMES - 1
    assert (read.pictures.dropped, read.sampler.skipped) == (0, 0)


def test_with_b_frames_each_picture_has_the_arrival_of_its_own_packet(script):
    read = Read(clip(FRAMES, GOP, b_frames=2))
    assert read.numbers == list(range(FRAMES))
    assert [p.arrival.pts for p in read.found] == [p.image.pts for p in read.found]


@pytest.mark.parametrize(("b_frames", "runs"), [(0, {0, 1}), (1, {0}), (2, {0})])
def test_timestamps_of_reordered_pictures_run_back_without_having_jumped(script, b_frames, runs):
    def half_a_second_back(number, packet):
        if number >= 20 and packet.pts is not None:
            packet.pts -= 45_000
            packet.dts -= 45_000
        return packet

    read = Read(clip(FRAMES, GOP, b_frames=b_frames), change=half_a_second_back)
    assert {picture.arrival.run for picture in read.found} == runs


def test_the_timestamps_of_sound_do_not_count(script):
    def early_sound(number, packet):
        if packet.stream.type == "audio" and packet.pts is not None:
            packet.pts -= 100_000_000
        return packet

    read = Read(clip(FRAMES, GOP, sound=True), change=early_sound)
    assert {picture.arrival.run for picture in read.found} == {0}


def test_reports_are_remembered_also_if_they_end(script, content, monkeypatch):
    assert not Read(content).pictures.has_reports
    numbers = iter(range(FRAMES + 1))
    monkeypatch.setattr(
        arrivals, "_wall_clock_of", lambda packet: 1e9 if 5 < next(numbers) < 20 else None
    )
    monkeypatch.setattr(arrivals.SenderClock, "_is_confirmed", lambda *_: True)
    assert Read(content).pictures.has_reports


@pytest.mark.parametrize("sound", [False, True])
def test_silence_before_a_picture_ends_the_connection_whatever_sound_comes(script, sound):
    content = clip(FRAMES, GOP, sound=sound)
    with opened(content) as container:
        kinds = [packet.stream.type for packet in container.demux()]
    waited = [number for number, kind in enumerate(kinds) if sound == (kind == "audio")][5]
    script.reads = lambda number: 4.96 if number == waited else 0.04
    lost = Read(content).lost
    assert (lost is not None) == sound
    script.reads = lambda number: 5.0 if number == waited else 0.04
    script.clock.now = BEGAN
    assert Read(content).lost.reason == "stall"


def test_a_late_picture_that_is_decoded_after_a_pause_does_not_end_the_connection(script):
    script.late = from_packet(10, OPEN_SECONDS + 1)
    script.waits = from_packet(10, 1.2)
    assert Read(clip(20, 20), trust=False).lost is None


def test_pictures_that_wait_for_a_key_frame_by_choice_are_not_decoded_too_slowly(script):
    script.late = lambda number: 1.1 * number - number / RATE  # a key frame every 11 s
    read = Read(clip(25, GOP), fps=0.02, trust=False)
    assert read.lost is None
    assert len(read.found) == GOP


def test_of_a_playlist_pictures_arrive_when_they_are_played(script, content, monkeypatch):
    class Pace:
        played_at = 5000.0

        def __init__(self, stream, *, is_stopped):
            self._is_stopped = is_stopped

        def of(self, packets):
            for packet in packets:
                assert not self._is_stopped()
                self.played_at += 1.0
                yield packet

    monkeypatch.setattr(camera_pictures, "PLAYLISTS", ("mpegts",))
    monkeypatch.setattr(camera_pictures, "PlaylistPace", Pace)
    found = Read(content, trust=False).found
    assert [picture.arrival.at for picture in found] == [5001.0 + n for n in range(FRAMES)]


def test_without_any_picture_decoding_is_too_slow_as_soon_as_after_one(script):
    script.waits = lambda number: 1.5 if number < 20 else OPEN_SECONDS + 1
    lost = Read(clip(30, 30)).lost
    assert lost.detail == "decoding is too slow, and no key frame arrives"


def test_packets_without_pictures_for_too_long_end_the_connection(script):
    script.late = from_packet(20, 6.0)
    read = Read(
        clip(40, 1), trust=False,
        change=lambda number, packet: packet if number < 3 else noise_in(packet),
    )  # fmt: skip
    assert read.lost.reason == "invalid_data"
    assert len(read.found) == 3


@pytest.mark.parametrize(("seconds", "ends"), [(-0.01, False), (0.01, True)])
def test_decoding_that_is_too_slow_for_too_long_ends_the_connection(script, seconds, ends):
    decoded, last = 4 / RATE, 29 / RATE
    waits = {29: decoded + OPEN_SECONDS + seconds - last}
    script.waits = lambda number: 0.0 if number < 5 else waits.get(number, 1.5)
    lost = Read(clip(30, 30)).lost
    assert (lost is not None) == ends
    if lost is not None:
        assert (lost.reason, lost.detail) == (
            "late", "decoding is too slow, and no key frame arrives"
        )  # fmt: skip


@pytest.mark.parametrize("waiting", [1, 20])
def test_what_still_waits_at_the_end_is_dropped_but_no_sound_nor_the_end_itself(script, waiting):
    script.left = waiting
    content = clip(FRAMES, GOP, sound=True)
    with opened(content) as container:
        video = container.streams.video[0].index
        packets = [p.stream_index == video and p.size > 0 for p in container.demux()]
    assert Read(content).pictures.dropped == sum(packets[-waiting:]) < waiting


def test_while_late_the_end_is_no_dropped_picture_and_what_the_decoder_holds_comes_out(script):
    script.waits = from_packet(45, 1.5)
    read = Read(clip(FRAMES, GOP, b_frames=2))
    assert 0 < read.pictures.dropped < GOP
    assert read.pictures.dropped + len(read.found) == FRAMES


def test_what_ends_reading_is_raised_after_the_pictures(script, content):
    script.ends_with = OSError("gone")
    read = Read(content)
    assert read.lost is script.ends_with
    assert len(read.found) == FRAMES


def test_the_time_that_pictures_keep_others_busy_is_no_silence_of_the_decoder(script):
    script.late = lambda number: 61.0 * min(number, 3)
    read = Read(
        clip(12, 1), trust=False, busy=60.0, script=script,
        change=lambda number, packet: packet if number < 3 else noise_in(packet),
    )  # fmt: skip
    assert read.lost is None
    assert len(read.found) == 3


def noise_in(packet):
    return with_content(packet, b"\0\0\1\x65" + b"\xff" * 50) if packet.size else packet


def test_decoding_takes_one_thread_and_holds_no_picture_back(content):
    with opened(content) as container:
        stream = container.streams.video[0]
        Decoding(stream, Meter(Limits()))
        assert (stream.thread_type.name, stream.thread_count) == ("SLICE", 1)


def test_the_last_pictures_without_timestamps_have_packets_of_their_own():
    with opened(clip(12, GOP, b_frames=2, file_format="h264")) as container:
        decoding = Decoding(container.streams.video[0], Meter(Limits()))
        clock = ArrivalClock(timed=False)
        packets = [clock.date(packet, BEGAN) for packet in container.demux()]
        found = [picture for arrival in packets for picture in decoding.decode(arrival)]
    assert len(found) == 12
    assert all(picture.arrival.packet.size for picture in found)


def test_the_pictures_of_a_file_arrive_when_they_are_decoded():
    with opened(clip(FRAMES, GOP, b_frames=2, sound=True)) as container:
        found = list(of_file(container, container.streams.video[0], Meter(Limits())))
    assert len(found) == FRAMES
    assert all(picture.arrival.captured_at == picture.arrival.at for picture in found)


def test_a_file_of_which_too_much_was_read_without_a_picture_is_over_the_limit(content):
    meter = Meter(Limits(max_bytes_without_frame=100))
    with opened(content) as container:
        meter.count(101)
        with pytest.raises(OverLimit):
            list(of_file(container, container.streams.video[0], meter))
