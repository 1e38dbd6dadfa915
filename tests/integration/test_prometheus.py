"""What deploy/ has for Prometheus and Grafana: valid, and about metrics that there are."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client import CollectorRegistry

from tests.conftest import ROOT
from tests.unit.worker.health.states import Worker, busy
from worker.health.consumer_lag import ConsumerLag
from worker.health.exposition import new_registry

FOLDER = ROOT / "deploy" / "prometheus"
ALERTS = (FOLDER / "alerts.yml").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
METRIC = r"\b(?:ssd_worker|process)_[a-z_]+"
LABELS_OF_PROMETHEUS = {"instance", "job", "le"}


class Consumer:
    def lag(self):
        return {"gate": 3}

    def pending(self):
        return {"gate": 1}


def exported():
    """The labels of every sample by its name, as `run`, `replay` and `subscribe` export them."""
    replay = Worker(is_replay=True, uses_redis=False).begin()
    lag = ConsumerLag(Consumer(), "alerts")
    lag.ask()
    consumer = CollectorRegistry()
    consumer.register(lag)
    replayed = replay.analyses("clip")
    return {
        sample.name: set(sample.labels)
        for registry in (new_registry(), busy().registry, replayed.registry, consumer)
        for metric in registry.collect()
        for sample in metric.samples
    }


EXPORTED = exported()


def expressions():
    """(where, PromQL) of every alert and panel."""
    for alert in yaml.safe_load(ALERTS)["groups"][0]["rules"]:
        yield alert["alert"], alert["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_every_metric_that_is_asked_for_is_exported_with_the_labels_that_are_asked_for():
    asked = list(expressions())
    assert len(asked) > 30
    for where, expression in asked:
        names = re.findall(METRIC, expression)
        assert set(names) <= EXPORTED.keys(), where
        labels = set().union(*(EXPORTED[name] for name in names)) | LABELS_OF_PROMETHEUS
        selected = re.findall(r"[{,] ?(\w+)=", expression)
        grouped = re.findall(r"\bby \(([^)]*)\)", expression)
        assert {*selected, *re.split(r", ", ", ".join(grouped))} - {""} <= labels, where


def test_every_metric_that_is_exported_is_on_a_panel_and_explained():
    """But for the parts of histograms and counters."""
    base = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in EXPORTED}
    own = {name for name in base if name.startswith("ssd_worker_")}
    assert len(own) > 20
    on_panels = json.dumps(DASHBOARD)
    assert {name for name in own if name not in on_panels} == set()
    assert {name for name in own if f"`{name.removeprefix('ssd_worker_')}" not in PAGE} == set()


def test_the_page_names_no_metric_and_no_alert_that_there_is_not():
    base = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in EXPORTED}
    assert set(re.findall(r"ssd_worker_[a-z_]*[a-z]", PAGE)) <= base | EXPORTED.keys()
    table = PAGE.split("| metric |")[1].split("\n\n")[0]
    described = re.findall(r"^\| `([a-z_]+)", table, re.MULTILINE)
    assert {f"ssd_worker_{name}" for name in described} <= base
    alerts = set(re.findall(r"alert: (\w+)", ALERTS))
    assert set(re.findall(r"`(SsdWorker\w+)`", PAGE)) == alerts


def test_every_alert_is_tested_on_what_it_fires_on():
    tested = (FOLDER / "alerts_test.yml").read_text()
    fired = re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts", tested)
    assert set(fired) == set(re.findall(r"alert: (\w+)", ALERTS))


def promtool(*arguments):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("Prometheus's promtool (Debian: prometheus)")
    done = subprocess.run([program, *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
)
def test_promtool_accepts_it(arguments):
    promtool(*arguments)


def test_promtool_understands_every_panel(tmp_path):
    rules = [{"record": "a_panel", "expr": text} for where, text in expressions()]
    file = tmp_path / "panels.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", str(file))


def test_no_two_panels_lie_on_each_other():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
