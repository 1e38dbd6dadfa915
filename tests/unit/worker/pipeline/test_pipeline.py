import math
import threading
import time
from collections import deque

import pytest

from tests.conftest import wait_until
from tests.events import MODEL, PERSON
from tests.frames import frame
from tests.sinks import FlakySink
from tests.snapshots import snapshot
from tests.spools import no_spool
from worker.errors import CameraRefused, SinkError, SinkUnavailable, SourceError
from worker.frames import FrameBatch, StreamDown, StreamUp
from worker.observing import Observer
from worker.pipeline.batching import LatestFrameBatcher, LosslessBatcher
from worker.pipeline.cameras import Camera
from worker.pipeline.event_maker import EventMaker
from worker.pipeline.pipeline import POLL_SECONDS, Pipeline
from worker.publishing.live import LivePublisher
from worker.publishing.lossless import LosslessPublisher
from worker.sinks.memory import MemorySink


class ListSource:
    """A source that gives what it was made with."""

    due_at = math.inf

    def __init__(self, camera_id, items):
        self.camera_id = camera_id
        self.items = items
        self.stopped = threading.Event()

    def current_epoch(self):
        return 1

    def __iter__(self):
        for item in self.items:
            if self.stopped.is_set():
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self):
        self.stopped.set()


def camera(source, **settings):
    return Camera(source.camera_id, lambda: source, **settings)


def endless(camera_id):
    yield StreamUp(camera_id, 1)
    index = 0
    while True:
        yield frame(camera_id, index)
        index += 1
        time.sleep(0.002)


def recording(frames):
    return [
        StreamUp("clip", 0),
        *(frame("clip", index, epoch=0) for index in range(frames)),
        StreamDown("clip", 0, "ended", "end_of_file", frames=frames),
    ]


def detect(images, filters):
    return lambda: [[PERSON]] * len(images)


class RecordingDetector:
    """Notes which batch is started, and which one's detections are fetched, in order.

    A batch is named by its first image. ``before_start`` and ``before_fetch`` are called first,
    with the number of the batch from 0: they may wait, or fail.
    """

    def __init__(self, before_start=lambda batch: None, before_fetch=lambda batch: None):
        self.steps = []
        self._before_start = before_start
        self._before_fetch = before_fetch
        self._batches = 0

    def __call__(self, images, filters):
        batch, self._batches = self._batches, self._batches + 1
        self._before_start(batch)
        self.steps.append(("start", batch))

        def fetch():
            self._before_fetch(batch)
            self.steps.append(("fetch", batch))
            return [[label(f"frame {image[0, 0, 0]}")] for image in images]

        return fetch

    @property
    def started(self):
        return [batch for step, batch in self.steps if step == "start"]

    @property
    def fetched(self):
        return [batch for step, batch in self.steps if step == "fetch"]


def label(text):
    return PERSON.model_copy(update={"label": text})


def live_pipeline(*sources, sink, detect=detect, **options):
    return Pipeline(
        [camera(source) for source in sources], LatestFrameBatcher(4, 0.01), detect,
        EventMaker(MODEL),
        LivePublisher(sink, no_spool(), capacity=1000), lossless=False, **options,
    )  # fmt: skip


def replay_pipeline(source, sink, detect=detect, **options):
    return Pipeline(
        [camera(source)], LosslessBatcher(4), detect, EventMaker(MODEL, recording_digest="abc"),
        LosslessPublisher([sink], capacity=16), lossless=True, **options,
    )  # fmt: skip


def run_for(pipeline, condition):
    """Run until the condition holds, then stop."""

    def stop():
        while not condition():
            time.sleep(0.005)
        pipeline.stop()

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    return pipeline.run()


