from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from tests.clocks import Clock
from tests.events import PERSON, camera_event, detections_event
from tests.frames import frame
from worker.frames import FrameBatch, StreamDown, StreamLate, StreamUp
from worker.health.measurements import Measurements
from worker.pipeline.batching import LatestFrameBatcher

UP = StreamUp("gate", 1)


def down(reason, **counts):
    return StreamDown("gate", 1, "down", reason, **counts)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def measurements(clock):
    return Measurements(CollectorRegistry(), clock.monotonic)


def after(measurements, *items):
    for item in items:
        measurements.received(item)
    return measurements.of("gate")


def test_every_frame_that_arrives_is_analysed_dropped_or_skipped_in_the_end(measurements):
    batcher = LatestFrameBatcher(4, 0.0, measurements)
    for index in range(3):  # two give way to the third
        batcher.put(frame(index=index, skipped=2, dropped=1))
    batch = batcher.next(0)
    measurements.finished(batch, [[PERSON]])
    batcher.put(StreamLate("gate", 1, 1.2, skipped=3, dropped=4))
    batcher.put(down("closed", dropped=5))
    counts = measurements.of("gate")
    assert (counts.analysed, counts.replaced, counts.late, counts.skipped) == (1, 2, 12, 9)
    assert counts.received == 24
    (analysed,) = batch.frames
    assert analysed.dropped == 5  # what the event says of the same frames


def test_what_a_closed_batcher_refuses_has_not_arrived(measurements):
    batcher = LatestFrameBatcher(4, 0.0, measurements)
    batcher.close()
    assert not batcher.put(frame())
    assert measurements.cameras == {}


@pytest.mark.parametrize(
    ("items", "reconnects", "stalls"),
    [
        ([UP], 0, 0),
        ([down("refused"), UP], 0, 0),  # the first connection took two attempts
        ([UP, down("closed"), UP], 1, 0),
        ([UP, down("stall"), down("timeout"), UP], 1, 1),
        ([UP, UP], 0, 0),  # a file that is played again
        ([UP, down("timestamps"), UP], 0, 0),  # the connection is the same
        ([UP, down("reconfigured"), UP], 0, 0),  # as somebody wanted
        ([UP, down("stall")], 0, 1),
    ],
)
def test_reconnects_and_stalls_are_those_of_the_camera(measurements, items, reconnects, stalls):
    counts = after(measurements, *items)
    assert (counts.reconnects, counts.stalls) == (reconnects, stalls)


def test_connection_quality_is_that_of_the_last_hour(measurements, clock):
    counts = after(measurements, UP, down("stall"), UP)
    clock.now += 3000
    after(measurements, down("stall"), UP)
    assert counts.reconnects_last_hour(clock.now) == counts.stalls_last_hour(clock.now) == 2
    clock.now += 700
    assert counts.reconnects_last_hour(clock.now) == counts.stalls_last_hour(clock.now) == 1
    assert (counts.reconnects, counts.stalls) == (2, 2)


def test_frames_per_second_are_those_of_the_last_ten_seconds(measurements, clock):
    counts = after(measurements, UP)
    assert counts.fps(clock.now) is None
    for index in range(100):
        measurements.finished(FrameBatch((frame(index=index),)), [[]])
        clock.now += 0.2
        if index == 14:
            assert counts.fps(clock.now) == 5.0  # three seconds of it
    assert counts.fps(clock.now) == 5.0
    assert counts.fps(clock.now + 5) == 2.5
    assert counts.fps(clock.now + 11) == 0.0
    after(measurements, UP)
    assert counts.fps(clock.now + 11) is None


def published(measurements, ages, clock, sink="Redis"):
    for age in ages:
        event = detections_event()
        event.note_capture(clock.now - age)
        measurements.published(sink, [camera_event(), event], 0.002)


def test_latency_is_the_median_of_what_was_published_lately(measurements, clock):
    published(measurements, [9.0], clock)
    clock.now += 20
    published(measurements, [0.1, 0.3, 0.2], clock)
    counts = measurements.of("gate")
    assert counts.latency_seconds(clock.now) == pytest.approx(0.2)
    assert counts.latency_seconds(clock.now + 11) is None


def samples(registry, name):
    return {
        tuple(s.labels.values()): s.value
        for metric in registry.collect()
        for s in metric.samples
        if s.name == name
    }


def test_an_event_that_was_read_from_the_spool_has_no_latency(clock):
    registry = CollectorRegistry()
    measurements = Measurements(registry, clock.monotonic)
    measurements.published("Redis", [detections_event()], 0.002)
    published(measurements, [0.1], clock, sink="the output")  # latency is that of Redis
    count = "ssd_worker_publish_latency_seconds_count"
    assert samples(registry, count) == {(): 0.0}
    writes = samples(registry, "ssd_worker_stage_seconds_count")
    assert writes["publish",] == 2


def test_waiting_and_decoding_are_measured_when_the_detector_gets_a_batch(clock):
    registry = CollectorRegistry()
    measurements = Measurements(registry, clock.monotonic)
    frames = [
        replace(frame(index=index), decode_seconds=0.004, read_at=clock.now - 0.03)
        for index in range(2)
    ]
    measurements.started(FrameBatch((UP, *frames)))
    measurements.started(FrameBatch((UP,)))  # nothing for the detector
    sums = samples(registry, "ssd_worker_stage_seconds_sum")
    assert sums["decode",] == pytest.approx(0.008)
    assert sums["queue",] == pytest.approx(0.06)
    assert samples(registry, "ssd_worker_batch_size_sum") == {(): 2.0}
    assert samples(registry, "ssd_worker_batch_size_count") == {(): 1.0}


def test_the_position_of_a_frame_without_pts_is_that_of_its_number(measurements):
    measurements.finished(FrameBatch((frame(index=30),)), [[]])
    assert measurements.of("gate").position_seconds == 3.0
    without = replace(frame(index=40), pts=None)
    measurements.finished(FrameBatch((without,)), [[]])
    assert measurements.of("gate").position_seconds == 4.0


def test_a_sink_is_up_if_its_last_answer_says_so(measurements):
    assert measurements.sinks_up == {}
    measurements.sink_failed("Redis")
    measurements.sink_failed("Redis")
    assert measurements.sinks_up == {"Redis": False}
    measurements.published("Redis", [camera_event()], 0.001)
    assert measurements.sinks_up == {"Redis": True}
    assert measurements.sink_errors == {"Redis": 2}


def test_cameras_that_are_gone_are_forgotten(measurements):
    after(measurements, UP, StreamUp("yard", 1))
    measurements.forget_all_but({"yard"})
    assert measurements.cameras.keys() == {"yard"}
