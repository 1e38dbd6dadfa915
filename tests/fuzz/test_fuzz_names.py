"""Any name of a file, through flags, variables and TOML: it is that file, or one line."""

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from worker.errors import UsageError
from worker.settings.base import ENV_PREFIX
from worker.settings.cameras import cameras_of
from worker.settings.fields import COMMANDS, RunSettings
from worker.settings.loading import load_settings
from worker.settings.naming import parse_sources

LONGEST_NAME_BYTES = 255
AWKWARD = [
    "null", "None", "true", "1", "[]", "{}", '""', "[a]", '["a", "b"]', "{NAME}.mp4", "{a}",
    "a,b.mp4", " leading.mp4", "trailing.mp4 ", '"quoted".mp4', "'quoted'.mp4", "back\\slash",
    "a:b.mp4", "http:x",
    "-x", "--fps", "--", "a=b.mp4", "=", "gate=", "door@noon.mp4", "two\nlines.mp4", "tab\t.mp4",
    "\x7f", "\u2028", "é.mp4", "\U0001f600.mp4", "#x", "%41.mp4", "$HOME", "~", "x" * 255,
]  # fmt: skip

names = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.text(st.sampled_from(" \"'\\,:;[]{}()=@#%$~-+*?!&|<>\n\tax1é"), min_size=1, max_size=20).map(
        str.encode
    ),
    st.sampled_from([name.encode() for name in AWKWARD]),
).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")[:LONGEST_NAME_BYTES])
names = names.filter(lambda name: name not in (b".", b"..")).map(os.fsdecode)
thorough = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def is_utf_8(name):
    return not re.search("[\ud800-\udfff]", name)


def toml_text(text):
    """As a basic string of TOML."""
    return '"' + re.sub(r'[\x00-\x1f\x7f"\\]', lambda found: f"\\u{ord(found[0]):04x}", text) + '"'


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def file_of(name):
    """A file of this name in the working directory, for as long as the block lasts."""
    path = Path(name)
    path.touch(exist_ok=False)
    try:
        yield
    finally:
        path.unlink()


def loaded(command, arguments, environment=None):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
    with mock.patch.dict(os.environ, clean | (environment or {}), clear=True):
        return load_settings(COMMANDS[command], command, arguments)


def watched(*arguments, environment=None):
    """The sources that `run` would watch."""
    settings = loaded("run", [*arguments], environment)
    assert isinstance(settings, RunSettings)
    return [camera.source for camera in cameras_of(settings, None).values()]


def assert_is_that_source(name, read):
    if is_utf_8(name):
        assert read() == [name]
        return
    with pytest.raises(UsageError, match="UTF-8") as caught:
        read()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.long
@thorough
@given(names)
def test_any_file_name_as_an_argument_is_that_source(directory, name):
    with file_of(name):
        assert_is_that_source(name, lambda: watched("--", name))
        assert_is_that_source(name, lambda: watched("--fps", "5", "--", f"gate={name}"))
        assert_is_that_source(
            name, lambda: [*parse_sources(loaded("replay", ["--", name]).paths).values()]
        )


@pytest.mark.long
@thorough
@given(names)
def test_any_file_name_in_a_variable_is_that_source(directory, name):
    def replayed():
        return [*parse_sources(loaded("replay", [], {"SSD_WORKER_PATHS": listed}).paths).values()]

    with file_of(name):
        listed = json.dumps([name])
        assert_is_that_source(name, lambda: watched(environment={"SSD_WORKER_SOURCES": listed}))
        assert_is_that_source(name, replayed)
        if not name.lstrip().startswith("["):
            assert_is_that_source(name, lambda: watched(environment={"SSD_WORKER_SOURCES": name}))


@thorough
@given(names.filter(is_utf_8))
@example("{NAME}.mp4")
def test_any_file_name_in_toml_is_that_source(directory, name):
    text = toml_text(name)
    with file_of(name):
        for content in (
            f"sources = [{text}]", f"sources = {text}", f"[cameras.gate]\nsource = {text}",
        ):  # fmt: skip
            (directory / "worker.toml.x").write_text(content)
            assert watched("--config", "worker.toml.x") == [name]
        (directory / "worker.toml.x").write_text(f"[cameras.gate]\nsource = {text}")
        assert watched("--cameras", "worker.toml.x") == [name]


FILE_OPTIONS = ["--weights", "--secrets", "--state-dir", "--model"]


@thorough
@given(st.sampled_from(FILE_OPTIONS), names.filter(lambda name: name != "--"))
def test_any_file_name_of_an_option_is_that_file(directory, option, name):
    field = option.removeprefix("--").replace("-", "_")

    def of(settings):
        return [str(getattr(settings, field))]

    assert_is_that_source(name, lambda: of(loaded("run", ["x", f"{option}={name}"])))
    assert_is_that_source(
        name, lambda: of(loaded("run", ["x"], {f"{ENV_PREFIX}{field.upper()}": name}))
    )


@thorough
@given(st.sampled_from(["--output", "--annotate"]), names)
def test_any_file_name_of_an_output_is_that_file(directory, option, name):
    suffix = ".jsonl" if option == "--output" else ".mp4"
    field = option.removeprefix("--")
    assert_is_that_source(
        name + suffix,
        lambda: [str(getattr(loaded("replay", ["x", f"{option}={name}{suffix}"]), field))],
    )


@pytest.mark.parametrize("content", ["sources = ['a\\u0000b']", 'output = "a\\u0000b.jsonl"'])
def test_a_nul_character_in_toml_is_refused_in_one_line(directory, content):
    (directory / "worker.toml").write_text(content.replace("'", '"'))
    with pytest.raises(UsageError, match="NUL character"):
        watched("--config", "worker.toml", "x.mp4" if "output" in content else "--no-loop")


def test_a_source_for_python_that_is_not_utf_8_is_refused():
    with pytest.raises(UsageError, match="UTF-8"):
        parse_sources(["caf\udce9.mp4"])


def test_an_empty_source_is_refused():
    with pytest.raises(UsageError, match="empty"):
        parse_sources([""])