@pytest.mark.parametrize("batches_ahead", [0, 1, 5])
def test_a_replay_takes_every_frame_to_the_sink_and_sums_it_up(batches_ahead):
    sink = MemorySink()
    seen = []
    pipeline = replay_pipeline(
        ListSource("clip", recording(10)),
        sink,
        batches_ahead=batches_ahead,
        on_progress=lambda s: seen.append(s.frames),
    )
    summary = pipeline.run()
    assert [e.data.seq for e in sink.events] == list(range(11))
    assert sink.events[-1].data.state == "ended"
    assert (summary.frames, summary.detections, summary.interrupted) == (10, {"Person": 10}, False)
    assert seen == [4, 8, 10]


def test_a_failing_recording_ends_the_replay_with_its_error():
    items = [*recording(6)[:-1], SourceError("cannot read it")]
    with pytest.raises(SourceError, match="cannot read it"):
        replay_pipeline(ListSource("clip", items), MemorySink()).run()


def test_a_failing_sink_ends_the_replay_with_its_error():
    class Full(MemorySink):
        def publish(self, events):
            raise SinkError("disk full")

    with pytest.raises(SinkError, match="disk full"):
        replay_pipeline(ListSource("clip", recording(100)), Full()).run()


def test_a_failing_detector_ends_the_run_with_its_error():
    def broken(images, filters):
        raise RuntimeError("CUDA error")

    with pytest.raises(RuntimeError, match="CUDA error"):
        replay_pipeline(ListSource("clip", recording(10)), MemorySink(), broken).run()


def test_a_failing_detector_ends_a_live_run_that_still_publishes_what_it_has():
    calls = []

    def breaks_later(images, filters):
        calls.append(images)
        if len(calls) > 3:
            raise RuntimeError("CUDA error")
        return detect(images, filters)

    sink = MemorySink()
    with pytest.raises(RuntimeError, match="CUDA error"):
        live_pipeline(ListSource("gate", endless("gate")), sink=sink, detect=breaks_later).run()
    assert len(calls) == 4
    assert sum(e.type == "ssd.detections.v1" for e in sink.events) == 3
    assert (sink.events[-1].data.state, sink.events[-1].data.reason) == ("down", "stopped")


def test_a_stopped_replay_publishes_whole_batches_and_no_end():
    sink = MemorySink()
    pipeline = replay_pipeline(
        ListSource("clip", recording(4000)), sink, lambda *b: time.sleep(0.002) or detect(*b)
    )
    summary = run_for(pipeline, lambda: len(sink.events) >= 8)
    assert summary.interrupted
    assert 8 <= len(sink.events) < 4000
    assert len(sink.events) % 4 == 0
    assert [e.data.seq for e in sink.events] == list(range(len(sink.events)))


def test_a_replay_is_not_done_before_a_sink_that_was_away_has_everything(monkeypatch):
    monkeypatch.setattr("worker.pipeline.pipeline.PUBLISH_STOP_SECONDS", 0.1)

    class AwayAtTheEnd(MemorySink):
        tries = 0

        def publish(self, events):
            self.tries += 1
            if 2 <= self.tries <= 5:
                raise SinkUnavailable("away")
            super().publish(events)

    sink = AwayAtTheEnd()
    summary = replay_pipeline(ListSource("clip", recording(10)), sink).run()
    assert not summary.interrupted
    assert [e.data.seq for e in sink.events] == list(range(11))


def test_a_stopped_live_run_publishes_what_it_has_and_that_it_stops():
    sink = MemorySink()
    pipeline = live_pipeline(ListSource("gate", endless("gate")), sink=sink)
    summary = run_for(pipeline, lambda: len(sink.events) >= 10)
    assert summary.interrupted
    assert summary.unpublished == 0
    assert [e.data.seq for e in sink.events] == list(range(len(sink.events)))
    assert (sink.events[-1].data.state, sink.events[-1].data.reason) == ("down", "stopped")


