"""How to train: learning rates, what decays, what is frozen."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, strategies as st

from ssd_core import MODELS, build_model
from ssd_core.training.recipe import (
    LAST_SHARE,
    LEAST_EPOCHS,
    MOST_EPOCHS,
    MOST_WARM_UP_STEPS,
    Recipe,
    backbone_stages,
    default_epochs,
    default_learning_rate,
    freeze_stages,
    learning_rate,
    make_optimizer,
)

RECIPE = Recipe(epochs=1, batch=16, learning_rate=0.5)
STEP = replace(RECIPE, schedule="step")


@pytest.fixture(scope="module", params=MODELS)
def network(request):
    with torch.device("meta"):
        return build_model(request.param)


# Learning rate


@given(st.integers(1, 2000))
@example(20_000)
def test_the_learning_rate_rises_to_the_highest_then_falls_to_the_lowest(steps):
    rates = [learning_rate(RECIPE, step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= 0.5 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == 0.5
    if steps >= 3:
        assert rates[-1] == pytest.approx(0.5 * LAST_SHARE)
    assert top <= MOST_WARM_UP_STEPS


def test_the_warm_up_is_linear_and_the_middle_of_the_cosine_is_half_way():
    rates = [learning_rate(RECIPE, step, 1001) for step in range(1001)]
    warm_up = 101
    assert rates[: warm_up + 1] == pytest.approx([0.5 * n / 102 for n in range(1, 103)])
    assert rates[(1000 + warm_up) // 2] == pytest.approx(0.5 * (1 + LAST_SHARE) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("steps", "rates"),
    [
        (1, [1]),
        (2, [1 / 2, 1]),
        (3, [1 / 2, 1, 0.1]),
        (12, [1 / 3, 2 / 3, *[1] * 6, *[0.1] * 3, 0.01]),
    ],
)
def test_the_step_schedule_drops_to_a_tenth_twice_after_the_same_warm_up(steps, rates):
    found = [learning_rate(STEP, step, steps) for step in range(steps)]
    assert found == pytest.approx([0.5 * rate for rate in rates])
    cosine = [learning_rate(RECIPE, step, steps) for step in range(steps)]
    assert found[: rates.index(1)] == cosine[: rates.index(1)]


def test_the_step_schedule_drops_where_torchvisions_does():
    """After 80 and 110 of 120 epochs, of 50 steps here."""
    rates = [learning_rate(STEP, step, 6000) for step in range(6000)]
    assert [step for step in range(501, 6000) if rates[step] != rates[step - 1]] == [4000, 5500]


@pytest.mark.parametrize(
    ("images", "share"), [(1, 0.25), (4, 0.5), (16, 1.0), (64, 1.0), (1024, 1.0)]
)
def test_small_steps_have_a_lower_rate_and_large_ones_no_higher(images, share):
    assert default_learning_rate("ssd_mobilenet_v2_oid", images) == pytest.approx(share * 1e-3)
    assert default_learning_rate("ssd300_vgg16", images) == pytest.approx(share * 1e-4)
    # SGD's is in proportion to the images
    sgd = {"optimizer": "sgd"}
    assert default_learning_rate("ssd300_vgg16", images, **sgd) == pytest.approx(share**2 * 1e-3)
    assert default_learning_rate("ssd_mobilenet_v2_oid", 8, **sgd) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [
        (1, 1, MOST_EPOCHS),
        (320, 16, 100),
        (321, 16, math.ceil(2000 / 21)),
        (100_000, 16, LEAST_EPOCHS),
    ],
)
def test_epochs_are_those_that_make_the_usual_number_of_steps(images, batch, epochs):
    assert default_epochs(images, batch) == epochs


# Weight decay


@pytest.mark.parametrize(
    ("name", "kind", "decay"), [("adamw", torch.optim.AdamW, 0.01), ("sgd", torch.optim.SGD, 5e-4)]
)
def test_biases_and_scales_do_not_decay_and_every_weight_does(network, name, kind, decay):
    optimizer = make_optimizer(network, replace(RECIPE, optimizer=name))
    assert type(optimizer) is kind
    decays, not_decays = optimizer.param_groups
    assert (decays["weight_decay"], not_decays["weight_decay"]) == (decay, 0)
    assert decays.get("momentum") == (0.9 if name == "sgd" else None)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    of_weights = {names[id(p)] for p in decays["params"]}
    of_others = {names[id(p)] for p in not_decays["params"]}
    assert of_weights | of_others == set(names.values())
    assert {name.rpartition(".")[2] for name in of_weights} == {"weight"}
    assert {name.rpartition(".")[2] for name in of_others} <= {"bias", "scale"}
    assert not of_weights & of_others


# Frozen stages


def test_the_stages_are_those_of_the_papers(network):
    stages = backbone_stages(network.backbone)
    assert len(stages) == 5
    layers = [id(p) for stage in stages for layer in stage for p in layer.parameters()]
    assert layers == [id(p) for p in network.backbone.parameters()]  # all, in their order


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        ("ssd_mobilenet_v2_oid", [32, 96, 144, 192, 576]),
        ("ssd300_vgg16", [64, 128, 256, 512, 512]),
    ],
)
def test_a_stage_begins_with_the_layer_that_halves_the_resolution(model, channels):
    with torch.device("meta"):
        stages = backbone_stages(build_model(model).backbone)
    first = [
        next(layer.out_channels for layer in stage if isinstance(layer, torch.nn.Conv2d))
        for stage in stages
    ]
    assert first == channels


def test_frozen_stages_take_no_gradient_and_are_not_optimised(network):
    freeze_stages(network, 2)
    try:
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
        assert frozen
        assert all(name.startswith("backbone.") for name in frozen)
        optimised = sum(len(g["params"]) for g in make_optimizer(network, RECIPE).param_groups)
        assert optimised == len(list(network.parameters())) - len(frozen)
    finally:
        network.requires_grad_(True)
