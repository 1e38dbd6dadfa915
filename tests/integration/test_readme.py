"""The README and the pages of docs/ say what is true today."""

import ast
import re
import subprocess
import sys
import tomllib
from typing import Literal, get_args, get_origin

import pytest

from ssd_core import MODELS
from tests.conftest import ROOT, wait_until
from tests.events import camera_event, detections_event
from tests.snapshots import snapshot
from worker.events import CameraState, parse_event
from worker.settings.fields import COMMANDS
from worker.sinks.redis_stream import RedisStreamSink

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "benchmarks" / "README.md",
        ROOT / "deploy" / "client" / "README.md",
        ROOT / "tests" / "data" / "README.md",
    ]
}
README = PAGES["README.md"]
POSITIONAL = {"sources", "paths", "ids", "action", "data", "checkpoints", "reported"}
MADE_BY_THE_USER = {"deploy/.env", "deploy/secrets"}


def blocks(language):
    """(page and number, text) of each fenced block of a language."""
    return [
        pytest.param(text, id=f"{page}-{number}")
        for page, content in PAGES.items()
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", content, re.DOTALL))
    ]


# Links


def headings(content):
    """The anchors of a page, as GitHub makes them of its headings."""
    without_code = re.sub(r"```.*?```", "", content, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in headings(file.read_text()), target


def test_every_page_can_be_reached_from_the_readme():
    reached, new = set(), set(re.findall(r"\]\(docs/(\w+\.md)", README))
    while new:
        reached |= new
        linked = [re.findall(r"\]\((\w+\.md)", PAGES[f"docs/{name}"]) for name in new]
        new = {name for names in linked for name in names} - reached
    assert {path.name for path in ROOT.glob("docs/*.md")} == reached


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"CHANGELOG.md"}))
def test_every_path_named_exists(page):
    folders = "ssd_core|worker|tests|benchmarks|deploy|docs|samples"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", PAGES[page]):
        assert path in MADE_BY_THE_USER or (ROOT / path).exists(), path


def test_the_benchmarks_page_names_every_script_that_make_runs_and_none_that_is_missing():
    named = set(re.findall(r"^\| `(\w+\.py)` \|", PAGES["benchmarks/README.md"], re.MULTILINE))
    assert named >= set(re.findall(r"benchmarks/(\w+\.py)", (ROOT / "Makefile").read_text()))
    assert {name for name in named if not (ROOT / "benchmarks" / name).exists()} == set()


@pytest.mark.parametrize("package", ["ssd_core", "worker"])
def test_the_map_of_the_architecture_has_every_folder(package):
    (part,) = re.findall(
        rf"^{package}/ .*?(?=^\S|\Z)", PAGES["docs/architecture.md"], re.MULTILINE | re.DOTALL
    )
    folders = {p.parent.name for p in (ROOT / package).glob("*/*") if p.is_file()}
    assert set(re.findall(r"^  (\w+)/ ", part, re.MULTILINE)) == folders - {"__pycache__"}


# The README


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.splitlines()) < 200


def test_the_table_of_models_is_what_the_command_prints(cli):
    assert cli("models").stdout in README


def test_the_docs_name_the_classes_of_the_default_model():
    text = (ROOT / "docs" / "detector.md").read_text()
    (listed,) = re.findall(r"The 23 of the default model \(Open Images\): (.+?)\.", text, re.S)
    assert tuple(" ".join(listed.split()).split(", ")) == MODELS["ssd_mobilenet_v2_oid"].labels[1:]


def test_the_moving_picture_is_small_enough_to_be_waited_for():
    assert (ROOT / "docs" / "images" / "walkway.webp").stat().st_size < 2_000_000


# Settings


def settings_rows():
    """(flag, commands, default, what) of each row."""
    rows = re.findall(
        r"^\| `(--[a-z-]+)` \| ([^|]+) \| ([^|]*)\| ([^|]+) \|$",
        PAGES["docs/settings.md"],
        re.MULTILINE,
    )
    return [tuple(cell.strip() for cell in row) for row in rows]


