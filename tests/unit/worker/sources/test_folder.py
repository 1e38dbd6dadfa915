"""Still and moving pictures, and folders of them, as recordings."""

import logging
import os
import random
from datetime import UTC, datetime
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.clips import cut
from tests.conftest import WALKWAY
from worker.errors import SourceError, UsageError
from worker.frames import Frame
from worker.sources.folder import (
    FolderPictures,
    folder_digest,
    names_of,
    natural_order,
    pictures_in,
)
from worker.sources.limits import Limits
from worker.sources.recording import RecordingSource, probe_recording, upright_images

EXIF_ORIENTATION, EXIF_TAGS, TAKEN, TAKEN_OFFSET = 0x0112, 0x8769, 0x9003, 0x9011
DESCRIPTION = 0x010E
FORMATS = ["jpg", "jpeg", "png", "webp", "JPG"]


def picture(value=90, size=(40, 60)):
    """A picture of one colour with a white corner at the top left."""
    image = np.full((*size, 3), value, np.uint8)
    image[:12, :12] = 255
    return Image.fromarray(image)


def save(path, value=90, size=(40, 60), **options):
    picture(value, size).save(path, **options)
    return path


def moving(path, values, milliseconds):
    first, *rest = (picture(value) for value in values)
    first.save(path, save_all=True, append_images=rest, duration=milliseconds)
    return path


def read(path, image_size=None, **options):
    *items, down = RecordingSource(probe_recording(path, "x"), image_size, **options)
    return [item for item in items if isinstance(item, Frame)], down


def grey(frame):
    return int(frame.image[-4, -4, 0])


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_still_picture_is_a_recording_of_one_frame(tmp_path, suffix):
    (frame,), down = read(save(tmp_path / f"photo.{suffix}"))
    assert (frame.height, frame.width) == (40, 60)
    assert abs(grey(frame) - 90) < 3
    assert (frame.file_name, frame.pts, frame.captured_at) == (f"photo.{suffix}", None, None)
    assert (down.reason, down.frames) == ("end_of_file", 1)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp", "x.apng"])
def test_every_picture_of_one_that_moves_is_a_frame_with_its_time(tmp_path, name):
    path = tmp_path / name
    values, milliseconds = (30, 90, 150, 210), (100, 300, 200, 5000)
    first, *rest = (picture(value) for value in values)
    options = {"save_all": True, "append_images": rest, "duration": list(milliseconds)}
    first.save(path, format="PNG" if name.endswith("png") else None, **options)
    frames, down = read(path)
    assert [abs(grey(f) - v) < 8 for f, v in zip(frames, values, strict=True)] == [True] * 4
    assert [float(f.pts * f.time_base) for f in frames] == pytest.approx([0, 0.1, 0.4, 0.6])
    assert (down.reason, down.frames) == ("end_of_file", 4)
    stays = [float(shown.stays_seconds) for shown in upright_images(path)]
    assert stays == pytest.approx([0.1, 0.3, 0.2, 5])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_moving_webp_lies_as_its_exif_says(tmp_path, orientation):
    path, exif = tmp_path / "x.webp", Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options = {"append_images": [picture(30)], "duration": 100, "exif": exif, "lossless": True}
    picture(200).save(path, save_all=True, **options)
    stored = picture(200)
    stored.getexif()[EXIF_ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(stored))
    frames, _ = read(path)
    assert (frames[0].height, frames[0].width, 3) == expected.shape
    assert np.array_equal(frames[0].image, expected)


def test_a_moving_webp_without_exif_lies_as_it_is(tmp_path):
    path = tmp_path / "x.webp"
    picture(200).save(path, save_all=True, append_images=[picture(30)], duration=9, lossless=True)
    frames, _ = read(path)
    assert np.array_equal(frames[0].image, np.asarray(picture(200)))


