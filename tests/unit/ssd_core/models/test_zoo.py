from dataclasses import FrozenInstanceError

import pytest
from torchvision.models.detection import SSD300_VGG16_Weights

import ssd_core
from ssd_core import MODELS, build_model
from ssd_core.errors import UnknownModelError
from ssd_core.models.zoo import get_spec


def test_the_public_names_are_these():
    assert sorted(ssd_core.__all__) == ["Detections", "Detector", "MODELS", "build_model"]


def test_the_zoo_has_three_models_and_the_bundled_one_comes_first():
    assert list(MODELS) == ["ssd_mobilenet_v2_oid", "ssd300_vgg16", "ssd512_vgg16"]


@pytest.mark.parametrize("name", MODELS)
def test_a_spec_carries_the_name_it_is_known_by(name):
    assert get_spec(name).name == name


def test_a_spec_is_passed_through():
    spec = MODELS["ssd300_vgg16"]
    assert get_spec(spec) is spec


def test_a_spec_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        MODELS["ssd300_vgg16"].iou_threshold = 0.9


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ssd300", "ssd300_vgg16"),
        ("ssd512_vgg", "ssd512_vgg16"),
        ("ssd_mobilenet_v2", "ssd_mobilenet_v2_oid"),
    ],
)
def test_an_unknown_model_is_refused_with_the_nearest_name(typed, meant):
    with pytest.raises(UnknownModelError, match=f"'{typed}': did you mean {meant}"):
        build_model(typed)


def test_an_unknown_model_is_refused_with_every_name():
    with pytest.raises(UnknownModelError) as error:
        get_spec("yolo")
    assert "did you mean" not in str(error.value)
    assert all(name in str(error.value) for name in MODELS)


def test_coco_labels_are_torchvisions():
    assert list(MODELS["ssd300_vgg16"].labels) == SSD300_VGG16_Weights.COCO_V1.meta["categories"]


def test_open_images_labels_number_24_with_the_background():
    labels = MODELS["ssd_mobilenet_v2_oid"].labels
    assert len(labels) == 24
    assert labels[4] == "Person"
    assert labels[23] == "Car"


def test_other_labels_leave_the_rest_of_a_spec_as_it_is():
    spec = MODELS["ssd300_vgg16"].with_labels(("background", "Duck"))
    assert spec.num_classes == 2
    assert spec.with_labels(MODELS["ssd300_vgg16"].labels) == MODELS["ssd300_vgg16"]


def test_mobilenet_is_postprocessed_as_published_but_for_a_lower_threshold():
    spec = MODELS["ssd_mobilenet_v2_oid"]
    assert (spec.activation, spec.score_threshold, spec.iou_threshold) == ("sigmoid", 0.4, 0.5)


def test_the_vggs_differ_in_size_but_not_in_postprocessing():
    ssd300, ssd512 = MODELS["ssd300_vgg16"], MODELS["ssd512_vgg16"]
    for field in ("activation", "score_threshold", "iou_threshold", "max_detections", "mean"):
        assert getattr(ssd300, field) == getattr(ssd512, field)
    assert (ssd300.image_size, ssd512.image_size) == ((300, 300), (512, 512))
    assert ssd300.score_threshold == 0.4


def test_only_the_model_with_published_weights_is_downloadable():
    assert [name for name, spec in MODELS.items() if spec.downloadable] == ["ssd300_vgg16"]


def test_the_vggs_can_start_from_imagenet():
    found = [name for name, spec in MODELS.items() if spec.has_imagenet_backbone]
    assert found == ["ssd300_vgg16", "ssd512_vgg16"]
