"""restore: dense ONNX files of any tool become sparse again, or stay as they are."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from idp_deploy.cli.app import app
from idp_deploy.errors import ConversionError, FileError, UsageError
from idp_deploy.exporting import export
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.restoring import restore
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


def test_nothing_is_written_where_nothing_is_gained_or_possible(tmp_path):
    dense = foreign(tmp_path / "dense.onnx", sparsity=0.0)
    with pytest.raises(UsageError, match="no zeros that would be smaller"):
        restore(dense, tmp_path / "out.onnx")
    old = foreign(tmp_path / "old.onnx", opset=9)
    with pytest.raises(ConversionError, match="opset 9"):
        restore(old, tmp_path / "out.onnx")
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
