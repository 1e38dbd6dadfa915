"""What a run keeps on disk: whole files, and a state that only its own run goes on from."""

import errno
import os
import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from ssd_core.errors import TrainingError
from ssd_core.training.run_folder import FORMAT, RunFolder, write_weights, write_whole

SETTINGS = {
    "data": "sha256:1",
    "validation": None,
    "weights": "sha256:2",
    "epochs": 3,
    "learning_rate": 0.1,
    "labels": ["background", "Cat"],
    "augmentation": {"largest_zoom": 4.0, "flip": True},
}
STATE = {"settings": SETTINGS, "network": {"w": torch.arange(5000.0)}}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "own.safetensors")
    folder.claim()
    yield folder
    folder.release()


@contextmanager
def full_disk(size):
    """No file can be larger than ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refusal(function, *arguments):
    with pytest.raises(TrainingError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# The state


def test_a_state_comes_back_as_it_was(folder):
    assert folder.load(SETTINGS) is None
    folder.save(STATE)
    loaded = folder.load(SETTINGS)
    assert loaded["settings"] == SETTINGS
    assert torch.equal(loaded["network"]["w"], STATE["network"]["w"])
    assert sorted(p.name for p in folder.path.iterdir()) == ["lock", "state.pt"]


def test_other_settings_are_refused_and_each_is_named(folder):
    folder.save(STATE)
    changed = SETTINGS | {"epochs": 5, "learning_rate": 0.2, "data": "sha256:9", "weights": None}
    changed["augmentation"] = {"largest_zoom": 4.0, "flip": False}
    message = refusal(folder.load, changed)
    assert message == (
        f"cannot resume the run in {folder.path}: the augmentation is another than when "
        "it began (--augment, --flip); the data set has changed since it began; "
        "epochs was 3, is 5; lr was 0.1, is 0.2; the weights to start from have changed since it "
        "began: "
        "give what it began with, or start again with --overwrite"
    )
    assert folder.load(SETTINGS) is not None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"\x80\x02}q\x00."])
def test_a_damaged_state_is_refused(folder, content):
    folder.state.write_bytes(content)
    assert "cannot be read" in refusal(folder.load, SETTINGS)


def test_a_state_cut_short_is_refused(folder):
    folder.save(STATE)
    folder.state.write_bytes(folder.state.read_bytes()[:-100])
    assert "start again with --overwrite" in refusal(folder.load, SETTINGS)


def test_a_state_that_would_run_code_is_refused(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"format": 1, "settings": Evil()}, folder.state)
    assert "cannot be read" in refusal(folder.load, SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_state_of_another_version_is_refused(folder):
    torch.save({"format": FORMAT + 1, **STATE}, folder.state)
    assert "another version of ssd-worker" in refusal(folder.load, SETTINGS)


# Whole files


def test_on_a_full_disk_the_state_before_stays(folder):
    folder.save(STATE)
    larger = STATE | {"network": {"w": torch.arange(50_000.0)}}
    with full_disk(60_000):
        message = refusal(folder.save, larger)
    assert message == f"cannot write {folder.state} ({os.strerror(errno.EFBIG)})"
    assert len(folder.load(SETTINGS)["network"]["w"]) == 5000
    assert sorted(p.name for p in folder.path.iterdir()) == ["lock", "state.pt"]


def test_on_a_full_disk_the_weights_before_stay(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "own.safetensors"
    write_weights(path, tiny_model, tiny_spec)
    before = path.read_bytes()
    with full_disk(500):
        assert f"cannot write {path} (" in refusal(write_weights, path, tiny_model, tiny_spec)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_too_large_for_fp16_are_refused(tiny_model, tiny_spec, tmp_path):
    torch.nn.init.constant_(tiny_model.backbone.convolution.bias, 70_000)
    path = tmp_path / "own.safetensors"
    assert "too large for torch.float16" in refusal(
        write_weights, path, tiny_model, tiny_spec, torch.float16
    )
    assert list(tmp_path.iterdir()) == []


def test_weights_may_be_read_by_whom_the_umask_allows(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "own.safetensors"
    before = os.umask(0o027)
    try:
        write_weights(path, tiny_model, tiny_spec)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_is_written_over_what_a_killed_process_left(tmp_path):
    (tmp_path / ".x.unfinished").write_bytes(b"half of something longer")
    write_whole(tmp_path / "x", lambda file: file.write(b"whole"))
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


# One process


def test_a_folder_belongs_to_one_process_at_a_time(folder, tmp_path):
    other = RunFolder(tmp_path / "own.safetensors")
    assert "another process is training there" in refusal(other.claim)
    folder.release()
    other.claim()
    other.release()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "own.safetensors.training").write_text("a file")
    assert "cannot write there" in refusal(RunFolder(tmp_path / "own.safetensors").claim)


def test_an_output_says_which_run_made_it(folder, tiny_model, tiny_spec):
    assert folder.made_by() is None
    write_weights(folder.output, tiny_model, tiny_spec)
    assert folder.made_by() is None
    spec = replace(tiny_spec, training='{"settings": {"epochs": 3}}')
    write_weights(folder.output, tiny_model, spec)
    assert folder.made_by() == {"epochs": 3}
