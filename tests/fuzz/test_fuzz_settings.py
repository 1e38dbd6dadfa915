"""Settings from any arguments, environment or file: settings, or one line."""

import contextlib
import io
import os
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from worker.errors import UsageError
from worker.secrecy import redaction
from worker.settings.base import ENV_PREFIX, CameraDefaults, Settings
from worker.settings.camera_table import NOT_SUPPORTED_YET, CameraTable
from worker.settings.cameras import CameraSettings, CamerasFileError, read_cameras
from worker.settings.fields import COMMANDS
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


camera_keys = st.sampled_from([*CameraTable.model_fields, *NOT_SUPPORTED_YET, "colour"])
number = st.sampled_from(["0", "1", "0.5", "-1", "nan", "inf", "1" + "0" * 400, "true", "'1'"])
point = st.lists(number, max_size=3).map(lambda numbers: f"[{', '.join(numbers)}]")
polygon = st.lists(point, max_size=4).map(lambda points: f"[{', '.join(points)}]")
camera_values = st.one_of(
    number, polygon, st.lists(polygon, max_size=2).map(lambda all_of: f"[{', '.join(all_of)}]"),
    st.sampled_from(["'Person,'", "['Person']", "[ # ]\n1,\n]", "'tcp'", "'centre'", "{}", "''"]),
    with_password.map("'{}'".format), with_password.map("[['{}']]".format),
    st.just(f"'rtsp://{{{PASSWORD}}}@h'"), word.map("'{}'".format),
)  # fmt: skip
good_lines = st.sampled_from(
    [
        ("source", "'rtsp://h/x'"), ("source", f"'rtsp://u:{PASSWORD}@h/x'"), ("fps", "5"),
        ("labels", "['Person']"), ("ignore", "[[[0, 0],\n[1, 0], [1, 1]]]"), ("transport", "'udp'"),
        ("snapshots", "'blur'"),
    ]
)  # fmt: skip
camera_lines = st.lists(
    good_lines | st.tuples(camera_keys, camera_values),
    max_size=4,
    unique_by=lambda line: line[0],
)
good_id = st.sampled_from(["gate", "yard", "'door'", '"pool.1"'])
camera_id = good_id | st.sampled_from(["'two words'", '""', f"'u:{PASSWORD}@h'"])
camera_id |= with_password.map("'{}'".format)


def as_table(camera_id, lines):
    return "\n".join([f"[cameras.{camera_id}]", *(f"{key} = {value}" for key, value in lines)])


def as_inline_table(camera_id, lines):
    values = ", ".join(f"{key} = {value}" for key, value in lines)
    return f"cameras.{camera_id} = {{ {values} }}"


def as_dotted_keys(camera_id, lines):
    return "\n".join(f"cameras.{camera_id}.{key} = {value}" for key, value in lines)


cameras_part = st.one_of(
    st.builds(as_table, good_id, st.lists(good_lines, unique_by=lambda line: line[0])),
    st.builds(as_table, camera_id, camera_lines),
    st.builds(as_inline_table, camera_id, camera_lines),
    st.builds(as_dotted_keys, camera_id, camera_lines),
    st.builds("{} = {}".format, st.sampled_from(["fps", "cameras"]) | camera_id, camera_values),
    st.builds("source = {}".format, with_password),
    st.sampled_from(["[[cameras]]", "[[cameras.gate]]", "[[cameras.gate.ignore]]", "[cameras]"]),
)
cameras_content = st.lists(cameras_part, max_size=3).map("\n".join).map(str.encode)


@thorough
@given(
    cameras_content | nested.map(lambda line: b"cameras.x." + line) | st.binary(max_size=40),
    st.none() | st.just(["Person"]),
)
def test_any_file_of_cameras_gives_settings_or_problems_of_one_line(
    tmp_path, content, known_labels
):
    path = tmp_path / "cameras.toml"
    path.write_bytes(content)
    with mock.patch.dict(redaction._hidden, clear=True):
        try:
            cameras = read_cameras(path, CameraDefaults(), known_labels)
        except CamerasFileError as error:
            lines = content.count(b"\n") + 1
            for problem in error.problems:
                assert problem.line is None or 1 <= problem.line <= lines
            for said in (str(error), *map(str, error.problems)):
                assert said.startswith(str(path))
                assert len(said.splitlines()) == 1, said
                assert PASSWORD not in said
        else:
            assert all(isinstance(camera, CameraSettings) for camera in cameras.values())


@pytest.mark.parametrize("message", ["two\nlines", f"a\x85b {PASSWORD}"])
def test_a_problem_of_two_lines_or_with_a_password_would_be_found(tmp_path, message):
    (tmp_path / "cameras.toml").touch()
    error = CamerasFileError.__new__(CamerasFileError, message)
    error.problems = ()
    with (
        mock.patch(f"{__name__}.read_cameras", side_effect=error),
        pytest.raises(AssertionError),
    ):
        test_any_file_of_cameras_gives_settings_or_problems_of_one_line.hypothesis.inner_test(
            tmp_path, b"", None
        )


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
