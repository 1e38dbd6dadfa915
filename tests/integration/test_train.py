"""`ssd-worker train` from labelled images to weights that replay and the detector serve."""

import json
import resource
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssd_core import Detector
from ssd_core.checkpoints.loading import load_model, save_checkpoint
from ssd_core.checkpoints.safetensors_file import read_safetensors
from tests.conftest import json_lines, wait_until
from tests.lorries import COLOURS, write_data_set

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
QUICK = ("--epochs", "3", "--batch", "4", "--device", "cpu", "--workers", "0")
SECONDS = 300
"""A run may take so long where all cores are busy."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("train"), 7, size=(320, 240), empty=1)


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("val"), 2, size=(320, 240), seed=1)


@pytest.fixture
def train(cli, data, tmp_path):
    """Trains to `own.safetensors`, or another name."""
    cli.env["OMP_NUM_THREADS"] = "1"  # the last digits depend on it

    def train(*options, output="own.safetensors", start=False):
        arguments = ("train", data, "--output", output, *QUICK, *options)
        return cli.start(*arguments) if start else cli(*arguments, timeout=SECONDS)

    return train


def tensors(path):
    return read_safetensors(path)[0]


def assert_same_weights(first, second):
    first, second = tensors(first), tensors(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# What comes out


@pytest.mark.parametrize("stored", ["fp32", "fp16"])
def test_the_weights_are_all_that_the_detector_and_a_replay_need(
    train, cli, validation, tmp_path, stored
):
    options = ("--half",) if stored == "fp16" else ()
    done = train("--val", validation, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("epoch ") >= 3
    path = tmp_path / "own.safetensors"
    detector = Detector.load(weights=path, device="cpu", precision="fp32")
    assert detector.spec.labels[1:] == tuple(COLOURS)
    _, metadata = read_safetensors(path)
    record = json.loads(metadata["training"])
    assert record["images"] == 8
    assert record["validation_images"] == 2
    assert record["settings"]["weights"].startswith("sha256:41a4dff8")
    assert record["settings"]["seed"] == 0
    assert 0 <= record["AP"] <= record["AP50"] <= 1
    assert detector.score_threshold == float(metadata["score_threshold"])
    shown = f"score threshold: {detector.score_threshold:g} (the highest F1 on the validation set)"
    assert shown in done.stderr
    assert set(record["versions"]) == {"ssd-worker", "torch", "torchvision"}
    assert "MediaPipe" in metadata["licence"]
    assert sorted(p.name for p in (tmp_path / "own.safetensors.training").iterdir()) == [
        "curves.png",
        "epochs.csv",
        "lock",
        "samples.png",
    ]

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        picture = np.full((240, 320, 3), 110, np.uint8)
        picture[60:160, 80 : 220 - 10 * number] = COLOURS["Lorry"]
        Image.fromarray(picture).save(pictures / f"{number}.png")
    replayed = (
        "replay",
        pictures,
        "--weights",
        path,
        "--device",
        "cpu",
        "--score-threshold",
        "0.005",
    )
    for output in ("tags.jsonl", "tags.json"):
        done = cli(*replayed, "--output", output)
        assert done.returncode == 0, done.stderr
    events = json_lines(tmp_path / "tags.jsonl")
    found = Counter(d["label"] for e in events for d in e["data"].get("detections", ()))
    assert found
    assert set(found) <= set(COLOURS)
    assert events[0]["data"]["model"]["name"] == "ssd_mobilenet_v2_oid"
    coco = json.loads((tmp_path / "tags.json").read_text())
    assert {category["name"] for category in coco["categories"]} == set(COLOURS)
    filtered = cli(*replayed, "--output", "lorries.jsonl", "--labels", "Lorry")
    assert filtered.returncode == 0, filtered.stderr
    unknown = cli(*replayed, "--output", "cars.jsonl", "--labels", "Car")
    assert unknown.returncode == 2
    assert "Lorry" in unknown.stderr
    other = cli(*replayed, "--output", "x.jsonl", "--model", "ssd300_vgg16")
    assert other.returncode == 2
    assert "not for ssd300_vgg16" in other.stderr


def test_own_weights_are_trained_further_and_their_digest_is_told(train, tmp_path):
    assert train("--epochs", "1").returncode == 0
    done = train("--epochs", "1", "--weights", "own.safetensors", output="further.safetensors")
    assert done.returncode == 0, done.stderr
    assert "the weights know Lorry, Van: what they learnt is kept" in done.stderr
    _, metadata = read_safetensors(tmp_path / "further.safetensors")
    first = Detector.load(weights=tmp_path / "own.safetensors", device="cpu").digest
    assert json.loads(metadata["training"])["settings"]["weights"] == first


def test_a_preview_is_drawn_without_training(cli, data, tmp_path):
    done = cli("train", data, "--preview", "page.png")
    assert done.returncode == 0, done.stderr
    assert max(Image.open(tmp_path / "page.png").size) > 600
    assert not list(tmp_path.glob("*.training"))


# Interrupted


def test_a_run_killed_again_and_again_ends_with_the_weights_of_one_that_was_not(train, tmp_path):
    options = ("--ema", "0.9", "--augment", "light", "--no-flip")
    assert train(*options, output="whole.safetensors").returncode == 0
    options += ("--tensorboard", "runs")
    rows = tmp_path / "own.safetensors.training" / "epochs.csv"
    state = tmp_path / "own.safetensors.training" / "state.pt"
    for epochs in (1, 2):
        process = train("--resume", *options, start=True)
        wait_until(
            lambda epochs=epochs: rows.exists() and len(rows.read_text().splitlines()) > epochs,
            timeout=SECONDS,
            what=f"{epochs} epochs",
        )
        process.kill()
        process.communicate()
        assert not (tmp_path / "own.safetensors").exists()
        assert state.exists()
    done = train("--resume", *options)
    assert done.returncode == 0, done.stderr
    assert "going on after epoch 2 of 3" in done.stderr
    assert_same_weights(tmp_path / "own.safetensors", tmp_path / "whole.safetensors")
    _, metadata = read_safetensors(tmp_path / "own.safetensors")
    settings = json.loads(metadata["training"])["settings"]
    assert (settings["optimizer"], settings["schedule"], settings["ema"]) == (
        "adamw",
        "cosine",
        0.9,
    )
    assert settings["augmentation"]["flip"] is False
    curves = EventAccumulator(str(tmp_path / "runs")).Reload()
    assert [point.step for point in curves.Scalars("batch/loss")] == [1, 2, 3, 4, 5, 6]
    assert [point.step for point in curves.Scalars("epoch/loss")] == [2, 4, 6]
    again = train("--resume", *options)
    assert again.returncode == 0
    assert "finished already" in again.stderr
    other = train("--resume", *options, "--augment", "paper")
    assert other.returncode == 2
    assert "exists already" in other.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_told_to_stop_ends_after_the_step_and_says_how_to_go_on(train, tmp_path, number):
    process = train("--epochs", "200", start=True)
    rows = tmp_path / "own.safetensors.training" / "epochs.csv"
    wait_until(rows.exists, timeout=SECONDS, what="an epoch")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "run the same command with --resume to go on after epoch" in stderr
    refused = train("--epochs", "200")
    assert refused.returncode == 2
    assert "a run that is not finished: give --resume" in refused.stderr
    other = train("--epochs", "100", "--resume")
    assert other.returncode == 2
    assert "epochs was 200, is 100" in other.stderr


def test_worker_processes_end_with_a_stopped_run(train, tmp_path):
    process = train("--epochs", "200", "--workers", "2", start=True)
    rows = tmp_path / "own.safetensors.training" / "epochs.csv"
    wait_until(rows.exists, timeout=SECONDS, what="an epoch")
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    assert children
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    wait_until(
        lambda: not any(Path("/proc", pid).exists() for pid in children),
        timeout=20,
        what="the end of the processes that read images",
    )


def test_data_that_changed_meanwhile_is_noticed(cli, data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data.parent, folder)
    own = folder / data.name

    process = cli.start("train", own, "--output", "own.safetensors", *QUICK)
    rows = tmp_path / "own.safetensors.training" / "epochs.csv"
    wait_until(rows.exists, timeout=SECONDS, what="an epoch")
    process.kill()
    process.communicate()
    content = json.loads(own.read_text())
    content["annotations"].pop()
    own.write_text(json.dumps(content))
    done = cli("train", own, "--output", "own.safetensors", *QUICK, "--resume")
    assert done.returncode == 2
    assert "the data set has changed since it began" in done.stderr


# What goes wrong


def test_a_loss_that_is_no_number_ends_in_one_line_that_names_the_images(train, tmp_path):
    network, spec, _ = load_model()
    torch.nn.init.constant_(network.regression_heads[0].bias, 3e38)
    save_checkpoint(network, tmp_path / "huge.safetensors", spec)
    done = train("--weights", "huge.safetensors")
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "no longer a finite number in epoch 1, at 0-" in last
    assert last.count(".png") == 4
    assert "Traceback" not in done.stderr


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_later(exec_cli, data, tmp_path):
    arguments = ("train", data, "--output", "own.safetensors", *QUICK)
    exec_cli.env["OMP_NUM_THREADS"] = "1"
    assert exec_cli("train", data, "--output", "whole.safetensors", *QUICK).returncode == 0
    first = exec_cli.start(*arguments)
    rows = tmp_path / "own.safetensors.training" / "epochs.csv"
    wait_until(rows.exists, timeout=SECONDS, what="an epoch")
    first.kill()
    first.communicate()

    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = exec_cli(*arguments, "--resume", preexec_fn=no_large_files)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "cannot write own.safetensors.training/state.pt (File too large)" in last
    assert "the checkpoint of epoch 1 is kept" in last
    done = exec_cli(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path / "own.safetensors", tmp_path / "whole.safetensors")


def test_an_image_that_is_damaged_in_the_middle_is_named(cli, data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data.parent, folder)
    victim = sorted(folder.glob("*.png"))[3]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    done = cli("train", folder / data.name, "--output", "own.safetensors", *QUICK)
    assert done.returncode in (1, 2)
    assert victim.name in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_one_image_and_a_batch_larger_than_the_data_set_are_trained_with(cli, tmp_path):
    own = write_data_set(tmp_path / "one", 1, size=(320, 240))
    done = cli("train", own, "--output", "own.safetensors", *QUICK, "--batch", "16")
    assert done.returncode == 0, done.stderr
    assert "--batch 16: there are only 1 images: using 1" in done.stderr
    assert "one image teaches how it looks itself" in done.stderr
