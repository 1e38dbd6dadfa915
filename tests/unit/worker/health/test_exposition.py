from dataclasses import replace

import pytest
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.worker.health.states import Worker, busy, picture
from worker.frames import StreamDown, StreamUp
from worker.health.exposition import new_registry

UP = StreamUp("gate", 1)
DOWN = StreamDown("gate", 1, "down", "stall")
OF_THE_PRESENT = {"camera_frame_age_seconds", "camera_lag_seconds"}
NAMES = {
    "batch_size", "camera_frame_age_seconds", "camera_frames_analysed_total",
    "camera_frames_dropped_total", "camera_frames_received_total", "camera_frames_skipped_total",
    "camera_lag_seconds", "camera_reconnects_total", "camera_stalls_total", "camera_up",
    "detections_total", "gpu_memory_bytes", "model_info", "publish_latency_seconds",
    "redis_errors_total", "redis_up", "spool_bytes", "spool_events", "stage_seconds",
}  # fmt: skip
"""Of a live worker, as docs/monitoring.md and the rules of Prometheus have them."""


def test_a_live_worker_exports_the_metrics_that_are_promised():
    found = {name.removesuffix("_count") for name in busy().names()}
    of_histograms = {n for n in found if n.endswith(("_bucket", "_sum", "_created"))}
    assert found - of_histograms == {f"ssd_worker_{name}" for name in NAMES}


def test_every_metric_has_a_help_text_and_its_unit_at_the_end_of_its_name():
    for metric in busy().registry.collect():
        assert len(metric.documentation.split()) > 2, metric.name
        assert metric.name.startswith("ssd_worker_")


def test_a_camera_that_is_down_has_no_values_of_the_time_before():
    worker = busy()
    assert worker.series("camera_up") == {"gate": 1}
    assert {name for name in OF_THE_PRESENT if worker.series(name)} == OF_THE_PRESENT
    received = worker.series("camera_frames_received_total")
    worker.takes(DOWN)
    assert worker.series("camera_up") == {"gate": 0}
    assert {name for name in OF_THE_PRESENT if worker.series(name)} == set()
    assert worker.series("camera_frames_received_total") == received
    assert worker.series("camera_stalls_total") == {"gate": 1}


def test_a_camera_that_is_gone_leaves_no_series():
    worker = busy().takes(StreamUp("yard", 1))
    record = worker.events.records.of("gate")
    record.wanted, record.last_item = False, StreamDown("gate", 1, "ended", "removed")
    worker.takes(record.last_item)
    text = generate_latest(worker.registry).decode()
    assert 'camera="yard"' in text
    assert "gate" not in text


def test_no_value_is_below_zero():
    for worker in (Worker(), Worker().begin(), busy(), busy().takes(DOWN)):
        values = [s.value for metric in worker.registry.collect() for s in metric.samples]
        assert all(value >= 0 for value in values)


def test_a_file_that_was_played_to_its_end_is_not_a_camera_that_is_down():
    ended = StreamDown("gate", 1, "ended", "end_of_file")
    assert busy().takes(ended).series("camera_up") == {}
    given_up = StreamDown("gate", 1, "ended", "internal_error")
    assert busy().takes(given_up).series("camera_up") == {"gate": 0}


def test_dropped_frames_are_told_apart_by_their_reason():
    worker = Worker().begin().takes(UP, replace(picture(), dropped=3))
    worker.measurements.replaced(picture())
    assert worker.series("camera_frames_dropped_total") == {"gate,late": 3, "gate,replaced": 1}


def test_detections_are_counted_by_camera_and_label():
    assert busy().series("detections_total") == {"gate,Person": 2}


def test_whether_redis_is_up_is_not_said_before_it_is_known():
    worker = busy()
    worker.measurements.sinks_up.clear()
    assert worker.series("redis_up") == {}
    worker.measurements.sink_failed("Redis")
    assert worker.series("redis_up") == {"": 0}
    assert worker.series("redis_errors_total") == {"": 1}


def test_what_waits_on_disk_is_shown():
    worker = busy()
    worker.spool += [1, 2]
    worker.spool.size_bytes = 3000
    assert worker.series("spool_events") == {"": 2}
    assert worker.series("spool_bytes") == {"": 3000}


def test_a_replay_shows_where_it_is():
    worker = Worker(is_replay=True).begin().analyses("clip", frames=25)
    assert worker.series("replay_frames_total") == {"clip": 25}
    assert worker.series("replay_position_seconds") == {"clip": pytest.approx(2.4)}
    assert worker.series("camera_up") == worker.series("spool_events") == {}


def test_what_runs_is_shown_by_labels():
    registry = new_registry()
    text = generate_latest(registry).decode()
    assert 'ssd_worker_build_info{python="3.' in text
    assert "process_cpu_seconds_total" in text
    (labels,) = busy().series("model_info")
    assert labels == "ssd_mobilenet_v2_oid,cpu,fp32"


def test_what_is_exported_is_valid_in_both_forms():
    registries = [busy().registry, Worker(is_replay=True).begin().analyses("clip").registry]
    for registry in [*registries, new_registry()]:
        for accept, parse in (
            ("text/plain", text_string_to_metric_families),
            ("application/openmetrics-text; version=1.0.0", parse_openmetrics),
        ):
            encode, content_type = choose_encoder(accept)
            assert content_type.startswith(accept.partition(";")[0])
            text = encode(registry).decode()
            parsed = {s.name for family in parse(text) for s in family.samples}
            assert parsed == {s.name for m in registry.collect() for s in m.samples}
