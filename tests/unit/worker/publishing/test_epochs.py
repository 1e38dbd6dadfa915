import logging
import threading
import time

import pytest

from tests.events import detections_event
from tests.spools import spool_in
from worker.errors import CameraRefused, Fenced, SinkUnavailable
from worker.publishing.epochs import Epochs, PublishedEpochs, without_older


class Sink:
    def __init__(self, last=0, error=None):
        self.last, self.error = last, error

    def last_epoch(self, camera_id):
        if self.error is not None:
            raise self.error
        return self.last


def now():
    return round(time.time() * 1000)


FAR_AHEAD = now() + 10**9


def test_an_epoch_is_the_time_of_the_connect_in_milliseconds():
    before = now()
    assert before <= Epochs().of("gate")() <= now()


def test_epochs_rise_also_within_a_millisecond_and_from_many_threads():
    next_epoch, found = Epochs().of("gate"), []
    threads = [
        threading.Thread(target=lambda: found.extend(next_epoch() for _ in range(200)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 800


def test_where_the_clock_is_behind_an_epoch_is_one_more_than_the_last(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    next_epoch = Epochs().of("gate")
    assert [next_epoch() for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("call", ["next", "learn"])
def test_epochs_are_used_by_one_thread_at_a_time(tmp_path, call):
    epochs, spool, found = Epochs(), spool_in(tmp_path), []
    work = {
        "next": epochs.of("gate"),
        "learn": lambda: epochs.learn(["gate"], Sink(FAR_AHEAD), spool),
    }[call]
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    with epochs._lock:
        thread.start()
        thread.join(0.05)
        assert found == []
    thread.join(20)
    assert len(found) == 1


def test_cameras_have_epochs_of_their_own(tmp_path):
    epochs = Epochs()
    epochs.learn(["gate"], Sink(FAR_AHEAD), spool_in(tmp_path))
    assert epochs.of("gate")() == FAR_AHEAD + 1
    assert epochs.of("yard")() < FAR_AHEAD


def test_epochs_begin_above_what_the_spool_knows_if_the_sink_does_not_answer(tmp_path, caplog):
    spool = spool_in(tmp_path)
    spool.note_epochs({"gate": FAR_AHEAD})
    epochs = Epochs()
    epochs.learn(["gate"], Sink(error=SinkUnavailable("no answer")), spool)
    assert epochs.of("gate")() == FAR_AHEAD + 1
    assert "events are spooled to disk until Redis is available: no answer" in caplog.text


def test_a_camera_that_the_sink_refuses_leaves_the_others_theirs(tmp_path):
    class Refusing(Sink):
        def last_epoch(self, camera_id):
            if camera_id == "gate":
                raise CameraRefused("gate", "its key is damaged")
            return FAR_AHEAD

    epochs = Epochs()
    epochs.learn(["gate", "yard"], Refusing(), spool_in(tmp_path))
    assert epochs.of("yard")() == FAR_AHEAD + 1


def test_what_was_learnt_again_does_not_lower_an_epoch(tmp_path):
    epochs = Epochs()
    epochs.learn(["gate"], Sink(FAR_AHEAD), spool_in(tmp_path))
    epochs.learn(["gate"], Sink(5), spool_in(tmp_path))
    assert epochs.of("gate")() == FAR_AHEAD + 1


def test_published_epochs_are_on_disk_for_the_next_process(tmp_path):
    published = PublishedEpochs(spool_in(tmp_path))
    published.keep([detections_event(epoch=7), detections_event("yard", epoch=9)])
    later = spool_in(tmp_path)
    assert [later.last_epoch(name) for name in ("gate", "yard")] == [7, 9]


def test_an_epoch_is_written_to_disk_once(tmp_path):
    spool, statements = spool_in(tmp_path), []
    published = PublishedEpochs(spool)
    published.keep([detections_event(epoch=7)])
    published.keep([detections_event("yard", epoch=9)])
    spool._database.set_trace_callback(statements.append)
    published.keep([detections_event(epoch=7, seq=1), detections_event("yard", epoch=9, seq=1)])
    assert statements == []
    published.keep([detections_event(epoch=8)])
    assert statements


def test_events_of_an_earlier_run_are_told_from_those_of_this_one(tmp_path):
    published = PublishedEpochs(spool_in(tmp_path))
    assert published.are_later_than("gate", 7)  # only events of an earlier run so far
    published.submitted([detections_event(epoch=7)])
    assert not published.are_later_than("gate", 7)
    published.submitted([detections_event(epoch=8)])
    assert published.are_later_than("gate", 7)


def test_a_disk_that_takes_no_epochs_is_no_failure(tmp_path, caplog):
    spool = spool_in(tmp_path)
    spool.close()
    caplog.set_level(logging.DEBUG)
    PublishedEpochs(spool).keep([detections_event(epoch=7)])


def test_events_up_to_the_epoch_that_was_refused_are_discarded_of_that_camera_alone(caplog):
    events = [
        detections_event(camera, epoch=epoch) for camera in ("gate", "yard") for epoch in (1, 2, 3)
    ]
    left = without_older(events, Fenced("gate", 2, "camera gate: taken"))
    assert [(e.data.camera_id, e.data.epoch) for e in left] == [
        ("gate", 3), ("yard", 1), ("yard", 2), ("yard", 3),
    ]  # fmt: skip
    assert "camera gate: discarding 2 events of an earlier run" in caplog.text
