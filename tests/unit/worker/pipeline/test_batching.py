import threading
import time

import pytest

from tests.frames import frame
from tests.snapshots import snapshot
from worker.frames import StreamDown, StreamUp
from worker.pipeline import batching
from worker.pipeline.batching import LatestFrameBatcher, LosslessBatcher

UP, DOWN = StreamUp("gate", 1), StreamDown("gate", 1, "down", "closed")


def camera_frames(batch):
    return [(f.camera_id, f.frame_index) for f in batch.frames]


@pytest.fixture
def live():
    return LatestFrameBatcher(max_batch=4, max_wait_seconds=0.05)


@pytest.fixture
def clock(monkeypatch):
    """The time, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(batching.time, "monotonic", lambda: now[0])
    return now


def watching(*cameras, max_batch=8, max_wait_seconds=60):
    """A batcher for cameras that are up."""
    batcher = LatestFrameBatcher(max_batch, max_wait_seconds)
    for camera in cameras:
        batcher.put(StreamUp(camera, 1))
    batcher.next(0)
    return batcher


def in_a_thread(function):
    """What the function returns, in a list, once the thread is over."""
    returned = []
    thread = threading.Thread(target=lambda: returned.append(function()), daemon=True)
    thread.start()
    return thread, returned


@pytest.mark.parametrize("batcher", [LatestFrameBatcher(4, 60), LosslessBatcher(4)])
def test_who_puts_an_item_hears_that_it_was_taken(batcher):
    assert [batcher.put(item) for item in (UP, frame(index=0), frame(index=1), DOWN)] == [True] * 4


def test_a_newer_frame_replaces_the_waiting_one_and_takes_over_its_counts(live):
    live.put(frame(index=0, skipped=1))
    live.put(frame(index=1, dropped=2, skipped=2))
    live.put(frame(index=2, skipped=3))
    (kept,) = live.next(1).frames
    assert kept.frame_index == 2
    assert kept.dropped == 4  # frames 0 and 1, and the two that frame 1 stood for
    assert kept.skipped == 6
    assert live.next(0) is None


def test_a_snapshot_outlives_its_frame_until_there_is_a_newer_one(live):
    first, second = snapshot(index=0), snapshot(index=2)
    live.put(frame(index=0, snapshot=first))
    live.put(frame(index=1))
    assert live.next(1).frames[0].snapshot is first
    live.put(frame(index=1, snapshot=first))
    live.put(frame(index=2, snapshot=second))
    live.put(frame(index=3))
    assert live.next(1).frames[0].snapshot is second
    live.put(frame(index=4))
    assert live.next(1).frames[0].snapshot is None


def test_a_snapshot_is_not_carried_into_another_connection(live):
    live.put(frame(index=9, snapshot=snapshot(index=9)))
    live.put(StreamUp("gate", 2))
    live.put(frame(index=0, epoch=2))
    assert [kept.snapshot for kept in live.next(1).frames] == [None]


def test_a_busy_camera_does_not_overtake_one_that_waits(live):
    for camera in "abcdef":
        live.put(StreamUp(camera, 1))
    live.next(0)
    live.put(frame("quiet", 0))
    for index in range(50):
        for camera in "abcd":
            live.put(frame(camera, index))
    assert ("quiet", 0) in camera_frames(live.next(1))


def test_every_camera_gets_its_turn_when_there_are_more_than_fit(live):
    cameras = "abcdefgh"
    served = []
    for index in range(4):
        for camera in cameras:
            live.put(frame(camera, index))
        served += [camera for camera, _ in camera_frames(live.next(1))]
    assert sorted(served) == sorted(cameras * 2)


def test_a_batch_is_never_larger_than_the_maximum(live):
    for camera in "abcdefg":
        live.put(frame(camera))
    assert len(live.next(1).frames) == 4
    assert len(live.next(1).frames) == 3


def test_a_batch_goes_out_at_once_when_every_camera_that_is_up_is_in_it():
    patient = LatestFrameBatcher(max_batch=8, max_wait_seconds=60)
    for camera in ("a", "b"):
        patient.put(StreamUp(camera, 1))
    patient.next(0)
    patient.put(frame("a"))
    assert patient.next(0) is None
    patient.put(frame("b"))
    assert camera_frames(patient.next(0)) == [("a", 0), ("b", 0)]


def test_a_camera_that_went_down_is_not_waited_for():
    patient = LatestFrameBatcher(max_batch=8, max_wait_seconds=60)
    patient.put(StreamUp("a", 1))
    patient.put(StreamUp("b", 1))
    patient.put(StreamDown("b", 1, "down", "stall"))
    patient.next(0)
    patient.put(frame("a"))
    assert camera_frames(patient.next(0)) == [("a", 0)]


def test_a_frame_waits_for_others_no_longer_than_the_deadline(live):
    live.put(StreamUp("gate", 1))
    live.put(StreamUp("other", 1))
    live.next(0)
    started = time.monotonic()
    live.put(frame())
    assert live.next(10) is not None
    assert 0.04 <= time.monotonic() - started < 5


def test_newer_frames_do_not_move_the_deadline(clock):
    batcher = watching("a", "b", max_wait_seconds=1)
    batcher.put(frame("a", 0))
    for index in range(1, 4):
        clock[0] += 0.25
        batcher.put(frame("a", index))
        assert batcher.next(0) is None
    clock[0] += 0.25
    assert camera_frames(batcher.next(0)) == [("a", 3)]


def test_every_batch_has_a_deadline_of_its_own(clock):
    batcher = watching("a", "b", max_wait_seconds=1)
    batcher.put(frame("a", 0))
    clock[0] += 1
    assert batcher.next(0) is not None
    clock[0] += 5
    batcher.put(frame("a", 1))
    assert batcher.next(0) is None
    clock[0] += 0.75
    assert batcher.next(0) is None
    clock[0] += 0.25
    assert camera_frames(batcher.next(0)) == [("a", 1)]


def test_a_full_batch_does_not_wait_for_the_cameras_that_are_not_in_it():
    batcher = watching("a", "b", "c", max_batch=2)
    batcher.put(frame("a"))
    batcher.put(frame("b"))
    assert camera_frames(batcher.next(0)) == [("a", 0), ("b", 0)]


def test_frames_that_did_not_fit_are_the_next_batch_at_once():
    batcher = watching(*"abc", max_batch=2)
    for camera in "abc":
        batcher.put(frame(camera))
    assert camera_frames(batcher.next(0)) == [("a", 0), ("b", 0)]
    assert camera_frames(batcher.next(0)) == [("c", 0)]


def test_frames_of_a_batch_do_not_count_towards_the_next():
    batcher = watching("a", "b")
    batcher.put(frame("a"))
    batcher.put(frame("b"))
    assert batcher.next(0) is not None
    batcher.put(frame("a", 1))
    assert batcher.next(0) is None
    assert not batcher.has_batch()
    batcher.put(frame("b", 1))
    assert batcher.has_batch()
    assert camera_frames(batcher.next(0)) == [("a", 1), ("b", 1)]


def test_a_detector_waits_no_longer_than_its_timeout_for_a_batch_with_a_later_deadline():
    batcher = watching("a", "b")
    batcher.put(frame("a"))
    thread, batches = in_a_thread(lambda: batcher.next(0.01))
    thread.join(20)
    assert batches == [None]


def test_a_detector_that_already_waits_gets_a_single_frame_by_the_deadline():
    batcher = watching("a", "b", max_wait_seconds=0.02)
    thread, batches = in_a_thread(lambda: batcher.next(60))
    thread.join(0.1)
    batcher.put(frame("a"))
    thread.join(20)
    assert [camera_frames(batch) for batch in batches] == [[("a", 0)]]


def test_closing_hands_what_waits_to_a_detector_that_already_waits():
    batcher = watching("a", "b")
    batcher.put(frame("a"))
    thread, batches = in_a_thread(lambda: batcher.next(60))
    thread.join(0.1)
    batcher.close()
    thread.join(20)
    assert [camera_frames(batch) for batch in batches] == [[("a", 0)]]


def test_state_changes_are_never_dropped_and_keep_their_order(live):
    live.put(UP)
    live.put(frame(index=0))
    live.put(DOWN)
    live.put(StreamUp("gate", 2))
    live.put(frame(index=1, epoch=2))
    items = [*live.next(1).items]
    while (batch := live.next(0.1)) is not None:
        items += batch.items
    assert [i for i in items if not hasattr(i, "image")] == [UP, DOWN, StreamUp("gate", 2)]
    assert [i.frame_index for i in items if hasattr(i, "image")] == [1]
    assert items[-1].dropped == 1


def test_a_detector_that_waits_is_woken_once_the_batch_is_complete():
    batcher = LatestFrameBatcher(max_batch=4, max_wait_seconds=60)
    for camera in "abc":
        batcher.put(StreamUp(camera, 1))
    batcher.next(0)
    batches = []
    detector = threading.Thread(target=lambda: batches.append(batcher.next(30)))
    detector.start()
    for camera in "aab":
        batcher.put(frame(camera))
    detector.join(0.1)
    assert batches == []
    batcher.put(StreamDown("c", 1, "down", "closed"))  # now a and b are all
    detector.join(5)
    assert camera_frames(batches[0]) == [("a", 0), ("b", 0)]


def test_next_gives_none_when_nothing_comes(live):
    assert live.next(0.01) is None


def test_a_closed_live_batcher_takes_nothing_more_but_gives_what_waits(live):
    live.put(frame())
    live.close()
    assert live.put(frame(index=1)) is False
    assert camera_frames(live.next(0)) == [("gate", 0)]
    assert live.next(0) is None


def test_a_lossless_batcher_gives_every_frame_in_full_batches_and_a_rest():
    batcher = LosslessBatcher(max_batch=4)

    def read():
        batcher.put(UP)
        for index in range(10):
            batcher.put(frame(index=index))
        batcher.put(StreamDown("gate", 1, "ended", "end_of_file"))

    reader = threading.Thread(target=read)
    reader.start()
    batches = []
    while (batch := batcher.next(1)) is not None:
        batches.append([f.frame_index for f in batch.frames])
    reader.join()
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_lossless_batcher_never_cuts_a_batch_short_however_slow_the_source():
    batcher = LosslessBatcher(max_batch=2)
    batcher.put(frame(index=0))
    assert batcher.next(0.05) is None
    batcher.put(frame(index=1))
    assert len(batcher.next(0).frames) == 2


def test_a_full_lossless_batcher_blocks_its_source_until_there_is_room_or_it_closes():
    batcher = LosslessBatcher(max_batch=2)
    taken = []
    reader = threading.Thread(
        target=lambda: taken.extend(batcher.put(frame(index=i)) for i in range(8))
    )
    reader.start()
    reader.join(0.2)
    assert taken == [True] * 4
    batcher.next(1)
    reader.join(0.2)
    assert taken == [True] * 6
    batcher.close()
    reader.join(1)
    assert taken == [True] * 6 + [False] * 2
    assert batcher.next(0) is None


def test_a_detector_that_already_waits_gets_a_lossless_batch_once_it_is_full():
    batcher = LosslessBatcher(max_batch=2)
    thread, batches = in_a_thread(lambda: batcher.next(60))
    thread.join(0.1)
    for index in range(2):
        batcher.put(frame(index=index))
    thread.join(20)
    assert [camera_frames(batch) for batch in batches] == [[("gate", 0), ("gate", 1)]]


def test_a_lossless_batcher_has_a_batch_once_a_batch_is_full():
    batcher = LosslessBatcher(max_batch=1)
    batcher.put(UP)
    assert not batcher.has_batch()
    batcher.next(0)
    batcher.put(frame())
    assert batcher.has_batch()
    assert len(batcher.next(0).items) == 2
    batcher.put(frame(index=1))
    assert batcher.has_batch()
    batcher.next(0)
    assert not batcher.has_batch()


@pytest.mark.parametrize("batcher", [LatestFrameBatcher(2, 60), LosslessBatcher(2)])
@pytest.mark.parametrize("call", ["has_batch", "next", "put", "close"])
def test_a_batcher_is_used_by_one_thread_at_a_time(batcher, call):
    arguments = {"next": (0,), "put": (frame(),)}
    with batcher._condition:
        thread, _ = in_a_thread(lambda: getattr(batcher, call)(*arguments.get(call, ())))
        thread.join(0.05)
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()