def test_a_camera_whose_reader_fails_does_not_stop_the_others():
    sink = MemorySink()
    broken = ListSource("broken", [StreamUp("broken", 7), RuntimeError("a bug")])
    pipeline = live_pipeline(broken, ListSource("gate", endless("gate")), sink=sink)
    run_for(pipeline, lambda: sum(e.data.camera_id == "gate" for e in sink.events) >= 10)
    of_broken = [e.data for e in sink.events if e.data.camera_id == "broken"]
    assert [(d.epoch, d.state, d.reason) for d in of_broken] == [
        (7, "up", "connected"),
        (7, "ended", "internal_error"),
    ]


def test_a_live_run_ends_when_all_its_sources_have():
    sink = MemorySink()
    items = [StreamUp("clip", 1), frame("clip"), StreamDown("clip", 1, "ended", "end_of_file")]
    summary = live_pipeline(ListSource("clip", items), sink=sink).run()
    assert not summary.interrupted
    assert sink.events[-1].data.state == "ended"


def test_a_slow_detector_drops_frames_of_cameras_and_says_how_many():
    sink = MemorySink()
    pipeline = live_pipeline(
        ListSource("gate", endless("gate")),
        sink=sink,
        detect=lambda *b: time.sleep(0.05) or detect(*b),
    )
    summary = run_for(pipeline, lambda: len(sink.events) >= 6)
    frames = [e.data for e in sink.events if e.type == "ssd.detections.v1"]
    assert summary.dropped > 0
    last = frames[-1]
    assert last.frame_index + 1 == len(frames) + sum(d.dropped for d in frames)


# Batches ahead


class ListBatcher:
    """Gives the batches it was made with; None stands for none in time."""

    def __init__(self, batches):
        self._batches = deque(batches)
        self.timeouts = []
        """How long the pipeline would have waited, each time it asked."""

    def put(self, item):
        return True

    def next(self, timeout):
        self.timeouts.append(timeout)
        return self._batches.popleft() if self._batches else None

    def has_batch(self):
        return bool(self._batches)

    def close(self):
        pass


def batches_of(frames):
    """Batches of 4 frames, with an up before the first and a down after the last."""
    up, *items, down = recording(frames)
    cut = [items[start : start + 4] for start in range(0, frames, 4)]
    cut[0].insert(0, up)
    cut[-1].append(down)
    return [FrameBatch(tuple(batch)) for batch in cut]


def pipeline_of(batches, sink, detect, *, lossless=True, batches_ahead=1):
    """Over batches that are there already, so that the order of steps is always the same."""
    batcher = batches if isinstance(batches, ListBatcher) else ListBatcher(batches)
    return Pipeline(
        [camera(ListSource("clip", []))], batcher, detect,
        EventMaker(MODEL, recording_digest="abc" if lossless else None),
        LosslessPublisher([sink], capacity=1000) if lossless
        else LivePublisher(sink, no_spool(), capacity=1000),
        lossless=lossless, batches_ahead=batches_ahead,
    )  # fmt: skip


def frame_indices(events):
    return [e.data.frame_index for e in events if e.type == "ssd.detections.v1"]


@pytest.mark.parametrize(
    ("batches_ahead", "steps"),
    [
        (0, "start 0, fetch 0, start 1, fetch 1, start 2, fetch 2"),
        (1, "start 0, start 1, fetch 0, start 2, fetch 1, fetch 2"),
        (2, "start 0, start 1, start 2, fetch 0, fetch 1, fetch 2"),
    ],
)
def test_so_many_batches_are_started_before_the_detections_of_one_are_fetched(batches_ahead, steps):
    detector = RecordingDetector()
    pipeline_of(batches_of(12), MemorySink(), detector, batches_ahead=batches_ahead).run()
    assert ", ".join(f"{step} {batch}" for step, batch in detector.steps) == steps


