import errno
import sqlite3
import threading

import pytest
from hypothesis import given, settings, strategies as st

from tests.events import camera_event, detections_event
from tests.spools import spool_in
from worker.errors import SpoolError
from worker.publishing.spool import FILE_NAME, ROW_BYTES, Portion, Spool


def events(first, last, camera="gate", epoch=1):
    return [detections_event(camera, epoch=epoch, seq=seq) for seq in range(first, last + 1)]


def seqs(portion):
    return [event.data.seq for event in portion.events]


def everything(spool):
    return seqs(spool.oldest(10_000))


SIZE = len(events(0, 0)[0].to_json()) + ROW_BYTES
"""Of an event whose seq has one digit."""


def test_events_come_out_as_they_went_in_oldest_first(tmp_path):
    spool = spool_in(tmp_path)
    kept = [*events(0, 4), camera_event("yard"), *events(0, 3, epoch=2)]
    spool.append(kept[:3])
    spool.append(kept[3:])
    assert len(spool) == len(kept)
    portion = spool.oldest(100)
    assert list(portion.events) == kept
    assert [e.to_json() for e in portion.events] == [e.to_json() for e in kept]


def test_what_is_published_does_not_come_again(tmp_path):
    spool = spool_in(tmp_path)
    spool.append(events(0, 9))
    spool.forget(spool.oldest(4))
    assert len(spool) == 6
    assert everything(spool) == [4, 5, 6, 7, 8, 9]
    spool.forget(spool.oldest(6))
    assert len(spool) == 0
    assert everything(spool) == []


def test_where_nothing_waits_the_oldest_are_none(tmp_path):
    spool = spool_in(tmp_path)
    assert spool.oldest(4) == Portion((), 0, 0, 0)
    spool.append(events(0, 0))
    portion = spool.oldest(4)
    assert portion == Portion(tuple(events(0, 0)), 1, 1, SIZE)
    spool.forget(portion)
    assert spool.oldest(4) == Portion((), 1, 0, 0)


def test_events_are_kept_over_a_connection_of_its_own(tmp_path):
    spool = spool_in(tmp_path)
    spool.append(events(0, 1))
    spool.append_apart(events(2, 3))
    assert everything(spool) == [0, 1, 2, 3]


def test_cameras_are_in_use_while_they_are_served(tmp_path, monkeypatch):
    """What that is good for is seen from other processes: test_spool_contents.py."""
    used = []

    class Use:
        def __init__(self, directory):
            used.append(directory)

        def begin(self, destination, camera_id):
            used.append(("begin", destination, camera_id))

        def end(self, destination, camera_id):
            used.append(("end", destination, camera_id))

        def close(self):
            used.append("close")

    monkeypatch.setattr("worker.publishing.spool.SpoolUse", Use)
    spool = spool_in(tmp_path, ("gate",), in_use=True)
    spool.add_cameras(["gate"])
    spool.add_cameras(["gate", "yard"])
    spool.remove_camera("gate")
    spool.close()
    assert used == [
        tmp_path, ("begin", "here", "gate"), ("begin", "here", "yard"), ("end", "here", "gate"),
        "close",
    ]  # fmt: skip


def test_a_damaged_spool_that_cannot_be_made_anew_is_one_line(tmp_path, monkeypatch, caplog):
    def open_after(second):
        errors = iter([sqlite3.DatabaseError("damaged"), second])

        def fail(path):
            raise next(errors)

        monkeypatch.setattr("worker.publishing.spool.connect_spool", fail)
        return spool_in(tmp_path)

    with pytest.raises(SpoolError, match=f"^{tmp_path / FILE_NAME}: no such disk$"):
        open_after(OSError("no such disk"))
    assert len(open_after(sqlite3.OperationalError("no room"))) == 0  # there may be room later
    assert f"cannot spool events for now: {tmp_path / FILE_NAME}: no room" in caplog.text


def test_a_directory_in_which_nothing_can_be_locked_is_one_line(tmp_path, monkeypatch):
    def refuse(directory):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("worker.publishing.spool.SpoolUse", refuse)
    with pytest.raises(SpoolError, match=f"^{tmp_path}: No locks available$"):
        spool_in(tmp_path, in_use=True)


