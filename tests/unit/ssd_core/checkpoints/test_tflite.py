import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tflite
import torch
from safetensors.torch import load_file
from torch import nn

from ssd_core import MODELS
from ssd_core.checkpoints.loading import load_model
from ssd_core.checkpoints.tflite import state_dict_from_tflite
from ssd_core.errors import CheckpointError
from ssd_core.models.ssd import SSD

CONV, DEPTHWISE, DEQUANTIZE, RELU = (
    tflite.BuiltinOperator.CONV_2D,
    tflite.BuiltinOperator.DEPTHWISE_CONV_2D,
    tflite.BuiltinOperator.DEQUANTIZE,
    tflite.BuiltinOperator.RELU6,
)
TYPES = {
    np.dtype(np.float32): tflite.TensorType.FLOAT32,
    np.dtype(np.float16): tflite.TensorType.FLOAT16,
    np.dtype(np.int8): tflite.TensorType.INT8,
}


class TfliteWriter:
    """Builds a .tflite file of convolutions, operator by operator."""

    def __init__(self):
        self.builder = flatbuffers.Builder()
        self.buffers, self.tensors, self.operators, self.kinds = [], [], [], []
        self._buffer(b"")  # the first buffer of a model is empty by definition
        self.activation = self._tensor("input", np.zeros(0, np.float32))

    def convolution(self, name, weight, bias, kind=CONV, dtype=np.float32):
        weight, bias = weight.astype(dtype), bias.astype(dtype)
        inputs = [self._constant(name, weight), self._constant(f"{name}/bias", bias)]
        self._operator(kind, [self.activation, *inputs])

    def bytes(self):
        b = self.builder
        codes = []
        for kind in self.kinds:
            tflite.OperatorCodeStart(b)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, kind)
            tflite.OperatorCodeAddBuiltinCode(b, kind)
            codes.append(tflite.OperatorCodeEnd(b))
        tensors = self._vector(self.tensors, tflite.SubGraphStartTensorsVector)
        operators = self._vector(self.operators, tflite.SubGraphStartOperatorsVector)
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensors)
        tflite.SubGraphAddOperators(b, operators)
        graph = tflite.SubGraphEnd(b)
        codes = self._vector(codes, tflite.ModelStartOperatorCodesVector)
        graphs = self._vector([graph], tflite.ModelStartSubgraphsVector)
        buffers = self._vector(self.buffers, tflite.ModelStartBuffersVector)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, codes)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddBuffers(b, buffers)
        b.Finish(tflite.ModelEnd(b), b"TFL3")
        return bytes(b.Output())

    def _constant(self, name, array):
        """Index of an fp32 tensor; a half-precision array gets the operator that widens it."""
        if array.dtype != np.float16:
            return self._tensor(name, array)
        half = self._tensor(f"{name}/half", array)
        wide = self._tensor(name, np.zeros(0, np.float32))
        self._operator(DEQUANTIZE, [half], wide)
        return wide

    def _buffer(self, data):
        content = self.builder.CreateByteVector(data)
        tflite.BufferStart(self.builder)
        tflite.BufferAddData(self.builder, content)
        self.buffers.append(tflite.BufferEnd(self.builder))
        return len(self.buffers) - 1

    def _tensor(self, name, array):
        b, buffer = self.builder, self._buffer(array.tobytes())
        text, shape = b.CreateString(name), b.CreateNumpyVector(np.int32(array.shape))
        tflite.TensorStart(b)
        tflite.TensorAddName(b, text)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, TYPES[array.dtype])
        tflite.TensorAddBuffer(b, buffer)
        self.tensors.append(tflite.TensorEnd(b))
        return len(self.tensors) - 1

    def _operator(self, kind, inputs, output=0):
        b = self.builder
        if kind not in self.kinds:
            self.kinds.append(kind)
        inputs, outputs = (b.CreateNumpyVector(np.int32(ids)) for ids in (inputs, [output]))
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, self.kinds.index(kind))
        tflite.OperatorAddInputs(b, inputs)
        tflite.OperatorAddOutputs(b, outputs)
        self.operators.append(tflite.OperatorEnd(b))

    def _vector(self, offsets, start):
        start(self.builder, len(offsets))
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()


class DepthwiseBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3, stride=8, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x):
        return [self.depthwise(self.plain(x))]