def options_of(command):
    """The fields of a command by their flags, positional ones left out."""
    settings = COMMANDS[command]
    names_cameras = command in ("subscribe", "coverage", "cameras")
    positional = POSITIONAL | ({"cameras"} if names_cameras else set())
    flags = {
        name: name.replace("_", "-") for name in settings.model_fields if name not in positional
    }
    shorter = settings.model_config.get("cli_shortcuts") or {}
    return {
        f"--{shorter.get(flag, flag)}": settings.model_fields[name] for name, flag in flags.items()
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_the_settings_page_has_the_options_of_each_command_and_no_other(command):
    described = {
        flag
        for flag, commands, _, _ in settings_rows()
        if commands == "all" or command in commands.split(", ")
    }
    assert described == set(options_of(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_settings_page_gives_the_defaults_and_choices_of_the_code(command):
    rows = {flag: (default, what) for flag, _, default, what in settings_rows()}
    for flag, field in options_of(command).items():
        default, what = rows[flag]
        if isinstance(field.default, bool):
            assert default == ("on" if field.default else "off"), flag
        elif isinstance(field.default, int | float | str):
            shown = field.default if isinstance(field.default, str) else f"{field.default:.15g}"
            assert f"`{shown}`" in default, flag
        if get_origin(field.annotation) is Literal:
            for choice in get_args(field.annotation):
                assert f"`{choice}`" in f"{default} {what}", flag


# Commands


def commands_shown():
    """Each `ssd-worker COMMAND ...` of the pages: those in blocks line by line, those in prose."""
    for page, content in PAGES.items():
        if page == "CHANGELOG.md":
            continue
        joined = content.replace("\\\n", " ")
        for line in re.findall(r"(?:^|`|\$ |bin/)ssd-worker ([^`\n]+)", joined, re.MULTILINE):
            yield page, line.partition("  #")[0].split()


def test_every_command_shown_exists_with_its_options():
    shown = list(commands_shown())
    assert {"run", "replay", "subscribe", "models", "doctor"} <= {words[0] for _, words in shown}
    for page, (command, *words) in shown:
        if command == "COMMAND":
            continue
        assert command in COMMANDS, page
        flags = {word for word in words if word.startswith("--")} - {"--help"}
        assert flags <= set(options_of(command)), (page, command)


def test_the_cameras_page_shows_what_the_command_prints(cli, tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", PAGES["docs/cameras.md"], re.DOTALL)
    mistakes = example.replace("fps = 5", "fps = 0").replace('"Car"', '"Cra"')
    (tmp_path / "cameras.toml").write_text(example)
    (tmp_path / "mistakes.toml").write_text(mistakes)
    cli.env |= {"GATE_USER": "guard", "GATE_PASSWORD": "s3cret-1"}
    for name, code in (("cameras.toml", 0), ("mistakes.toml", 2)):
        done = cli("cameras", name)
        assert done.returncode == code, done.stderr
        shown = f"$ ssd-worker cameras {name}\n{done.stdout}{done.stderr}```"
        assert shown in PAGES["docs/cameras.md"]


def test_the_checks_shown_of_doctor_are_those_that_it_makes(cli):
    check = r"^(?:ok|no)  ([a-z ]+): "
    made = re.findall(check, cli("doctor").stdout, re.MULTILINE)
    assert len(made) > 5
    assert made == re.findall(check, PAGES["docs/troubleshooting.md"], re.MULTILINE)


def test_every_make_target_named_exists():
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page, content in PAGES.items():
        for target in re.findall(r"(?:`|^|^ {4})make ([a-z][a-z-]*)", content, re.MULTILINE):
            assert target in targets, page


# Events


def reason_codes():
    """The reasons that the code gives for a camera's state."""
    source = "".join(p.read_text() for p in (ROOT / "worker").rglob("*.py"))
    patterns = (
        r'(?:self|connection)\.reason = "([a-z_]+)"',
        r'Error, "([a-z_]+)"\)',
        r'self\.reason, self\.detail = "([a-z_]+)"',
        r'return "([a-z_]+)", (?:detail|f?")',
        r'return "([a-z_]+)" if opened else "[a-z_]+", ',
        r'return "[a-z_]+" if opened else "([a-z_]+)", ',
        r'ConnectionLost\(\s*"([a-z_]+)"',
        r'"(?:up|down|degraded|ended)", "([a-z_]+)"',
        r'"([a-z_]+)" if camera\.state == "up"',
    )
    found = {code for pattern in patterns for code in re.findall(pattern, source)}
    return found - set(get_args(CameraState))


def described_reasons():
    table = PAGES["docs/events.md"].split("| `reason` | meaning |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`([a-z_]+)`", cell)}


def test_every_reason_that_the_code_gives_is_described():
    codes = reason_codes()
    assert {"closed", "refused", "truncated", "end_of_file", "stall", "heartbeat"} <= codes
    assert {"timeout", "events_lost", "stopped", "invalid_data", "internal_error"} <= codes
    assert codes <= described_reasons()


def test_every_reason_described_is_one_that_the_code_gives():
    source = "".join(p.read_text() for p in (ROOT / "worker").rglob("*.py"))
    assert {code for code in described_reasons() if f'"{code}"' not in source} == set()


ONLY_OF_PICTURES = {"file_name"}


@pytest.mark.parametrize("text", blocks("json"))
def test_the_events_shown_are_valid_and_show_every_field(text):
    event = parse_event(text)
    shown = set(re.findall(r'"([a-z_]+)":', text))
    assert set(type(event.data).model_fields) - ONLY_OF_PICTURES <= shown
    described = re.findall(r"`([a-z_]+)`", PAGES["docs/events.md"])
    assert set(type(event.data).model_fields) <= set(described) | {"detail"}


# Examples


@pytest.mark.parametrize("text", blocks("toml"))
def test_the_toml_shown_can_be_read(text):
    assert tomllib.loads(text)


CONSUMERS = [block for block in blocks("python") if "EventConsumer" in block.values[0]]
SNAPSHOTS = [block for block in blocks("python") if "read_snapshot" in block.values[0]]
DETECTORS = [block for block in blocks("python") if block not in CONSUMERS + SNAPSHOTS]
PRINTED = {
    "README.md-0": ["gate ['Person']\n"],
    "docs/consuming.md-0": [
        "gate is up: connected\n",
        "2026-01-01 00:00:00+00:00: 1 at gate\n",
    ],
}


@pytest.mark.parametrize("text", CONSUMERS)
def test_each_consumer_example_runs_as_it_stands(text, valkey_server, tmp_path, request):
    script = tmp_path / "example.py"
    script.write_text(text.replace("redis://127.0.0.1:6390", valkey_server.url))
    sink = RedisStreamSink(valkey_server.url)
    sink.publish([camera_event("gate", seq=0), detections_event("gate", seq=1)])
    sink.close()
    process = subprocess.Popen(
        [sys.executable, "-u", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        for line in PRINTED[request.node.callspec.id]:
            assert process.stdout.readline() == line
        stream = "ssd:{gate}:detections"
        wait_until(lambda: valkey_server.client.xpending(stream, "alerts")["pending"] == 0)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("text", SNAPSHOTS)
def test_each_snapshot_example_runs_as_it_stands(text, valkey_server, capsys):
    program = compile(text.replace("redis://127.0.0.1:6390", valkey_server.url), "example", "exec")
    exec(program, {})
    assert capsys.readouterr().out == ""
    sink = RedisStreamSink(valkey_server.url)
    sink.put_snapshots([(made := snapshot("gate", 3), 10)])
    sink.close()
    exec(program, {})
    assert capsys.readouterr().out == f"2026-01-01 12:00:00.123456+00:00 3 {len(made.jpeg)}\n"


@pytest.mark.parametrize("text", DETECTORS)
def test_each_detector_example_runs_as_it_stands(text, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(compile(text, "example", "exec"), {})
    assert "print(" not in text or "Person" in capsys.readouterr().out


def test_the_readmes_detector_takes_five_lines():
    (example,) = re.findall(r"```python\n(import av.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) == 5


# Log lines


def texts_of(source):
    """The string literals of a module; what is filled in later stands as NUL."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else "\0" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[-.\d]*[sdf]|\{\w*\}", "\0", node.value)


def quoted_messages():
    """What operations.md quotes of the log, and troubleshooting.md in its first columns."""
    quote = r"`[^`]+`"
    for quotes in re.findall(rf"log ((?:{quote}(?:, )?)+)", PAGES["docs/operations.md"]):
        yield from re.findall(quote, quotes)
    for cell in re.findall(r"^\| (`.+?) \| ", PAGES["docs/troubleshooting.md"], re.MULTILINE):
        yield re.match(quote, cell).group()


def texts_of_the_code():
    files = [*(ROOT / "worker").rglob("*.py"), *(ROOT / "ssd_core").rglob("*.py")]
    return [text for file in files for text in texts_of(file.read_text())]


def test_the_messages_quoted_are_in_the_code():
    texts = [*texts_of_the_code(), (ROOT / "Makefile").read_text()]
    messages = [quoted.strip("`") for quoted in quoted_messages()]
    assert len(messages) > 25
    filled_in = r"\(.*?\)|\.\.\.|\bX\b|HOST:PORT|\b\d[\d.]*\b|WRONGTYPE|\bRedis\b|\bdown\b"
    patterns = [".*".join(map(re.escape, re.split(filled_in, message))) for message in messages]
    missing = [p for p in patterns if not any(re.search(p, text) for text in texts)]
    assert missing == []


def test_the_log_lines_shown_are_in_the_code():
    patterns = [
        ".+".join(map(re.escape, text.split("\0")))
        for text in texts_of_the_code()
        if len(text.replace("\0", "")) > 8
    ]
    log_line = r"^\d\d:\d\d:\d\d [A-Z]+ +(.+)$"
    lines = [line for page in PAGES.values() for line in re.findall(log_line, page, re.MULTILINE)]
    assert len(lines) > 3
    for line in lines:
        assert any(re.fullmatch(pattern, line) for pattern in patterns), line
