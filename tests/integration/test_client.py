"""The light client: what worker.consumer and worker.events need, installed alone."""

import ast
import json
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests.conftest import ROOT
from tests.events import detections_event
from worker.sinks.redis_stream import RedisStreamSink

CLIENT = ROOT / "deploy" / "client"
ENTRIES = ("worker.consumer", "worker.events")
BROUGHT_BY_DEPENDENCIES = {
    "annotated_types", "async_timeout", "cryptography", "pydantic", "pydantic_core", "redis",
    "typing_extensions", "typing_inspection",
}  # fmt: skip
"""What redis and pydantic import; redis takes cryptography if it finds it."""
OFFLINE = ("Max retries exceeded", "NewConnectionError", "Temporary failure in name resolution",
           "Could not fetch URL", "Read timed out", "Network is unreachable")  # fmt: skip


def project_of(directory):
    return tomllib.loads((directory / "pyproject.toml").read_text())


def shipped():
    """{path in the tree: path in the wheel}, as the client's pyproject.toml has it."""
    wheel = project_of(CLIENT)["tool"]["hatch"]["build"]["targets"]["wheel"]
    return {
        (CLIENT / source).resolve(): target for source, target in wheel["force-include"].items()
    }


def path_of(module):
    base = ROOT.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def names_in(path):
    """Modules of ours that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (n for n in names if n.partition(".")[0] in ("worker", "ssd_core"))


def import_closure():
    """Files of the two modules and all that they import of ours.

    What the package worker itself offers on demand is not followed: the client lacks it.
    """
    found, ahead = set(), [*ENTRIES]
    while ahead:
        parts = ahead.pop().split(".")
        for length in range(1, len(parts) + 1):
            path = path_of(".".join(parts[:length]))
            if path.exists() and path not in found:
                found.add(path)
                if path != ROOT / "worker" / "__init__.py":
                    ahead += names_in(path)
    return found


def test_the_wheel_holds_exactly_what_the_consumer_imports():
    files = shipped()
    assert {path for path in files if path.suffix == ".py"} == import_closure()
    assert {str(path.relative_to(ROOT)): target for path, target in files.items()} == {
        target: target for target in files.values()
    }
    assert "worker/py.typed" in files.values()


def test_the_client_promises_the_same_ranges_as_the_full_package():
    client, full = project_of(CLIENT)["project"], project_of(ROOT)["project"]
    assert set(client["dependencies"]) <= set(full["dependencies"])
    assert {line.partition(">")[0] for line in client["dependencies"]} == {"redis", "pydantic"}
    for key in ("requires-python", "license"):
        assert client[key] == full[key]


@pytest.mark.parametrize("module", ENTRIES)
def test_importing_it_loads_only_redis_pydantic_and_what_is_shipped(module):
    code = (
        "import sys; before = set(sys.modules)\n"
        f"import {module}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    ours = {name for name in loaded if name.partition(".")[0] in ("worker", "ssd_core")}
    assert module in ours
    assert {path_of(name) for name in ours} <= shipped().keys()
    others = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    others = {name for name in others if not name.startswith("_")}
    assert others - {"worker"} <= BROUGHT_BY_DEPENDENCIES


def pip(*arguments):
    """Runs pip; skips the test where the package index cannot be reached."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", *arguments],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode and any(sign in done.stdout + done.stderr for sign in OFFLINE):
        pytest.skip("the light client installed alone (the package index is not reachable)")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(CLIENT))
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed_alone(wheel, tmp_path_factory):
    """The interpreter of an environment with the client and what it depends on."""
    directory = tmp_path_factory.mktemp("client") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    python = directory / "bin" / "python"
    pip("--python", str(python), "install", "--quiet", str(wheel))
    return python


def run_alone(python, code, *arguments):
    """What a program prints, as JSON; it sees the environment's packages only."""
    done = subprocess.run(
        [python, "-I", "-c", code, *arguments], cwd=python.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_wheel_has_the_version_the_licence_and_the_files(wheel):
    version = project_of(ROOT)["project"]["version"]
    assert wheel.name == f"ssd_worker_client-{version}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(shipped().values()) == {n for n in names if ".dist-info/" not in n}
    assert f"ssd_worker_client-{version}.dist-info/licenses/LICENSE" in names


READ = """
import json, sys
from worker.consumer import EventConsumer
from worker.events import DetectionsEvent
options = {"group": "alerts", "consumer": "alone", "timeout_seconds": 0.3}
with EventConsumer(sys.argv[1], **options) as consumer:
    events = []
    for event in consumer:
        assert isinstance(event, DetectionsEvent)
        events.append(event.to_json())
        consumer.ack(event)
print(json.dumps(events))
"""


def test_installed_alone_it_reads_and_acknowledges_a_stream(installed_alone, redis_server):
    events = [detections_event("gate", seq=seq) for seq in range(5)]
    sink = RedisStreamSink(redis_server.url)
    sink.publish(events)
    sink.close()
    assert run_alone(installed_alone, READ, redis_server.url) == [e.to_json() for e in events]
    pending = redis_server.client.xpending("ssd:{gate}:detections", "alerts")
    assert pending["pending"] == 0


def test_installed_alone_it_comes_without_what_is_heavy(installed_alone):
    code = (
        "import json, sys\nfrom importlib.util import find_spec\n"
        "print(json.dumps([name for name in sys.argv[1:] if find_spec(name)]))"
    )
    heavy = ("torch", "av", "numpy", "ssd_core", "pydantic_settings", "setproctitle", "cv2")
    assert run_alone(installed_alone, code, "redis", "pydantic", *heavy) == ["redis", "pydantic"]


@pytest.mark.parametrize("name", ["watch", "cli", "no_such_name"])
def test_what_the_client_lacks_is_refused_in_one_line(installed_alone, name):
    code = (
        "import json, sys, worker\n"
        "try:\n    getattr(worker, sys.argv[1])\n"
        "except (AttributeError, ImportError) as error:\n    print(json.dumps(str(error)))\n"
    )
    said = run_alone(installed_alone, code, name)
    assert name in said
    assert len(said.splitlines()) == 1