@pytest.fixture
def spec(tiny_spec):
    """A plain and a depthwise convolution, two boxes per cell, three classes."""
    return replace(tiny_spec, network=lambda spec, _: SSD(DepthwiseBackbone(), [], [4], [2], 3, 1))


RANDOM = np.random.default_rng(0)
WEIGHTS = {  # TensorFlow's layouts: out, height, width, in; depthwise 1, height, width, out
    "FeatureExtractor/plain": (RANDOM.normal(size=(4, 3, 3, 3)), RANDOM.normal(size=4), CONV),
    "FeatureExtractor/depthwise": (
        RANDOM.normal(size=(1, 3, 3, 4)),
        RANDOM.normal(size=4),
        DEPTHWISE,
    ),
    "BoxPredictor_0/ClassPredictor": (
        RANDOM.normal(size=(6, 1, 1, 4)),
        RANDOM.normal(size=6),
        CONV,
    ),
    "BoxPredictor_0/BoxEncodingPredictor": (
        np.arange(32.0).reshape(8, 1, 1, 4),
        np.arange(8.0),
        CONV,
    ),
}


def write(path, weights=WEIGHTS, dtype=np.float32):
    writer = TfliteWriter()
    for name, (weight, bias, kind) in weights.items():
        writer.convolution(name, weight, bias, kind, dtype)
    path.write_bytes(writer.bytes())
    return path


