"""`ssd-worker evaluate` from the command line: numbers, pictures, comparison, mistakes of users."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ssd_core import Detector
from ssd_core.checkpoints.loading import load_model, save_checkpoint
from tests.conftest import ROOT, WALKWAY
from tests.integration.test_bad_input import USAGE, assert_refused

TWELVE = [
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
]  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    with np.load(ROOT / "tests" / "data" / "ssd_mobilenet_v2_oid_golden.npz") as arrays:
        return list(arrays["inputs"])


@pytest.fixture(scope="module")
def detections(pictures):
    """What the bundled model sees, in fp32."""
    return Detector.load(device="cpu", precision="fp32").detect(pictures)


@pytest.fixture
def data(tmp_path, pictures, detections):
    """What the model sees, all but its first detection, and two objects that it cannot know."""
    names = sorted({name for found in detections for name in found.names} | {"Unicorn", "car"})
    coco = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }
    for index, (picture, found) in enumerate(zip(pictures, detections, strict=True), start=1):
        Image.fromarray(picture).save(tmp_path / f"{index}.png", compress_level=0)
        height, width = picture.shape[:2]
        coco["images"].append(
            {"id": index, "file_name": f"{index}.png", "width": width, "height": height}
        )
        for box, name in zip(found.boxes.tolist(), found.names, strict=True):
            add(coco, index, box, names.index(name) + 1)
    for name in ("Unicorn", "car"):
        add(coco, 1, [0, 0, 20, 20], names.index(name) + 1)
    del coco["annotations"][0]
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(coco))
    return path


def add(coco, image, box, category):
    x1, y1, x2, y2 = box
    coco["annotations"].append(
        {"id": len(coco["annotations"]) + 1, "image_id": image, "category_id": category,
         "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
    )  # fmt: skip


@pytest.fixture
def worse(tmp_path):
    """The bundled model with noise in its weights."""
    return noisy(tmp_path / "worse.safetensors", 0.05)


def noisy(path, amount):
    network, spec, _ = load_model()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=random)
            parameter.add_(noise * parameter.abs().mean() * amount)
    save_checkpoint(network, path, spec)
    return path


def test_json_is_one_object_with_the_twelve_numbers_and_every_class(cli, data, detections):
    done = cli("evaluate", data, "--json", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line, parse_constant=pytest.fail)
    assert [name for name in found if re.match("A[PR]", name)] == TWELVE
    total = sum(map(len, detections))
    assert found["objects"] == total - 1
    assert found["AP50"] > 0.95
    # Of what it reports at its own threshold, one is not labelled, and nothing is missed.
    assert found["working"]["score_threshold"] == 0.4
    assert found["working"]["recall"] == 1
    assert found["working"]["precision"] == pytest.approx((total - 1) / total)
    assert found["unknown_labels"] == ["Unicorn", "car"]
    assert "Unicorn" not in found["per_class"]
    assert "left out are the classes that the model does not know: Unicorn, car (it has Car)" in (
        done.stderr
    )


def test_tables_and_pictures(cli, data, tmp_path):
    done = cli("evaluate", data, "--plots", tmp_path / "new" / "plots", "--score-threshold", 0.5)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split()[:4] == ["CLASS", "OBJECTS", "AP", "AP50"]
    assert any(row.startswith("all ") for row in rows)
    assert "scoring above 0.5" in done.stdout
    assert [name for row in rows if row.startswith("A") for name in row.split()] == TWELVE
    names = {path.name for path in (tmp_path / "new" / "plots").iterdir()}
    assert names == {"precision-recall.png", "misses.png", "false-alarms.png"}


@pytest.mark.long
def test_the_metric_of_voc_has_one_number(cli, data):
    done = cli("evaluate", data, "--metric", "voc07", "--json")
    found = json.loads(done.stdout)
    assert found["metric"] == "voc07"
    assert [name for name in found if re.match("A[PR]", name)] == ["AP"]
    assert found["AP"] > 0.9


@pytest.mark.long
def test_two_weights_files_are_compared(cli, data, worse, tmp_path):
    names = ("labels.json", "same.safetensors", worse.name)
    noisy(tmp_path / "same.safetensors", 0)
    done = cli("evaluate", *names, "--plots", "plots", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["B"]["AP"] < found["A"]["AP"]
    difference = found["difference"]["AP"]
    assert difference["value"] == pytest.approx(found["B"]["AP"] - found["A"]["AP"], abs=1e-6)
    assert found["better"] is None  # five images show nothing
    assert found["sentence"].startswith("no difference can be shown with these 5 images")
    assert len(list((tmp_path / "plots").glob("A-*.png"))) == 3
    assert len(list((tmp_path / "plots").glob("B-*.png"))) == 3
    done = cli("evaluate", *names)
    assert done.stdout.startswith("A: same.safetensors (ssd_mobilenet_v2_oid)\nB: worse.safet")
    assert found["sentence"] in done.stdout


@pytest.mark.long
def test_the_tags_of_a_replay_are_measured_on_the_frames_of_its_recording(cli, tmp_path):
    (tmp_path / "walkway.mp4").symlink_to(WALKWAY)
    replayed = cli("replay", "walkway.mp4", "--fps", 2, "--output", "tags.json")
    assert replayed.returncode == 0, replayed.stderr
    done = cli("evaluate", "tags.json", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    tags = json.loads((tmp_path / "tags.json").read_text())
    assert found["images"] == len(tags["images"])
    assert found["objects"] == len(tags["annotations"]) > 100
    assert found["working"]["recall"] > 0.95  # a replay scales its frames otherwise
    assert found["working"]["precision"] > 0.95


# What a user can get wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no labelled images to measure on: give DATA"),
        (("labels.json", "a.pth", "b.pth", "c.pth"), "at most two weights files"),
        (("labels.json", "a.pth", "--weights", "b.pth"), "named twice"),
        (("labels.json", "a.pth", "b.pth", "--metric", "voc07"), "leave out --metric"),
        (("labels.json", "--metric", "voc12"), "--metric"),
        (("labels.json", "--score-threshold", "1"), "--score-threshold"),
        (("missing.json",), "missing.json"),
        (("labels.json", "missing.safetensors"), "weights missing.safetensors: no such file"),
        (("labels.json", "--weights", "missing.pth"), "weights missing.pth: no such file"),
        (("labels.json", "--model", "yolo"), "unknown model 'yolo'"),
        (("labels.json", "--device", "cuda:99"), "cuda:99"),
    ],
)
def test_wrong_usage_is_one_line(cli, data, arguments, words):
    assert_refused(cli("evaluate", *arguments), USAGE, words)


def test_weights_of_another_model_are_refused(cli, data, worse):
    result = cli("evaluate", data, worse, "--model", "ssd300_vgg16")
    assert_refused(result, USAGE, "it is for 'ssd_mobilenet_v2_oid', not for ssd300_vgg16")


def test_data_without_a_class_of_the_model_are_refused(cli, data):
    text = re.sub(r'"name": "[^"]+"', lambda m: m[0][:-1] + ' x"', data.read_text())
    data.write_text(text)
    assert_refused(cli("evaluate", data), USAGE, "no class in common: the data set has")


def test_data_without_objects_are_refused(cli, data):
    coco = json.loads(data.read_text()) | {"annotations": []}
    data.write_text(json.dumps(coco))
    assert_refused(cli("evaluate", data), USAGE, "no object is labelled")


def test_faults_in_the_data_are_told_and_can_be_skipped(cli, data):
    coco = json.loads(data.read_text())
    coco["annotations"][0]["bbox"][2] = 0
    coco["images"][4]["file_name"] = "gone.png"
    data.write_text(json.dumps(coco))
    refused = cli("evaluate", data)
    assert refused.returncode == USAGE
    first, second, last = refused.stderr.splitlines()
    assert "gone.png" in second
    assert "annotation" in first
    assert last.startswith("ssd-worker: 2 faults in the data set (--skip-invalid")
    elsewhere = cli("evaluate", data, "--images", "nowhere")
    assert elsewhere.stderr.count("(looked in nowhere)") == 5
    done = cli("evaluate", data, "--skip-invalid", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 4


def test_a_directory_for_pictures_that_is_a_file_is_refused_before_any_work(cli, data, tmp_path):
    (tmp_path / "plots").write_text("")
    assert_refused(cli("evaluate", data, "--plots", "plots"), USAGE, "--plots plots: cannot write")


@pytest.mark.skipif(sys.platform != "linux", reason="a directory that not even root may write to")
def test_a_directory_that_may_not_be_written_to_is_refused(cli, data):
    result = cli("evaluate", data, "--plots", "/proc/self/task")
    assert_refused(result, USAGE, "--plots /proc/self/task: cannot write there (")


@pytest.mark.parametrize(
    ("library", "arguments"), [("faster_coco_eval", ()), ("matplotlib", ("--plots", "plots"))]
)
def test_a_missing_library_is_named_with_the_extra(exec_cli, data, library, arguments):
    code = (
        "import sys\n"
        f"sys.modules[{library!r}] = None\n"
        "from worker.cli import run_and_exit\n"
        "run_and_exit()\n"
    )
    process = exec_cli.start("evaluate", data, *arguments, code=code)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (USAGE, "")
    (line,) = stderr.splitlines()
    assert line.endswith(f"{library.replace('_', '-')}: pip install 'ssd-worker[train]'")
