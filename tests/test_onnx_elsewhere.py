"""What other runtimes trip over is not in our .onnx files, and onnxruntime reads the same numbers from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.formats.onnx.run import EXACT_INTEGERS
from idp_deploy.formats.onnx.tools import lint
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.verification import run_file, verify
from tests.zoo import ZOO, pruned


def written(network: str, path: Path, scheme: str = "float32", encoding: str = "auto") -> onnx.GraphProto:
    entry = ZOO[network]
    model, inputs = pruned(entry), entry.example_inputs()
    ready = model if scheme == "float32" else quantize(model, scheme, example_inputs=inputs)
    return onnx.load(export(ready, "onnx", inputs, path, encoding=encoding).path).graph


@pytest.mark.wide
@pytest.mark.parametrize("network", ["mixer", "tied_language_model"])
def test_a_gelu_is_halved_last(network: str, tmp_path: Path) -> None:
    graph = written(network, tmp_path / "m.onnx")
    makers = {name: node for node in graph.node for name in node.output}
    halves = {t.name for t in graph.initializer if not t.dims and numpy_helper.to_array(t) == 0.5}
    gelus = [node for node in graph.node if node.op_type == "Mul" and halves & set(node.input)]
    grown = [makers[next(name for name in node.input if name not in halves)] for node in gelus]
    assert gelus
    for product in grown:
        assert product.op_type == "Mul"
        assert "Add" in {makers[name].op_type for name in product.input if name in makers}


@pytest.mark.wide
@pytest.mark.parametrize("network", ["mixer", "bert", "convnext"])
def test_halved_last_gives_the_same_bits(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [tuple(x.numpy() for x in ZOO[network].example_inputs(seed)) for seed in (1, 2)]
    written(network, tmp_path / "ours.onnx")
    monkeypatch.setattr("idp_deploy.formats.onnx.write.conversion.reorder", lambda graph: None)
    written(network, tmp_path / "theirs.onnx")
    ours, theirs = (_plain(tmp_path / f"{name}.onnx", calls) for name in ("ours", "theirs"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


class Share(nn.Module):
    """0.5 · (1 + erf(…)) of one layer times what another gives, which comes later."""

    def __init__(self, shares: int) -> None:
        super().__init__()
        self.share, self.layer = nn.Linear(8, shares), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = 0.5 * (1 + torch.erf(self.share(x)))
        return share * self.layer(x)


@pytest.mark.parametrize("shares", [8, 1])
def test_what_is_halved_last_may_be_of_another_layer(shares: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = CompressedModel(Share(shares).eval(), {}), (torch.randn(2, 8),)
    path = export(model, "onnx", inputs, tmp_path / "net.onnx").path
    onnx.checker.check_model(path, full_check=True)
    assert verify(path, model, inputs).passed


def _plain(path: Path, calls: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Outputs without the fusions of a runtime, each operator by itself."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return [output for call in calls for output in session.run(None, dict(zip(names, call, strict=True)))]


def test_a_gate_is_no_hard_swish(tmp_path: Path) -> None:
    graph = written("mobilenet_v3", tmp_path / "m.onnx")
    gates = [a.f for node in graph.node if node.op_type == "HardSigmoid" for a in node.attribute if a.name == "alpha"]
    assert gates
    assert all(np.float32(alpha) != np.float32(1 / 6) for alpha in gates)
    np.testing.assert_allclose(gates, 1 / 6, rtol=3e-7)
    assert "HardSwish" in {node.op_type for node in graph.node}
    assert lint(tmp_path / "m.onnx", "opencv").verdict == "right"


def test_a_gate_of_another_tool_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idp_deploy.formats.onnx.write.conversion.reorder", lambda graph: None)
    written("mobilenet_v3", tmp_path / "m.onnx")
    assert lint(tmp_path / "m.onnx", "opencv").verdict == "wrong"
    model = onnx.load(tmp_path / "m.onnx")
    gates = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "HardSigmoid"}
    for node in model.graph.node:
        for gate in gates.keys() & set(node.input) if node.op_type == "Mul" else ():
            node.input[:] = [gates[gate], gate]  # x · HardSigmoid(x), which it is taken for
    onnx.save(model, tmp_path / "swish.onnx")
    assert lint(tmp_path / "swish.onnx", "opencv").verdict == "right"


@pytest.mark.wide
@pytest.mark.parametrize("encoding", ["dense", "auto", "portable", "gaps4"])
def test_palettes_are_looked_up_by_gather(encoding: str, tmp_path: Path) -> None:
    graph = written("mobilenet_v2", tmp_path / "m.onnx", "lut4", encoding)
    tables = {t.name for t in graph.initializer if list(t.dims) == [16]}
    assert {node.op_type for node in graph.node if node.input[0] in tables} == {"Gather"}
    assert any(tensor.encoding.endswith("lut4") for tensor in read(tmp_path / "m.onnx").tensors)


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["fp16", "int8-weights"])
@pytest.mark.parametrize("network", ["mobilenet_v2", "gru", "bert"])
def test_portable_files_put_floats_into_their_places(network: str, scheme: str, tmp_path: Path) -> None:
    graph = written(network, tmp_path / "p.onnx", scheme, "portable")
    types = {t.name: t.data_type for t in graph.initializer} | {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "p.onnx")).graph.value_info
    }
    scattered = {types[node.input[2]] for node in graph.node if node.op_type == "ScatterElements"}
    assert scattered == {onnx.TensorProto.FLOAT}
    assert lint(tmp_path / "p.onnx", "mnn").verdict == "dense again"
    written(network, tmp_path / "a.onnx", scheme, "gaps8")
    assert lint(tmp_path / "a.onnx", "mnn").verdict == "wrong"
    bits = {8.0, 32.0} if scheme == "int8-weights" else {16.0, 32.0}
    assert {tensor.value_bits for tensor in read(tmp_path / "p.onnx").tensors} <= bits
    assert any(tensor.value_bits < 32 and tensor.is_sparse for tensor in read(tmp_path / "p.onnx").tensors)
    call = tuple(x.numpy() for x in ZOO[network].example_inputs(3))
    for a, b in zip(*(run_file(tmp_path / f"{n}.onnx", [call])["onnxruntime"][0] for n in "pa"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_slopes_a_channel_are_stored_as_they_are(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 200, 3), nn.PReLU(200), nn.Conv2d(200, 4, 1)).eval()
    x = (torch.randn(1, 3, 8, 8),)
    model = quantize(CompressedModel(net, {}), "fp16", example_inputs=x)
    graph = onnx.load(export(model, "onnx", x, tmp_path / "m.onnx").path).graph
    (slopes,) = (node.input[1] for node in graph.node if node.op_type == "PRelu")
    assert slopes in {tensor.name for tensor in graph.initializer}
    assert lint(tmp_path / "m.onnx", "opencv").verdict == "right"


def test_one_node_makes_the_zero_points_of_all_weights_and_each_has_its_own(tmp_path: Path) -> None:
    """A node for each would be loaded every time, and onnxruntime 1.30 to 1.32 refuse one for all in exact integers."""
    path = tmp_path / "m.onnx"
    graph = written("mobilenet_v2", path, "int8")
    assert "Identity" not in {node.op_type for node in graph.node}
    made = {name: node for node in graph.node for name in node.output}
    readers = [node for node in graph.node if node.op_type == "DequantizeLinear" and len(node.input) > 2]
    points = [node.input[2] for node in readers if getattr(made.get(node.input[0]), "op_type", "") != "QuantizeLinear"]
    assert len(points) == len(set(points)) > 8
    assert len({id(made[name]) for name in points if name in made}) == 1
    stored = {tensor.name for tensor in graph.initializer}
    assert {name for node in graph.node for name in node.input if name} <= {
        *made,
        *stored,
        *(v.name for v in graph.input),
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(*EXACT_INTEGERS)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("encoding", ["dense", "sparse-initializer"])
def test_tools_that_decode_nothing_find_no_weight_in_parts(encoding: str, tmp_path: Path) -> None:
    """OpenCV's classic engine refuses a `Split` of what another node makes; its new one a Gemm whose zero points are
    stored."""
    graph = written("mobilenet_v2", tmp_path / "m.onnx", "int8", encoding)
    assert {node.op_type for node in graph.node}.isdisjoint({"Split", "Identity", "ScatterElements"})
    made = {name: node.op_type for node in graph.node for name in node.output}
    readers = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in made]
    points = [node.input[2] for node in readers if len(node.input) > 2]
    assert len(points) == len(set(points)) > 8
    assert {made.get(name) for name in points} == {"ConstantOfShape", None}  # the few of a small layer are stored
