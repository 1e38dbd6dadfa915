"""`ssd-worker train` in several processes, as torchrun starts them."""

import csv
import subprocess
import sys

import pytest

from ssd_core.checkpoints.loading import load_model
from ssd_core.checkpoints.safetensors_file import read_safetensors
from tests.lorries import write_data_set

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
SECONDS = 300


def test_two_processes_learn_what_one_learns_with_the_same_batch(exec_cli, tmp_path):
    """Five images in batches of 4: of the last batch, one process has no image."""
    data = write_data_set(tmp_path / "data", 4, size=(320, 240), empty=1)
    exec_cli.env["OMP_NUM_THREADS"] = "1"
    options = ("--epochs", "2", "--batch", "4", "--device", "cpu", "--workers", "0")
    alone = exec_cli("train", data, "--output", "one.safetensors", *options, timeout=SECONDS)
    assert alone.returncode == 0, alone.stderr
    torchrun = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "worker.cli", "train", data, "--output", "two.safetensors", "--val", data, *options,
    )  # fmt: skip
    together = subprocess.run(
        list(map(str, torchrun)), cwd=tmp_path, env=exec_cli.env, timeout=SECONDS,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    assert together.stderr.count("epoch 1/2: ") == 1  # one of them talks

    rows = [
        list(csv.DictReader((tmp_path / f"{name}.safetensors.training/epochs.csv").open()))
        for name in ("one", "two")
    ]
    for one, two in zip(*rows, strict=True):
        for name in ("regression_loss", "classification_loss"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=2e-3)
        assert two["AP"]
    one, two = (read_safetensors(tmp_path / f"{name}.safetensors")[0] for name in ("one", "two"))
    start = load_model()[0].state_dict()
    same = [name for name in start if not name.startswith("classification_heads.")]
    learnt = sum((one[name] - start[name]).square().sum() for name in same).sqrt()
    apart = sum((one[name] - two[name]).square().sum() for name in same).sqrt()
    # Adam's first steps are as long for a gradient that is nearly 0, whose sign rounding decides.
    assert apart < 0.1 * learnt