def test_events_outlive_the_process_that_kept_them(tmp_path):
    first = spool_in(tmp_path)
    first.append(events(0, 9))
    first.forget(first.oldest(3))
    second = spool_in(tmp_path)  # the first was not closed: it was killed
    assert len(second) == 7
    assert everything(second) == list(range(3, 10))


def test_the_oldest_go_where_there_are_too_many_and_are_counted(tmp_path):
    spool = spool_in(tmp_path, max_bytes=10 * SIZE)
    spool.append(events(0, 7))
    assert spool.take_lost() == {}
    spool.append(events(0, 3, camera="yard") + events(0, 3, epoch=2))
    assert everything(spool) == [6, 7, 0, 1, 2, 3, 0, 1, 2, 3]
    assert len(spool) == 10
    assert spool.take_lost() == {"gate": 6}
    assert spool.take_lost() == {}


def test_the_count_of_what_went_outlives_the_process(tmp_path):
    spool = spool_in(tmp_path, max_bytes=4 * SIZE)
    for seq in range(9):
        spool.append(events(seq, seq))
    assert spool_in(tmp_path).take_lost() == {"gate": 5}


def test_a_spool_of_no_size_keeps_nothing_and_counts(tmp_path):
    spool = spool_in(tmp_path, max_bytes=0)
    spool.append(events(0, 2))
    assert len(spool) == 0
    assert spool.take_lost() == {"gate": 3}


def test_workers_in_one_directory_see_their_own_cameras_and_servers(tmp_path):
    gate = spool_in(tmp_path, ["gate"])
    yard = spool_in(tmp_path, ["yard"])
    elsewhere = spool_in(tmp_path, ["gate"], destination="elsewhere")
    gate.append(events(0, 1))
    yard.append(events(5, 6, camera="yard"))
    elsewhere.append(events(8, 8))
    assert [everything(s) for s in (gate, yard, elsewhere)] == [[0, 1], [5, 6], [8]]
    gate.forget(gate.oldest(10))
    assert [everything(s) for s in (gate, yard, elsewhere)] == [[], [5, 6], [8]]
    assert yard.last_epoch("yard") == 1
    assert yard.last_epoch("gate") == 0


