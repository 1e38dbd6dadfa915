"""Processes that train together: their gradients are those of one process with the whole batch."""

import os
from dataclasses import replace

import pytest
import torch
from torch import multiprocessing

from ssd_core import MODELS
from ssd_core.training.loader import Batch
from ssd_core.training.processes import ALONE, Processes
from ssd_core.training.recipe import Recipe
from ssd_core.training.step import Stepper
from tests.conftest import free_port
from tests.unit.ssd_core.conftest import tiny_network

RECIPE = Recipe(epochs=1, batch=3, learning_rate=0.1)


def tiny():
    spec = replace(
        MODELS["ssd_mobilenet_v2_oid"],
        image_size=(16, 24),
        feature_maps=((2, 3),),
        box_sizes=(((0.5, 0.5), (0.25, 0.25)),),
        labels=("background", "Cat", "Dog"),
        network=tiny_network,
    )
    torch.manual_seed(0)
    return tiny_network(spec, False), spec


def batch_of(places):
    """Those of three images, of which one has no object, and one has three."""
    torch.manual_seed(1)
    images = torch.randn(3, 3, 16, 24)
    boxes = [
        torch.tensor([[0.1, 0.1, 0.6, 0.7]]),
        torch.zeros(0, 4),
        torch.tensor([[0.0, 0.0, 0.3, 0.3], [0.4, 0.1, 0.9, 0.6], [0.5, 0.5, 1.0, 1.0]]),
    ]
    labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64), torch.tensor([2, 1, 2])]
    return Batch(
        images[places], [boxes[p] for p in places], [labels[p] for p in places], list(places)
    )


def gradients(processes, places):
    network, spec = tiny()
    stepper = Stepper(network, spec, RECIPE, torch.device("cpu"), processes)
    losses = torch.tensor(stepper.step(batch_of(places), 0.1, updates=False).read()[:2])
    total = processes.summed(losses)
    return {name: p.grad for name, p in network.named_parameters()} | {"losses": total}


def train(number, shares, port, path):
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(number),
        "WORLD_SIZE": str(len(shares)), "LOCAL_RANK": str(number),
        "LOCAL_WORLD_SIZE": str(len(shares)),
    }  # fmt: skip
    with Processes.join("cpu") as processes:
        found = gradients(processes, shares[number])
        assert processes.shared(number) == 0
        assert processes.any(number == 1)
        assert not processes.any(False)
        torch.save(found, f"{path}/{number}.pt")


@pytest.mark.long
@pytest.mark.parametrize("shares", [([0, 2], [1]), ([0], [1, 2]), ([0, 1, 2], [])])
def test_gradients_and_losses_are_those_of_the_whole_batch(shares, tmp_path):
    multiprocessing.spawn(train, (shares, free_port(), str(tmp_path)), nprocs=len(shares))
    expected = gradients(ALONE, [0, 1, 2])
    for number in range(len(shares)):
        found = torch.load(tmp_path / f"{number}.pt")
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_process_alone_waits_for_nobody():
    with Processes.join("cpu") as processes:
        assert processes == ALONE
        assert processes.is_first
        assert processes.any(True)
        assert processes.shared("x") == "x"
        assert torch.equal(processes.summed(torch.ones(2)), torch.ones(2))