@pytest.mark.parametrize(("offset", "taken"), [
    ("+02:00", datetime(2026, 1, 1, 8, 30, tzinfo=UTC)), (None, None), ("?", None),
])  # fmt: skip
def test_a_picture_is_dated_only_if_its_time_zone_is_stated(tmp_path, offset, taken):
    exif = Image.Exif()
    tags = exif.get_ifd(EXIF_TAGS)
    tags[TAKEN] = "2026:01:01 10:30:00"
    if offset:
        tags[TAKEN_OFFSET] = offset
    (frame,), _ = read(save(tmp_path / "photo.jpg", exif=exif))
    assert frame.captured_at == taken


def test_a_picture_with_a_tag_that_is_not_utf8_is_read_without_its_time(tmp_path):
    exif = Image.Exif()
    exif[DESCRIPTION] = "??"
    path = save(tmp_path / "photo.jpg", exif=exif)
    path.write_bytes(path.read_bytes().replace(b"??", b"\xa2\xe4", 1))
    (frame,), down = read(path)
    assert (frame.captured_at, down.reason) == (None, "end_of_file")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, suffix in ((2, "jpg"), (10, "png"), (1, "webp"), (33, "JPEG")):
        save(folder / f"img{number}.{suffix}", value=4 * number)
    return folder


def test_a_folder_is_one_recording_in_the_natural_order_of_its_names(folder):
    frames, down = read(folder)
    assert [f.file_name for f in frames] == ["img1.webp", "img2.jpg", "img10.png", "img33.JPEG"]
    assert [f.frame_index for f in frames] == [0, 1, 2, 3]
    assert [abs(grey(f) - v) < 4 for f, v in zip(frames, (4, 8, 40, 132), strict=True)]
    assert {f.pts for f in frames} == {None}
    assert (down.reason, down.frames) == ("end_of_file", 4)
    assert probe_recording(folder, "x").frames == 4


def test_a_resumed_folder_yields_the_same_frames(folder):
    whole, _ = read(folder)
    resumed, _ = read(folder, first_seq=2)
    assert [f.file_name for f in resumed] == [f.file_name for f in whole[2:]]
    assert np.array_equal(resumed[0].image, whole[2].image)
    assert [f.file_name for f in read(folder, stride=2)[0]] == ["img1.webp", "img10.png"]


@pytest.mark.parametrize(
    "names",
    [
        ["a1.png", "a2.png", "a10.png"], ["2.png", "10.png", "a.png"],
        ["A1.png", "a2.png", "B1.png"],
        ["x-1-9.png", "x-1-10.png", "x-2-1.png"], ["01.png", "1.png", "02.png"],
    ],
)  # fmt: skip
def test_the_order_of_names_is_the_one_a_person_expects(names):
    assert sorted(random.Random(0).sample(names, len(names)), key=natural_order) == names