@pytest.mark.parametrize("batches_ahead", [0, 1, 3])
def test_batches_ahead_leave_events_in_order_and_detections_with_their_frames(batches_ahead):
    sink = MemorySink()
    source = ListSource("clip", recording(42))
    summary = replay_pipeline(source, sink, RecordingDetector(), batches_ahead=batches_ahead).run()
    *of_frames, ended = sink.events
    assert [e.data.seq for e in sink.events] == list(range(43))
    assert frame_indices(of_frames) == list(range(42))
    assert [e.data.detections[0].label for e in of_frames] == [f"frame {i}" for i in range(42)]
    assert ended.data.state == "ended"
    assert (summary.frames, summary.events) == (42, 43)
    assert summary.detections["frame 41"] == 1


def test_a_started_batch_is_finished_when_no_further_one_comes():
    detector = RecordingDetector()
    first, second = batches_of(8)
    pipeline_of([first, None, second], MemorySink(), detector).run()
    assert detector.steps == [("start", 0), ("fetch", 0), ("start", 1), ("fetch", 1)]


def test_detections_do_not_wait_for_a_further_batch():
    first, second = batches_of(8)
    batcher = ListBatcher([first, None, second])
    pipeline_of(batcher, MemorySink(), RecordingDetector()).run()
    assert batcher.timeouts == [POLL_SECONDS, 0, POLL_SECONDS, 0, POLL_SECONDS]


def test_a_camera_that_falls_silent_has_its_last_frame_published_all_the_same():
    sink = MemorySink()

    def one_frame_then_silence():
        yield StreamUp("gate", 1)
        yield frame("gate")
        wait_until(lambda: frame_indices(sink.events), what="the event of the only frame")
        yield StreamDown("gate", 1, "ended", "end_of_file")

    source = ListSource("gate", one_frame_then_silence())
    live_pipeline(source, sink=sink, batches_ahead=1).run()
    assert [e.type for e in sink.events] == ["ssd.camera.v1", "ssd.detections.v1", "ssd.camera.v1"]
    assert sink.events[-1].data.reason == "end_of_file"


def test_a_state_without_frames_keeps_its_place_and_is_not_taken_to_the_detector():
    sink, detector = MemorySink(), RecordingDetector()
    up = FrameBatch((StreamUp("gate", 1),))
    frames = FrameBatch(tuple(frame("gate", index) for index in range(4)))
    down = FrameBatch((StreamDown("gate", 1, "ended", "end_of_file"),))
    pipeline_of([up, frames, down], sink, detector, lossless=False, batches_ahead=2).run()
    assert detector.started == [0]
    assert [e.type for e in sink.events] == [
        "ssd.camera.v1",
        *["ssd.detections.v1"] * 4,
        "ssd.camera.v1",
    ]


def test_the_snapshots_of_frames_are_handed_on_in_order_after_their_events():
    sink, seen = MemorySink(), []
    pictures = [snapshot("gate", index) for index in range(2)]

    def on_snapshot(picture):
        wait_until(lambda: picture.info.frame_index in frame_indices(sink.events))
        seen.append(picture)

    source = ListSource(
        "gate",
        [
            StreamUp("gate", 1),
            frame("gate", 0, snapshot=pictures[0]),
            StreamDown("gate", 1, "down", "closed"),
            StreamUp("gate", 2),
            frame("gate", 1, epoch=2, snapshot=pictures[1]),
            frame("gate", 2, epoch=2),
        ],
    )
    batches = [FrameBatch((item,)) for item in source.items]
    Pipeline(
        [], ListBatcher(batches), detect, EventMaker(MODEL),
        LivePublisher(sink, no_spool(), capacity=1000), lossless=False, on_snapshot=on_snapshot,
    ).run()  # fmt: skip
    assert seen == pictures
    assert frame_indices(sink.events) == [0, 1, 2]


