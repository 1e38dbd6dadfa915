"""What training starts from."""

import logging
from dataclasses import replace

import pytest
import torch

from ssd_core import MODELS, build_model
from ssd_core.checkpoints.loading import load_model, save_checkpoint
from ssd_core.errors import CheckpointError
from ssd_core.training.initialisation import PRIOR, kept_classes, starting_model

OID = MODELS["ssd_mobilenet_v2_oid"]
LABELS = ("__background__", "Lorry", "person", "Car")


@pytest.fixture(scope="module")
def picture():
    torch.manual_seed(3)
    return torch.rand(1, 3, 300, 300) * 2 - 1


def by_class(tensor, spec):
    """(A, C) or (boxes, C, ...): what belongs to each class."""
    return tensor.unflatten(0, (-1, spec.num_classes))


@torch.no_grad()
def test_all_but_the_class_heads_is_kept(picture):
    base, _, digest = load_model()
    network, spec, kept = starting_model(LABELS)
    assert kept == digest
    assert spec.labels == LABELS
    assert spec.weights is None
    assert spec.training == ""
    assert torch.equal(network(picture)[0], base(picture)[0])


@torch.no_grad()
def test_a_class_of_the_same_name_scores_as_before(picture):
    base, base_spec, _ = load_model()
    network, _, _ = starting_model(LABELS)
    before, after = base(picture)[1], network(picture)[1]
    for new, label in ((2, "Person"), (3, "Car")):
        expected = before[..., base_spec.labels.index(label)]
        torch.testing.assert_close(after[..., new], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_new_class_of_a_sigmoid_model_scores_the_prior(picture):
    network, _, _ = starting_model(LABELS)
    scores = network(picture)[1][0, :, 1].sigmoid()
    assert scores.median() == pytest.approx(PRIOR, rel=0.2)
    assert scores.max() < 0.1
    assert scores.std() > 0  # not dead


@torch.no_grad()
def test_a_new_class_of_a_softmax_model_scores_the_prior_wherever_the_background_is(
    tmp_path,
):
    spec = replace(OID, activation="softmax")
    torch.manual_seed(0)
    base = build_model(spec)
    path = tmp_path / "softmax.safetensors"
    save_checkpoint(base, path, spec)
    network, own, _ = starting_model(LABELS, weights=path)
    x = torch.rand(1, 3, 300, 300)
    logits = network(x)[1][0]
    shares = logits[:, [0, 1]].softmax(-1)[:, 1]
    assert own.activation == "softmax"
    assert shares.median() == pytest.approx(PRIOR / 3, rel=0.2)
    assert shares.max() < 0.05
    torch.testing.assert_close(logits[:, 0], base(x)[1][0, :, 0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_untrained_model_begins_as_the_paper_does_and_says_so(caplog):
    with caplog.at_level(logging.WARNING, "ssd_core"):
        network, spec, digest = starting_model(("__background__", "Lorry"), "ssd300_vgg16")
    assert digest is None
    assert "untrained" in caplog.text
    assert "(--weights coco or --weights imagenet or --weights FILE)" in caplog.text
    first = network.backbone.conv1_to_conv4_3[0].weight
    bound = (6 / (3 * 9 + 64 * 9)) ** 0.5  # of Xavier's uniform distribution
    assert bound * 0.98 < first.abs().max() <= bound
    bias = by_class(network.classification_heads[0].bias, spec)
    torch.testing.assert_close(bias.softmax(-1)[:, 1], torch.full((4,), PRIOR))


def test_new_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first, _, _ = starting_model(LABELS, seed=5)
    state = torch.get_rng_state()
    second, _, _ = starting_model(LABELS, seed=5)
    other, _, _ = starting_model(LABELS, seed=6)
    assert torch.equal(state, torch.get_rng_state())
    weights = [each.classification_heads[0].weight for each in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_own_weights_are_started_from_again_and_their_licence_is_told_once(tmp_path):
    network, spec, _ = starting_model(LABELS)
    path = tmp_path / "own.safetensors"
    save_checkpoint(network, path, spec)
    again, own, _ = starting_model((*LABELS, "Bus"), weights=path)
    assert own.licence == spec.licence
    assert "Apache-2.0 (MediaPipe)" in own.licence
    before, after = (
        by_class(each.classification_heads[0].weight, s)
        for each, s in ((network, spec), (again, own))
    )
    assert torch.equal(before[:, 1:4], after[:, 1:4])


def test_another_models_weights_are_refused(tmp_path):
    network, spec, _ = starting_model(LABELS)
    path = tmp_path / "own.safetensors"
    save_checkpoint(network, path, spec)
    with pytest.raises(CheckpointError, match="not for ssd300_vgg16: leave out the model"):
        starting_model(LABELS, "ssd300_vgg16", path)


def test_a_model_that_was_trained_with_batch_norm_has_it_folded(trained_mobilenet, tmp_path):
    path = tmp_path / "batch_norm.safetensors"
    save_checkpoint(trained_mobilenet, path, OID)
    network, _, _ = starting_model(LABELS, weights=path)
    x = torch.rand(1, 3, 300, 300)
    with torch.no_grad():
        expected = trained_mobilenet(x)[0]
        torch.testing.assert_close(network(x)[0], expected, rtol=1e-3, atol=1e-3)
    assert not any("running_mean" in name for name in network.state_dict())


def test_classes_are_known_by_name_in_any_capitals_and_the_background_is_none_of_them():
    old = ("???", "Person", "Car", "background")
    assert kept_classes(old, ("__background__", "car", "PERSON", "Bus")) == [0, 2, 1, None]
