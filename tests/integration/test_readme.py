"""The README says what is true today."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, wait_until
from tests.events import camera_event, detections_event
from worker.settings.fields import COMMANDS
from worker.sinks.redis_stream import RedisStreamSink

README = (ROOT / "README.md").read_text()


def table_flags():
    return set(re.findall(r"`(--[a-z-]+)`", README.split("## Settings")[1].split("## Events")[0]))


def test_the_settings_table_has_every_option_and_no_other():
    fields = {name for command in COMMANDS.values() for name in command.model_fields}
    flags = {f"--{name.replace('_', '-')}" for name in fields - {"sources", "paths", "cameras"}}
    assert table_flags() - {"--help"} == (flags - {"--start"}) | {"--from"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_settings_table_names_each_commands_options(command):
    rows = re.findall(r"^\| (`--.+?) \| (.+?) \|", README, re.MULTILINE)
    named = set()
    for flags, commands in rows:
        excepted = commands.startswith("all but") and command in commands
        if (commands.startswith("all") and not excepted) or command in commands.split(", "):
            named |= set(re.findall(r"--[a-z-]+", flags))
    fields = set(COMMANDS[command].model_fields) - {"sources", "paths", "cameras"}
    flags = {f"--{name.replace('_', '-')}".replace("--start", "--from") for name in fields}
    assert named == flags


def test_the_table_of_models_is_what_the_command_prints(exec_cli):
    printed = exec_cli("models").stdout
    assert printed in README


def test_every_reason_code_of_the_source_is_explained():
    source = "".join(p.read_text() for p in (ROOT / "worker").rglob("*.py"))
    codes = set(re.findall(r'self\.reason = "([a-z_]+)"', source))
    codes |= set(re.findall(r'Error, "([a-z_]+)"\)', source))
    codes |= set(re.findall(r'self\.reason, self\.detail = "([a-z_]+)"', source))
    codes |= set(re.findall(r'return "([a-z_]+)", (?:detail|"")', source))
    assert {"closed", "refused", "truncated", "end_of_file"} <= codes
    for code in codes:
        assert f"`{code}`" in README


def test_the_consumer_example_runs_as_it_stands(valkey_server, tmp_path):
    (example,) = re.findall(r"```python\n(from worker\.consumer.*?)```", README, re.DOTALL)
    assert len(example.strip().splitlines()) <= 15
    script = tmp_path / "example.py"
    script.write_text(example.replace("redis://127.0.0.1:6390", valkey_server.url))
    sink = RedisStreamSink(valkey_server.url)
    sink.publish([camera_event("gate", seq=0), detections_event("gate", seq=1)])
    sink.close()
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "gate is up: connected\n"
        assert process.stdout.readline() == "2026-01-01 00:00:00+00:00: 1 at gate\n"
        stream = "ssd:{gate}:detections"
        wait_until(lambda: valkey_server.client.xpending(stream, "alerts")["pending"] == 0)
    finally:
        process.kill()
        process.communicate()


def test_the_files_that_the_readme_names_are_there():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
