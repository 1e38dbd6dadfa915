"""Transport streams whose video changes on the way."""

import logging
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import cut, pictures
from tests.conftest import WALKWAY
from worker.frames import Frame
from worker.sources.limits import Limits, Meter
from worker.sources.opening import open_recording
from worker.sources.recording import RecordingSource, probe_recording
from worker.sources.ts_parts import Part, changes_of, packet_size

X265 = {"preset": "ultrafast", "x265-params": "log-level=none"}


@pytest.fixture(scope="module")
def piece(tmp_path_factory):
    """Makes a transport stream of 8 frames, and remembers it."""
    folder = tmp_path_factory.mktemp("ts")

    def piece(codec="libx264", pid=256, frames=8, size=(48, 64)):
        path = folder / f"{codec}-{pid}-{frames}-{size[0]}.ts"
        if not path.exists():
            options = X265 if codec == "libx265" else {}
            cut(WALKWAY, path, frames=frames, codec=codec, options=options, size=size,
                container_options={"mpegts_start_pid": str(pid)},
                rate=25 if codec == "mpeg2video" else 10)  # fmt: skip
        return path.read_bytes()

    return piece


def read(path, **options):
    *items, down = RecordingSource(probe_recording(path, "clip"), (24, 32), **options)
    return [item for item in items if isinstance(item, Frame)], down


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"pid": 256}, {"pid": 512}),
        ({"codec": "libx264"}, {"codec": "libx265"}),
        ({"codec": "libx265"}, {"codec": "libx264"}),
        ({"codec": "mpeg2video"}, {"codec": "libx264", "pid": 300}),
        ({"codec": "libx264"}, {"codec": "mpeg2video"}),
    ],
)
def test_a_video_that_changes_is_read_on_and_named(piece, tmp_path, caplog, first, second):
    caplog.set_level(logging.INFO)
    path = tmp_path / "both.ts"
    path.write_bytes(piece(**first) + piece(**second))
    frames, down = read(path)
    assert [frame.frame_index for frame in frames] == list(range(16))
    assert (down.reason, down.frames) == ("end_of_file", 16)
    said = [r.getMessage() for r in caplog.records if "PID" in r.getMessage()]
    assert len(said) == 2
    assert f"PID {second.get('pid', 256)}" in said[1]


def test_every_part_has_the_pictures_of_its_own_file(piece, tmp_path):
    path, alone = tmp_path / "both.ts", tmp_path / "alone.ts"
    path.write_bytes(piece() + piece("libx265", 300))
    alone.write_bytes(piece("libx265", 300))
    both, _ = read(path)
    second, _ = read(alone)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(both[8:], second, strict=True))


def test_three_parts_and_back_again(piece, tmp_path):
    path = tmp_path / "three.ts"
    path.write_bytes(piece() + piece("libx265") + piece())
    frames, down = read(path)
    assert (len(frames), down.reason) == (24, "end_of_file")
    resumed, _ = read(path, first_seq=13)
    assert [f.frame_index for f in resumed] == list(range(13, 24))


def test_the_same_video_twice_is_one_part(piece, tmp_path):
    path = tmp_path / "same.ts"
    path.write_bytes(piece() + piece())
    assert len(changes_of(path)) == 1
    assert len(read(path)[0]) == 16


def test_a_change_after_a_cut_packet_is_found(piece, tmp_path):
    path = tmp_path / "cut.ts"
    path.write_bytes(piece()[:-100] + piece("libx265"))
    frames, _ = read(path)
    assert len(frames) in (15, 16)


def test_a_second_part_that_is_cut_off_is_reported(piece, tmp_path):
    path = tmp_path / "cut.ts"
    second = piece("libx265", frames=12)
    path.write_bytes(piece() + second[: len(second) // 2 + 50])
    frames, down = read(path)
    assert 8 < len(frames) < 20
    assert down.reason == "truncated"


def test_a_video_that_is_added_does_not_cut_the_one_that_is_followed(piece, tmp_path):
    """The tables of a second programme come later; the first goes on."""
    path = tmp_path / "added.ts"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, picture in enumerate(pictures(WALKWAY, 16)):
            for stream in streams:
                image = picture.reformat(64, 48, "yuv420p")
                image.pts = index
                container.mux(stream.encode(image))
        for stream in streams:
            container.mux(stream.encode(None))
    one = bytes(piece())
    path.write_bytes(one + path.read_bytes())
    assert [sorted(change.videos) for change in changes_of(path)] == [[256], [256, 257]]
    assert len(read(path)[0]) == 24


@pytest.mark.parametrize(("size", "sync"), [(192, 4), (204, 0)])
def test_other_sizes_of_packets_are_known(piece, tmp_path, size, sync):
    path = tmp_path / "x.m2ts"
    content = piece() + piece("libx265")
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    path.write_bytes(b"".join(bytes(sync) + p + bytes(size - 188 - sync) for p in packets))
    assert packet_size(path) == (size, sync)
    assert len(changes_of(path)) == 2
    assert len(read(path)[0]) == 16


def test_other_files_have_no_parts(tmp_path):
    assert changes_of(WALKWAY) == []
    (tmp_path / "short").write_bytes(b"G")
    assert packet_size(tmp_path / "short") is None


def test_a_part_is_read_as_a_file_of_its_own(piece, tmp_path):
    path = tmp_path / "x.ts"
    content = piece()
    path.write_bytes(bytes(1000) + content + bytes(1000))
    part = Part(1000 + 188, 1000 + len(content), content[:188])
    with open_recording(path, Limits(), Meter(Limits()), part=part) as container:
        assert len(list(container.decode(video=0))) == 8


def test_noise_in_tables_is_no_change(piece, tmp_path):
    content = bytearray(piece())
    rng = np.random.default_rng(0)
    for at in range(188 * 4, len(content) - 188, 188 * 7):
        content[at + 4 : at + 188] = rng.bytes(184)
        content[at + 1 : at + 3] = b"\x40\x00"  # claims to be the table of programmes
    path = Path(tmp_path / "noise.ts")
    path.write_bytes(bytes(content))
    assert len(changes_of(path)) <= 3
    assert read(path)[1].reason in ("end_of_file", "damaged", "truncated")