@pytest.mark.parametrize("batches_ahead", [0, 1, 2])
def test_a_stopped_live_run_publishes_what_was_started_and_what_waits(batches_ahead):
    sink = MemorySink()
    *frames, _ = batches_of(16)  # the camera does not end
    detector = RecordingDetector(before_start=lambda batch: batch == 1 and pipeline.stop())
    pipeline = pipeline_of(frames, sink, detector, lossless=False, batches_ahead=batches_ahead)
    summary = pipeline.run()
    assert summary.interrupted
    assert frame_indices(sink.events) == list(range(12))
    assert [e.data.seq for e in sink.events] == list(range(14))
    assert (sink.events[-1].data.state, sink.events[-1].data.reason) == ("down", "stopped")
    assert (summary.frames, summary.unpublished) == (12, 0)


def test_a_stopped_replay_leaves_batches_that_were_only_started_to_the_next_one():
    sink = MemorySink()
    detector = RecordingDetector(before_start=lambda batch: batch == 2 and pipeline.stop())
    pipeline = pipeline_of(batches_of(20), sink, detector)
    summary = pipeline.run()
    assert detector.started == [0, 1, 2]
    assert detector.fetched == [0, 1]
    assert frame_indices(sink.events) == list(range(8))
    assert (summary.interrupted, summary.frames, summary.events) == (True, 8, 8)

    resumed = recording(20)[9:]
    source = ListSource("clip", [StreamUp("clip", 0, first_seq=8), *resumed])
    replay_pipeline(source, sink, batches_ahead=1).run()
    assert frame_indices(sink.events) == list(range(20))
    assert [e.data.seq for e in sink.events] == list(range(21))


def fail_at(batch):
    def before_fetch(number):
        if number == batch:
            raise RuntimeError("CUDA error")

    return before_fetch


def test_an_error_while_waiting_for_detections_ends_a_replay_after_the_batches_before():
    sink, detector = MemorySink(), RecordingDetector(before_fetch=fail_at(1))
    with pytest.raises(RuntimeError, match="CUDA error"):
        pipeline_of(batches_of(20), sink, detector).run()
    assert detector.started == [0, 1, 2]
    assert detector.fetched == [0]
    assert frame_indices(sink.events) == list(range(4))


def test_an_error_while_waiting_for_detections_ends_a_live_run_that_says_it_stops():
    sink, detector = MemorySink(), RecordingDetector(before_fetch=fail_at(1))
    with pytest.raises(RuntimeError, match="CUDA error"):
        pipeline_of(batches_of(20), sink, detector, lossless=False).run()
    assert detector.started == [0, 1, 2]  # none of those that wait
    assert frame_indices(sink.events) == list(range(4))
    assert (sink.events[-1].data.state, sink.events[-1].data.reason) == ("down", "stopped")


def test_an_error_while_a_live_run_ends_leaves_its_events_published_and_says_it_stops():
    def before_start(batch):
        if batch == 1:
            pipeline.stop()
        if batch == 2:
            raise RuntimeError("CUDA error")

    sink = MemorySink()
    detector = RecordingDetector(before_start=before_start)
    pipeline = pipeline_of(batches_of(20), sink, detector, lossless=False, batches_ahead=0)
    with pytest.raises(RuntimeError, match="CUDA error"):
        pipeline.run()
    assert frame_indices(sink.events) == list(range(8))
    assert (sink.events[-1].data.state, sink.events[-1].data.reason) == ("down", "stopped")


def test_a_recording_that_passes_over_frames_is_not_stuck_and_a_detector_that_hangs_is():
    passing_over, go_on, detecting, end = (threading.Event() for _ in range(4))

    def long_way():
        yield StreamUp("clip", 0, first_seq=8)
        passing_over.set()
        go_on.wait()
        yield from recording(20)[9:]

    def before_start(batch):
        detecting.set()
        end.wait()

    pipeline = replay_pipeline(
        ListSource("clip", long_way()), MemorySink(), RecordingDetector(before_start)
    )
    run = threading.Thread(target=pipeline.run, daemon=True)
    run.start()
    assert passing_over.wait(5)
    time.sleep(2 * POLL_SECONDS)
    assert not pipeline.has_work()
    go_on.set()
    assert detecting.wait(5)
    assert pipeline.has_work()
    end.set()
    run.join(5)
    assert not pipeline.has_work()


