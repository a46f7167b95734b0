"""Borders of pools mean the same to an onnxruntime that optimizes: zeros in front of a max pool, and what is beyond an
image in an average."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.formats.onnx.write.borders import hold_borders
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def pooled(kind: int, end: int, value: float | None) -> onnx.ModelProto:
    """Pad in `kind`, a Cast to `end` where that is another, MaxPool."""
    given = [] if value is None else ["value"]
    nodes = [helper.make_node("Pad", ["x", "pads", *given], ["wide"])]
    if kind != end:
        nodes.append(helper.make_node("Cast", ["wide"], ["cast"], to=end))
    nodes.append(helper.make_node("MaxPool", [nodes[-1].output[0]], ["y"], kernel_shape=[2, 2], pads=[0, 0, 0, 0]))
    stored = [numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")]
    stored += [numpy_helper.from_array(np.array(value, helper.tensor_dtype_to_np_dtype(kind)), name) for name in given]
    ends = [
        helper.make_tensor_value_info("x", kind, [1, 1, 2, 2]),
        helper.make_tensor_value_info("y", end, [1, 1, 3, 3]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model


def run(model: onnx.ModelProto, level: onnxruntime.GraphOptimizationLevel) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    numbers = np.array([[[[-4, -3], [-2, -1]]]], np.float16 if "16" in session.get_inputs()[0].type else np.float32)
    found: np.ndarray = session.run(None, {"x": numbers})[0]
    return found


@pytest.mark.parametrize(("kind", "end"), [(FLOAT, FLOAT), (HALF, HALF), (HALF, FLOAT)])
@pytest.mark.parametrize("value", [None, 0.0, -0.5])
def test_a_border_stays_in_front_of_its_pool(kind: int, end: int, value: float | None) -> None:
    model = pooled(kind, end, value)
    levels = onnxruntime.GraphOptimizationLevel
    wanted = run(model, levels.ORT_DISABLE_ALL)
    hold_borders(model.graph)
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run(model, levels.ORT_ENABLE_ALL), wanted)
    assert wanted.max() == (value or 0.0)
    assert len(model.graph.initializer) == (1 if value is None else 2) + (not value)


AVERAGES = {
    "nothing around": (nn.AvgPool2d(2, ceil_mode=True), 7),
    "a border that counts": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), 8),
    "a border that counts, in one axis": (nn.AvgPool2d(3, 2, (1, 0), ceil_mode=True), 6),
    "a border that does not": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), 8),
    "a window that would start in the border": (nn.AvgPool2d(3, 3, 1, ceil_mode=True), 5),
    "steps longer than windows": (nn.AvgPool2d(2, 4, 1, ceil_mode=True), 8),
    "rounded down": (nn.AvgPool2d(3, 2, 1), 8),
}


@pytest.mark.wide
@pytest.mark.parametrize("scheme", [None, "int8"])
@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_divides_by_what_is_there(name: str, scheme: str | None, tmp_path: Path) -> None:
    pool, extent = AVERAGES[name]
    torch.manual_seed(0)
    inputs = (3 + torch.randn(1, 3, extent, extent),)
    model = CompressedModel(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), pool, nn.Conv2d(8, 4, 1)).eval(), {})
    model = quantize(model, scheme, example_inputs=inputs) if scheme else model
    path = export(model, "onnx", inputs, tmp_path / "a.onnx").path
    assert verify(path, model, inputs).passed
    with torch.no_grad():
        wanted = model.module(*inputs).numpy()
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})[0]
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < (0.03 if scheme else 1e-5) * np.abs(wanted).max()
