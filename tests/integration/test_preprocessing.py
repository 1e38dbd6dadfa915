"""What a model's network gets of a frame does not depend on the command that reads it."""

from dataclasses import replace

import pytest

import worker
from ssd_core import Detector
from ssd_core.checkpoints.loading import load_model, save_checkpoint
from tests.clips import cut, pictures
from tests.conftest import WALKWAY, json_lines
from worker.sources.conversion import PictureConverter


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "full_hd.mp4"
    return cut(WALKWAY, path, frames=2, size=(1080, 1920))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The bundled weights as a model whose pictures are scaled without a filter."""
    path = tmp_path_factory.mktemp("weights") / "unfiltered.safetensors"
    model, spec, _ = load_model()
    save_checkpoint(model, path, replace(spec, antialias=False))
    return path


def detections(clip, weights, antialias):
    """(label, score, box) of each detection in what a source makes of the clip's frames."""
    detector = Detector.load(weights=weights, device="cpu", precision="fp32")
    converter = PictureConverter(detector.spec.image_size, antialias)
    found = detector.detect([converter.convert(picture) for picture in pictures(clip, 2)])
    return [
        [(name, score, box) for name, score, box in rows]
        for rows in (
            zip(f.names, f.scores.tolist(), f.boxes_normalised.tolist(), strict=True) for f in found
        )
    ]


def assert_found(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert [name for name, *_ in one] == [name for name, *_ in other]
        assert [s for _, s, _ in one] == pytest.approx([s for _, s, _ in other], abs=1e-3)
        for (*_, box), (*_, expected_box) in zip(one, other, strict=True):
            assert box == pytest.approx(expected_box, abs=1e-3)


def test_a_replay_scales_as_the_file_of_weights_says(cli, clip, weights, tmp_path):
    output = tmp_path / "tags.jsonl"
    result = cli("replay", clip, "--weights", weights, "--precision", "fp32", "--output", output)
    assert result.returncode == 0, result.stderr
    events = json_lines(output)[:2]
    found = [
        [(d["label"], d["score"], d["box"]) for d in event["data"]["detections"]]
        for event in events
    ]
    assert_found(found, detections(clip, weights, antialias=False))
    with pytest.raises(AssertionError):
        assert_found(found, detections(clip, weights, antialias=True))


def test_watching_scales_as_the_file_of_weights_says(clip, weights):
    watched = worker.watch(
        str(clip), weights=weights, precision="fp32", device="cpu", full_size=False
    )
    found = [[(d.label, d.score, d.box) for d in rows] for _, rows in watched]
    assert_found(found, detections(clip, weights, antialias=False))
