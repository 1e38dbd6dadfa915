"""`ssd-worker train` in several processes, as torchrun starts them."""

import csv
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssd_core.checkpoints.loading import load_model
from ssd_core.checkpoints.safetensors_file import read_safetensors
from tests.lorries import write_data_set

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
SECONDS = 300


def test_two_processes_learn_what_one_learns_with_the_same_batch(exec_cli, tmp_path):
    """Five images in batches of 4: of the last batch, one process has no image."""
    data = write_data_set(tmp_path / "data", 4, size=(320, 240), empty=1)
    exec_cli.env["OMP_NUM_THREADS"] = "1"
    options = (
        "--val", data, "--ema", "0.9", "--epochs", "2", "--batch", "4", "--device", "cpu",
        "--workers", "0", "--tensorboard",
    )  # fmt: skip
    alone = exec_cli("train", data, "--output", "one.safetensors", *options, "1", timeout=SECONDS)
    assert alone.returncode == 0, alone.stderr
    torchrun = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "worker.cli", "train", data, "--output", "two.safetensors", *options, "2",
    )  # fmt: skip
    together = subprocess.run(
        list(map(str, torchrun)), cwd=tmp_path, env=exec_cli.env, timeout=SECONDS,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    for line in ("epoch 0/2: ", "epoch 1/2: "):
        assert together.stderr.count(line) == 1  # one of them talks
    (curves,) = (tmp_path / "2").iterdir()  # and writes
    found = EventAccumulator(str(curves)).Reload()
    assert [point.step for point in found.Scalars("batch/loss")] == [1, 2, 3, 4]
    sums = [
        sum(
            point.value
            for point in EventAccumulator(str(tmp_path / n)).Reload().Scalars("batch/loss")
        )
        for n in ("1", "2")
    ]
    assert sums[1] == pytest.approx(sums[0], rel=2e-3)  # of each batch the loss, not of a share

    rows = [
        list(csv.DictReader((tmp_path / f"{name}.safetensors.training/epochs.csv").open()))
        for name in ("one", "two")
    ]
    assert [row["number"] for row in rows[1]] == ["0", "1", "2"]
    for one, two in zip(*(of_run[1:] for of_run in rows), strict=True):
        for name in ("regression_loss", "classification_loss"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=2e-3)
        assert float(two["AP"]) == pytest.approx(float(one["AP"]), abs=0.02)
    one, two = (read_safetensors(tmp_path / f"{name}.safetensors")[0] for name in ("one", "two"))
    start = load_model()[0].state_dict()
    same = [name for name in start if not name.startswith("classification_heads.")]
    learnt = sum((one[name] - start[name]).square().sum() for name in same).sqrt()
    apart = sum((one[name] - two[name]).square().sum() for name in same).sqrt()
    # Adam's first steps are as long for a gradient that is nearly 0, whose sign rounding decides.
    assert apart < 0.1 * learnt
