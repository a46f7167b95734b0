"""restore: dense files of any tool become sparse again, or stay as they are."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.utils import prune
from typer.testing import CliRunner

from idp_deploy.cli.app import app
from idp_deploy.errors import ConversionError, FileError, UsageError
from idp_deploy.exporting import export
from idp_deploy.inspection import inspect
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.restoring import restore
from idp_deploy.units import show
from idp_deploy.verification import run_file
from tests.zoo import ZOO, pruned


def folded(path, folder):
    """What a tool makes of a file that folds its constants: onnxruntime's own optimizer here."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return folder / "folded.onnx"


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["float32", "fp16", "int8-weights", "int8"])
def test_a_folded_file_is_as_small_again_as_our_export(scheme, tmp_path):
    entry = ZOO["mobilenet_v2"]
    model, inputs = pruned(entry), entry.example_inputs()
    if scheme != "float32":
        model = quantize(model, scheme, example_inputs=inputs)
    ours = export(model, "onnx", inputs, tmp_path / "ours.onnx")
    dense = folded(ours.path, tmp_path)
    restored = restore(dense, tmp_path / "again.onnx")
    weighed = [sum(t.size_bytes for t in read(path).tensors) for path in (ours.path, restored.path)]
    assert restored.before_bytes > 1.3 * ours.size_bytes
    assert weighed[1] < 1.01 * weighed[0]  # the graph around the weights is the other tool's
    x = inputs[0].numpy()
    (a,), (b,) = (run_file(path, [(x,)])["onnxruntime"][0] for path in (dense, restored.path))
    np.testing.assert_array_equal(a, b)


