"""What a file's decoder says of it, and files of several parts of which some cannot be read."""

import logging
from contextlib import contextmanager

import pytest
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition

from tests.clips import audio_only, cut
from tests.conftest import WALKWAY
from tests.unit.worker.sources.test_completeness import with_sound
from tests.unit.worker.sources.test_opening import playlist
from tests.unit.worker.sources.test_streams import file_of
from worker.errors import SourceError
from worker.sources import decoding
from worker.sources.completeness import Completeness
from worker.sources.decoding import DecodedPictures
from worker.sources.limits import Limits
from worker.sources.streams import packets_of
from worker.sources.ts_parts import WHOLE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("decoding")


@pytest.fixture(scope="module")
def clip(folder):
    return cut(WALKWAY, folder / "clip.mp4", frames=6, size=(48, 64))


@pytest.fixture(scope="module")
def both(folder):
    """Six pictures with one PID, and six with another."""
    content = b""
    for pid in ("256", "512"):
        options = {"mpegts_start_pid": pid}
        part = cut(WALKWAY, folder / f"{pid}.ts", frames=6, size=(48, 64),
                   container_options=options)  # fmt: skip
        content += part.read_bytes()
    path = folder / "both.ts"
    path.write_bytes(content)
    return path


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [r.getMessage() for r in caplog.records if r.name == decoding.__name__]


class Failing(DecodedPictures):
    """Some of its parts, by their numbers, cannot be opened."""

    def __init__(self, path, failures):
        super().__init__(path)
        self._known = list(super().parts())
        self._failures = failures

    def parts(self):
        return iter(self._known)

    @contextmanager
    def opened(self, part=WHOLE):
        if error := getattr(self, "_failures", {}).get(part.start and 1):
            raise error
        with super().opened(part) as found:
            yield found


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("error", "said"),
    [(SourceError("a bad part"), "a bad part"), (OSError(5, "Input/output error"), "cannot read")],
)
def test_a_part_that_cannot_be_read_is_damage_and_the_other_goes_on(
    both, logged, number, error, said
):
    pictures = Failing(both, {number: error})
    pictures.damaged = 2  # packets, say
    assert len(list(pictures)) == 6
    assert pictures.damaged == 3
    (line,) = logged()
    assert line.startswith("a part of it: ")
    assert said in line


def test_a_file_of_which_no_part_can_be_read_is_the_error_of_the_first(both):
    pictures = Failing(both, {0: SourceError("the first"), 1: SourceError("the second")})
    with pytest.raises(SourceError, match="the first"):
        list(pictures)


def test_a_file_that_cannot_be_opened_to_look_for_its_parts_is_read_as_one(both):
    class Unreadable(DecodedPictures):
        @contextmanager
        def opened(self, part=WHOLE):
            raise SourceError("no video in it")
            yield

    pictures = Unreadable(both)
    assert [(part.start, part.end) for part in pictures.parts()] == [(0, None)]
    with pytest.raises(SourceError, match="no video in it"):
        list(pictures)


def test_a_file_whose_parts_can_be_read_has_no_damage(both, logged):
    pictures = DecodedPictures(both)
    assert len(list(pictures)) == 12
    assert (pictures.damaged, pictures.cut_off, logged()) == (0, False, [])


def test_a_file_ends_with_the_part_that_exceeds_a_limit(both):
    pictures = DecodedPictures(both)
    found = iter(pictures)
    next(found)
    pictures.over_limit = "too much"
    assert len(list(found)) == 5


def test_each_part_is_measured_by_itself(both):
    pictures = DecodedPictures(both)
    before = pictures._meter
    with pictures.opened():
        assert pictures._meter is not before


@pytest.mark.parametrize(("most", "parts"), [(2, 2), (1, 1)])
def test_a_file_that_changes_too_often_is_read_as_one_part(both, monkeypatch, most, parts):
    monkeypatch.setattr(decoding, "MOST_CHANGES", most)
    assert len(list(DecodedPictures(both).parts())) == parts


def test_the_parts_of_a_file_are_said(both, logged):
    DecodedPictures(both).say_what_is_in_it()
    second = (both.parent / "256.ts").stat().st_size
    first, last = logged()
    place = int(first.partition("bytes 0 to ")[2].partition(":")[0])
    assert second <= place <= second + 188 * 3
    assert first == f"{both}: bytes 0 to {place}: video in h264, PID 256"
    assert last == f"{both}: bytes {place} to the end: video in h264, PID 512"


def test_nothing_is_said_of_a_file_of_one_part(clip, logged):
    DecodedPictures(clip).say_what_is_in_it()
    assert logged() == []


def test_a_file_without_a_picture_says_why(clip):
    pictures = DecodedPictures(clip)
    assert str(pictures.no_picture()) == f"{clip}: no frame in it can be decoded"
    assert len(list(pictures)) == 6
    assert str(pictures.no_picture()) == f"{clip}: no frame in it can be decoded"
    pictures._size_refused = True
    assert f"{clip}: no frame in it can be decoded: damaged or" in str(pictures.no_picture())
    pictures = DecodedPictures(clip)
    pictures.over_limit = "too much"
    assert str(pictures.no_picture()) == f"{clip}: too much"


def test_sound_alone_is_no_video(tmp_path):
    path = audio_only(tmp_path / "x.mp4")
    with pytest.raises(SourceError, match=r"x\.mp4: has no video stream that can be decoded here$"):
        list(DecodedPictures(path))


