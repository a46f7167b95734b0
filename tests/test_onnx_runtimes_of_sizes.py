"""`inspect --runtime`: rules that ask how large things are, or what stands around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from idp_deploy.formats.onnx.tools import lint


class Windowed(nn.Module):
    """A convolution's rows weighted, all channels alike."""

    def __init__(self, layer: nn.Module, *shape: int) -> None:
        super().__init__()
        self.layer, self.window = layer, nn.Parameter(torch.rand(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self.layer(x) * self.window
        return product


@pytest.mark.wide
@pytest.mark.parametrize(
    ("runtime", "module", "extent", "verdict"),
    [
        ("onnxslim", Windowed(nn.Conv2d(1, 6, 1), 6, 1), 6, "wrong"),
        ("onnxslim", Windowed(nn.Conv2d(1, 6, 1), 6), 6, "wrong"),
        ("onnxslim", Windowed(nn.ConvTranspose2d(1, 6, 1), 1, 1, 6, 1), 6, "wrong"),
        ("onnxslim", Windowed(nn.Conv2d(1, 6, 1), 6, 1, 1), 6, "right"),  # the channels it takes them for
        ("onnxslim", Windowed(nn.Conv2d(1, 6, 1), 5), 5, "right"),
        ("reference", nn.AvgPool2d(3, ceil_mode=True), 7, "wrong"),
        ("reference", nn.AvgPool2d(2, ceil_mode=True), 7, "right"),
        ("reference", nn.AvgPool2d(3), 7, "right"),
        ("onnxruntime", nn.AvgPool2d(2, ceil_mode=True), 7, "right"),  # floats
        ("iree", nn.AvgPool2d(2, ceil_mode=True), 7, "wrong"),
        ("iree", nn.AvgPool2d(2, ceil_mode=True), 8, "right"),
        ("iree", nn.ZeroPad2d((-1, 1, 0, 0)), 7, "wrong"),
        ("iree", nn.ZeroPad2d((1, 1, 0, 0)), 7, "right"),
    ],
)
def test_what_depends_on_sizes_is_named(
    runtime: str, module: nn.Module, extent: int, verdict: str, tmp_path: Path
) -> None:
    image = torch.randn(1, 1, extent, extent)
    torch.onnx.export(module.eval(), (image,), tmp_path / "a.onnx", dynamo=True, opset_version=18, verbose=False)
    assert lint(tmp_path / "a.onnx", runtime).verdict == verdict


@pytest.mark.parametrize(("extent", "included", "verdict"), [(7, 1, "wrong"), (7, 0, "right"), (8, 1, "right")])
def test_an_average_of_integers_that_rounds_its_size_up_is_named(
    extent: int, included: int, verdict: str, tmp_path: Path
) -> None:
    ends = [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 1, extent, extent])]
    ends += [helper.make_tensor_value_info("y", TensorProto.UINT8, None)]
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": included}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("AveragePool", ["a"], ["b"], **pool),
        helper.make_node("QuantizeLinear", ["b", "s", "z"], ["y"]),
    ]
    stored = [numpy_helper.from_array(np.array(v, k), n) for n, v, k in (("s", 0.1, np.float32), ("z", 0, np.uint8))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "a.onnx")
    assert lint(tmp_path / "a.onnx", "onnxruntime").verdict == verdict


@pytest.mark.wide
@pytest.mark.parametrize(("step", "verdict"), [(2e-4, "right"), (4e-4, "wrong"), (None, "right")])
@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "Conv"])
def test_a_bias_in_steps_of_its_own_is_named(kind: str, step: float | None, verdict: str, tmp_path: Path) -> None:
    shapes = [(1, 4, 1), (4, 4, 1)] if kind == "Conv" else [(3, 4), (4, 4)]
    ends = [helper.make_tensor_value_info("x", TensorProto.UINT8, shapes[0])]
    ends += [helper.make_tensor_value_info("y", TensorProto.UINT8, None)]
    bias = "d" if step else "b"
    parts = [("DequantizeLinear", "x s z", "a"), ("DequantizeLinear", "w u", "v"), ("QuantizeLinear", "g o z", "y")]
    if step:
        parts.insert(0, ("DequantizeLinear", "b t", "d"))
    product = [("MatMul", "a v", "m"), ("Add", f"{bias} m", "g")] if kind == "MatMul" else [(kind, f"a v {bias}", "g")]
    parts[-1:-1] = product
    held = {"s": np.float32(0.02), "u": np.float32(0.01), "o": np.float32(0.05), "z": np.uint8(0)}
    numbers = np.arange(4)
    held |= {"b": numbers.astype(np.int32), "t": np.float32(step)} if step else {"b": numbers.astype(np.float32)}
    held["w"] = np.ones(shapes[1], np.int8)
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    nodes = [helper.make_node(op, read.split(), [made]) for op, read, made in parts]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "a.onnx")
    assert lint(tmp_path / "a.onnx", "onnxruntime").verdict == ("right" if kind == "Conv" else verdict)
