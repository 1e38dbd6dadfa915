import multiprocessing
import sqlite3

import pytest

from tests.events import detections_event
from tests.spools import spool_in
from worker.errors import SpoolError
from worker.publishing import spool_use
from worker.publishing.spool import FILE_NAME, ROW_BYTES
from worker.publishing.spool_contents import contents, purge
from worker.publishing.spool_use import FILE_NAME as USE_FILE_NAME, SpoolUse, _place

FORK = multiprocessing.get_context("fork")


def serve(directory, cameras, ready, over):
    """What a worker does with its spool, in a process of its own."""
    spool = spool_in(directory, (), in_use=True)
    spool.add_cameras(cameras)
    ready.set()
    over.wait()


@pytest.fixture
def worker(tmp_path):
    """Starts a process that has cameras in use; gives it to be ended."""
    running = []

    def start(*cameras):
        ready, over = FORK.Event(), FORK.Event()
        process = FORK.Process(target=serve, args=(tmp_path, cameras, ready, over))
        process.start()
        running.append(process)
        assert ready.wait(20)
        return process

    yield start
    for process in running:
        process.kill()
        process.join()


def fill(directory, camera, count, destination="here"):
    events = [detections_event(camera, seq=seq) for seq in range(count)]
    spool = spool_in(directory, [camera], destination=destination)
    spool.append(events)
    spool.close()
    return sum(len(event.to_json()) + ROW_BYTES for event in events)


def counts(found):
    return {(w.destination, w.camera_id): w.events for w in found}


def test_every_camera_and_server_is_listed_with_its_events(tmp_path):
    size = fill(tmp_path, "gate", 3)
    fill(tmp_path, "gate", 1, "there")
    fill(tmp_path, "yard", 2)
    found = contents(tmp_path)
    assert counts(found) == {("here", "gate"): 3, ("here", "yard"): 2, ("there", "gate"): 1}
    first = found[0]
    assert first.size_bytes == size
    assert (first.oldest, first.newest) == ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")
    assert not first.in_use


def test_a_directory_without_a_spool_is_empty_and_stays_so(tmp_path):
    assert contents(tmp_path) == []
    assert purge(tmp_path, lambda waiting: True) == ([], [])
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_wanted_is_purged(tmp_path):
    for camera in ("gate", "yard"):
        fill(tmp_path, camera, 2)
    deleted, in_use = purge(tmp_path, lambda waiting: waiting.camera_id == "gate")
    assert (counts(deleted), in_use) == ({("here", "gate"): 2}, [])
    assert counts(contents(tmp_path)) == {("here", "yard"): 2}


def test_what_a_running_worker_serves_is_in_use_until_it_ends_however_it_ends(tmp_path, worker):
    fill(tmp_path, "gate", 2)
    fill(tmp_path, "yard", 2)
    fill(tmp_path, "gate", 1, "there")
    process = worker("gate")
    assert {(w.destination, w.camera_id) for w in contents(tmp_path) if w.in_use} == {
        ("here", "gate")
    }
    deleted, in_use = purge(tmp_path, lambda waiting: True)
    assert counts(deleted) == {("here", "yard"): 2, ("there", "gate"): 1}
    assert counts(in_use) == {("here", "gate"): 2}
    assert ({w.in_use for w in deleted}, {w.in_use for w in in_use}) == ({False}, {True})
    process.kill()
    process.join()
    assert counts(purge(tmp_path, lambda waiting: True)[0]) == {("here", "gate"): 2}


def test_two_workers_may_serve_one_camera(tmp_path, worker):
    fill(tmp_path, "gate", 2)
    first = worker("gate")
    worker("gate")
    first.kill()
    first.join()
    assert contents(tmp_path)[0].in_use


def test_a_camera_that_a_worker_has_set_aside_is_not_in_use(tmp_path, worker):
    fill(tmp_path, "gate", 2)
    process = FORK.Process(target=set_aside, args=(tmp_path, ready := FORK.Event(), FORK.Event()))
    process.start()
    try:
        assert ready.wait(20)
        assert not contents(tmp_path)[0].in_use
    finally:
        process.kill()
        process.join()


def set_aside(directory, ready, over):
    spool = spool_in(directory, ("gate",), in_use=True)
    spool.remove_camera("gate")
    ready.set()
    over.wait()


def test_events_that_were_purged_count_as_lost_for_the_camera_s_next_worker(tmp_path):
    fill(tmp_path, "gate", 3)
    purge(tmp_path, lambda waiting: True)
    fill(tmp_path, "gate", 2)
    purge(tmp_path, lambda waiting: True)
    spool = spool_in(tmp_path)
    assert len(spool) == 0
    assert spool.take_lost() == {"gate": 5}