def foreign(path, opset=13, *, constant=False, sparsity=0.9):
    """One matrix product by another tool: opset 13, its weight an initializer or a Constant node."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((64, 96)).astype(np.float32)
    values[generator.random(values.shape) < sparsity] = 0
    tensor = numpy_helper.from_array(values, "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 96])],
        [] if constant else [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 7
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_files_of_other_tools(opset, constant, tmp_path):
    source = foreign(tmp_path / "m.onnx", opset, constant=constant)
    before = source.read_bytes()
    restored = restore(source, tmp_path / "m.sparse.onnx")
    assert source.read_bytes() == before
    assert restored.after_bytes < 0.25 * restored.before_bytes
    assert restored.zeros == read(source).tensor("w").zeros
    proto = onnx.load(restored.path)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == opset
    assert opset >= 18 or "BitwiseAnd" not in {node.op_type for node in proto.graph.node}


def test_nodes_in_no_order_are_put_in_order(tmp_path):
    torch.manual_seed(0)
    model, inputs = pruned(ZOO["mixer"]), ZOO["mixer"].example_inputs()
    proto = onnx.load(folded(export(model, "onnx", inputs, tmp_path / "ours.onnx").path, tmp_path))
    nodes = list(reversed(proto.graph.node))
    assert len(nodes) > 2
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, tmp_path / "reversed.onnx")
    assert read(tmp_path / "reversed.onnx").tensors
    restored = restore(tmp_path / "reversed.onnx", tmp_path / "again.onnx")
    onnx.checker.check_model(str(restored.path), full_check=True)
    x = inputs[0].numpy()
    (a,), (b,) = (run_file(path, [(x,)])["onnxruntime"][0] for path in (tmp_path / "folded.onnx", restored.path))
    np.testing.assert_array_equal(a, b)
    proto.graph.node[0].input[0] = proto.graph.node[0].output[0]
    onnx.save(proto, tmp_path / "circle.onnx")
    with pytest.raises(FileError, match="read each other in a circle"):
        read(tmp_path / "circle.onnx")


def test_a_manifest_says_how_zeros_are_stored_now(tmp_path):
    source = foreign(tmp_path / "m.onnx", opset=18)
    proto = onnx.load(source)
    said = '{"options":{"encoding":"dense","precision":"float32"},"schema_version":1}'
    proto.metadata_props.add(key="idp_deploy", value=said)
    onnx.save(proto, source)
    kept = {"precision": "float32"}
    for encoding, options in (("auto", {}), ("bitmask", {"encoding": "bitmask"})):
        path = restore(source, tmp_path / "m.sparse.onnx", encoding=encoding).path
        assert read(path).manifest["options"] == options | kept


def test_nothing_is_written_where_nothing_is_gained_or_possible(tmp_path):
    dense = foreign(tmp_path / "dense.onnx", sparsity=0.0)
    with pytest.raises(UsageError, match="no zeros that would be smaller"):
        restore(dense, tmp_path / "out.onnx")
    old = onnx.load(foreign(tmp_path / "old.onnx", opset=9))
    old.graph.node[0].op_type = "Unheard"
    onnx.save(old, tmp_path / "old.onnx")
    with pytest.raises((ConversionError, FileError), match=r"opset 9|cannot load"):
        restore(tmp_path / "old.onnx", tmp_path / "out.onnx")
    (tmp_path / "broken.onnx").write_bytes(dense.read_bytes()[:3000])
    with pytest.raises(FileError):
        restore(tmp_path / "broken.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_the_command_imports_no_torch(tmp_path):
    source = foreign(tmp_path / "m.onnx")
    code = "import sys; from idp_deploy.cli.app import app\ntry: app()\nfinally: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "restore", str(source)], check=True)
    assert (tmp_path / "m.sparse.onnx").exists()


def test_the_source_is_never_overwritten(tmp_path):
    source = foreign(tmp_path / "m.onnx")
    assert CliRunner().invoke(app, ["restore", str(source), "-o", str(source)]).exit_code != 0
    assert read(source).tensor("w").encoding == "dense"


def layer(path, *, off):
    """An int8 matrix product whose bias has the scale of input × weight, but for `off` in one channel."""
    generator = np.random.default_rng(0)
    weight = (generator.integers(-99, 99, (64, 96)) * (generator.random((64, 96)) < 0.1)).astype(np.int8)
    of_input, of_weight = np.float32(0.1), generator.random(96).astype(np.float32)
    of_bias = of_input * of_weight
    of_bias[3] = np.nextafter(of_bias[3], np.float32(np.inf)) if off else of_bias[3]
    stored = {
        "s": of_input, "sw": of_weight, "sb": of_bias, "z": np.int8(0), "w": weight,
        "b": generator.integers(-99, 99, 96).astype(np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw"], ["wd"], axis=1),
        helper.make_node("DequantizeLinear", ["b", "sb"], ["bd"], axis=0),
        helper.make_node("Gemm", ["xd", "wd", "bd"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("x", 64), ("y", 96)))
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_a_scale_is_computed_only_where_it_is_the_product_bit_for_bit(tmp_path):
    for off in (False, True):
        restored = restore(layer(tmp_path / "a.onnx", off=off), tmp_path / "b.onnx")
        graph = onnx.load(restored.path).graph
        computed = [node for node in graph.node if node.op_type == "Mul" and "sb" in node.output]
        assert bool(computed) is not off
        assert ("sb" in {tensor.name for tensor in graph.initializer}) is off


# ── TFLite ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["float32", "fp16", "int8-weights", "int8"])
@pytest.mark.parametrize("network", ["mobilenet_v2", "mixer"])
def test_a_dense_tflite_file_is_as_small_as_our_sparse_one(network, scheme, tmp_path):
    entry = ZOO[network]
    model, inputs = pruned(entry), entry.example_inputs()
    if scheme != "float32":
        model = quantize(model, scheme, example_inputs=inputs)
    ours = export(model, "tflite", inputs, tmp_path / "ours.tflite")
    dense = export(model, "tflite", inputs, tmp_path / "dense.tflite", encoding="dense")
    restored = restore(dense.path, tmp_path / "again.tflite")
    slack = 32 * sum(tensor.is_sparse for tensor in read(ours.path).tensors)  # tables of a graph that is not quite ours
    assert restored.after_bytes == restored.path.stat().st_size <= 1.002 * ours.size_bytes + slack
    assert read(restored.path).manifest["options"] == ours.manifest["options"]
    assert restored.runtimes[:2] == ("litert-xnnpack", "litert-builtin")
    calls = [tuple(x.numpy() for x in entry.example_inputs(seed)) for seed in (1, 2)]
    before, after = (run_file(path, calls) for path in (dense.path, restored.path))
    for runtime in restored.runtimes:
        for a, b in zip(before[runtime], after[runtime], strict=True):
            np.testing.assert_array_equal(a, b)


class Pruned(torch.nn.Module):
    """A network that another tool pruned."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.linear = torch.nn.Conv2d(3, 32, 3), torch.nn.Linear(32, 400)
        self.wide = torch.nn.Linear(400, 50)
        for module in (self.convolution, self.linear, self.wide):
            prune.l1_unstructured(module, "weight", 0.9)
            prune.remove(module, "weight")

    def forward(self, x):
        return self.wide(torch.relu(self.linear(torch.relu(self.convolution(x)).mean((2, 3)))))


