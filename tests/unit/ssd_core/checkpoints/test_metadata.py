"""A weights file defines its model: everything out as it went in, and damage refused."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssd_core import MODELS, Detector, build_model
from ssd_core.checkpoints.loading import load_model, save_checkpoint
from ssd_core.checkpoints.metadata import from_metadata, to_metadata
from ssd_core.default_boxes import SSD300_VOC_SCALES, paper_box_sizes
from ssd_core.errors import CheckpointError

RATIOS = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
VOC = replace(
    MODELS["ssd300_vgg16"],
    box_sizes=paper_box_sizes(SSD300_VOC_SCALES, RATIOS),
    labels=("background", "aeroplane", "bicycle"),
    mean=(123.0, 117.5, 1 / 3),
    std=(57.1, 58.2, 59.3),
    antialias=True,
    score_threshold=0.123456789,
    iou_threshold=0.5,
    candidates_per_class=123,
    max_detections=45,
    activation="sigmoid",
    licence="CC-BY-4.0, Ünser",
    training='{"epochs": 3}',
)
CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture
def save(tiny_model, tmp_path):
    """Writes the tiny model with other metadata than its own."""

    def write(metadata, tensors=None):
        path = tmp_path / "own.safetensors"
        save_file(tensors or tiny_model.state_dict(), path, metadata=metadata)
        return path

    return write


def refusal(model, weights):
    with pytest.raises(CheckpointError) as error:
        load_model(model, weights)
    assert "\n" not in str(error.value)
    return str(error.value)


# Round trips


@pytest.mark.parametrize("spec", [*MODELS.values(), VOC], ids=lambda spec: spec.name)
def test_a_spec_comes_back_as_it_was(spec):
    found = from_metadata(to_metadata(spec), MODELS[spec.name])
    assert found == spec.with_own_weights()
    assert torch.equal(found.default_boxes(), spec.default_boxes())


def test_a_fine_tuned_model_loads_by_its_file_alone(tmp_path):
    path = tmp_path / "own.safetensors"
    save_checkpoint(build_model(VOC), path, VOC, torch.float16)
    detector = Detector.load(weights=path, **CPU)
    assert detector.spec == VOC
    assert detector.score_threshold == VOC.score_threshold
    assert detector._runner.settings == VOC.decode_settings()


def test_a_model_detects_the_same_after_a_round_trip(mobilenet, golden, tmp_path):
    path = tmp_path / "copy.safetensors"
    network, spec, digest = load_model()
    save_checkpoint(network, path, spec)
    copy = Detector.load(weights=path, **CPU)
    assert copy.spec == spec.with_own_weights()
    assert copy.digest != digest
    images = list(golden["inputs"])
    for found, expected in zip(copy.detect(images), mobilenet.detect(images), strict=True):
        assert len(expected) > 1
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.scores, expected.scores)
        assert found.names == expected.names


def test_a_spec_with_other_labels_has_no_weights_in_the_package():
    spec = MODELS["ssd_mobilenet_v2_oid"]
    other = spec.with_labels(("background", "Duck"))
    assert (other.weights, other.digest) == (None, None)
    assert spec.with_labels(spec.labels) is spec


def test_a_copy_of_the_bundled_file_is_still_known_as_the_bundled_weights(tmp_path):
    from importlib.resources import files

    spec = MODELS["ssd_mobilenet_v2_oid"]
    path = tmp_path / "renamed.safetensors"
    path.write_bytes((files("ssd_core") / "weights" / spec.weights).read_bytes())
    assert load_model(None, path)[1] == spec


# Which model


def test_a_model_that_contradicts_the_file_is_refused_with_the_way_out(tiny_model, tiny_spec, save):
    path = save(to_metadata(replace(tiny_spec, name="ssd300_vgg16")))
    assert refusal("ssd_mobilenet_v2_oid", path) == (
        f"weights {path}: it is for 'ssd300_vgg16', not for ssd_mobilenet_v2_oid: "
        "leave out the model, or give its own"
    )


def test_a_model_of_the_files_own_name_may_be_given(tiny_spec, save):
    birds = tiny_spec.with_labels(("background", "Duck", "Goose"))
    assert load_model(tiny_spec, save(to_metadata(birds)))[1] == birds


def test_an_unknown_architecture_is_refused_with_the_known_ones(tiny_spec, save):
    message = refusal(None, save(to_metadata(tiny_spec)))
    assert "it is for an unknown model, 'tiny': known are ssd_mobilenet_v2_oid, ssd300" in message


def test_a_file_that_only_names_its_model_loads_as_that_one(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ssd_core.checkpoints.loading")
    path = tmp_path / "old.safetensors"
    spec = MODELS["ssd300_vgg16"]
    save_file(build_model(spec).state_dict(), path, metadata={"model": spec.name})
    assert load_model(None, path)[1] == spec
    assert caplog.messages == [
        f"weights {path} do not define their model: input, default boxes and thresholds are those "
        "of ssd300_vgg16"
    ]


def test_a_file_without_metadata_loads_as_the_model_that_is_named(tiny_spec, save, caplog):
    caplog.set_level(logging.INFO, "ssd_core.checkpoints.loading")
    assert load_model(tiny_spec, save(None))[1] == tiny_spec
    assert "do not define their model" in caplog.text


def test_weights_that_name_no_model_and_do_not_fit_the_default_ask_for_it(torchvision_ssd300_file):
    message = refusal(None, torchvision_ssd300_file)
    assert "do not fit ssd_mobilenet_v2_oid: " in message
    assert message.endswith("more: name their model")


# Damage


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2", "it has format 2, this version reads formats up to 1: update ssd-worker"),
        ("999999999", "it has format 999999999, this version reads"),
        ("0", "'format' in its metadata is not a version number"),
        ("one", "'format' in its metadata is not a version number"),
        ("9" * 5000, "'format' in its metadata is not a version number"),
    ],
)
def test_another_format_is_refused(tiny_spec, save, version, message):
    assert message in refusal(None, save(to_metadata(tiny_spec) | {"format": version}))


@pytest.mark.parametrize("name", sorted(to_metadata(VOC).keys() - {"format"}))
def test_metadata_that_lacks_a_field_is_refused(tiny_spec, save, name):
    metadata = to_metadata(tiny_spec)
    del metadata[name]
    assert f"its metadata lacks '{name}': write the file again" in refusal(
        None if name == "model" else tiny_spec, save(metadata)
    )


DAMAGED = [
    *[(name, text) for name in ("labels", "mean", "cells", "antialias") for text in ("", "{", "7")],
    ("labels", "[]"),
    ("labels", '["background"]'),
    ("labels", '["background", 1]'),
    ("image_size", "[300]"),
    ("image_size", "[300, 0]"),
    ("image_size", "[300, 300.5]"),
    ("image_size", "[300, true]"),
    ("image_size", "[1000000, 1000000]"),
    ("mean", "[1, 2]"),
    ("mean", "[NaN, 0, 0]"),
    ("mean", '["1", 0, 0]'),
    ("std", "[0, 1, 1]"),
    ("std", "[Infinity, 1, 1]"),
    ("std", f"[{'9' * 400}, 1, 1]"),
    ("feature_maps", "[]"),
    ("feature_maps", "[[2, 3, 4]]"),
    ("feature_maps", "[[1000000, 1000000]]"),
    ("feature_maps", "[" * 100_000),
    ("cells", "[[0, 1]]"),
    ("box_sizes", "[[]]"),
    ("box_sizes", "[[[0.5, 0]]]"),
    ("box_sizes", "[[[0.5, NaN]]]"),
    ("box_sizes", json.dumps([[[0.5, 0.5]] * 101])),
    ("activation", '"relu"'),
    ("activation", '["softmax"]'),
    ("score_threshold", "-0.1"),
    ("score_threshold", "NaN"),
    ("score_threshold", "false"),
    ("iou_threshold", "null"),
    ("iou_threshold", "false"),
    ("candidates_per_class", "0"),
    ("candidates_per_class", "1e2"),
    ("max_detections", "1000000000"),
]


@pytest.mark.parametrize(("name", "text"), DAMAGED, ids=lambda value: value[:30])
def test_a_damaged_field_is_refused_by_name(tiny_spec, save, name, text):
    message = refusal(tiny_spec, save(to_metadata(tiny_spec) | {name: text}))
    assert f"'{name}' in its metadata is not " in message
    assert message.endswith(
        "write the file again with ssd_core.checkpoints.convert, or train again"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feature_maps": ((2, 4),)}, r"its metadata has feature maps of ((2, 4),), the network"),
        ({"image_size": (32, 24)}, "its metadata has feature maps of ((2, 3),), the network"),
        ({"feature_maps": ((2, 3), (1, 1))}, "2 feature maps, but 1 box_sizes"),
        ({"cells": ((2.0, 3.0), (1.0, 1.0))}, "1 feature maps, but 2 cells"),
        ({"labels": ("background", "Cat")}, "classification_heads.0.weight: expected [4, 4, 1, 1]"),
    ],
)
def test_metadata_that_does_not_fit_the_tensors_is_refused(tiny_spec, save, fields, message):
    path = save(to_metadata(replace(tiny_spec, **fields)))
    assert message in refusal(tiny_spec, path)


def test_other_default_boxes_per_cell_than_the_tensors_predict_are_refused(tmp_path):
    spec = MODELS["ssd300_vgg16"]
    path = tmp_path / "own.safetensors"
    fewer = replace(spec, box_sizes=tuple(sizes[:4] for sizes in spec.box_sizes))
    save_checkpoint(build_model(spec), path, fewer)
    assert "classification_heads.1.weight: expected [364, 1024, 3, 3], found [546" in refusal(
        None, path
    )


def test_what_damaged_metadata_claims_takes_no_memory(tmp_path):
    spec = MODELS["ssd300_vgg16"]
    path = tmp_path / "own.safetensors"
    claimed = replace(
        spec,
        labels=tuple(map(str, range(10_000))),
        box_sizes=tuple(sizes[:1] * 100 for sizes in spec.box_sizes),
    )
    save_file({"a": torch.zeros(1)}, path, metadata=to_metadata(claimed))
    assert "do not fit ssd300_vgg16" in refusal(None, path)  # as built: 140 GB


def test_images_are_normalised_as_the_file_says(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "own.safetensors"
    spec = replace(tiny_spec, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    save_checkpoint(tiny_model, path, spec)
    detector = Detector.load(tiny_spec, weights=path, **CPU)
    x = detector.preprocess([np.full((16, 24, 3), 11, np.uint8)])
    assert x[0, :, 0, 0].tolist() == [5.0, 2.25, 1.0]
