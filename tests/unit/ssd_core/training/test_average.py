"""A moving average of weights."""

import pytest
import torch
from torch import nn

from ssd_core.training.average import WeightAverage


@pytest.fixture
def network():
    """One weight, 1 at first, and a norm."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.ones_(network[0].weight)
    return network


def average_of(average):
    return average.network[0].weight.item()


def test_the_decay_rises_to_what_is_wanted(network):
    average = WeightAverage(network, 0.2)
    expected = 1.0
    for step, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):
        nn.init.constant_(network[0].weight, 3.0 + step)
        average.update(network)
        expected = decay * expected + (1 - decay) * (3.0 + step)
        assert average_of(average) == pytest.approx(expected)
    assert network[0].weight.item() == 6.0


def test_of_a_short_run_little_is_left_of_the_first_weights(network):
    average = WeightAverage(network, 0.999)
    nn.init.zeros_(network[0].weight)
    for _ in range(10):
        average.update(network)
    assert 0 < average_of(average) < 1e-4


def test_statistics_of_norms_are_averaged_and_counts_are_taken_over(network):
    average = WeightAverage(network, 0.05)
    network(torch.full((4, 1), 8.0))  # moves the mean by a tenth of 8
    network(torch.full((4, 1), 8.0))
    average.update(network)
    (own, theirs) = average.network[1], network[1]
    assert theirs.running_mean.item() == pytest.approx(0.8 + 0.72)
    assert own.running_mean.item() == pytest.approx(0.95 * theirs.running_mean.item())
    assert own.num_batches_tracked.item() == 2


def test_it_goes_on_from_its_state(network):
    whole, first = WeightAverage(network, 0.9), WeightAverage(network, 0.9)
    for value in (2.0, 5.0):
        nn.init.constant_(network[0].weight, value)
        whole.update(network)
        first.update(network)
    second = WeightAverage(network, 0.9)
    second.load_state_dict(first.state_dict())
    nn.init.constant_(network[0].weight, 7.0)
    whole.update(network)
    second.update(network)
    assert average_of(second) == average_of(whole)
