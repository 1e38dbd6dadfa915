import logging
from pathlib import Path

import pytest

from worker.errors import UsageError
from worker.settings.base import CameraDefaults
from worker.settings.cameras import (
    CameraSettings,
    CamerasFileError,
    Problem,
    cameras_of,
    read_cameras,
)
from worker.settings.fields import RunSettings
from worker.settings.loading import load_settings

GATE = '[cameras.gate]\nsource = "rtsp://gate.local/stream"\n'
PASSWORD = "hunter22-secret"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    import os

    for name in [n for n in os.environ if n.startswith("SSD_WORKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("worker"), "propagate", True)


def write(text, name="cameras.toml"):
    Path(name).write_text(text)
    return Path(name)


def read(text, known_labels=None, **general):
    return read_cameras(write(text), CameraDefaults(**general), known_labels)


def problems(text, known_labels=None, **general):
    """Each problem as the user sees it."""
    with pytest.raises(CamerasFileError) as caught:
        read(text, known_labels, **general)
    return [str(problem) for problem in caught.value.problems]


def of_run(*arguments, known_labels=None):
    return cameras_of(load_settings(RunSettings, "run", list(arguments)), known_labels)


def test_a_camera_has_the_settings_of_its_table():
    text = GATE + (
        'fps = 5\nlabels = ["Person"]\nscore_threshold = 0.5\ntransport = "tcp"\n'
        'anchor = "centre"\nignore = [[[0, 0], [1, 0], [1, 0.1]]]\n'
    )
    assert read(text, ["Person"], fps=1, labels=["Car"], score_threshold=0.1, transport="udp") == {
        "gate": CameraSettings(
            camera_id="gate",
            source="rtsp://gate.local/stream",
            fps=5.0,
            labels=("Person",),
            score_threshold=0.5,
            transport="tcp",
            ignore=(((0.0, 0.0), (1.0, 0.0), (1.0, 0.1)),),
            anchor="centre",
        )
    }


def test_what_a_table_does_not_say_the_general_options_say():
    (gate,) = read(GATE, fps=2, labels="Car", score_threshold=0.3, transport="udp").values()
    assert (gate.fps, gate.labels, gate.score_threshold) == (2, ("Car",), 0.3)
    assert (gate.transport, gate.ignore, gate.anchor) == ("udp", (), "bottom")


def test_a_threshold_of_zero_is_not_replaced_by_the_general_one():
    (gate,) = read(GATE + "score_threshold = 0\n", score_threshold=0.3).values()
    assert gate.score_threshold == 0


@pytest.mark.parametrize("text", ["", "# none yet\n", "[cameras]\n"])
def test_a_file_without_cameras_has_none_and_is_right(text):
    assert read(text) == {}


def test_everything_wrong_in_a_file_is_found_at_once_each_with_its_line():
    text = (
        "fps = 3\n"  # 1
        "[cameras.gate]\n"  # 2
        'source = "gopher://gate.local"\n'  # 3
        "fps = 0\n"  # 4
        "labels = [\n'Person',\n'Dgo',\n]\n"  # 5
        "zones.lawn.polygon = []\n"  # 9
        "[cameras.yard]\n"  # 10
        "colour = 'red'\n"  # 11
        "[cameras.'two words']\n"  # 12
        "source = 'missing.mp4'\n"  # 13
        "[camera.door]\n"  # 14
    )
    found = [line.partition(": ") for line in problems(text, ["Person", "Dog"])]
    assert [(where, text.split(":")[0]) for where, _, text in found] == [
        ("cameras.toml:1", "fps is a general option"),
        ("cameras.toml:3", "camera gate"),
        ("cameras.toml:4", "camera gate"),
        ("cameras.toml:5", "camera gate"),
        ("cameras.toml:9", "camera gate"),
        ("cameras.toml:10", "camera yard"),
        ("cameras.toml:11", "camera yard"),
        ("cameras.toml:12", "camera id 'two words'"),
        ("cameras.toml:13", "camera two words"),
        ("cameras.toml:14", "unknown key camera"),
    ]


def test_the_error_is_the_first_problem_and_where_to_find_the_others():
    with pytest.raises(CamerasFileError) as caught:
        read("[cameras.gate]\nfps = 0\n")
    assert str(caught.value) == (
        'cameras.toml:1: camera gate: source is missing: add source = "rtsp://HOST/PATH", or the '
        "path of a file; and 1 more: `ssd-worker cameras cameras.toml` lists them"
    )
    with pytest.raises(CamerasFileError) as caught:
        read(GATE + "fps = 0\n")
    assert str(caught.value) == "cameras.toml:3: camera gate: fps: should be greater than 0"


def test_the_error_over_two_files_names_the_command_with_both():
    config = write(GATE + "fps = 0\n", "worker.toml")
    write("[cameras.yard]\n")
    with pytest.raises(CamerasFileError, match=r"`ssd-worker cameras cameras\.toml --config w"):
        of_run("--config", str(config), "--cameras", "cameras.toml")


@pytest.mark.parametrize(
    ("text", "line"),
    [(GATE + "fps: 5\n", 3), (GATE + GATE, 3), (GATE + "labels = ['a'\n\n", 3)],
)
def test_a_syntax_error_has_its_line(text, line):
    (found,) = problems(text)
    assert found.startswith(f"cameras.toml:{line}: not TOML: ")


def test_a_file_that_is_not_text_has_the_line_of_its_first_bad_byte():
    Path("cameras.toml").write_bytes(GATE.encode() + b"labels = ['caf\xe9']\n")
    with pytest.raises(CamerasFileError, match=r"^cameras\.toml:3: not UTF-8 text$"):
        read_cameras(Path("cameras.toml"), CameraDefaults(), None)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(name):
    with pytest.raises(CamerasFileError, match=rf"^{name}: \w+"):
        read_cameras(Path(name), CameraDefaults(), None)


@pytest.mark.parametrize("text", ["cameras = 'x'\n", "[[cameras]]\nid = 'gate'\n", "cameras = []"])
def test_cameras_that_are_not_tables_are_refused_with_an_example(text):
    (found,) = problems(text)
    assert found.startswith("cameras.toml:1: cameras: expected a table for each camera")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("file:///etc/passwd", "expected one of rtsp://"),
        ("missing.mp4", "no such file"),
        (".", "is a directory"),
        ("x" * 300, "too long"),
        ("rtsp://u:p/w@host/x", "%2F"),
        ("admin:pw@host/x", "must start with its protocol"),
        (f"rtsp://{'u' * 200}@host/x", "FFmpeg reads only 127"),
        ("rtsp://{MISSING_NAME}@host/x", "{MISSING_NAME} is not in the environment"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused_with_its_line(source, words):
    (found,) = problems(f"[cameras.gate]\nfps = 5\nsource = '{source}'\n")
    assert found.startswith("cameras.toml:3: camera gate: source: ")
    assert words in found


def test_a_file_is_found_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    path = write("[cameras.gate]\nsource = 'clip.mp4'\n", "sub/cameras.toml")
    Path("clip.mp4").touch()
    assert read_cameras(path, CameraDefaults(), None)["gate"].source == "clip.mp4"


def test_names_in_braces_are_checked_and_stay_in_the_source(monkeypatch):
    text = "[cameras.gate]\nsource = 'rtsp://{GATE_USER}:{GATE_PASSWORD}@gate.local/x'\n"
    secrets = write(f"GATE_PASSWORD = '{PASSWORD}'\n", "secrets.toml")
    secrets.chmod(0o600)
    (found,) = problems(text, secrets=secrets)
    assert "{GATE_USER} is neither in --secrets secrets.toml nor in the environment" in found
    monkeypatch.setenv("GATE_USER", "me")
    camera = read(text, secrets=secrets)["gate"]
    assert camera.source == "rtsp://{GATE_USER}:{GATE_PASSWORD}@gate.local/x"


def test_a_login_is_too_long_by_what_its_names_stand_for(monkeypatch):
    monkeypatch.setenv("GATE_PASSWORD", "@" * 50)
    (found,) = problems("[cameras.gate]\nsource = 'rtsp://u:{GATE_PASSWORD}@gate.local/x'\n")
    assert "user and password take 152 bytes" in found


def test_the_same_source_twice_is_allowed_with_a_warning(caplog):
    found = read(GATE + GATE.replace("gate]", "yard]"))
    assert list(found) == ["gate", "yard"]
    assert caplog.messages == [
        "cameras.toml:3: camera yard: has the same source as camera gate: both are analysed"
    ]


@pytest.mark.parametrize(
    ("url", "warned"), [("http://h/x", True), ("RTSP://h/x", False), ("rtsps://h/x", False)]
)
def test_a_transport_that_has_no_effect_is_warned_of(caplog, url, warned):
    read(f"[cameras.gate]\nsource = '{url}'\ntransport = 'udp'\n")
    assert bool(caplog.messages) == warned
    caplog.clear()
    read(f"[cameras.gate]\nsource = '{url}'\n", transport="udp")
    assert caplog.messages == []


@pytest.mark.parametrize(
    "text",
    [
        f"[cameras.gate]\nsource = 'rtsp://u:{PASSWORD}@h/@x'\n",
        f"[cameras.gate]\nsource = 'u:{PASSWORD}@h/x'\n",
        f"[cameras.gate]\nsource = '{PASSWORD}/x'\n",
        f"[cameras.gate]\nsource = ['rtsp://u:{PASSWORD}@h/x']\n",
        f"[cameras.gate]\nsource = rtsp://u:{PASSWORD}@h/x\n",
        f"[cameras.gate]\nsource = 'rtsp://u:{PASSWORD}@h/x\n",
        f"[cameras.gate]\nurl = 'rtsp://u:{PASSWORD}@h/x'\n",
        f"[cameras.gate]\n'rtsp://u:{PASSWORD}@h/x' = 1\n",
        f"['rtsp://u:{PASSWORD}@h/x']\n['rtsp://u:{PASSWORD}@h/x']\n",
        f"[cameras.'rtsp://u:{PASSWORD}@h/x']\nsource = 'x'\n",
        f"[cameras.'u:{PASSWORD}@h']\nsource = 'x'\n",
        f"[cameras.'{PASSWORD}']\n[cameras.'{PASSWORD}']\n",
        f"[cameras]\ngate = 'rtsp://u:{PASSWORD}@h/x'\n",
        f"cameras = 'rtsp://u:{PASSWORD}@h/x'\n",
    ],
)
def test_no_problem_shows_a_password(text):
    found = problems(text)
    assert found
    assert PASSWORD not in "".join(found)


def test_a_problem_is_one_line_whatever_it_quotes():
    problem = Problem(3, "gate", "bad\nthing\x85here", Path("a\nb.toml"))
    assert str(problem) == "a b.toml:3: camera gate: bad thing here"


def test_the_settings_of_a_camera_do_not_show_its_source():
    (camera,) = read(GATE).values()
    assert "gate.local" not in repr(camera)


def test_cameras_come_from_arguments_the_config_file_and_the_cameras_file():
    write("fps = 2\n" + GATE, "worker.toml")
    write("[cameras.yard]\nsource = 'rtsp://yard/x'\nfps = 9\n")
    found = of_run(
        "door=rtsp://door/x", "rtsp://pool/x",
        "--config", "worker.toml", "--cameras", "cameras.toml",
    )  # fmt: skip
    assert {camera.camera_id: camera.fps for camera in found.values()} == {
        "door": 2,
        "pool": 2,
        "gate": 2,
        "yard": 9,
    }
    assert list(found) == ["door", "pool", "gate", "yard"]
    assert found["door"].source == "rtsp://door/x"


def test_a_mistake_in_a_table_of_the_config_file_has_the_line_of_that_file():
    write("fps = 2\n" + GATE + "fps = 0\n", "worker.toml")
    with pytest.raises(CamerasFileError, match=r"^worker\.toml:4: camera gate: fps"):
        of_run("--config", "worker.toml")


@pytest.mark.parametrize("argument", ["gate=rtsp://{NAME}:pw@gate/x", "rtsp://{NAME}:pw@gate/x"])
def test_names_in_braces_of_an_argument_are_checked_and_stay(monkeypatch, argument):
    with pytest.raises(UsageError, match=r"\{NAME\} is not in the environment"):
        of_run(argument)
    monkeypatch.setenv("NAME", "a=b")
    assert of_run(argument)["gate"].source == "rtsp://{NAME}:pw@gate/x"


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("gate=file:///etc/s3kret", "^camera gate: not the URL of a camera: .*rtsp://"),
        ("missing.mp4", "^missing.mp4: no such file"),
        ("gate=.", r"^\.: is a directory"),
    ],
)
def test_an_argument_that_cannot_be_opened_is_refused(argument, words):
    with pytest.raises(UsageError, match=words) as caught:
        of_run(argument)
    assert "s3kret" not in str(caught.value)


def test_an_id_is_refused_where_it_is_given_the_second_time():
    write(GATE, "worker.toml")
    write("\n" + GATE)
    with pytest.raises(CamerasFileError, match=r"^cameras\.toml:2: .*twice, also as a SOURCE"):
        of_run("gate=rtsp://other/x", "--cameras", "cameras.toml")
    with pytest.raises(CamerasFileError, match=r"^cameras\.toml:2: .*also in worker\.toml:1"):
        of_run("--config", "worker.toml", "--cameras", "cameras.toml")
    with pytest.raises(UsageError, match="CAMERA_ID=SOURCE"):
        of_run("gate=rtsp://other/x", "rtsp://gate/x")


def test_an_id_is_refused_the_second_time_even_if_the_first_camera_has_a_mistake():
    write(GATE + "fps = 0\n", "worker.toml")
    write(GATE)
    with pytest.raises(CamerasFileError) as caught:
        of_run("--config", "worker.toml", "--cameras", "cameras.toml")
    assert [problem.line for problem in caught.value.problems] == [3, 1]


def test_a_run_may_begin_without_cameras_if_it_has_a_file_for_them():
    write("")
    assert of_run("--cameras", "cameras.toml") == {}


@pytest.mark.parametrize(
    ("table", "general", "expected"),
    [
        ("", (), "off"),
        ("", ("--snapshots",), "on"),
        ("", ("--snapshots", "--snapshot-blur"), "blur"),
        ("", ("--snapshot-blur",), "off"),
        ("snapshots = true", (), "on"),
        ("snapshots = true", ("--no-snapshots",), "on"),
        ("snapshots = true", ("--snapshot-blur",), "blur"),  # privacy is not lost by a table
        ("snapshots = false", ("--snapshots", "--snapshot-blur"), "off"),
        ("snapshots = 'blur'", (), "blur"),
        ("snapshots = 'blur'", ("--snapshots",), "blur"),
    ],
)
def test_whether_a_camera_has_snapshots(table, general, expected):
    write(GATE + table)
    assert of_run("--cameras", "cameras.toml", *general)["gate"].snapshots == expected


def test_a_source_on_the_command_line_has_the_snapshots_of_the_general_options():
    options = "--snapshots", "--snapshot-blur"
    (camera,) = of_run("gate=rtsp://gate.local/x", *options).values()
    assert camera.snapshots == "blur"
    (camera,) = of_run("gate=rtsp://gate.local/x").values()
    assert camera.snapshots == "off"