def test_every_convolution_arrives_under_its_name_and_shape(spec, tmp_path):
    imported = state_dict_from_tflite(write(tmp_path / "model.tflite"), spec)
    expected = spec.network(spec, False).state_dict()
    assert {name: tensor.shape for name, tensor in imported.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


def test_weights_change_from_channels_last_to_channels_first(spec, tmp_path):
    imported = state_dict_from_tflite(write(tmp_path / "model.tflite"), spec)
    theirs = WEIGHTS["FeatureExtractor/plain"][0].astype(np.float32)
    ours = imported["backbone.plain.weight"]
    for out, row, column, channel in np.ndindex(theirs.shape):
        assert ours[out, channel, row, column] == theirs[out, row, column, channel]


def test_depthwise_weights_have_their_channels_as_outputs(spec, tmp_path):
    imported = state_dict_from_tflite(write(tmp_path / "model.tflite"), spec)
    theirs = WEIGHTS["FeatureExtractor/depthwise"][0].astype(np.float32)
    ours = imported["backbone.depthwise.weight"]
    for _, row, column, channel in np.ndindex(theirs.shape):
        assert ours[channel, 0, row, column] == theirs[0, row, column, channel]


def test_box_heads_change_from_y_x_h_w_to_x_y_w_h(spec, tmp_path):
    imported = state_dict_from_tflite(write(tmp_path / "model.tflite"), spec)
    assert imported["regression_heads.0.bias"].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    first_inputs = imported["regression_heads.0.weight"][:, 0, 0, 0]
    assert first_inputs.tolist() == [4, 0, 12, 8, 20, 16, 28, 24]


def test_class_heads_keep_their_order(spec, tmp_path):
    imported = state_dict_from_tflite(write(tmp_path / "model.tflite"), spec)
    bias = WEIGHTS["BoxPredictor_0/ClassPredictor"][1].astype(np.float32)
    assert imported["classification_heads.0.bias"].tolist() == bias.tolist()


def test_half_precision_constants_are_read_through_their_dequantize(spec, tmp_path):
    path = write(tmp_path / "half.tflite", dtype=np.float16)
    model, _, _ = load_model(spec, path)
    expected = WEIGHTS["FeatureExtractor/plain"][1].astype(np.float16).astype(np.float32)
    assert model.backbone.plain.bias.dtype == torch.float32
    assert model.backbone.plain.bias.tolist() == expected.tolist()


def test_a_model_with_other_convolutions_is_refused_with_both_counts(spec, tmp_path):
    weights = dict(WEIGHTS)
    del weights["FeatureExtractor/depthwise"]
    path = write(tmp_path / "short.tflite", weights)
    with pytest.raises(
        CheckpointError,
        match="expected 2 convolutions and 1 box and class predictors, found 1, 1, 1",
    ):
        state_dict_from_tflite(path, spec)


def test_a_model_with_other_shapes_is_refused_by_tensor(spec, tmp_path):
    weight, bias, kind = WEIGHTS["FeatureExtractor/plain"]
    weights = WEIGHTS | {"FeatureExtractor/plain": (weight[:, :1, :1], bias, kind)}
    path = write(tmp_path / "wrong.tflite", weights)
    with pytest.raises(
        CheckpointError,
        match=r"backbone.plain.weight: expected \[4, 3, 3, 3\], found \[4, 3, 1, 1\]",
    ):
        load_model(spec, path)


def test_a_box_predictor_without_four_outputs_a_box_is_refused(spec, tmp_path):
    weights = WEIGHTS | {
        "BoxPredictor_0/BoxEncodingPredictor": (np.zeros((7, 1, 1, 4)), np.zeros(7), CONV)
    }
    path = write(tmp_path / "seven.tflite", weights)
    with pytest.raises(CheckpointError, match=r"seven\.tflite"):
        load_model(spec, path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_weights_that_are_not_finite_are_refused_by_name(spec, tmp_path, bad, dtype):
    weight, bias, kind = WEIGHTS["FeatureExtractor/plain"]
    bias = np.array(bias, np.float32)
    bias[-1] = bad
    weights = WEIGHTS | {"FeatureExtractor/plain": (weight, bias, kind)}
    path = write(tmp_path / "diverged.tflite", weights, dtype)
    with pytest.raises(CheckpointError, match=r"diverged\.tflite: backbone\.plain\.bias holds NaN"):
        load_model(spec, path)


def test_a_quantised_model_is_refused(spec, tmp_path):
    path = write(tmp_path / "int8.tflite", dtype=np.int8)
    with pytest.raises(CheckpointError, match="not a TFLite model of float convolutions"):
        state_dict_from_tflite(path, spec)


def test_a_damaged_model_is_refused_or_read_but_never_crashes(spec, tmp_path):
    content = bytearray(write(tmp_path / "model.tflite").read_bytes())
    path = tmp_path / "damaged.tflite"
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        for position in generator.integers(0, len(damaged), 20):
            damaged[position] ^= 0xFF
        path.write_bytes(damaged[: generator.integers(1, len(damaged) + 1)])
        try:
            state_dict_from_tflite(path, spec)
        except CheckpointError:
            refused += 1
    assert refused > 100


def as_tensorflow(spec, state_dict):
    """Every convolution of a network under a name and in the layout of TensorFlow."""
    weights = {}
    for name, module in spec.network(spec, False).named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        weight, bias = (state_dict[f"{name}.{part}"].numpy() for part in ("weight", "bias"))
        if name.startswith("regression_heads."):  # y, x, h, w of each box
            weight, bias = (
                part.reshape(-1, 4, *part.shape[1:])[:, [1, 0, 3, 2]].reshape(part.shape)
                for part in (weight, bias)
            )
            name = f"BoxPredictor_{name.rpartition('.')[2]}/BoxEncodingPredictor"
        elif name.startswith("classification_heads."):
            name = f"BoxPredictor_{name.rpartition('.')[2]}/ClassPredictor"
        depthwise = module.groups > 1
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        weights[name] = weight.transpose(order), bias, DEPTHWISE if depthwise else CONV
    return weights


@pytest.fixture(scope="module")
def bundled():
    path = files("ssd_core") / "weights" / MODELS["ssd_mobilenet_v2_oid"].weights
    return load_file(str(path))


def assert_is_bundled(imported, bundled):
    assert imported.keys() == bundled.keys()
    for name, tensor in imported.items():
        assert torch.equal(tensor.half(), bundled[name]), name


def test_the_whole_network_written_as_tensorflow_does_gives_its_weights_back(bundled, tmp_path):
    spec = MODELS["ssd_mobilenet_v2_oid"]
    weights = as_tensorflow(spec, bundled)
    assert len(weights) == len(bundled) // 2 > 60
    path = write(tmp_path / "whole.tflite", weights, np.float16)
    assert_is_bundled(state_dict_from_tflite(path, spec), bundled)


@pytest.mark.long
@pytest.mark.skipif(
    "SSD_MOBILENET_TFLITE" not in os.environ,
    reason="SSD_MOBILENET_TFLITE does not name the published .tflite",
)
def test_the_published_model_gives_the_bundled_weights(bundled):
    path = Path(os.environ["SSD_MOBILENET_TFLITE"])
    assert_is_bundled(state_dict_from_tflite(path, MODELS["ssd_mobilenet_v2_oid"]), bundled)
