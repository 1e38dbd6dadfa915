"""Tables of transport streams, made by hand (ISO/IEC 13818-1, 2.4.4)."""

import logging
import os

import numpy as np
import pytest

from worker.sources import ts_parts
from worker.sources.ts_parts import Change, Part, changes_of, packet_size, parts_of

H264, HEVC, AAC = 0x1B, 0x24, 0x0F


def packet(pid, payload=b"", *, start=True, adaptation=None, has_payload=True, counter=0):
    """188 bytes; ``adaptation``: the length of a field of zeros before the payload."""
    control = (0x10 if has_payload else 0) | (0x20 if adaptation is not None else 0) | counter
    head = bytes([0x47, (0x40 if start else 0) | pid >> 8, pid & 0xFF, control])
    if adaptation is not None:
        head += bytes([adaptation]) + bytes(adaptation)
    return (head + payload).ljust(188, b"\xff")


def section(table, number, body, *, current=True):
    length = (0xB000 | 5 + len(body) + 4).to_bytes(2, "big")
    version = bytes([0xC0 | current, 0, 0])
    return (
        bytes([table]) + length + number.to_bytes(2, "big") + version + body + b"\x1b\xe1\x00\xf0"
    )


def pat(programmes, pointer=b"", **options):
    """The table of programmes: PIDs by number."""
    body = b"".join(
        number.to_bytes(2, "big") + (0xE000 | pid).to_bytes(2, "big")
        for number, pid in programmes.items()
    )
    return packet(0, bytes([len(pointer)]) + pointer + section(0, 1, body), **options)


def pmt(pid, streams, *, about=b"", table=2, current=True, descriptors=b"", **options):
    """A programme's table at a PID: stream types by PID."""
    body = b"\xe1\x0f" + (0xF000 | len(about)).to_bytes(2, "big") + about
    for stream, kind in streams.items():
        length = (0xF000 | len(descriptors)).to_bytes(2, "big")
        body += bytes([kind]) + (0xE000 | stream).to_bytes(2, "big") + length + descriptors
    return packet(pid, b"\0" + section(table, 1, body, current=current), **options)


OTHER = packet(0x1FFF, start=False)
PAT = pat({1: 0x1000})
FILLED = [OTHER] * 6


@pytest.fixture
def changes(tmp_path):
    """The changes of a file of these packets, as (number of the packet, videos)."""

    def changes(*packets, size=188):
        path = tmp_path / "x.ts"
        path.write_bytes(b"".join([*packets, *FILLED]))
        ts_parts._changes_of.cache_clear()
        return [(change.offset / size, change.videos) for change in changes_of(path)]

    return changes


def test_the_videos_are_those_that_the_tables_name(changes):
    streams = {0x100: H264, 0x101: AAC, 0x1FF0: HEVC}
    assert changes(PAT, pmt(0x1000, streams)) == [(1, {0x100: H264, 0x1FF0: HEVC})]


def test_what_tables_say_besides_is_passed_over(changes):
    table = pmt(0x1000, {0x100: AAC, 0x101: H264}, about=b"\x05\x01a", descriptors=b"\x1b\xe1\x00")
    assert changes(PAT, table) == [(1, {0x101: H264})]


def test_the_longest_table_of_a_packet_is_read_to_its_end(changes):
    streams = {0x100 + number: H264 for number in range(33)}
    assert changes(PAT, pmt(0x1000, streams)) == [(1, streams)]
    long = pmt(0x1000, {0x100: H264}, about=bytes(0x90))
    assert changes(PAT, long) == [(1, {0x100: H264})]


@pytest.mark.parametrize("count", [49, 60])
def test_a_table_that_goes_on_in_the_next_packet_gives_what_is_in_its_first(changes, count):
    streams = {0x100 + number: H264 for number in range(count)}
    ((_, videos),) = changes(PAT, pmt(0x1000, streams)[:188])
    assert len(videos) in (32, 33)


@pytest.mark.parametrize("pid", [0x10, 0x1FF, 0x1134, 0x1FFE])
@pytest.mark.parametrize("counter", [1, 15])
def test_a_table_may_have_any_pid_and_any_counter(changes, pid, counter):
    table = pmt(pid, {0x100: H264}, counter=counter)
    assert changes(pat({1: pid}, counter=counter), table) == [(1, {0x100: H264})]
    both = pat({1: pid, 2: 0x1001})
    assert changes(pat({1: pid}), table, both, pmt(0x1001, {0x200: HEVC})) == [
        (1, {0x100: H264}),
        (3, {0x100: H264, 0x200: HEVC}),
    ]


@pytest.mark.parametrize("adaptation", [0, 1, 100])
def test_a_table_may_follow_an_adaptation_field(changes, adaptation):
    table = pmt(0x1000, {0x100: H264}, adaptation=adaptation)
    assert changes(PAT, table) == [(1, {0x100: H264})]


