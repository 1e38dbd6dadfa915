"""Weights of the TensorFlow Lite SSD MobileNetV2, as this project's tensors.

Reads only constants and the order of the convolutions; the graph itself is ``models.mobilenet``.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ssd_core.errors import CheckpointError
from ssd_core.models.zoo import ModelSpec, build_model

# TensorFlow predicts y, x, h, w per box; here it is x, y, w, h.
_XYWH_FROM_YXHW = (1, 0, 3, 2)


class _Convolution(NamedTuple):
    name: str
    weight: Tensor
    bias: Tensor


def state_dict_from_tflite(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    """Tensors by the names used here.

    Raises CheckpointError if the file is not a TFLite model or has another number of convolutions.
    """
    try:
        found = _convolutions(path.read_bytes())
    except Exception as error:  # a flatbuffer with wrong offsets raises errors of many classes
        raise CheckpointError(
            f"weights {path}: not a TFLite model of float convolutions ({error})"
        ) from error
    body = [c for c in found if not c.name.startswith("BoxPredictor_")]
    boxes = [c for c in found if "/BoxEncodingPredictor" in c.name and c not in body]
    classes = [c for c in found if "/ClassPredictor" in c.name and c not in body]

    model = build_model(spec)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    body_names = [name for name in names if "_heads." not in name]
    heads = len(spec.feature_maps)
    if (len(body), len(boxes), len(classes)) != (len(body_names), heads, heads):
        raise CheckpointError(
            f"weights {path} do not fit {spec.name}: expected {len(body_names)} convolutions and "
            f"{heads} box and class predictors, found {len(body)}, {len(boxes)}, {len(classes)}"
        )
    if any(convolution.weight.shape[0] % 4 for convolution in boxes):
        raise CheckpointError(f"weights {path} do not fit {spec.name}: 4 outputs per box expected")
    state_dict = {}
    for name, convolution in zip(body_names, body, strict=True):
        state_dict[f"{name}.weight"] = convolution.weight
        state_dict[f"{name}.bias"] = convolution.bias
    for k in range(heads):
        state_dict[f"classification_heads.{k}.weight"] = classes[k].weight
        state_dict[f"classification_heads.{k}.bias"] = classes[k].bias
        state_dict[f"regression_heads.{k}.weight"] = _to_xywh(boxes[k].weight)
        state_dict[f"regression_heads.{k}.bias"] = _to_xywh(boxes[k].bias)
    return state_dict


def _to_xywh(head: Tensor) -> Tensor:
    """Reorder the outputs of a box head: (k * 4, ...)."""
    per_box = head.reshape(-1, 4, *head.shape[1:])
    return per_box[:, list(_XYWH_FROM_YXHW)].reshape(head.shape)


def _convolutions(buffer: bytes) -> list[_Convolution]:
    """Every convolution of the model, in the order of the graph."""
    import tflite  # only this importer needs it

    model: Any = tflite.Model.GetRootAs(buffer, 0)
    graph = model.Subgraphs(0)
    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    kinds = tflite.BuiltinOperator
    source_of = {}  # the fp16 constant of each tensor that is its fp32 copy
    found = []
    for operator in operators:
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        inputs = operator.InputsAsNumpy()
        if kind == kinds.DEQUANTIZE:
            source_of[operator.Outputs(0)] = inputs[0]
        elif kind in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D):
            weight, bias = (_constant(model, graph, source_of.get(i, i)) for i in inputs[1:3])
            # out, height, width, in (1, height, width, out if depthwise) to out, in, height, width
            order = (3, 0, 1, 2) if kind == kinds.DEPTHWISE_CONV_2D else (0, 3, 1, 2)
            name = graph.Tensors(inputs[1]).Name().decode()
            found.append(_Convolution(name, weight.permute(order).contiguous(), bias))
    return found


def _constant(model: Any, graph: Any, index: int) -> Tensor:
    import tflite

    tensor = graph.Tensors(index)
    dtype = {tflite.TensorType.FLOAT16: np.float16, tflite.TensorType.FLOAT32: np.float32}[
        tensor.Type()
    ]
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    return torch.from_numpy(data.view(dtype).reshape(tensor.ShapeAsNumpy()).copy())