def test_workers_may_write_at_the_same_time(tmp_path):
    spools = [spool_in(tmp_path, [f"c{i}"]) for i in range(4)]

    def work(index):
        for seq in range(50):
            spools[index].append(events(seq, seq, camera=f"c{index}"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [everything(spool) for spool in spools] == [list(range(50))] * 4


def test_the_latest_epoch_that_waits_is_known(tmp_path):
    spool = spool_in(tmp_path)
    assert spool.last_epoch("gate") == 0
    spool.append([*events(0, 1, epoch=7), *events(0, 1, epoch=9), *events(0, 0, "yard", epoch=12)])
    assert spool.last_epoch("gate") == 9


def test_the_events_of_a_refused_camera_are_dropped_alone(tmp_path):
    spool = spool_in(tmp_path)
    spool.append([*events(0, 3), *events(0, 1, "yard")])
    assert spool.drop_events("gate", 1) == 4
    assert len(spool) == 2
    assert everything(spool) == [0, 1]


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(tmp_path, caplog, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    spool = spool_in(tmp_path)
    spool.append(events(0, 2))
    assert everything(spool) == [0, 1, 2]
    (aside,) = tmp_path.glob("*.damaged-*")
    assert aside.read_bytes() == content
    assert "damaged" in caplog.text


def test_damage_that_shows_later_is_one_error_and_the_next_event_is_kept(tmp_path):
    spool = spool_in(tmp_path)
    for seq in range(200):
        spool.append(events(seq, seq))
    spool.close()
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xff" * (len(content) - 12288)
    path.write_bytes(content)
    try:
        spool = spool_in(tmp_path)
        spool.oldest(1000)
    except SpoolError:
        spool = spool_in(tmp_path)
    spool.append(events(500, 501))
    assert everything(spool)[-2:] == [500, 501]


def test_an_event_of_another_version_does_not_keep_the_others_back(tmp_path, caplog):
    spool = spool_in(tmp_path)
    spool.append(events(0, 2))
    with sqlite3.connect(tmp_path / FILE_NAME) as other:
        other.execute("UPDATE events SET event = ? WHERE id = 2", (b'{"type": "from.the.future"}',))
    portion = spool.oldest(10)
    assert seqs(portion) == [0, 2]
    assert portion.rows == 3
    spool.forget(portion)
    assert len(spool) == 0
    assert "cannot be read" in caplog.text


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError) as caught:
        spool_in(tmp_path / "file" / "spool")
    assert str(caught.value) == f"{tmp_path / 'file' / 'spool'}: Not a directory"


def test_a_file_that_may_not_be_written_is_one_line(tmp_path, monkeypatch):
    def forbidden(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("worker.publishing.spool.Path.touch", forbidden)
    with pytest.raises(SpoolError, match=rf"{FILE_NAME}: Permission denied$"):
        spool_in(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_is_full_at_the_start_is_tried_again_with_each_call(
    tmp_path, monkeypatch, caplog, number
):
    def full(path, mode):
        raise OSError(number, "no room")

    with monkeypatch.context() as fault:
        fault.setattr("worker.publishing.spool.Path.touch", full)
        spool = spool_in(tmp_path)
        assert len(spool) == 0
        with pytest.raises(SpoolError, match="no room"):
            spool.append(events(0, 0))
    assert "cannot spool events for now" in caplog.text
    with pytest.raises(SpoolError):  # with this call it is opened
        spool.append(events(0, 0))
    spool.append(events(1, 1))
    assert everything(spool) == [1]


def test_a_full_disk_is_an_error_and_keeps_what_was_there(tmp_path):
    spool = spool_in(tmp_path)
    spool.append(events(0, 1))
    limit = spool._database.execute("PRAGMA page_count").fetchone()[0] + 2
    spool._database.execute(f"PRAGMA max_page_count = {limit}").fetchone()
    with pytest.raises(SpoolError, match="full"):
        spool.append(events(2, 200))
    assert len(spool) == 2
    assert everything(spool) == [0, 1]
    spool.forget(spool.oldest(10))
    assert len(spool) == 0


def test_space_is_given_back_once_all_is_published(tmp_path):
    spool = spool_in(tmp_path)
    for start in range(0, 5000, 500):
        spool.append(events(start, start + 499))
    held = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert held > 2_000_000
    while len(spool):
        spool.forget(spool.oldest(512))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 200_000


def test_others_cannot_read_the_files(tmp_path):
    spool = spool_in(tmp_path)
    spool.append([detections_event(seq=0)])
    files = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
    assert files == {FILE_NAME: 0, f"{FILE_NAME}-wal": 0, f"{FILE_NAME}-shm": 0}


def test_published_events_that_could_not_be_forgotten_do_not_count_as_lost(tmp_path):
    spool = spool_in(tmp_path, max_bytes=BOUND)
    spool.append([detections_event(seq=10**6 + seq) for seq in range(6)])
    other = sqlite3.connect(tmp_path / FILE_NAME)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SpoolError, match="locked"):
        spool.forget(spool.oldest(3))
    other.rollback()
    spool.append([detections_event(seq=10**6 + seq) for seq in range(6, 18)])
    assert 9 < len(spool) < 15
    assert [seq - 10**6 for seq in everything(spool)] == list(range(18 - len(spool), 18))
    assert spool.take_lost() == {"gate": 15 - len(spool)}


def test_the_events_of_a_camera_that_is_refused_in_mid_portion_are_counted_once(tmp_path):
    spool = spool_in(tmp_path)
    spool.append(
        [detections_event(camera, seq=seq) for seq in range(4) for camera in ("gate", "yard")]
    )
    portion = spool.oldest(4)
    spool.drop_events("yard", 1)
    spool.forget(portion)
    assert len(spool) == 2


def test_what_a_later_owner_of_a_refused_camera_keeps_stays(tmp_path):
    spool, successor = spool_in(tmp_path), spool_in(tmp_path)
    spool.append(events(0, 3, epoch=5))
    successor.append(events(0, 1, epoch=6))
    assert spool.drop_events("gate", 5) == 4
    assert [e.data.epoch for e in successor.oldest(9).events] == [6, 6]


def test_the_events_of_a_camera_that_is_left_alone_are_there_for_the_next_process(tmp_path):
    spool = spool_in(tmp_path)
    spool.append([*events(0, 3), *events(0, 1, "yard")])
    portion = spool.oldest(3)
    spool.remove_camera("gate")
    spool.forget(portion)
    assert [e.data.camera_id for e in spool.oldest(9).events] == ["yard", "yard"]
    assert len(spool) == 2
    assert len(spool_in(tmp_path)) == 6


def test_the_latest_epoch_is_known_after_all_is_published(tmp_path):
    spool = spool_in(tmp_path)
    spool.note_epochs({"gate": 9, "yard": 3})
    spool.note_epochs({"gate": 7})
    assert [spool_in(tmp_path).last_epoch(name) for name in ("gate", "yard", "new")] == [9, 3, 0]
    assert spool_in(tmp_path, destination="there").last_epoch("gate") == 0


def test_a_database_that_cannot_be_used_at_the_start_is_used_later(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("worker.publishing.spool.BUSY_SECONDS", 0.01)
    spool_in(tmp_path).append(events(0, 1))
    other = sqlite3.connect(tmp_path / FILE_NAME)
    other.execute("BEGIN EXCLUSIVE")
    blocked = spool_in(tmp_path)
    assert len(blocked) == 0
    with pytest.raises(SpoolError, match="locked"):
        blocked.append(events(2, 2))
    assert "cannot spool events for now" in caplog.text
    other.rollback()
    with pytest.raises(SpoolError):  # with this call it is opened
        blocked.append(events(2, 2))
    blocked.append(events(2, 3))
    assert everything(blocked) == [0, 1, 2, 3]


def test_losses_that_could_not_be_told_of_are_told_by_the_next_process(tmp_path):
    spool = spool_in(tmp_path)
    spool.add_lost({"gate": 3})
    spool.add_lost({"gate": 2})
    assert spool_in(tmp_path).take_lost() == {"gate": 5}


def test_a_spool_that_could_not_be_opened_again_is_tried_with_the_next_event(tmp_path, monkeypatch):
    spool = spool_in(tmp_path)
    spool.close()
    spool_file, away = tmp_path / FILE_NAME, tmp_path / "away"
    spool_file.rename(away)
    spool_file.mkdir()  # in its place stands something that cannot be opened
    for _ in range(2):
        with pytest.raises(SpoolError):
            spool.append([detections_event(seq=0)])
    spool_file.rmdir()
    with pytest.raises(SpoolError):
        spool.append([detections_event(seq=0)])
    spool.append([detections_event(seq=1)])
    assert seqs(spool.oldest(9)) == [1]


BOUND = 12 * (SIZE + 40)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 8)),
            st.tuples(st.just("publish"), st.integers(1, 8)),
            st.tuples(st.just("restart"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_what_comes_out_is_the_tail_of_what_went_in(tmp_path_factory, steps):
    directory = tmp_path_factory.mktemp("spool")
    spool, expected, next_seq, lost = spool_in(directory, max_bytes=BOUND), [], 0, 0
    for step, count in steps:
        if step == "append":
            spool.append([detections_event(seq=10**6 + next_seq + i) for i in range(count)])
            expected += range(next_seq, next_seq + count)
            next_seq += count
        elif step == "publish":
            portion = spool.oldest(count)
            assert [seq - 10**6 for seq in seqs(portion)] == expected[: portion.rows]
            spool.forget(portion)
            expected = expected[portion.rows :]
        else:
            spool.close()
            spool = spool_in(directory, max_bytes=BOUND)
        if len(spool) < len(expected):
            lost += len(expected) - len(spool)
            expected = expected[len(expected) - len(spool) :]
        assert [seq - 10**6 for seq in everything(spool)] == expected
    assert spool.take_lost().get("gate", 0) == lost
    assert isinstance(spool, Spool)


def test_cameras_are_added_with_one_look_at_all_events_and_known_ones_with_none(tmp_path):
    spool_in(tmp_path).append([*events(0, 4), *events(0, 2, "lot")])
    spool, statements = spool_in(tmp_path), []
    spool._database.set_trace_callback(statements.append)
    spool.add_cameras(["gate", "yard"])
    assert statements == []
    spool.add_cameras(["gate", "lot", *(f"c{number}" for number in range(100))])
    assert len(statements) == 1
    assert len(spool) == 8


def test_what_waits_of_a_camera_that_is_added_is_neither_passed_over_nor_deleted(tmp_path):
    spool_in(tmp_path).append(events(0, 2, "lot"))  # an earlier process left them
    spool = spool_in(tmp_path)
    spool.append(events(0, 4))
    spool.append(events(3, 3, "lot"))  # before it is added
    spool.append(events(5, 5))
    spool.forget(spool.oldest(100))
    spool.add_cameras(["lot"])
    assert len(spool) == 4
    spool.append(events(6, 6))
    assert everything(spool) == [0, 1, 2, 3, 6]
    spool.forget(spool.oldest(2))
    assert everything(spool_in(tmp_path, ["gate", "lot"])) == [2, 3, 6]


def test_events_of_a_camera_that_was_removed_are_there_when_it_is_added_again(tmp_path):
    spool = spool_in(tmp_path)
    spool.append(events(0, 2, "yard"))
    spool.remove_camera("yard")
    spool.append(events(0, 2))
    spool.forget(spool.oldest(100))
    spool.add_cameras(["yard"])
    assert [event.data.camera_id for event in spool.oldest(100).events] == ["yard"] * 3


def test_files_that_others_could_read_are_closed_to_them_when_they_are_opened(tmp_path):
    (tmp_path / FILE_NAME).touch(mode=0o644)
    (tmp_path / FILE_NAME).chmod(0o644)
    spool_in(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_the_directory_is_made_with_its_parents_and_for_its_owner_alone(tmp_path):
    spool_in(tmp_path / "state" / "spool")
    assert (tmp_path / "state" / "spool").stat().st_mode & 0o777 == 0o700


def test_events_that_are_published_and_cannot_be_deleted_take_no_room_from_others(tmp_path):
    spool = spool_in(tmp_path, max_bytes=4 * SIZE)
    spool.append(events(0, 3))
    portion = spool.oldest(2)
    spool.close()
    with pytest.raises(SpoolError):
        spool.forget(portion)
    assert len(spool) == 2
    spool.append(events(4, 5))
    assert everything(spool) == [2, 3, 4, 5]
    assert spool.take_lost() == {}
    spool.append(events(6, 6))
    assert everything(spool) == [3, 4, 5, 6]
    assert spool.take_lost() == {"gate": 1}


def test_events_that_another_worker_of_the_same_cameras_took_do_not_wait_any_more(tmp_path):
    spool, other = spool_in(tmp_path), spool_in(tmp_path)
    spool.append(events(0, 3))
    other.forget(other.oldest(10))
    assert everything(spool) == []
    assert len(spool) == 0
    spool.append(events(4, 4))
    assert len(spool) == 1


def test_events_that_another_worker_of_the_same_cameras_added_are_published_and_not_counted(
    tmp_path,
):
    spool = spool_in(tmp_path, max_bytes=2 * SIZE)
    spool_in(tmp_path).append(events(0, 3))
    spool.forget(spool.oldest(10))
    assert len(spool) == 0
    spool.append(events(4, 6))
    assert everything(spool) == [5, 6]
    assert len(spool) == 2


def test_space_is_not_given_back_while_events_wait(tmp_path):
    spool, statements = spool_in(tmp_path), []
    spool.append(events(0, 3))
    spool._database.set_trace_callback(statements.append)
    spool.forget(spool.oldest(2))
    assert not any("wal_checkpoint" in statement for statement in statements)
    spool.forget(spool.oldest(2))
    assert any("wal_checkpoint" in statement for statement in statements)


@pytest.mark.parametrize(("missing_bytes", "left"), [(0, 4), (1, 3), (SIZE, 3), (SIZE + 1, 2)])
def test_a_spool_is_never_larger_than_its_limit_nor_smaller_than_needed(
    tmp_path, missing_bytes, left
):
    spool = spool_in(tmp_path, max_bytes=4 * SIZE - missing_bytes)
    spool.append(events(0, 3))
    assert everything(spool) == list(range(4 - left, 4))


def test_damage_that_shows_while_events_wait_leaves_an_empty_spool(tmp_path):
    spool = spool_in(tmp_path)
    spool.append(events(0, 99))
    spool.forget(spool.oldest(10))
    for statement in ("wal_checkpoint(TRUNCATE)", "shrink_memory"):  # all on disk, none in memory
        spool._database.execute(f"PRAGMA {statement}").fetchall()
    content = bytearray((tmp_path / FILE_NAME).read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(SpoolError, match="malformed"):
        spool.oldest(100)
    assert len(spool) == 0
    spool.append(events(100, 101))
    assert everything(spool) == [100, 101]
    assert len(spool) == 2
    assert len(list(tmp_path.glob("*.damaged-*"))) >= 1
