"""Settings from any arguments, environment or file: settings, or one line."""

import contextlib
import io
import os
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from worker.errors import UsageError
from worker.secrecy import redaction
from worker.settings.fields import COMMANDS, ENV_PREFIX, Settings
from worker.settings.loading import load_settings

PASSWORD = "s3cr3t-pa55word"
SECRET_FIELDS = ["redis_url", "sources", "paths"]
FIELDS = sorted({name for command in COMMANDS.values() for name in command.model_fields})
FLAGS = ["--from", *(f"--{name.replace('_', '-')}" for name in FIELDS)]

word = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
value = word | st.sampled_from(
    ["", "0", "-1", "1e999", "nan", "true", "rtsp://h/x", "a=b.mp4", "none", "x.jsonl", "{}", "[1"]
)
latin_1 = st.just("caf\udce9.jsonl")  # as Python takes names that are not UTF-8
flag = st.sampled_from(FLAGS) | st.sampled_from(FLAGS).map(lambda name: f"--no-{name[2:]}")
with_password = st.sampled_from(
    [
        f"redis://:{PASSWORD}@host", f"http://user:{PASSWORD}@host", f"redis://{PASSWORD}@[::1",
        f"redis://h?password={PASSWORD}", f"redis://:{PASSWORD}@host:port/0",
    ]
)  # fmt: skip
argument = flag | value | latin_1 | st.builds("{}={}".format, flag, value)
commands = st.sampled_from(sorted(COMMANDS))
thorough = hypothesis_settings(
    max_examples=60,  # of 20 ms each: every example builds the command's parser
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def settings_or_one_line(command, arguments, environment=None):
    """The settings, or the one line of the error; anything else is raised."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
    with mock.patch.dict(os.environ, clean | (environment or {}), clear=True):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # --help prints
                settings = load_settings(COMMANDS[command], command, arguments)
        except UsageError as error:
            said = str(error)
        except SystemExit as leaving:
            said = "help" if leaving.code == 0 else ""
        else:
            assert isinstance(settings, Settings)
            return settings
    assert len(said.splitlines()) == 1, said
    return said


@thorough
@given(commands, st.lists(argument, max_size=6))
def test_any_arguments_give_settings_or_one_line(command, arguments):
    settings_or_one_line(command, arguments)


@pytest.mark.parametrize("line_break", ["\n", "\r", "\x85", "\u2028"])
def test_a_message_that_quotes_line_breaks_is_one_line(line_break):
    said = settings_or_one_line("replay", ["x.mp4", f"--output=a{line_break}b.csv"])
    assert "a b.csv" in said


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["caf\udce9.mp4"], {}),
        (["x.mp4", "--output=caf\udce9.jsonl"], {}),
        (["x.mp4"], {f"{ENV_PREFIX}OUTPUT": "caf\udce9.csv"}),
    ],
)
def test_what_is_not_utf_8_is_refused_in_one_line(arguments, environment):
    assert "UTF-8" in settings_or_one_line("replay", arguments, environment)


@thorough
@given(commands, st.dictionaries(st.sampled_from(FIELDS), value, max_size=4))
def test_any_environment_gives_settings_or_one_line(command, values):
    environment = {f"{ENV_PREFIX}{name.upper()}": content for name, content in values.items()}
    settings_or_one_line(command, ["x.mp4"], environment)


toml_values = st.one_of(
    st.just("true"), st.integers().map(str), st.just("nan"), st.just("1979-05-27"), st.just("{}"),
    st.just("[]"), st.just('["a", 1]'), word.map(lambda text: f'"{text}"'), word,
)  # fmt: skip
toml_lines = st.builds("{} = {}".format, st.sampled_from(FIELDS) | word, toml_values)
nested = st.integers(1, 10_000).map(lambda depth: b"labels = " + b"[" * depth + b"]" * depth)
toml_content = st.lists(toml_lines, max_size=4).map("\n".join).map(str.encode)


@thorough
@given(commands, toml_content | nested | st.binary(max_size=40))
def test_any_file_gives_settings_or_one_line(tmp_path, command, content):
    (tmp_path / "worker.toml").write_bytes(content)
    settings_or_one_line(command, ["x.mp4", "--config", str(tmp_path / "worker.toml")])


@thorough
@given(commands, with_password, st.lists(argument, max_size=2))
def test_no_message_contains_a_password_of_the_arguments(command, secret, others):
    for arguments in (["--redis-url", secret], [f"--redis-url={secret}"], [secret]):
        for ordered in ([*arguments, *others], [*others, *arguments]):
            assert_hidden(settings_or_one_line(command, ordered), ordered)


@thorough
@given(commands, st.sampled_from(SECRET_FIELDS), with_password | st.just(PASSWORD))
def test_no_message_contains_a_password_of_the_environment(command, name, secret):
    said = settings_or_one_line(command, ["x.mp4"], {f"{ENV_PREFIX}{name.upper()}": secret})
    assert_hidden(said)


@thorough
@given(commands, st.sampled_from(SECRET_FIELDS), with_password | st.just(PASSWORD))
def test_no_message_contains_a_password_of_the_file(tmp_path, command, name, secret):
    for written in (f"'{secret}'", f'"{secret}"', secret, f"[['{secret}']]"):
        (tmp_path / "worker.toml").write_text(f"{name} = {written}\n")
        arguments = ["x", "--config", str(tmp_path / "worker.toml")]
        assert_hidden(settings_or_one_line(command, arguments))


def assert_hidden(said, arguments=()):
    """A message contains no password after the redaction of the command line's messages."""
    with mock.patch.dict(redaction._hidden, clear=True):
        for word in arguments:
            redaction.hide(word)
        if isinstance(said, str):
            assert PASSWORD not in redaction.redact(said)


@pytest.mark.parametrize("message", ["two\nlines", "", PASSWORD])
def test_a_message_of_two_lines_or_with_a_password_would_be_found(message):
    with (
        mock.patch(f"{__name__}.load_settings", side_effect=UsageError(message)),
        pytest.raises(AssertionError),
    ):
        assert_hidden(settings_or_one_line("run", []))