def test_a_table_may_follow_the_end_of_another(changes):
    assert changes(pat({1: 0x1000}, b"abc"), pmt(0x1000, {5: H264})) == [(1, {5: H264})]


@pytest.mark.parametrize(
    "options",
    [
        {"current": False},
        {"table": 3},
        {"start": False},
        {"has_payload": False},
        {"has_payload": False, "counter": 1},
        {"adaptation": 183},
        {"adaptation": 255},
    ],
)
def test_a_packet_without_a_table_that_applies_changes_nothing(changes, options):
    other = pmt(0x1100, {0x200: HEVC}, **options)
    found = changes(pat({1: 0x1100}), pmt(0x1100, {0x100: H264}), other[:188])
    assert found == [(1, {0x100: H264})]


def test_a_table_that_no_programme_names_is_not_one(changes):
    network = pat({0: 0x0010, 1: 0x1000})
    assert changes(network, pmt(0x10, {5: H264}), pmt(0x1001, {6: H264})) == []


def test_tables_before_those_that_name_them_are_not_read(changes):
    table = pmt(0x1000, {0x100: H264})
    assert changes(table, PAT, OTHER, table) == [(3, {0x100: H264})]


def test_the_videos_of_all_programmes_count(changes):
    found = changes(
        pat({1: 0x1000, 2: 0x1E34}), pmt(0x1000, {0x100: H264}), pmt(0x1E34, {0x200: HEVC})
    )
    assert found == [(1, {0x100: H264}), (2, {0x100: H264, 0x200: HEVC})]


def test_the_same_tables_again_are_no_change(changes):
    table = pmt(0x1000, {0x100: H264})
    found = changes(PAT, table, PAT, table, pmt(0x1000, {0x100: H264, 0x101: AAC}))
    assert found == [(1, {0x100: H264})]


def test_a_programme_that_goes_and_comes_back_is_read_again(changes):
    first, second = pmt(0x1000, {0x100: H264}), pmt(0x1001, {0x200: H264})
    both = pat({1: 0x1000, 2: 0x1001})
    assert changes(both, first, second, PAT, both, second) == [
        (1, {0x100: H264}),
        (2, {0x100: H264, 0x200: H264}),
        (3, {0x100: H264}),
        (5, {0x100: H264, 0x200: H264}),
    ]


def test_tables_without_a_video_are_no_change(changes):
    table = pmt(0x1000, {0x100: H264})
    assert changes(PAT, pmt(0x1000, {5: AAC}), table, pmt(0x1000, {5: AAC}), table) == [
        (2, {0x100: H264})
    ]


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_tables_are_found_in_every_piece_of_a_file(changes, monkeypatch, chunk):
    monkeypatch.setattr(ts_parts, "CHUNK_PACKETS", chunk)
    found = changes(OTHER, PAT, *FILLED, pmt(0x1000, {5: H264}), OTHER, pmt(0x1000, {5: HEVC}))
    assert found == [(8, {5: H264}), (10, {5: HEVC})]


@pytest.mark.parametrize("inserted", [1, 100, 187, 189, 1000])
def test_bytes_between_packets_cost_none_of_those_after_them(changes, inserted):
    first, second = pmt(0x1000, {5: H264}), pmt(0x1000, {5: HEVC})
    found = changes(PAT, first, *FILLED, bytes(inserted), second)
    assert [offset * 188 for offset, _ in found] == [188, 8 * 188 + inserted]


@pytest.mark.parametrize("length", [0x102, 0x105])
def test_what_goes_on_behind_the_packet_is_not_taken_for_streams(changes, length):
    like_streams = (b"\x1b\xe1\x00\xf0\x00" * 60)[:length]
    assert changes(PAT, pmt(0x1000, {5: H264}, about=like_streams)[:188]) == []
    assert changes(PAT, pmt(0x1000, {5: AAC}, descriptors=like_streams)[:188]) == []


@pytest.mark.parametrize(
    ("chunk", "inserted"), [(4, 100), (5, 100), (6, 100), (7, 100), (10, 100), (10, 1)]
)
def test_bytes_between_packets_are_passed_over_in_every_piece_of_a_file(
    changes, monkeypatch, chunk, inserted
):
    monkeypatch.setattr(ts_parts, "CHUNK_PACKETS", chunk)
    found = changes(PAT, pmt(0x1000, {5: H264}), *FILLED, bytes(inserted), pmt(0x1000, {5: HEVC}))
    assert [offset * 188 for offset, _ in found] == [188, 8 * 188 + inserted]


def test_bytes_between_packets_with_timestamps_cost_none_of_those_after_them(tmp_path):
    tables = [PAT, pmt(0x1000, {5: H264}), *FILLED, pmt(0x1000, {5: HEVC}), *FILLED]
    packets = [b"time" + each for each in tables]
    packets.insert(8, bytes(100))
    (tmp_path / "x.ts").write_bytes(b"".join(packets))
    assert [change.offset for change in changes_of(tmp_path / "x.ts")] == [192, 8 * 192 + 100]


