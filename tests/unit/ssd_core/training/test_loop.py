"""A run from its first step to its weights, stopped and gone on with."""

import csv
import gc
import json
import resource
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from ssd_core import Detector
from ssd_core.checkpoints.safetensors_file import read_safetensors
from ssd_core.errors import TrainingError
from ssd_core.training.data_sets.reading import read_data_set
from ssd_core.training.loader import BatchLoader
from ssd_core.training.loop import Training, training_precision
from ssd_core.training.recipe import Recipe
from ssd_core.training.run_folder import RunFolder
from tests.conftest import wait_until
from tests.lorries import write_data_set
from tests.params import mostly_long
from tests.unit.ssd_core.conftest import tiny_network

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, batch=3, learning_rate=0.01, seed=7)
LEARNING = replace(RECIPE, epochs=6, learning_rate=0.1)
"""The tiny model has few weights, which must go far."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_data_set([write_data_set(tmp_path_factory.mktemp("data"))])


@pytest.fixture
def run(tiny_spec, data, tmp_path):
    """Trains the tiny model; gives the training and whether it came to the end."""

    def run(
        recipe=RECIPE,
        *,
        output=tmp_path / "own.safetensors",
        data=data,
        resume=False,
        change=None,
        device=CPU,
        **options,
    ):
        folder = RunFolder(output)
        folder.claim()
        spec = replace(tiny_spec, labels=data.labels)
        torch.manual_seed(0)
        settings = {"data": data.digest, "validation": None, "weights": "none", **asdict(recipe)}
        network = tiny_network(spec, False)
        if change is not None:
            change(network)
        training = Training(network, spec, data, recipe, device, folder, settings)
        try:
            if resume:
                training.resume()
            with BatchLoader(
                data, spec, recipe.batch, seed=recipe.seed, augment=recipe.augmentation
            ) as loader:
                return training, training.run(loader, **options)
        finally:
            folder.release()

    return run


def weights_of(training):
    return training.best_network().state_dict()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# What comes out


def test_the_loss_falls(run):
    training, finished = run(LEARNING)
    assert finished
    assert training.history[-1].loss < 0.8 * training.history[0].loss
    assert [epoch.number for epoch in training.history] == list(range(1, 7))


def test_without_validation_the_best_epoch_is_the_one_with_the_lowest_loss(run):
    training, _ = run()
    assert training.best.loss == min(epoch.loss for epoch in training.history)


def test_with_validation_the_best_epoch_is_the_one_with_the_highest_ap(run):
    aps = iter([0.2, 0.1, 0.5, None, 0.4])
    seen = []

    def validate(detector):
        assert isinstance(detector, Detector)
        seen.append({name: x.clone() for name, x in detector.model.state_dict().items()})
        return {"AP": next(aps), "AP50": 0.6}

    training, _ = run(validate=validate)
    assert training.best.number == 2
    assert_same(weights_of(training), seen[2])
    record = json.loads(training.best_spec({"images": 8}).training)
    assert (record["epoch"], record["AP"], record["images"]) == (2, 0.5, 8)
    assert record["settings"]["learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("measured", "used"),
    [(0.1239, 0.123), (0.001, 0.05), (0.99, 0.6), (None, 0.4)],
)
def test_the_score_threshold_is_the_validations(run, tmp_path, measured, used):
    numbers = {"AP": 0.5, "score_threshold": measured}
    training, _ = run(replace(RECIPE, epochs=1), validate=lambda detector: numbers)
    assert training.best_spec({}).score_threshold == used
    _, metadata = read_safetensors(tmp_path / "own.safetensors.training" / "best.safetensors")
    assert float(metadata["score_threshold"]) == used
    assert training.best_detector().score_threshold == used


def test_of_epochs_with_equal_ap_the_one_with_the_lowest_loss_is_the_best(run):
    training, _ = run(validate=lambda detector: {"AP": None})
    assert training.best.loss == min(epoch.loss for epoch in training.history)


# The starting weights


def test_if_no_epoch_has_a_higher_ap_the_starting_weights_are_the_best(run, tmp_path):
    first = {}

    def keep(network):
        first.update({name: x.clone() for name, x in network.state_dict().items()})

    aps = iter([0.5, 0.1, 0.5, None, 0.4])
    epochs = []
    training, _ = run(
        validate=lambda detector: {"AP": next(aps), "score_threshold": 0.3},
        change=keep,
        on_epoch=epochs.append,
    )
    assert training.best is training.start
    assert_same(weights_of(training), first)
    spec = training.best_spec({})
    record = json.loads(spec.training)
    assert (record["epoch"], record["AP"], record["loss"]) == (0, 0.5, None)
    assert spec.score_threshold == 0.3
    assert [epoch.number for epoch in epochs] == [0, 1, 2, 3, 4]
    assert [epoch.number for epoch in training.history] == [1, 2, 3, 4]
    tensors, _ = read_safetensors(tmp_path / "own.safetensors.training" / "best.safetensors")
    assert_same(tensors, first)


@pytest.mark.parametrize("ap", [0.0, None])
def test_starting_weights_that_find_nothing_are_not_kept(run, ap):
    training, _ = run(validate=lambda detector: {"AP": ap})
    assert training.start.numbers == {"AP": ap}
    assert training.best.number > 0


def test_starting_weights_are_measured_once_however_often_a_run_goes_on(run):
    measured, stops = [], iter([False, True])

    def validate(detector):
        measured.append(len(measured))
        return {"AP": 0.9 - measured[-1] / 10}

    stopped, _ = run(validate=validate, should_stop=lambda: next(stops))
    assert (stopped.history, measured) == ([], [0])
    training, finished = run(validate=validate, resume=True)
    assert finished
    assert measured == [0, 1, 2, 3, 4]
    assert training.best is training.start
    again, _ = run(validate=validate, resume=True)
    assert again.best is again.start == training.start
    assert_same(weights_of(again), weights_of(training))


def test_without_validation_the_starting_weights_are_not_the_best(run):
    training, _ = run()
    assert training.start is None
    assert training.best.number > 0


def test_a_full_disk_before_the_first_epoch_is_told(run):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def validate(detector):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        return {"AP": 0.5}

    try:
        with pytest.raises(TrainingError, match=r"too large\) \(no epoch was finished"):
            run(validate=validate)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# On the way


@pytest.mark.parametrize("accumulate", mostly_long(1, 2))
def test_every_batch_is_told_with_its_loss(run, accumulate):
    told = []
    training, _ = run(replace(RECIPE, accumulate=accumulate), on_step=told.append)
    assert [progress.batch for progress in told] == list(range(1, 13))
    assert [progress.images for progress in told] == [3, 6, 8] * 4
    for number, epoch in enumerate(training.history):
        own = told[3 * number : 3 * number + 3]
        assert {progress.epoch for progress in own} == {number + 1}
        losses = [progress.batch_loss for progress in own]
        for seen, progress in enumerate(own, 1):
            assert progress.loss == pytest.approx(sum(losses[:seen]) / seen)
        assert epoch.loss == pytest.approx(own[-1].loss)
        assert epoch.learning_rate == own[-1].learning_rate


def test_training_goes_on_after_the_detector_of_a_validation(run):
    """A detector changes its network and takes no gradients."""
    plain, _ = run()
    validated, _ = run(validate=lambda detector: {"AP": 0.0})
    assert [e.loss for e in validated.history] == [e.loss for e in plain.history]


def test_validations_leave_no_threads_and_do_not_slow_the_training(run):
    threads = threading.active_count(), torch.get_num_threads()
    seen = []

    def validate(detector):
        detector.detect([np.zeros((16, 24, 3), np.uint8)] * 4)
        seen.append(torch.get_num_threads())
        return {"AP": 0.0}

    run(validate=validate)
    gc.collect()
    assert len(seen) == 5
    wait_until(lambda: threading.active_count() == threads[0], what="the end of the threads")
    assert torch.get_num_threads() == threads[1]


def test_the_folder_has_a_row_per_epoch_and_the_best_weights_ready_for_use(run, tmp_path):
    training, _ = run(validate=lambda detector: {"AP": 0.25, "AP50": None})
    folder = tmp_path / "own.safetensors.training"
    rows = list(csv.DictReader((folder / "epochs.csv").open()))
    assert [row["number"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert {row["AP"] for row in rows} == {"0.25"}
    assert {row["AP50"] for row in rows} == {""}
    assert rows[0]["regression_loss"] == rows[0]["learning_rate"] == ""
    tensors, metadata = read_safetensors(folder / "best.safetensors")
    assert_same(tensors, weights_of(training))
    assert json.loads(metadata["training"])["epoch"] == training.best.number


# Determinism


def test_the_same_seed_gives_the_same_weights_and_another_does_not(run):
    first, second, other = (run(replace(RECIPE, epochs=1, seed=seed))[0] for seed in (1, 1, 2))
    assert_same(weights_of(first), weights_of(second))
    assert first.history[-1].loss != other.history[-1].loss


@pytest.mark.parametrize(
    "options",
    mostly_long(
        {"ema": 0.9},
        {"optimizer": "sgd", "schedule": "step", "augmentation": None},
        {"accumulate": 2, "ema": 0.9},
        {"accumulate": 2},
    ),
)
def test_a_run_that_goes_on_ends_with_the_same_weights(run, tmp_path, options):
    recipe = replace(RECIPE, **options)
    whole, _ = run(recipe, output=tmp_path / "whole.safetensors")
    for epochs in (1, 2, 1):
        stop_in = []

        def on_step(progress, stop_in=stop_in, epochs=epochs):
            stop_in.append(progress)

        part, finished = run(
            recipe,
            resume=True,
            on_step=on_step,
            # in the middle of an epoch: it is lost
            should_stop=lambda stop_in=stop_in, epochs=epochs: len(stop_in) == 3 * epochs + 2,
        )
    assert finished
    assert [e.loss for e in part.history] == [e.loss for e in whole.history]
    assert_same(weights_of(part), weights_of(whole))
    first, second = (
        torch.load(RunFolder(tmp_path / f"{name}.safetensors").state) for name in ("own", "whole")
    )
    for name in ("network", "average", "optimizer"):
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


def test_accumulated_batches_make_one_step(run):
    """At one image a batch and three to a step, as at three a batch, up to what the loss's own
    normalisation changes."""
    whole, _ = run(replace(RECIPE, epochs=1, batch=8))
    parts, _ = run(replace(RECIPE, epochs=1, batch=1, accumulate=8))
    for name, tensor in weights_of(whole).items():
        # Adam's first step is as long for every gradient: the direction counts.
        assert (tensor - weights_of(parts)[name]).abs().max() <= 2.1 * RECIPE.learning_rate
    assert len(parts.history) == 1


@pytest.mark.parametrize("accumulate", mostly_long(2, 1))
def test_what_is_measured_and_kept_is_the_average_of_the_weights(run, accumulate):
    recipe = replace(RECIPE, ema=0.15, accumulate=accumulate)
    raw, seen = [], []

    def keep(network):
        def after_step(*_):
            raw.append({name: x.clone() for name, x in network.state_dict().items()})

        after_step()
        handles.append(register_optimizer_step_post_hook(after_step))

    def validate(detector):
        seen.append({name: x.clone() for name, x in detector.model.state_dict().items()})
        return {"AP": 0.1 * len(seen)}

    handles = []
    try:
        training, _ = run(recipe, change=keep, validate=validate)
    finally:
        handles[0].remove()
    per_epoch = -(-3 // accumulate)
    assert len(raw) == 1 + 4 * per_epoch
    average = raw[0]
    assert_same(seen[0], average)
    for step, weights in enumerate(raw[1:], 1):
        decay = 0.1 if step == 1 else 0.15
        average = {
            name: decay * kept + (1 - decay) * weights[name] for name, kept in average.items()
        }
        if step % per_epoch == 0:
            for name, tensor in seen[step // per_epoch].items():
                assert torch.allclose(tensor, average[name], atol=1e-6), name
    assert training.best.number == 4
    assert_same(weights_of(training), seen[4])
    assert any(not torch.allclose(seen[4][name], x) for name, x in raw[-1].items())


def test_told_to_stop_at_once_it_does_nothing(run, tmp_path):
    training, finished = run(should_stop=lambda: True)
    assert not finished
    assert training.history == []
    assert not (tmp_path / "own.safetensors.training" / "state.pt").exists()


def test_a_finished_run_is_finished_when_it_is_resumed(run):
    run()
    training, finished = run(resume=True, on_step=lambda progress: pytest.fail("a step"))
    assert finished
    assert len(training.history) == 4


# Frozen layers


def test_frozen_stages_stay_as_they_are_and_the_others_do_not(run):
    before = {}

    def keep(network):
        before.update({name: x.clone() for name, x in network.state_dict().items()})

    training, _ = run(replace(RECIPE, freeze=1), change=keep)
    for name, tensor in weights_of(training).items():
        assert torch.equal(tensor, before[name]) == name.startswith("backbone"), name


def test_more_stages_than_there_are_cannot_be_frozen(run):
    with pytest.raises(TrainingError, match="has 1 stages, not 2: freeze at most 1"):
        run(replace(RECIPE, freeze=2))


# What goes wrong


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_images(run, tmp_path):
    def break_it(network):
        count = 0

        def hook(module, inputs, outputs):
            nonlocal count
            count += 1
            return tuple(x * (torch.nan if count == 7 else 1) for x in outputs)

        network.register_forward_hook(hook)

    with pytest.raises(TrainingError) as error:
        run(change=break_it)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("the loss is no longer a finite number in epoch 3, at 0-")
    assert message.count(".png") == 3
    assert "a lower --lr than 0.01" in message
    assert "the checkpoint of epoch 2 is kept" in message
    folder = RunFolder(tmp_path / "own.safetensors")
    assert len(torch.load(folder.state)["history"]) == 2
    assert folder.best.exists()


def test_a_gradient_that_is_no_number_stops_the_run(run):
    def break_it(network):
        network.classification_heads[0].bias.register_hook(lambda grad: grad * torch.inf)

    with pytest.raises(
        TrainingError, match=r"the gradient is no longer .* \(no epoch was finished"
    ):
        run(change=break_it)


def test_a_full_disk_stops_the_run_and_the_same_run_goes_on(run, tmp_path):
    whole, _ = run(output=tmp_path / "whole.safetensors")
    state = RunFolder(tmp_path / "own.safetensors").state

    def fill(progress):
        """From the second epoch on nothing as large as a state can be written."""
        if progress.epoch == 2:
            limit(state.stat().st_size // 2)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    try:
        with pytest.raises(TrainingError, match=r"too large\) \(the checkpoint of epoch 1 is kept"):
            run(on_step=fill)
    finally:
        limit(before[0])
    part, finished = run(resume=True)
    assert finished
    assert_same(weights_of(part), weights_of(whole))


def test_without_memory_for_a_batch_it_says_what_would_fit(run):
    def limit(network):
        def hook(module, inputs):
            if len(inputs[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        network.register_forward_pre_hook(hook)

    with pytest.raises(TrainingError) as error:
        run(replace(RECIPE, batch=8), change=limit)
    assert str(error.value).startswith(
        "no memory on cpu for a batch of 8; 2 would fit: give --batch 2 --accumulate 4"
    )


def test_without_memory_for_one_image_it_says_so(run):
    def limit(network):
        def hook(module, inputs):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: tried 9")

        network.register_forward_pre_hook(hook)

    with pytest.raises(TrainingError, match="not even for one image: free memory on it"):
        run(change=limit)


def test_other_errors_are_not_hidden(run):
    def break_it(network):
        def hook(module, inputs):
            raise RuntimeError("a bug")

        network.register_forward_pre_hook(hook)

    with pytest.raises(RuntimeError, match="a bug"):
        run(change=break_it)


# Precision


def test_bf16_is_for_the_network_alone(run):
    recipe = replace(RECIPE, epochs=1)
    training, _ = run(replace(recipe, precision="bf16"))
    plain, _ = run(recipe)
    assert all(x.dtype == torch.float32 for x in weights_of(training).values())
    assert training.history[0].loss == pytest.approx(plain.history[0].loss, rel=0.02)
    assert training.history[0].loss != plain.history[0].loss


def test_a_cpu_trains_in_fp32_unless_told_otherwise():
    assert training_precision("auto", CPU) == "fp32"
    assert training_precision("bf16", CPU) == "bf16"


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_what_a_cpu_learns(run, tmp_path, precision):
    recipe = replace(RECIPE, precision=precision)
    cuda = torch.device("cuda")
    found = []

    def validate(detector):
        found.append(detector.detect([np.zeros((16, 24, 3), np.uint8)]))
        return {"AP": 0.0}

    ours, _ = run(recipe, device=cuda, validate=validate, should_stop=lambda: len(found) == 3)
    assert len(ours.history) == 2
    ours, finished = run(recipe, device=cuda, resume=True)
    theirs, _ = run(output=tmp_path / "cpu.safetensors")
    assert finished
    tolerance = 1e-3 if precision == "fp32" else 0.03
    for gpu, cpu in zip(ours.history, theirs.history, strict=True):
        assert gpu.loss == pytest.approx(cpu.loss, rel=tolerance)
    assert {tensor.device for tensor in weights_of(ours).values()} == {CPU}


@pytest.mark.cuda
def test_a_full_gpu_says_how_many_images_fit(run):
    """Each image takes a seventh of what is free in the forward pass."""
    free, _ = torch.cuda.mem_get_info()

    def fill(network):
        def take(module, inputs):
            torch.empty(len(inputs[0]) * free // 7, dtype=torch.uint8, device="cuda")

        network.register_forward_pre_hook(take)

    with pytest.raises(TrainingError, match=r"no memory on cuda for a batch of 8; 4 would fit"):
        run(replace(RECIPE, batch=8, epochs=1), change=fill, device=torch.device("cuda"))


@pytest.mark.cuda
def test_a_gpu_of_today_trains_in_bf16_unless_told_otherwise():
    expected = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    assert training_precision("auto", torch.device("cuda")) == expected