def test_no_batch_waits_for_a_camera_that_was_set_aside():
    class Refusing(MemorySink):
        def publish(self, events):
            if any(event.data.camera_id == "yard" for event in events):
                raise CameraRefused("yard", "camera yard: taken")
            super().publish(events)

    sink = Refusing()
    batcher = LatestFrameBatcher(4, 3600)  # as long as a batch may wait
    pipeline = Pipeline(
        [camera(ListSource(name, endless(name))) for name in ("gate", "yard")], batcher, detect,
        EventMaker(MODEL), LivePublisher(sink, no_spool(), capacity=1000), lossless=False,
    )  # fmt: skip
    run_for(pipeline, lambda: len(frame_indices(sink.events)) > 50)
    assert {event.data.camera_id for event in sink.events} == {"gate"}


class OfCameras(LivePublisher):
    """Loses events of the gate once, and leaves seven unpublished."""

    def __init__(self, sink):
        super().__init__(sink, no_spool(), capacity=1000)
        self._to_report = {"gate": 3}

    def take_lost(self, camera_ids):
        if "gate" not in camera_ids:
            return {}
        lost, self._to_report = self._to_report, {}
        return lost

    def close(self, timeout):
        super().close(timeout)
        return 7


def pipeline_with(publisher, *sources):
    return Pipeline(
        [camera(source) for source in sources], LatestFrameBatcher(4, 0.01), detect,
        EventMaker(MODEL), publisher, lossless=False,
    )  # fmt: skip


def states(sink):
    return [(e.data.state, e.data.reason) for e in sink.events if e.type == "ssd.camera.v1"]


def test_a_run_publishes_the_heartbeats_of_cameras_that_are_quiet(monkeypatch):
    monkeypatch.setattr("worker.pipeline.event_maker.HEARTBEAT_SECONDS", 0.05)
    sink = MemorySink()

    def up_alone():
        yield StreamUp("gate", 1)
        wait_until(lambda: ("up", "heartbeat") in states(sink))
        yield StreamDown("gate", 1, "ended", "end_of_file")

    live_pipeline(ListSource("gate", up_alone()), sink=sink).run()
    assert states(sink)[0] == ("up", "connected")
    assert states(sink)[-1] == ("ended", "end_of_file")


def test_a_run_publishes_how_many_events_were_lost_once():
    sink = MemorySink()
    pipeline = pipeline_with(OfCameras(sink), ListSource("gate", endless("gate")))
    run_for(pipeline, lambda: len(sink.events) > 20)
    assert states(sink).count(("degraded", "events_lost")) == 1
    assert [e.data.dropped for e in sink.events if "events_lost" in e.to_json()] == [3]


def test_a_summary_says_how_long_the_run_took_and_what_it_left_unpublished():
    sink = MemorySink()
    pipeline = pipeline_with(OfCameras(sink), ListSource("gate", endless("gate")))
    before = time.monotonic()
    summary = run_for(pipeline, lambda: len(sink.events) > 5)
    assert 0 < summary.seconds <= time.monotonic() - before
    assert summary.unpublished == 7
    assert summary.events == len(sink.events)


def test_batches_and_waits_for_a_sink_are_progress_for_the_watchdog():
    sink = MemorySink()
    pipeline = replay_pipeline(ListSource("clip", recording(10)), sink)
    assert pipeline.progress() == 0
    pipeline.run()
    assert pipeline.progress() == 3