def test_other_videos_of_a_file_are_said(tmp_path, logged):
    path = tmp_path / "x.mkv"
    streams = [("libx264", (48, 64), Disposition(0)), ("libx264", (96, 128), Disposition.default)]
    DecodedPictures(file_of(path, *streams, frames=2)).say_what_is_in_it()
    assert logged() == [f"{path}: analysing video stream 1 (h264, 128x96), not 0 (h264, 64x48)"]


def test_a_file_that_is_gone_cannot_be_read(folder):
    pictures = DecodedPictures(folder / "gone.mp4")
    with pytest.raises(SourceError, match=r"gone\.mp4: cannot read it: No such file"):
        list(pictures)
    with (
        pytest.raises(SourceError, match=r"gone\.mp4: cannot read it: No such file"),
        pictures.opened(),
    ):
        pass


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (3, 3), (16, 16), (64, 16)])
def test_slices_are_decoded_by_two_to_sixteen_threads(clip, monkeypatch, cores, threads):
    monkeypatch.setattr(decoding, "usable_cores", lambda: cores)
    pictures = DecodedPictures(clip)
    with pictures.opened() as (container, stream):
        next(pictures._of(container, stream))
        assert (stream.thread_type.name, stream.thread_count) == ("SLICE", threads)


def test_a_new_stream_is_said_once(clip, logged):
    pictures = DecodedPictures(clip)
    for _ in range(2):
        pictures._note_new_stream()
    (line,) = logged()
    assert "begins in mid-file" in line


@pytest.mark.parametrize(
    ("content", "limits", "said"),
    [
        (b"no video", Limits(), "is not a video that FFmpeg can read"),
        (playlist("x.ts").encode(), Limits(), "format that is not allowed"),
        (None, Limits(max_pixels=48 * 64 - 1), "--max-pixels"),
    ],
)
def test_a_file_that_may_not_be_read_says_why(clip, tmp_path, content, limits, said):
    path = tmp_path / "x.m3u8"
    path.write_bytes(content or clip.read_bytes())
    with pytest.raises(SourceError, match=said) as refused:
        list(DecodedPictures(path, limits=limits))
    assert str(refused.value).startswith(f"{path}: ")


def test_an_end_that_was_missing_stays_missing_whatever_is_read_afterwards(clip):
    pictures = DecodedPictures(clip)
    pictures.cut_off = True
    assert len(list(pictures)) == 6
    assert pictures.cut_off


def test_its_completeness_sees_every_packet_and_picture(tmp_path, monkeypatch):
    noted = []

    class Noted(Completeness):
        def __init__(self, path, container, stream, interval_seconds):
            noted.append(interval_seconds)
            super().__init__(path, container, stream, interval_seconds)

        def packet(self, packet):
            noted.append(packet.stream.type)

        def picture(self, picture):
            noted.append("picture")

    monkeypatch.setattr(decoding, "Completeness", Noted)
    path = with_sound(tmp_path / "x.mkv", 6, 1)
    assert len(list(DecodedPictures(path))) == 6
    assert noted[0] == 0.1
    assert noted.count("picture") == 6
    assert noted.count("video") >= 6
    assert noted.count("audio") >= 7


@pytest.mark.parametrize(
    ("is_multipart", "last_is_whole", "at_end", "error", "expected"),
    [
        (True, True, True, InvalidDataError(1, "invalid"), True),
        (False, True, True, InvalidDataError(1, "invalid"), False),
        (True, False, True, InvalidDataError(1, "invalid"), False),
        (True, True, False, InvalidDataError(1, "invalid"), False),
        (True, True, True, FFmpegError(5, "input/output error"), False),
    ],
)
def test_invalid_data_behind_the_last_part_of_a_multipart_stream_is_its_end(
    clip, is_multipart, last_is_whole, at_end, error, expected
):
    pictures = DecodedPictures(clip)
    pictures._is_multipart, pictures._last_is_whole = is_multipart, last_is_whole
    pictures._meter.at_end = at_end
    assert pictures._is_the_end(error) is expected


def test_a_packet_that_cannot_be_decoded_is_damage(clip):
    class Packet:
        size = 0

        def decode(self):
            raise FFmpegError(1, "invalid")

    pictures = DecodedPictures(clip)
    pictures.damaged = 2
    assert pictures._decoded(Packet()) == []
    assert pictures.damaged == 3


def test_a_picture_with_errors_in_it_counts_as_damaged(tmp_path):
    path = cut(WALKWAY, tmp_path / "x.mp4", frames=20, size=(96, 128))
    content = bytearray(path.read_bytes())
    place = content.index(b"mdat") + 4000
    content[place : place + 300] = bytes(300)
    path.write_bytes(content)
    pictures = DecodedPictures(path)
    with_errors = sum(each.picture.is_corrupt for each in pictures)
    assert pictures.damaged == with_errors > 0
    assert not pictures.cut_off


@pytest.mark.parametrize("is_the_end", [False, True])
@pytest.mark.parametrize("cut_before", [False, True])
def test_an_error_between_packets_cuts_a_file_off_unless_it_is_the_end(
    clip, monkeypatch, is_the_end, cut_before
):
    def failing(container, on_new_stream):
        yield from packets_of(container, on_new_stream)
        raise InvalidDataError(1, "invalid")

    monkeypatch.setattr(decoding, "packets_of", failing)
    pictures = DecodedPictures(clip)
    pictures._is_the_end = lambda error: is_the_end
    pictures.cut_off = cut_before
    assert len(list(pictures)) == 6
    assert pictures.cut_off is (cut_before or not is_the_end)
