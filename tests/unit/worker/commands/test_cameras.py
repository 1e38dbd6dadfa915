import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WALKWAY
from worker.commands.cameras import check_cameras
from worker.settings.fields import CamerasSettings

BUNDLED = WALKWAY.parent.parent / "ssd_core" / "weights" / "ssd_mobilenet_v2_oid.safetensors"
PASSWORD = "hunter22-secret"
TWO_CAMERAS = f"""\
[cameras.gate]
source = "rtsp://admin:{PASSWORD}@gate.local:8554/stream?token={PASSWORD}"
fps = 5
labels = ["Person", "Car"]
score_threshold = 0.5
transport = "tcp"
ignore = [[[0, 0], [1, 0], [1, 0.1]]]
snapshots = "blur"

[cameras.entrance]
source = "{WALKWAY}"
"""


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Checks a file of this text; gives the code, and the lines on stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def check(text, **options):
        Path("cameras.toml").write_text(text)
        code = check_cameras(CamerasSettings(cameras=Path("cameras.toml"), **options))
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return check


def test_what_would_run_is_a_table_on_stdout(check):
    code, out, err = check(TWO_CAMERAS)
    assert (code, err) == (0, [])
    assert [line.split("  ")[0] for line in out] == ["CAMERA", "gate", "entrance"]
    gate = "gate rtsp://gate.local:8554 5 Person, Car 0.5 tcp 1 polygon blur"
    assert out[1].split() == gate.split()
    assert out[2].split() == [
        "entrance",
        str(WALKWAY),
        *["all", "all", "model's", "auto", "-", "off"],
    ]
    assert out[0].index("FPS") == out[1].index("5  ") == out[2].index("all")


def test_general_options_stand_where_the_table_does_not_say(check):
    options = {"labels": ["Dog"], "transport": "udp", "snapshots": True}
    _, out, _ = check(TWO_CAMERAS, fps=2, score_threshold=0.1, **options)
    assert out[2].split()[2:] == ["2", "Dog", "0.1", "udp", "-", "on"]


def test_what_is_wrong_is_on_stderr_and_the_other_cameras_are_shown(check):
    code, out, err = check(TWO_CAMERAS + "fps = 0\nlabels = ['Prson']\n")
    assert code == 2
    assert len(out) == 2
    assert out[1].startswith("gate")
    assert err == [
        "cameras.toml:12: camera entrance: fps: should be greater than 0",
        "cameras.toml:13: camera entrance: labels: the model does not know Prson: "
        "did you mean Person?",
    ]


def test_json_has_cameras_problems_and_warnings(check):
    again = TWO_CAMERAS.partition("\n[")[0].replace("gate]", "again]")
    code, out, err = check(f"{TWO_CAMERAS}{again}\n[cameras.bad]\n", as_json=True)
    assert code == 2
    (line,) = out
    found = json.loads(line)
    assert found["cameras"][0] == {
        "camera_id": "gate",
        "source": "rtsp://gate.local:8554",
        "fps": 5,
        "labels": ["Person", "Car"],
        "score_threshold": 0.5,
        "transport": "tcp",
        "ignore": [[[0, 0], [1, 0], [1, 0.1]]],
        "anchor": "bottom",
        "snapshots": "blur",
    }
    (problem,) = found["problems"]
    assert (problem["file"], problem["camera_id"]) == ("cameras.toml", "bad")
    (warning,) = found["warnings"]
    assert (warning["line"], warning["camera_id"]) == (12, "again")
    assert len(err) == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_no_password_is_shown(check, as_json):
    _, out, err = check(TWO_CAMERAS + f"x = '{PASSWORD}'\n", as_json=as_json)
    assert out
    assert err
    assert PASSWORD not in str(out + err)


def test_a_warning_alone_is_no_failure(check):
    code, out, err = check(TWO_CAMERAS + TWO_CAMERAS.replace("cameras.", "cameras.second-"))
    assert code == 0
    assert len(out) == 5
    assert [line.endswith("(warning only)") for line in err] == [True, True]


def test_a_file_without_cameras_is_right_and_said_to_have_none(check):
    code, out, err = check("")
    assert (code, out) == (0, [])
    assert err == ["no cameras yet: `ssd-worker run` would wait for some"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "ssd300"}, "--model: unknown model 'ssd300': did you mean ssd300_vgg16?"),
        ({"model": "ssd300_vgg16"}, "comes without weights"),
        ({"weights": "missing.safetensors"}, "missing.safetensors: no such file"),
        ({"labels": ["Zebra"]}, "--labels: the model does not know Zebra"),
    ],
)
def test_general_options_that_cannot_work_are_named_beside_the_mistakes_of_the_file(
    check, options, words
):
    code, _, err = check(TWO_CAMERAS + "fps = 0\n", **options)
    assert code == 2
    assert len(err) == 2
    assert words in err[0]
    assert err[1].startswith("cameras.toml:12: ")


def test_labels_are_those_that_the_weights_bring(check, tmp_path):
    from ssd_core.checkpoints.loading import load_model, save_checkpoint
    from ssd_core.models.zoo import get_spec

    spec = get_spec("ssd_mobilenet_v2_oid")
    model, spec, _ = load_model(spec, BUNDLED)
    renamed = spec.with_labels(tuple(label.replace("Person", "Zebra") for label in spec.labels))
    save_checkpoint(model, tmp_path / "own.safetensors", renamed)
    table = "[cameras.gate]\nsource = 'rtsp://h/x'\nlabels = 'Zebra'\n"
    assert check(table)[0] == 2
    assert check(table, weights=str(tmp_path / "own.safetensors"))[0] == 0


def test_labels_of_weights_to_download_are_known_before_the_download(check):
    table = "[cameras.gate]\nsource = 'rtsp://h/x'\nlabels = 'zebra'\n"
    assert check(table, model="ssd300_vgg16", weights="coco")[0] == 0


def test_pytorch_is_imported_only_if_there_are_labels_to_check(tmp_path):
    (tmp_path / "cameras.toml").write_text("[cameras.gate]\nsource = 'rtsp://h/x'\nfps = 1\n")
    program = (
        "import sys; from worker.cli import main; code = main(['cameras', 'cameras.toml']);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)