def test_a_worker_whose_events_were_added_while_others_are_purged_has_them_all(tmp_path):
    fill(tmp_path, "yard", 2)
    spool = spool_in(tmp_path, ["gate"])
    spool.append([detections_event(seq=0)])
    purge(tmp_path, lambda waiting: waiting.camera_id == "yard")
    spool.append([detections_event(seq=1)])
    assert [event.data.seq for event in spool.oldest(10).events] == [0, 1]


@pytest.mark.parametrize("content", [b"\0", b"[]", b"{}"])
def test_an_event_that_cannot_be_read_is_listed_without_a_time(tmp_path, content):
    fill(tmp_path, "gate", 1)
    spool = spool_in(tmp_path)
    with spool._database:
        spool._database.execute("UPDATE events SET event = ?", (content,))
    spool.close()
    (found,) = contents(tmp_path)
    assert (found.events, found.oldest) == (1, None)


def test_a_damaged_spool_is_one_line(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a database, but long enough to be looked at" * 30)
    with pytest.raises(SpoolError, match="cannot read it") as caught:
        contents(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_spool_whose_use_cannot_be_known_is_one_line(tmp_path):
    fill(tmp_path, "gate", 1)
    (tmp_path / USE_FILE_NAME).mkdir()
    with pytest.raises(SpoolError, match="cannot read it"):
        contents(tmp_path)


def test_a_spool_shrinks_when_it_is_purged(tmp_path):
    fill(tmp_path, "gate", 300)
    before = (tmp_path / FILE_NAME).stat().st_size
    purge(tmp_path, lambda waiting: True)
    assert (tmp_path / FILE_NAME).stat().st_size < before / 2


def free(directory, *cameras):
    """Those of the cameras that nobody has in use, as another process sees it."""
    receiving, sending = FORK.Pipe(duplex=False)
    process = FORK.Process(target=look, args=(directory, cameras, sending))
    process.start()
    found = receiving.recv()
    process.join()
    return found


def look(directory, cameras, sending):
    use, found = SpoolUse(directory), []
    for camera in cameras:
        with use.alone("here", camera) as alone:
            found += [camera] * alone
    sending.send(found)


def test_to_have_a_camera_alone_touches_no_other(tmp_path):
    first, second = sorted(("gate", "yard"), key=lambda camera: _place("here", camera))
    use = SpoolUse(tmp_path)
    with use.alone("here", second) as alone:
        assert alone
        assert free(tmp_path, first, second) == [first]
        with use.alone("here", first):
            assert free(tmp_path, first, second) == []
        assert free(tmp_path, first, second) == [first]
    assert free(tmp_path, first, second) == [first, second]


def test_to_close_ends_the_use_of_everything(tmp_path):
    use = SpoolUse(tmp_path)
    for camera in ("gate", "yard"):
        use.begin("here", camera)
    assert free(tmp_path, "gate", "yard", "door") == ["door"]
    use.close()
    assert free(tmp_path, "gate", "yard", "door") == ["gate", "yard", "door"]


def test_no_lock_touches_the_camera_beside_it(tmp_path, monkeypatch):
    cameras = ["gate", "yard", "door"]  # beside one another in the file
    monkeypatch.setattr(spool_use, "_place", lambda destination, name: cameras.index(name))
    use = SpoolUse(tmp_path)
    use.begin("here", "gate")
    assert free(tmp_path, *cameras) == ["yard", "door"]
    use.begin("here", "yard")
    use.end("here", "gate")
    assert free(tmp_path, *cameras) == ["gate", "door"]
    with use.alone("here", "gate") as alone:
        assert alone
        assert free(tmp_path, *cameras) == ["door"]
    assert free(tmp_path, *cameras) == ["gate", "door"]
    use.end("here", "yard")
    with use.alone("here", "gate"):
        assert free(tmp_path, *cameras) == ["yard", "door"]


def test_what_cannot_be_purged_is_named_with_the_reason(tmp_path):
    fill(tmp_path, "gate", 2)
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute(
            "CREATE TRIGGER kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'not now'); END"
        )
    with pytest.raises(SpoolError, match="cannot purge it: not now"):
        purge(tmp_path, lambda waiting: True)
    assert counts(contents(tmp_path)) == {("here", "gate"): 2}


def test_to_purge_without_the_file_of_locks_is_an_error(tmp_path):
    def wanted(waiting):
        (tmp_path / USE_FILE_NAME).unlink()
        (tmp_path / USE_FILE_NAME).mkdir()
        return True

    fill(tmp_path, "gate", 2)
    with pytest.raises(SpoolError, match=r"cannot purge it: .*Is a directory"):
        purge(tmp_path, wanted)