@pytest.fixture(scope="module")
def converted():
    """The same, dense, by litert-torch alone: no line of ours has touched it."""
    import litert_torch

    module = Pruned().eval()
    return litert_torch.convert(module, (torch.randn(1, 3, 16, 16),)).model_content()


def test_a_tflite_file_of_another_tool(converted, tmp_path):
    source = tmp_path / "m.tflite"
    source.write_bytes(converted)
    restored = restore(source, tmp_path / "m.sparse.tflite")
    assert restored.after_bytes < 0.35 * restored.before_bytes
    assert source.read_bytes() == converted
    assert {t.encoding for t in read(restored.path).tensors if t.zeros > 1000} <= {"csr", "block"}


@pytest.mark.parametrize("recipe", ["dynamic_wi8_afp32", "weight_only_wi8_afp32"])
def test_int8_of_another_tool_is_stored_sparse_where_runtimes_take_it(recipe, converted, tmp_path):
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    (tmp_path / "float.tflite").write_bytes(converted)
    made = quantizer.Quantizer(str(tmp_path / "float.tflite"), getattr(recipes, recipe)())
    source = tmp_path / "m.tflite"
    source.write_bytes(made.quantize().quantized_model)
    if recipe.startswith("dynamic"):  # integer weights beside float activations: XNNPACK refuses sparse ones
        with pytest.raises(UsageError, match=r"Linear_wide;1' \(int8, 9\d% zero\) cannot be stored sparse as it is"):
            restore(source, tmp_path / "again.tflite")
        assert not (tmp_path / "again.tflite").exists()
    else:
        assert restore(source, tmp_path / "again.tflite").after_bytes < 0.7 * source.stat().st_size


def test_a_damaged_tflite_file_is_one_message(converted, tmp_path):
    source = tmp_path / "m.tflite"
    for cut in (100, len(converted) // 2):
        source.write_bytes(converted[:cut])
        with pytest.raises(FileError):
            restore(source, tmp_path / "out.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["m.tflite"]


# ── what inspect and check say of such files ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_inspect_and_check_say_how_large_a_dense_file_could_be(format, converted, tmp_path):
    source = tmp_path / f"m.{format}"
    if format == "tflite":
        source.write_bytes(converted)
    else:
        foreign(source)
    restored = restore(source, tmp_path / f"again.{format}")
    found = inspect(source)
    assert found.sparse_bytes == restored.after_bytes
    (warning,) = found.warnings
    before, after = (show(size, "bytes") for size in (source.stat().st_size, restored.after_bytes))
    assert re.search(
        rf": {before} at \d\d.* % zeros, {after} as this tool stores it: idp-deploy restore {source}$", warning
    )
    assert inspect(restored.path).warnings == ()
    checked = CliRunner().invoke(app, ["check", str(source), "--target", "pixel-4", "--json"])
    assert f"{source}: {warning}" in json.loads(checked.stdout)["notes"]
    assert json.loads(checked.stdout)["sparse_bytes"] == {str(source): restored.after_bytes}


def test_a_size_budget_that_a_dense_file_breaks_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = foreign(tmp_path / "m.onnx")
    (tmp_path / "budgets.toml").write_text('[budgets.pixel-4.onnx]\nsize = "10 kB"\n')
    checked = CliRunner().invoke(app, ["check", str(source), "--budgets", "budgets.toml", "--json"])
    assert checked.exit_code == 1
    assert f"restore {source}" in json.loads(checked.stdout)["checks"][0]["fix"]


def test_a_folder_that_is_no_model_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    for folder in (".", ".."):
        done = CliRunner().invoke(app, ["restore", folder])
        assert isinstance(done.exception, FileError)
        assert "is a folder without a model file" in str(done.exception)