@pytest.mark.parametrize(
    ("syncs", "length", "expected"),
    [
        ((10, 198, 386), 387, 10),
        ((5, 10, 198, 386), 1000, 10),
        ((5, 10, 193, 198, 386), 1000, 10),
        ((5, 10, 198, 381, 386), 1000, 10),
        ((10, 198, 381, 386), 1000, 10),
        ((10, 198), 1000, None),
        ((), 500, None),
        ((), 100, None),
    ],
)
def test_packets_go_on_where_three_are_in_step(syncs, length, expected):
    content = np.zeros(length, np.uint8)
    content[list(syncs)] = 0x47
    assert ts_parts._next_sync(content, 188) == expected


@pytest.mark.parametrize("length", [188, 300, 400, 600, 5000])
def test_a_file_that_ends_in_noise_is_read_to_its_end(tmp_path, length):
    noise = np.random.default_rng(0).bytes(length).replace(b"\x47", b"\0")
    path = tmp_path / "x.ts"
    path.write_bytes(b"".join([PAT, pmt(0x1000, {5: H264}), *FILLED, noise]))
    assert [change.videos for change in changes_of(path)] == [{5: H264}]


@pytest.mark.parametrize(("size", "sync"), [(192, 4), (204, 0)])
def test_offsets_and_the_table_to_begin_with_are_those_of_the_file(tmp_path, size, sync):
    packets = [OTHER, PAT, OTHER, pmt(0x1000, {5: H264}), *FILLED]
    whole = [b"time"[:sync] + each + bytes(size - 188 - sync) for each in packets]
    (tmp_path / "x.ts").write_bytes(b"".join(whole))
    assert changes_of(tmp_path / "x.ts") == [Change(3 * size, {5: H264}, whole[1])]


@pytest.mark.parametrize(("packets", "known"), [(4, False), (5, True)])
def test_a_file_is_a_transport_stream_after_five_packets(tmp_path, packets, known):
    (tmp_path / "x.ts").write_bytes(OTHER * packets)
    assert (packet_size(tmp_path / "x.ts") is not None) == known
    (tmp_path / "y.ts").write_bytes(OTHER * 4 + bytes(188) + OTHER * 9)
    assert packet_size(tmp_path / "y.ts") is None


def test_a_file_is_read_once_while_it_stays_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "x.ts"
    path.write_bytes(b"".join([PAT, pmt(0x1000, {5: H264}), *FILLED]))
    first = changes_of(path)
    assert changes_of(path) is first
    path.write_bytes(b"".join([PAT, pmt(0x1000, {5: HEVC}), *FILLED]))
    os.utime(path, ns=(1, 1))
    assert [change.videos for change in changes_of(path)] == [{5: HEVC}]


@pytest.mark.parametrize(("large_bytes", "lines"), [(188 * 8, 0), (188 * 8 - 1, 1)])
def test_what_takes_seconds_is_announced(changes, monkeypatch, caplog, large_bytes, lines):
    monkeypatch.setattr(logging.getLogger("worker"), "propagate", True)
    caplog.set_level(logging.INFO, "worker")
    monkeypatch.setattr(ts_parts, "LARGE_BYTES", large_bytes)
    changes(PAT, pmt(0x1000, {5: H264}))
    assert len(caplog.messages) == lines


def parts(found, pids):
    """The parts of a file with these changes, and which parts were looked into."""
    looked_into = []

    def follow(part):
        looked_into.append(part)
        return pids[len(looked_into) - 1]

    return list(parts_of(found, follow)), looked_into


A, B, C = (
    Change(100, {5: H264}, b"a"),
    Change(500, {5: HEVC}, b"b"),
    Change(900, {5: HEVC, 6: H264}, b"c"),
)


def test_one_kind_of_video_is_one_part():
    assert parts([A], []) == ([Part(0, None, b"")], [])
    assert parts([], []) == ([Part()], [])


def test_a_part_ends_where_the_video_that_is_read_changes():
    found, looked_into = parts([A, B], [5])
    assert found == [Part(0, 500), Part(500, None, b"b")]
    assert looked_into == [Part(0, 500)]


def test_changes_of_other_videos_end_no_part():
    found, looked_into = parts([B, C, A], [5])
    assert found == [Part(0, 100), Part(100, None, b"a")]
    assert looked_into == [Part(0, 900)]
    assert parts([B, C], [5])[0] == [Part(0, None)]


def test_each_part_has_the_table_that_it_begins_with():
    found, looked_into = parts([A, C, B, A], [5, 6, 5])
    assert found == [
        Part(0, 900),
        Part(900, 500, b"c"),
        Part(500, 100, b"b"),
        Part(100, None, b"a"),
    ]
    assert looked_into == [Part(0, 900), Part(900, 500, b"c"), Part(500, 100, b"b")]