@pytest.mark.parametrize(
    "content", [b"", b"not a picture at all", b"\xff\xd8\xff\xe0garbage", b"\x89PNG\r\n\x1a\n"]
)
def test_a_broken_picture_is_named_and_the_others_go_on(folder, caplog, content):
    (folder / "img3.jpg").write_bytes(content)
    frames, down = read(folder)
    assert [f.file_name for f in frames] == ["img1.webp", "img2.jpg", "img10.png", "img33.JPEG"]
    assert [f.frame_index for f in frames] == [0, 1, 2, 3]
    assert (down.reason, down.detail) == ("damaged", "1 of 5 pictures are damaged: img3.jpg")
    assert "img3.jpg" in caplog.text


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_picture_that_is_cut_off_is_named(folder, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    path = folder / f"img3.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, down = read(folder)
    assert len(frames) in (4, 5)
    assert (down.reason, down.detail) == (
        "damaged", f"1 of 5 pictures are damaged: {path.name}",
    )  # fmt: skip


def test_many_broken_pictures_are_counted_and_the_first_are_named(folder):
    for number in range(40, 50):
        (folder / f"img{number}.png").write_bytes(b"no")
    _, down = read(folder)
    assert down.detail == (
        "10 of 14 pictures are damaged: img40.png, img41.png, img42.png and 7 more"
    )


def test_a_picture_over_a_limit_is_broken_and_the_others_go_on(folder):
    save(folder / "img3.png", size=(200, 300))
    moving(folder / "img4.webp", (1, 200), 100)
    limits = Limits(max_pixels=50 * 60)
    source = RecordingSource(probe_recording(folder, "x", limits), None, limits=limits)
    *items, down = source
    assert len([i for i in items if isinstance(i, Frame)]) == 6
    assert down.detail == "1 of 6 pictures are damaged: img3.png"


@pytest.mark.parametrize("name", ["x.webp", "x.png", "x.jpg"])
def test_a_picture_over_a_limit_is_refused_with_the_flag(tmp_path, name):
    path = tmp_path / name
    if name == "x.webp":
        moving(path, (10, 200), 100)
    else:
        save(path)
    with pytest.raises(SourceError, match="--max-pixels"):
        probe_recording(path, "x", Limits(max_pixels=1000))


def test_a_moving_webp_larger_than_may_be_read_at_once_is_refused(tmp_path):
    path = moving(tmp_path / "x.webp", (10, 200), 100)
    with pytest.raises(SourceError, match="--max-bytes-without-frame"):
        probe_recording(path, "x", Limits(max_bytes_without_frame=100))


def test_a_moving_webp_that_is_cut_off_is_truncated(tmp_path):
    path = tmp_path / "x.webp"
    noise = np.random.default_rng(0).integers(0, 255, (4, 60, 80, 3), np.uint8)
    first, *rest = (Image.fromarray(image) for image in noise)
    first.save(path, save_all=True, append_images=rest, duration=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        frames, down = read(path)
    except SourceError as error:
        assert "x.webp" in str(error)  # noqa: PT017
    else:
        assert len(frames) < 4
        assert down.reason == "truncated"


def test_all_pictures_broken_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no")
    with pytest.raises(SourceError, match="none of the pictures in it can be decoded"):
        probe_recording(tmp_path, "x")


def test_a_folder_of_videos_is_refused_with_the_way_out(tmp_path):
    cut(WALKWAY, tmp_path / "a.mp4", frames=2)
    with pytest.raises(UsageError) as refused:
        probe_recording(tmp_path, "x")
    assert str(refused.value) == (
        f"{tmp_path}: is a directory without pictures (JPEG, PNG, WebP, GIF): "
        f"give the recordings in it one by one, as in {tmp_path}/*"
    )


def test_what_is_no_picture_is_left_out_and_named(folder, caplog):
    caplog.set_level(logging.WARNING)
    (folder / "notes.txt").write_text("x")
    (folder / "more").mkdir()
    (folder / "movie.mp4").write_bytes(b"x")
    (folder / "z.db").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "._img1.jpg").write_bytes(b"x")
    os.mkfifo(folder / "pipe.jpg")
    frames, down = read(folder)
    assert (len(frames), down.reason) == (4, "end_of_file")
    (line,) = [r.getMessage() for r in caplog.records]
    assert line == (
        f"{folder}: only its pictures are analysed, not more, movie.mp4, notes.txt and 2 more"
    )


def test_a_name_that_is_not_utf8_is_shown_as_text(folder):
    save(folder / "a.png").rename(os.fsdecode(os.fsencode(folder) + b"/img3-\xff.png"))
    frames, _ = read(folder)
    assert frames[2].file_name == "img3-\\xff.png"


def test_the_digest_of_a_folder_depends_on_names_and_contents_alone(folder, tmp_path):
    digest = folder_digest(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in sorted(folder.iterdir(), reverse=True):
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "notes.txt").write_text("not a picture")
    assert folder_digest(copy) == digest == probe_recording(copy, "x").digest
    os.utime(copy / "img2.jpg", (1, 1))
    assert folder_digest(copy) == digest

    content = bytearray((copy / "img2.jpg").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "img2.jpg").write_bytes(content)
    assert folder_digest(copy) != digest
    (copy / "img2.jpg").write_bytes((folder / "img2.jpg").read_bytes())
    assert folder_digest(copy) == digest
    (copy / "img2.jpg").rename(copy / "img4.jpg")
    assert folder_digest(copy) != digest


def test_a_moving_picture_in_a_folder_gives_each_of_its_pictures(folder):
    moving(folder / "img5.webp", (20, 60, 100), 100)
    moving(folder / "img6.gif", (20, 100), 100)
    frames, _ = read(folder)
    assert [f.file_name for f in frames[2:7]] == ["img5.webp"] * 3 + ["img6.gif"] * 2
    assert {f.pts for f in frames} == {None}


def test_the_digest_of_a_folder_is_sha256_over_its_names_and_the_digests_of_its_pictures(folder):
    digest = sha256()
    for name in ("img1.webp", "img2.jpg", "img10.png", "img33.JPEG"):
        digest.update(len(name).to_bytes(4, "big") + name.encode())
        digest.update(sha256((folder / name).read_bytes()).digest())
    assert folder_digest(folder) == digest.hexdigest()


@pytest.mark.parametrize(
    ("count", "line"),
    [(1, "a"), (3, "a, b, c"), (4, "a, b, c and 1 more"), (5, "a, b, c and 2 more")],
)
def test_three_names_are_said_and_how_many_more(count, line):
    assert names_of(list("abcde"[:count])) == line


@pytest.mark.parametrize("fault", [{"damaged": 1}, {"cut_off": True}, {"over_limit": "too much"}])
def test_a_picture_that_is_read_in_part_is_broken(folder, fault):
    pictures = FolderPictures(folder)
    reader_of = pictures._reader

    def reader(path):
        found = reader_of(path)
        if path.name == "img2.jpg":
            vars(found).update(fault)
        return found

    pictures._reader = reader
    assert len(list(pictures)) == 4
    assert pictures.broken == ["img2.jpg"]


def test_a_picture_that_is_gone_when_it_is_its_turn_is_broken(folder, caplog):
    pictures = FolderPictures(folder)
    found = iter(pictures)
    next(found)
    (folder / "img10.png").unlink()
    assert [picture.file_name for picture in found] == ["img2.jpg", "img33.JPEG"]
    assert pictures.broken == ["img10.png"]
    assert "img10.png: cannot read it: No such file or directory" in caplog.text


def test_a_picture_without_anything_to_decode_is_said_to_be_that(folder, caplog):
    (folder / "img3.jpg").write_bytes(b"\xff\xd8\xff\xe0garbage")
    assert len(list(FolderPictures(folder))) == 4
    assert "img3.jpg: no frame in it can be decoded" in caplog.text


def test_what_is_known_of_pictures_before_they_are_read(folder, tmp_path):
    path = moving(tmp_path / "x.webp", (30, 90), 250)
    for found, frames, rate in (
        (probe_recording(folder, "x"), 4, 1),
        (probe_recording(path, "x"), 2, 4),
    ):
        assert (found.frames, found.rate, found.pixel_aspect) == (frames, rate, 1)
        assert (found.start, found.start_seconds) == (None, 0)
        assert (found.height, found.width) == (40, 60)


def test_pictures_without_times_follow_one_another_each_second(folder):
    items = list(RecordingSource(probe_recording(folder, "x"), None))
    assert {item.epoch for item in items} == {0}
    assert {item.time_base for item in items[1:-1]} == {1}
    sampled, _ = read(folder, fps=0.5)
    assert [frame.frame_index for frame in sampled] == [0, 2]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "none").touch()
    with pytest.raises(SourceError, match="none: cannot read it: Not a directory"):
        pictures_in(tmp_path / "none")