def test_a_replay_that_waits_for_its_sink_makes_progress_and_is_stopped_at_once(monkeypatch):
    monkeypatch.setattr("worker.pipeline.pipeline.PUBLISH_STOP_SECONDS", 0.1)
    sink = FlakySink()
    pipeline = replay_pipeline(ListSource("clip", recording(100)), sink)
    steps = []

    def waits():
        steps.append(pipeline.progress())
        return sink.tries > 3 and steps[-1] > 8  # 4 batches fill the queue, and some wait

    summary = run_for(pipeline, waits)
    assert summary.interrupted
    assert sink.events == []


def test_a_batch_that_waits_is_work():
    batcher = ListBatcher(batches_of(4))
    pipeline = pipeline_of(batcher, MemorySink(), detect)
    assert pipeline.has_work()
    batcher.next(0)
    assert not pipeline.has_work()


def test_a_live_run_whose_sources_have_ended_does_not_wait_for_a_sink_that_is_away(monkeypatch):
    monkeypatch.setattr("worker.pipeline.pipeline.PUBLISH_STOP_SECONDS", 0.1)
    items = [StreamUp("gate", 1), frame("gate"), StreamDown("gate", 1, "ended", "end_of_file")]
    summary = live_pipeline(ListSource("gate", items), sink=FlakySink()).run()
    assert (summary.interrupted, summary.events) == (False, 3)


def test_a_failing_sink_ends_a_live_run_with_its_error():
    class Full(MemorySink):
        def publish(self, events):
            raise SinkError("disk full")

    with pytest.raises(SinkError, match="disk full"):
        live_pipeline(ListSource("gate", endless("gate")), sink=Full()).run()


@pytest.mark.parametrize("waits_for_cameras", [True, False])
def test_a_run_without_cameras_ends_unless_it_may_wait_for_some(waits_for_cameras):
    pipeline = live_pipeline(sink=MemorySink(), waits_for_cameras=waits_for_cameras)
    run = threading.Thread(target=pipeline.run, daemon=True)
    run.start()
    run.join(3 * POLL_SECONDS if waits_for_cameras else 20)
    assert run.is_alive() == waits_for_cameras
    pipeline.stop()
    run.join(20)
    assert not run.is_alive()


def test_a_sink_that_fails_after_the_last_frame_ends_a_replay_with_its_error():
    all_detected = threading.Event()

    class FailsLate(MemorySink):
        def publish(self, events):
            assert all_detected.wait(20)
            raise SinkError("disk full")

    pipeline = replay_pipeline(
        ListSource("clip", recording(3)), FailsLate(), on_progress=lambda _: all_detected.set()
    )
    with pytest.raises(SinkError, match="disk full"):
        pipeline.run()


def test_a_sink_that_fails_while_a_run_ends_is_its_error():
    class FailsAtTheEnd(MemorySink):
        def publish(self, events):
            super().publish(events)
            if ("down", "stopped") in states(self):
                raise SinkError("disk full")

    sink = FailsAtTheEnd()
    with pytest.raises(SinkError, match="disk full"):
        run_for(
            live_pipeline(ListSource("gate", endless("gate")), sink=sink),
            lambda: len(sink.events) > 3,
        )


def test_what_waits_when_a_live_run_stops_is_fetched_without_waiting_for_more():
    *frames, _ = batches_of(12)
    batcher = ListBatcher(frames)
    detector = RecordingDetector(before_start=lambda batch: pipeline.stop())
    pipeline = pipeline_of(batcher, MemorySink(), detector, lossless=False)
    pipeline.run()
    assert batcher.timeouts == [POLL_SECONDS, 0, 0]


def test_a_publisher_that_has_failed_is_not_given_that_the_run_stops():
    given = []

    class Failed(OfCameras):
        def submit(self, events):
            self.failure = SinkError("disk full")
            given.extend(events)
            return super().submit(events)

    publisher = Failed(MemorySink())
    with pytest.raises(SinkError, match="disk full"):
        pipeline_with(publisher, ListSource("gate", endless("gate"))).run()
    assert given
    assert not any('"stopped"' in event.to_json() for event in given)


