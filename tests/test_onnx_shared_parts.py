"""What a file holds once and uses often is one weight: constants of functions, of branches, and of data files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from idp_deploy.flow import Contents
from idp_deploy.gating import sparsity
from idp_deploy.reading import read
from idp_deploy.restoring import restore
from idp_deploy.verification import run_file
from tests.test_onnx_strangers import FLOAT, NODE, PRODUCT, RNG, body, choice, save, weight

CALLS = [NODE("Layer", ["x"], ["h"], domain="mine"), NODE("Layer", ["h"], ["y"], domain="mine")]


def function(nodes: Sequence[onnx.NodeProto], *, name: str = "Layer", opset: int = 21) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["a"], ["o"], nodes, opsets)


def linear(square: np.ndarray, *, own: str = "w", result: str = "o") -> list[onnx.NodeProto]:
    """a · square → o."""
    constant = NODE("Constant", [], [own], value=numpy_helper.from_array(square, ""))
    return [constant, NODE("MatMul", ["a", own], [result])]


def bit_equal(before: Contents, path: Path) -> bool:
    x = RNG.standard_normal((2, 64)).astype(np.float32)
    runs = [run_file(each, [(call,)])["onnxruntime"][0] for call in (x, -x) for each in (before.path, path)]
    return all(np.array_equal(a, b) for a, b in zip(runs[::2], runs[1::2], strict=True))


@pytest.mark.parametrize("opset", [21, 17])
def test_a_function_that_is_called_twice_has_its_weight_once(opset: int, tmp_path: Path) -> None:
    contents = save(tmp_path / "m.onnx", CALLS, {}, functions=[function(linear(weight(64, 64)), opset=opset)])
    assert sparsity(contents)[2] == 64 * 64
    assert sum(tensor.size_bytes for tensor in contents.tensors) <= contents.size_bytes
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.25 * restored.before_bytes
    assert sparsity(read(restored.path)) == sparsity(contents)
    assert bit_equal(contents, restored.path)
    assert [each.name for each in onnx.load(restored.path).functions] == ["Layer"]


def test_functions_that_call_functions_hand_their_weights_on(tmp_path: Path) -> None:
    inner = function(linear(weight(64, 64)), name="Inner")
    nodes = [NODE("Inner", ["a"], ["b"], domain="mine"), NODE("Inner", ["b"], ["c"], domain="mine")]
    last = linear(weight(64, 64))
    last[1].input[0] = "c"
    contents = save(tmp_path / "m.onnx", CALLS, {}, functions=[function([*nodes, *last]), inner])
    assert sparsity(contents)[2] == 2 * 64 * 64
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.25 * restored.before_bytes
    assert bit_equal(contents, restored.path)


def test_branches_inside_of_a_function_become_sparse(tmp_path: Path) -> None:
    then, other = body("t", weight(64, 64)), body("e", weight(64, 64), as_node=True)
    for branch in (then, other):
        branch.node[-1].input[0] = "a"
    nodes = [NODE("Constant", [], ["zero"], value=numpy_helper.from_array(np.float32(0), ""))]
    nodes += choice(then, other)
    nodes[1].input[0], nodes[-1].output[0] = "a", "o"
    contents = save(tmp_path / "m.onnx", CALLS, {}, functions=[function(nodes)])
    assert sparsity(contents)[2] == 2 * 64 * 64
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.25 * restored.before_bytes
    assert bit_equal(contents, restored.path)


def test_a_function_that_calls_itself_is_one_message(tmp_path: Path) -> None:
    nodes = [NODE("Layer", ["a"], ["b"], domain="mine"), *linear(weight(64, 64))]
    with pytest.raises(Exception, match=r"m\.onnx"):
        save(tmp_path / "m.onnx", CALLS, {}, functions=[function(nodes)])


def test_integers_of_branches_have_their_zero_point_and_become_sparse(tmp_path: Path) -> None:
    branches = []
    for name in ("t", "e"):
        codes = (40 * weight(64, 64)).clip(-100, 100).astype(np.int8) + np.int8(3)
        nodes = [NODE("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1), NODE("MatMul", ["x", "w"], [name])]
        held = {"q": codes, "s": np.full(64, 0.02, np.float32), "z": np.full(64, 3, np.int8)}
        tensors = [numpy_helper.from_array(array, key) for key, array in held.items()]
        results = [helper.make_tensor_value_info(name, FLOAT, None)]
        branches.append(helper.make_graph(nodes, name, [], results, tensors))
    contents = save(tmp_path / "m.onnx", choice(*branches), {"zero": np.float32(0)})
    share, _, entries = sparsity(contents)
    assert entries == 2 * 64 * 64
    assert share > 0.88
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.4 * restored.before_bytes
    assert bit_equal(contents, restored.path)


def test_two_names_for_one_place_of_a_data_file_are_one_weight(tmp_path: Path) -> None:
    w = weight(64, 96)
    nodes = [NODE("MatMul", ["x", "w"], ["a"]), NODE("MatMul", ["x", "v"], ["b"]), NODE("Add", ["a", "b"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"w": w, "v": w}).path
    (tmp_path / "shared.bin").write_bytes(b"\1" * 4096 + w.tobytes())
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "shared.bin"), ("offset", "4096"), ("length", str(w.nbytes))):
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    contents = read(path)
    assert [(tensor.size_bytes, tensor.size) for tensor in contents.tensors] == [(w.nbytes, w.size)]
    assert bit_equal(contents, restore(path, tmp_path / "s.onnx").path)


def test_bytes_of_numbers_written_one_by_one_are_those_of_the_file(tmp_path: Path) -> None:
    halves = helper.make_tensor("v", onnx.TensorProto.FLOAT16, (64, 96), weight(64, 96).astype(np.float16).reshape(-1))
    x = helper.make_tensor_value_info("x", FLOAT, ["n", 64])
    y = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph([NODE("Cast", ["v"], ["w"], to=FLOAT), PRODUCT], "g", [x], [y], [halves])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    contents = read(path)
    assert contents.tensors[0].size_bytes < contents.size_bytes < 64 * 96 * 2


def test_what_people_wrote_stays_and_where_exporters_noted_goes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [PRODUCT, NODE("Relu", ["y"], ["z"], name="last")], {"w": weight(64, 96)}).path
    model = onnx.load(path)
    model.doc_string, model.graph.doc_string, model.graph.input[0].doc_string = "ours", "of pixels", "0 to 1"
    model.graph.node[1].doc_string = 'File "net.py", line 7'
    for key in ("layer_ann", "pkg.torch.onnx.stack_trace"):
        model.graph.node[0].metadata_props.add(key=key, value="1")
    model.graph.output[0].name = "z"
    kept = helper.make_tensor_value_info("y", FLOAT, ["rows", 96])  # which inference calls n
    model.graph.value_info.append(kept)
    onnx.save(model, path)
    restore(path, tmp_path / "s.onnx")
    after = onnx.load(tmp_path / "s.onnx")
    assert (after.doc_string, after.graph.doc_string) == ("ours", "of pixels")
    assert after.graph.input[0].doc_string == "0 to 1"
    product, last = after.graph.node[-2:]
    assert [entry.key for entry in product.metadata_props] == ["layer_ann"]
    assert not last.doc_string
    (shape,) = after.graph.value_info
    assert (shape.name, shape.type) == (product.output[0], kept.type)


def test_extents_that_a_file_says_are_one_stay_one(tmp_path: Path) -> None:
    """onnxruntime fuses operators where it knows that two unknown extents are the same."""
    nodes = [
        NODE("Reshape", ["x", "shape"], ["r"]), NODE("MatMul", ["r", "w"], ["p"]), NODE("Add", ["p", "r"], ["s"]),
        NODE("LayerNormalization", ["s", "g"], ["y"]),
    ]  # fmt: skip
    stored = {"w": weight(64, 64), "g": np.ones(64, np.float32), "shape": np.array([-1, 1, 64])}
    path = save(tmp_path / "m.onnx", nodes, stored).path
    model = onnx.load(path)
    for name in ("r", "p"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, FLOAT, ["unk__1", 1, 64]))
    onnx.save(model, path)
    restore(path, tmp_path / "s.onnx")
    assert len(onnx.load(tmp_path / "s.onnx").graph.value_info) == 2


def test_a_file_that_is_no_smaller_image_than_it_needs_is_run_on_a_larger_one(tmp_path: Path) -> None:
    images = helper.make_tensor_value_info("images", FLOAT, ["n", 3, "h", "w"])
    nodes = [
        NODE("Conv", ["images", "k"], ["a"], strides=[16, 16]), NODE("AveragePool", ["a"], ["b"], kernel_shape=[4, 4]),
        NODE("ReduceMean", ["b"], ["c"], axes=[2, 3], keepdims=0), PRODUCT, NODE("Concat", ["c", "y"], ["z"], axis=1),
    ]  # fmt: skip
    stored = {"k": weight(64, 3, 16, 16), "w": weight(64, 96)}
    path = save(tmp_path / "m.onnx", nodes, stored, opset=17, ir=8, inputs=[images]).path
    model = onnx.load(path)
    model.graph.output[0].name = "z"
    onnx.save(model, path)
    assert restore(path, tmp_path / "s.onnx").after_bytes < 0.25 * read(path).size_bytes


def test_a_weight_that_trains_keeps_its_place(tmp_path: Path) -> None:
    nodes = [PRODUCT, NODE("MatMul", ["y", "v"], ["z"])]
    path = save(tmp_path / "m.onnx", nodes, {"w": weight(64, 96), "v": weight(96, 96)}).path
    model = onnx.load(path)
    model.graph.output[0].name = "z"
    info = model.training_info.add()
    info.algorithm.node.append(NODE("Identity", ["w"], ["new"]))
    info.update_binding.add(key="w", value="new")
    path.write_bytes(model.SerializeToString())
    restore(path, tmp_path / "s.onnx")
    after = onnx.load(tmp_path / "s.onnx")
    assert "w" in {tensor.name for tensor in after.graph.initializer}
    assert after.training_info == model.training_info


def test_int4_that_is_stored_twice_stays_twice(tmp_path: Path) -> None:
    """Identity takes no int4 before opset 21."""
    codes = (10 * weight(64, 64)).clip(-8, 7).astype(ml_dtypes.int4)
    nodes = [
        NODE("DequantizeLinear", ["q", "s"], ["a"], domain="com.microsoft"),
        NODE("DequantizeLinear", ["p", "s"], ["b"], domain="com.microsoft"),
        NODE("MatMul", ["x", "a"], ["h"]), NODE("MatMul", ["h", "b"], ["i"]), NODE("MatMul", ["i", "w"], ["y"]),
    ]  # fmt: skip
    stored = {"q": codes, "p": codes, "s": np.float32(0.1), "w": weight(64, 96)}
    path = save(tmp_path / "m.onnx", nodes, stored, opset=17).path
    model = onnx.load(path)
    model.opset_import.add(domain="com.microsoft", version=1)
    onnx.save(model, path)
    contents = read(path)
    assert sparsity(contents)[2] == 2 * 64 * 64 + 64 * 96
    assert bit_equal(contents, restore(path, tmp_path / "s.onnx").path)


def test_fused_attention_and_quantized_recurrences_have_weights(tmp_path: Path) -> None:
    nodes = [
        NODE("Unsqueeze", ["x", "axis"], ["u"]),
        NODE("Attention", ["u", "qkv", "b"], ["y"], domain="com.microsoft", num_heads=4),
        NODE("DynamicQuantizeLSTM", ["u", "w", "r", "", "", "", "", "", "ws", "wz", "rs", "rz"], ["z"],
             domain="com.microsoft", hidden_size=16),
    ]  # fmt: skip
    codes = [(40 * weight(1, rows, 64)).clip(-100, 100).astype(np.int8) + np.int8(5) for rows in (64, 16)]
    points, scales = np.full((1, 64), 5, np.int8), np.full((1, 64), 0.1, np.float32)
    stored = {"axis": np.array([0]), "qkv": weight(64, 192), "b": np.ones(192, np.float32)}
    stored |= {"w": codes[0], "r": codes[1], "ws": scales, "wz": points, "rs": scales, "rz": points}
    share, _, entries = sparsity(save(tmp_path / "m.onnx", nodes, stored))
    assert entries == 64 * 192 + 64 * 64 + 16 * 64
    assert share > 0.88


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [0, 16])
def test_matrices_of_experts_are_weights(bits: int, block: int, tmp_path: Path) -> None:
    """`MoE` has them in floats, `QMoE` as codes around the middle of their range."""
    floats = {"v": weight(4, 32, 64), "u": weight(4, 64, 32)}
    middle = 1 << (bits - 1)
    stored: dict[str, Any] = {"g": np.eye(64, 4, dtype=np.float32), **floats}
    for name, of in (("w", floats["v"]), ("r", floats["u"])):
        codes = ((8 * of).clip(-middle, middle - 1).astype(int) + middle).astype(np.uint8)
        stored[name] = codes if bits == 8 else codes[..., 0::2] | codes[..., 1::2] << 4
        stored[f"{name}s"] = np.full((*of.shape[:2], of.shape[2] // block) if block else of.shape[:2], 0.1, np.float32)
    own = {"domain": "com.microsoft", "activation_type": "relu", "k": 2}
    blocks = {"block_size": block} if block else {}
    nodes = [
        NODE("MatMul", ["x", "g"], ["p"]),
        NODE("MoE", ["x", "p", "v", "", "u", ""], ["h"], **own),
        NODE("QMoE", ["h", "p", "w", "ws", "", "r", "rs", ""], ["y"], expert_weight_bits=bits, **blocks, **own),
    ]
    contents = save(tmp_path / "m.onnx", nodes, stored)
    share, zeros, entries = sparsity(contents)
    assert entries == 64 * 4 + 4 * 4 * 32 * 64
    coded = [int(np.count_nonzero(np.trunc((8 * of).clip(-middle, middle - 1)) == 0)) for of in floats.values()]
    assert zeros == 64 * 4 - 4 + sum(coded) + sum(np.count_nonzero(of == 0) for of in floats.values())
    assert contents.values["y"].shape == (-1, 64)
    after = read(restore(contents.path, tmp_path / "s.onnx").path)
    assert sparsity(after) == (share, zeros, entries)
    assert {t.dtype for t in contents.tensors} == {"float32", f"uint{bits}"}


def test_weights_of_operators_that_nobody_knows_are_said_to_count_for_nothing(tmp_path: Path) -> None:
    contents = save(tmp_path / "m.onnx", [NODE("Fold", ["x", "w"], ["y"], domain="acme")], {"w": weight(64, 96)})
    assert "what Fold read counts for no share of zeros: it is not known here" in contents.warnings
    assert sparsity(contents)[2] == 0


def test_a_constant_that_hides_one_around_it_keeps_its_values(tmp_path: Path) -> None:
    """Branches in branches, each with constants of the same two names."""
    inner = [body("t", weight(64, 64)), body("e", weight(64, 64))]
    for branch in inner:
        branch.initializer[0].name = branch.node[-1].input[1] = "w"
    nodes = [NODE("MatMul", ["x", "w"], ["m"]), NODE("Greater", ["s", "zero"], ["d"])]
    nodes.append(NODE("If", ["d"], ["o"], then_branch=inner[0], else_branch=inner[1]))
    nodes.append(NODE("Add", ["m", "o"], ["both"]))
    held = [numpy_helper.from_array(weight(64, 64), "w"), numpy_helper.from_array(np.float32(3), "zero")]
    outer = helper.make_graph(nodes, "outer", [], [helper.make_tensor_value_info("both", FLOAT, None)], held)
    nodes = [
        *choice(outer, body("f", weight(64, 64))),
        NODE("MatMul", ["x", "w"], ["v"]),
        NODE("Add", ["y", "v"], ["z"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"zero": np.float32(0), "w": weight(64, 64)}).path
    model = onnx.load(path)
    model.graph.output[0].name = "z"
    onnx.save(model, path)
    contents = read(path)
    assert sparsity(contents)[2] == 5 * 64 * 64
    restored = restore(path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.25 * restored.before_bytes
    assert bit_equal(contents, restored.path)
