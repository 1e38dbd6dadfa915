"""Log lines as JSON: the same fields as in the text, and the camera on each that is about one."""

import ast
import json
import logging
import re

import pytest

from tests.conftest import ROOT
from worker.errors import TakenOver
from worker.logs import JsonFormatter, TextFormatter, set_up_logging

LEVELS = ("debug", "info", "warning", "error", "exception", "critical", "log")


def record(message, *args, exc_info=None):
    return logging.LogRecord("worker.x", logging.WARNING, "x.py", 1, message, args, exc_info, None)


def as_json(message, *args):
    return json.loads(JsonFormatter().format(record(message, *args)))


@pytest.mark.parametrize(
    ("message", "args", "camera"),
    [
        ("camera %s: up", ("gate",), "gate"),
        ("camera %s: %s (%s)", ("gate", "down", "stall"), "gate"),
        ("%s", (TakenOver("gate", "ab12"),), "gate"),
        ("the spool holds %d events", (3,), None),
        ("watching %s", ("gate, yard",), None),
        ("nothing", (), None),
    ],
)
def test_a_line_about_a_camera_has_its_id_as_a_field(message, args, camera):
    line = as_json(message, *args)
    assert line.get("camera") == camera
    assert line["message"] == (message % args if args else message)
    assert (line["level"], line["logger"]) == ("warning", "worker.x")


def test_text_and_json_say_the_same():
    text = TextFormatter().format(record("camera %s: up", "gate"))
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING camera gate: up", text)
    assert as_json("camera %s: up", "gate")["message"] in text


def test_an_exception_is_one_line_of_json():
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        formatted = JsonFormatter().format(
            record("camera %s: internal error", "gate", exc_info=(type(error), error, None))
        )
    assert "\n" not in formatted
    assert "ValueError: two\nlines" in json.loads(formatted)["exception"]


def test_no_password_is_in_a_line():
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record("camera %s: %s", "gate", "rtsp://admin:s3cret@10.0.0.1/"))
        assert "s3cret" not in line


def log_calls():
    """(file, template, number of arguments) of every log line in the code."""
    for file in (ROOT / "worker").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and (node.func.value.id, node.func.attr in LEVELS) == ("log", True)
            ):
                arguments = node.args[1:] if node.func.attr == "log" else node.args
                yield file.relative_to(ROOT), arguments[0], len(arguments) - 1


def test_every_line_of_the_code_about_a_camera_can_be_found_by_its_id():
    """The field comes from ``camera %s`` at the beginning, and its first argument."""
    of_cameras = 0
    for file, template, arguments in log_calls():
        assert isinstance(template, ast.Constant), f"{file}: {ast.unparse(template)}"
        if re.search(r"\bcamera (%s|\{)", template.value):
            assert template.value.startswith("camera %s: "), f"{file}: {template.value}"
            assert arguments
            of_cameras += 1
    assert of_cameras > 12


def test_logging_goes_to_stderr_from_the_level_on(capsys):
    loggers = [logging.getLogger(name) for name in ("worker", "ssd_core")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    last_resort = logging.lastResort
    try:
        set_up_logging("warning", as_json=True)
        logging.getLogger("worker.sources").info("camera %s: up", "gate")
        logging.getLogger("ssd_core.device").warning("no kernels")
    finally:
        logging.lastResort = last_resort
        for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
            each.handlers[:], each.propagate = handlers, propagate
            each.setLevel(level)
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["message"] == "no kernels"
