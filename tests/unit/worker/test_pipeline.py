import threading
import time

import pytest

from tests.events import MODEL, PERSON
from tests.frames import frame
from worker.batching import LatestFrameBatcher, LosslessBatcher
from worker.errors import SinkError, SinkUnavailable, SourceError
from worker.event_maker import EventMaker
from worker.frames import StreamDown, StreamUp
from worker.pipeline import Pipeline
from worker.publishing import Publisher
from worker.sinks.memory import MemorySink


class ListSource:
    """A source that gives what it was made with."""

    def __init__(self, camera_id, items):
        self.camera_id = camera_id
        self.items = items
        self.stopped = threading.Event()

    def __iter__(self):
        for item in self.items:
            if self.stopped.is_set():
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self):
        self.stopped.set()


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


def detect(images):
    return [[PERSON]] * len(images)


def live_pipeline(*sources, sink, detect=detect):
    return Pipeline(
        sources, LatestFrameBatcher(4, 0.01), detect, EventMaker(MODEL),
        Publisher([sink], capacity=1000, lossless=False), lossless=False,
    )  # fmt: skip


def replay_pipeline(source, sink, detect=detect, on_progress=lambda summary: None):
    return Pipeline(
        [source], LosslessBatcher(4), detect, EventMaker(MODEL, recording_digest="abc"),
        Publisher([sink], capacity=16, lossless=True), lossless=True, on_progress=on_progress,
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


def test_a_replay_takes_every_frame_to_the_sink_and_sums_it_up():
    sink = MemorySink()
    seen = []
    pipeline = replay_pipeline(
        ListSource("clip", recording(10)), sink, on_progress=lambda s: seen.append(s.frames)
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
    def broken(images):
        raise RuntimeError("CUDA error")

    with pytest.raises(RuntimeError, match="CUDA error"):
        replay_pipeline(ListSource("clip", recording(10)), MemorySink(), broken).run()


def test_a_failing_detector_ends_a_live_run_that_still_publishes_what_it_has():
    calls = []

    def breaks_later(images):
        calls.append(images)
        if len(calls) > 3:
            raise RuntimeError("CUDA error")
        return detect(images)

    sink = MemorySink()
    with pytest.raises(RuntimeError, match="CUDA error"):
        live_pipeline(ListSource("gate", endless("gate")), sink=sink, detect=breaks_later).run()
    assert len(calls) == 4
    assert sum(e.type == "ssd.detections.v1" for e in sink.events) == 3
    assert (sink.events[-1].data.state, sink.events[-1].data.reason) == ("down", "stopped")


def test_a_stopped_replay_publishes_whole_batches_and_no_end():
    sink = MemorySink()
    pipeline = replay_pipeline(
        ListSource("clip", recording(4000)), sink, lambda i: time.sleep(0.002) or detect(i)
    )
    summary = run_for(pipeline, lambda: len(sink.events) >= 8)
    assert summary.interrupted
    assert 8 <= len(sink.events) < 4000
    assert len(sink.events) % 4 == 0
    assert [e.data.seq for e in sink.events] == list(range(len(sink.events)))


def test_a_replay_is_not_done_before_a_sink_that_was_away_has_everything(monkeypatch):
    monkeypatch.setattr("worker.pipeline.PUBLISH_STOP_SECONDS", 0.1)

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
        detect=lambda i: time.sleep(0.05) or detect(i),
    )
    summary = run_for(pipeline, lambda: len(sink.events) >= 6)
    frames = [e.data for e in sink.events if e.type == "ssd.detections.v1"]
    assert summary.dropped > 0
    last = frames[-1]
    assert last.frame_index + 1 == len(frames) + sum(d.dropped for d in frames)