def test_cameras_that_come_later_are_watched():
    sink = MemorySink()
    pipeline = live_pipeline(sink=sink, waits_for_cameras=True)
    source = ListSource("gate", endless("gate"))
    threading.Timer(0.05, pipeline.watch, [[camera(source)]]).start()
    deadline = time.monotonic() + 5
    run_for(pipeline, lambda: sink.events or time.monotonic() > deadline)
    assert {event.data.camera_id for event in sink.events} == {"gate"}


def test_a_camera_whose_events_wait_for_the_sink_is_said_to_be_late(monkeypatch):
    monkeypatch.setattr("worker.pipeline.event_maker.LATE_SECONDS", 0.05)
    monkeypatch.setattr("worker.publishing.outage.LAST_RETRY_SECONDS", 0.05)
    sink = FlakySink()
    pipeline = live_pipeline(ListSource("gate", endless("gate")), sink=sink)
    threading.Timer(0.2, sink.back.set).start()
    deadline = time.monotonic() + 5
    run_for(pipeline, lambda: sink.events or time.monotonic() > deadline)
    states = [e.data for e in sink.events if e.type == "ssd.camera.v1"]
    assert ("degraded", "late") in {(data.state, data.reason) for data in states}


def test_events_for_which_there_is_no_room_are_submitted_again():
    class Full(LosslessPublisher):
        """Takes events at the third try."""

        tries = 0

        def submit(self, events):
            self.tries += 1
            return self.tries % 3 == 0 and super().submit(events)

    sink = MemorySink()
    publisher = Full([sink], capacity=16)
    pipeline = Pipeline(
        [camera(ListSource("clip", recording(10)))], LosslessBatcher(4), detect,
        EventMaker(MODEL, recording_digest="abc"), publisher, lossless=True,
    )  # fmt: skip
    summary = pipeline.run()
    indices = [e.data.frame_index for e in sink.events if e.type == "ssd.detections.v1"]
    assert indices == list(range(10))
    assert summary.events == len(sink.events) == 11
    assert pipeline.progress() == 3 + 3 * 2  # of three batches


def test_a_publisher_that_fails_while_it_has_no_room_ends_the_run_at_once():
    class Fails(LosslessPublisher):
        tries = 0

        def submit(self, events):
            self.tries += 1
            self.failure = SinkError("the disk is full")
            return self.tries > 20

    publisher = Fails([MemorySink()], capacity=16)
    pipeline = Pipeline(
        [camera(ListSource("clip", recording(10)))], LosslessBatcher(4), detect,
        EventMaker(MODEL, recording_digest="abc"), publisher, lossless=True,
    )  # fmt: skip
    with pytest.raises(SinkError, match="the disk is full"):
        pipeline.run()
    assert publisher.tries == 1


@pytest.mark.parametrize("lossless", [True, False])
def test_an_observer_hears_of_every_frame_on_its_way(lossless):
    class Reports(Observer):
        def __init__(self):
            self.received_items, self.starts, self.ends = [], [], []

        def received(self, item):
            self.received_items.append(item)

        def started(self, batch):
            assert len(self.ends) == len(self.starts)
            self.starts.append(batch)

        def finished(self, batch, found):
            assert batch is self.starts[-1]
            assert [len(each) for each in found] == [1] * len(batch.frames)
            self.ends.append(batch)

    reports, source = Reports(), ListSource("clip", recording(10))
    batcher = LosslessBatcher(4, reports) if lossless else LatestFrameBatcher(4, 0.01, reports)
    Pipeline(
        [camera(source)], batcher, detect, EventMaker(MODEL, recording_digest="abc"),
        LosslessPublisher([MemorySink()], capacity=16), lossless=lossless, observer=reports,
    ).run()  # fmt: skip
    assert reports.received_items == source.items
    analysed = [f for batch in reports.ends for f in batch.frames]
    assert len(analysed) + sum(f.dropped for f in analysed) == 10
    assert reports.starts == reports.ends
