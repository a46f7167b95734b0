"""Weights as other tools put them into .onnx files: found, counted, gated, and stored sparse again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idp_deploy.errors import FileError, UsageError
from idp_deploy.flow import Contents
from idp_deploy.formats.redundancy import sparse_bytes
from idp_deploy.gating import sparsity
from idp_deploy.reading import read
from idp_deploy.restoring import restore
from idp_deploy.verification import run_file

RNG = np.random.default_rng(0)
NODE = helper.make_node
FLOAT = TensorProto.FLOAT
PRODUCT = NODE("MatMul", ["x", "w"], ["y"])


def weight(*shape: int) -> np.ndarray:
    """90 % zeros."""
    values = RNG.standard_normal(shape).astype(np.float32)
    values[RNG.random(shape) < 0.9] = 0
    return values


WEIGHT = weight(64, 96)
CODES = (40 * WEIGHT).clip(-127, 127).astype(np.int8)
SCALES = np.linspace(0.01, 0.03, 96, dtype=np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    stored: dict[str, np.ndarray],
    *,
    opset: int = 21,
    ir: int = 10,
    functions: Sequence[onnx.FunctionProto] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (),
    sparse: Sequence[onnx.SparseTensorProto] = (),
) -> Contents:
    """x (n, 64) → y."""
    x, y = helper.make_tensor_value_info("x", FLOAT, ["n", 64]), helper.make_tensor_value_info("y", FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", [x, *inputs], [y], tensors)
    graph.sparse_initializer.extend(sparse)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions)), path)
    return read(path)


def body(name: str, constant: np.ndarray | None, *, as_node: bool = False) -> onnx.GraphProto:
    """A branch: x · NAMEw, or x · w without a constant of its own."""
    own = f"{name}w" if constant is not None else "w"
    nodes = [NODE("MatMul", ["x", own], [f"{name}y"])]
    held = [] if constant is None or as_node else [numpy_helper.from_array(constant, own)]
    if as_node:
        nodes.insert(0, NODE("Constant", [], [own], value=numpy_helper.from_array(constant, "")))
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}y", FLOAT, None)], held)


def choice(then: onnx.GraphProto, other: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [
        NODE("ReduceSum", ["x"], ["s"], keepdims=0),
        NODE("Greater", ["s", "zero"], ["c"]),
        NODE("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]


FOLDED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], int]] = {
    "opset 9 slice": ([NODE("Slice", ["v"], ["w"], starts=[0], ends=[64])], {"v": weight(70, 96)}, 9),
    "opset 9 slice of axis 1": (
        [NODE("Slice", ["v"], ["w"], starts=[2], ends=[98], axes=[1])],
        {"v": weight(64, 99)}, 9,
    ),
    "flatten": ([NODE("Flatten", ["v"], ["w"])], {"v": weight(64, 12, 8)}, 21),
    "negative": ([NODE("Neg", ["v"], ["w"])], {"v": WEIGHT}, 21),
    "masked by where": (
        [NODE("Where", ["m", "v", "z"], ["w"])],
        {"m": WEIGHT != 0, "v": RNG.standard_normal((64, 96)).astype(np.float32), "z": np.float32(0)}, 21,
    ),
    "weight norm": (
        [NODE("ReduceL2", ["v", "a"], ["l"]), NODE("Div", ["v", "l"], ["n"]), NODE("Mul", ["n", "g"], ["w"])],
        {"v": WEIGHT, "a": np.array([0]), "g": SCALES[None]}, 21,
    ),
    "weight norm by hand": (
        [
            NODE("Mul", ["v", "v"], ["p"]), NODE("ReduceSum", ["p"], ["q"], axes=[0]), NODE("Sqrt", ["q"], ["l"]),
            NODE("Div", ["v", "l"], ["w"]),
        ],
        {"v": WEIGHT}, 11,
    ),
    "quantized in the graph": (
        [NODE("QuantizeLinear", ["v", "s", "z"], ["q"]), NODE("DequantizeLinear", ["q", "s", "z"], ["w"])],
        {"v": WEIGHT, "s": SCALES, "z": np.zeros(96, np.int8)}, 21,
    ),
    "blocks": (
        [NODE("DequantizeLinear", ["v", "s"], ["w"], axis=0, block_size=16)],
        {"v": CODES, "s": RNG.random((4, 96), np.float32)}, 21,
    ),
    "blocks that do not divide": (
        [NODE("DequantizeLinear", ["v", "s", "z"], ["w"], axis=1, block_size=64)],
        {"v": CODES, "s": RNG.random((64, 2), np.float32), "z": np.zeros((64, 2), np.int8)}, 21,
    ),
    "int4": (
        [NODE("DequantizeLinear", ["v", "s"], ["w"])],
        {"v": CODES.clip(-8, 7).astype(ml_dtypes.int4), "s": SCALES}, 21,
    ),
    "uint4 in blocks, zero point 8": (
        [NODE("DequantizeLinear", ["v", "s", "z"], ["w"], axis=0, block_size=32)],
        {
            "v": (CODES.clip(-8, 7).astype(int) + 8).astype(ml_dtypes.uint4), "s": RNG.random((2, 96), np.float32),
            "z": np.full((2, 96), 8).astype(ml_dtypes.uint4),
        }, 21,
    ),
    "float8": (
        [NODE("DequantizeLinear", ["v", "s"], ["w"])],
        {"v": WEIGHT.astype(ml_dtypes.float8_e4m3fn), "s": np.float32(0.5)}, 21,
    ),
    "int16 in the graph": (
        [NODE("QuantizeLinear", ["v", "s", "z"], ["q"], axis=1), NODE("DequantizeLinear", ["q", "s", "z"], ["w"])],
        {"v": WEIGHT, "s": SCALES, "z": np.zeros(96, np.int16)}, 21,
    ),
    "int16": ([NODE("DequantizeLinear", ["v", "s"], ["w"])], {"v": CODES.astype(np.int16), "s": SCALES}, 21),
    "bfloat16": ([NODE("Cast", ["v"], ["w"], to=FLOAT)], {"v": WEIGHT.astype(ml_dtypes.bfloat16)}, 21),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_a_weight_that_a_runtime_computes_while_loading_is_the_same_weight(name: str, tmp_path: Path) -> None:
    nodes, stored, opset = FOLDED[name]
    contents = save(tmp_path / "m.onnx", [*nodes, PRODUCT], stored, opset=opset, ir=10 if opset > 9 else 4)
    (tensor,) = contents.tensors
    share, zeros, entries = sparsity(contents)
    assert entries == 64 * 96
    assert 0.88 < share < 0.94
    assert zeros == tensor.zeros
    values = (tensor.dequantize or tensor.values)()
    ((y,),) = run_file(contents.path, [(np.eye(64, dtype=np.float32),)])["onnxruntime"]  # its rows, by the runtime
    largest = np.abs(y).max()  # the runtime multiplies some integers in an order of its own: zeros are 1e-6 of that
    np.testing.assert_allclose(values.reshape(64, 96), y, rtol=1e-6, atol=1e-5 * largest)


def test_forms_of_operators_that_are_not_computed_here_stay_operators(tmp_path: Path) -> None:
    nodes = [NODE("CumSum", ["v", "a"], ["w"], reverse=1), PRODUCT]
    contents = save(tmp_path / "m.onnx", nodes, {"v": WEIGHT, "a": np.int64(0)})
    assert [op.kind for op in contents.ops] == ["CumSum", "MatMul"]
    assert sparsity(contents)[2] == 0  # what it multiplies by is not known, so that no share of it is either


ZERO_POINTS = {
    "ConvInteger": ((8, 6, 3, 3), ["x", "w", "xz", "wz"], np.uint8(128)),
    "MatMulInteger": ((6, 8), ["x", "w", "xz", "wz"], np.arange(124, 132, dtype=np.uint8)),
    "DynamicQuantizeMatMul": ((6, 8), ["x", "w", "s", "wz"], np.uint8(128)),
    "MatMulIntegerToFloat": ((6, 8), ["x", "w", "s", "s", "xz", "wz"], np.arange(124, 132, dtype=np.uint8)),
    "QLinearConv": ((8, 6, 3, 3), ["x", "s", "xz", "w", "s", "wz", "s", "xz"], np.arange(124, 132, dtype=np.uint8)),
    "QLinearMatMul": ((6, 8), ["x", "s", "xz", "w", "s", "wz", "s", "xz"], np.uint8(7)),
}


@pytest.mark.parametrize("operator", ZERO_POINTS)
def test_zeros_are_what_the_operators_own_zero_point_says(operator: str, tmp_path: Path) -> None:
    shape, names, zero = ZERO_POINTS[operator]
    mask = RNG.random(shape) < 0.25
    along = zero.reshape(-1, 1, 1, 1) if len(shape) == 4 and zero.ndim else zero
    values = np.where(mask, along + np.uint8(9), along).astype(np.uint8)
    stored = {"w": values, "wz": zero, "xz": np.uint8(3), "s": np.float32(0.1)}
    contents = save(
        tmp_path / "m.onnx", [NODE(operator, names, ["y"])], {k: v for k, v in stored.items() if k in names}
    )
    assert contents.tensor("w").zeros == values.size - mask.sum()
    assert sparsity(contents)[1:] == (values.size - mask.sum(), values.size)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero", ["middle", "stored"])
def test_a_matrix_of_few_bits_in_blocks_is_what_the_runtime_decodes(zero: str, bits: int, tmp_path: Path) -> None:
    rows, columns, block = 96, 64, 32
    points = RNG.integers(0, 1 << bits, (rows, columns // block)).astype(np.uint8)
    points = points if zero == "stored" else np.full_like(points, 1 << (bits - 1))
    each = np.repeat(points, block, 1)
    codes = np.where(RNG.random((rows, columns)) < 0.9, each, RNG.integers(0, 1 << bits, each.shape)).astype(np.uint8)

    def packed(entries: np.ndarray) -> np.ndarray:
        spread = np.unpackbits(entries[..., None], axis=-1, bitorder="little")[..., :bits]
        return np.packbits(spread.reshape(rows, -1), axis=1, bitorder="little")

    stored = {"w": packed(codes).reshape(rows, 2, -1), "s": RNG.random((rows, 2), np.float32), "z": packed(points)}
    names = ["x", "w", "s", "z"][: 4 if zero == "stored" else 3]
    options = {"K": columns, "N": rows, "bits": bits, "block_size": block}
    node = NODE("MatMulNBits", names, ["y"], domain="com.microsoft", **options)
    path = tmp_path / "m.onnx"
    contents = save(path, [node], {name: stored[name] for name in names[1:]})
    (tensor,) = contents.tensors
    assert (tensor.shape, tensor.value_bits) == ((rows, columns), bits)
    assert sparsity(contents)[1:] == (np.count_nonzero(codes == each), codes.size)
    assert tensor.size_bytes == sum(stored[name].nbytes for name in names[1:])
    assert contents.values["y"].shape == (-1, rows)
    if bits != 2:  # the runtime has no kernel for those
        ((y,),) = run_file(path, [(np.eye(columns, dtype=np.float32),)])["onnxruntime"]
        np.testing.assert_allclose(tensor.dequantize().T, y, rtol=1e-5, atol=1e-5)  # type: ignore[misc]
    node.attribute[0].i = 4 * columns  # K
    with pytest.raises(FileError, match="contradict"):
        save(path, [node], {name: stored[name] for name in names[1:]})


@pytest.mark.parametrize("dtype", ["bool", "float32", None])
def test_a_mask_that_was_never_multiplied_in_is_not_shipped(dtype: str | None, tmp_path: Path) -> None:
    dense = RNG.standard_normal((64, 96)).astype(np.float32)
    mask = WEIGHT != 0
    nodes = [NODE("Cast", ["m"], ["f"], to=FLOAT)] if dtype else []
    nodes += [NODE("Mul", ["v", "f"], ["w"]), PRODUCT]
    stored = {"v": dense, "m" if dtype else "f": mask.astype(dtype or np.float32)}
    contents = save(tmp_path / "m.onnx", nodes, stored)
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.3 * 4 * dense.size
    np.testing.assert_array_equal(read(restored.path).tensor("w").values(), dense * mask)


@pytest.mark.parametrize("as_node", [False, True])
def test_weights_of_branches_are_listed_counted_and_stored_sparse(as_node: bool, tmp_path: Path) -> None:
    then, other = (body(name, weight(64, 96), as_node=as_node) for name in ("t", "e"))
    contents = save(tmp_path / "m.onnx", choice(then, other), {"zero": np.float32(0)})
    assert {tensor.name for tensor in contents.tensors} == {"tw", "ew"}
    assert sparsity(contents)[2] == 2 * 64 * 96
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.25 * restored.before_bytes
    assert sparsity(read(restored.path)) == sparsity(contents)
    x = np.ones((2, 64), np.float32)
    for call in (x, -x):
        (a,), (b,) = (run_file(path, [(call,)])["onnxruntime"][0] for path in (contents.path, restored.path))
        np.testing.assert_array_equal(a, b)


def test_branches_may_use_one_name_for_two_weights(tmp_path: Path) -> None:
    then, other = body("t", weight(64, 96)), body("e", weight(64, 96))
    for branch in (then, other):
        branch.initializer[0].name = branch.node[0].input[1] = "same"
    contents = save(tmp_path / "m.onnx", choice(then, other), {"zero": np.float32(0)})
    first, second = (tensor.values() for tensor in contents.tensors)
    assert not np.array_equal(first, second)
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.25 * contents.size_bytes


def test_weights_of_branches_within_branches_are_listed(tmp_path: Path) -> None:
    inner = choice(body("a", weight(64, 96)), body("b", weight(64, 96)))[-1:]
    inner[0].output[0] = "t"
    then = helper.make_graph(inner, "then", [], [helper.make_tensor_value_info("t", FLOAT, None)])
    contents = save(tmp_path / "m.onnx", choice(then, body("e", weight(64, 96))), {"zero": np.float32(0)})
    assert {tensor.name for tensor in contents.tensors} == {"aw", "bw", "ew"}
    restored = restore(contents.path, tmp_path / "s.onnx")  # those further in inside of the outer branch: the same bits
    assert {t.name for t in read(restored.path).tensors if t.is_sparse} == {"aw", "bw", "ew"}
    for call in (np.ones((2, 64), np.float32), -np.ones((2, 64), np.float32)):
        (a,), (b,) = (run_file(path, [(call,)])["onnxruntime"][0] for path in (contents.path, restored.path))
        np.testing.assert_array_equal(a, b)


def test_shapes_that_are_computed_by_products_and_maxima_are_known(tmp_path: Path) -> None:
    """As tf2onnx writes Einsum."""
    nodes = [
        NODE("MatMul", ["x", "w"], ["h"]),
        NODE("Shape", ["h"], ["s"]),
        NODE("ReduceProd", ["s"], ["p"], axes=[0]),
        NODE("Max", ["p", "one"], ["m"]),
        NODE("Reshape", ["h", "m"], ["y"]),
    ]
    contents = save(tmp_path / "m.onnx", nodes, {"w": WEIGHT, "one": np.array([1])}, opset=13, ir=8)
    assert contents.values["y"].shape in ((96,), (-1,))


def test_constants_of_functions_become_sparse(tmp_path: Path) -> None:
    nodes = [NODE("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT, "")), PRODUCT]
    linear = helper.make_function("mine", "Linear", ["x"], ["y"], nodes, [helper.make_opsetid("", 21)])
    contents = save(tmp_path / "m.onnx", [NODE("Linear", ["x"], ["y"], domain="mine")], {}, functions=[linear])
    assert sparsity(contents)[2] == 64 * 96
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.25 * contents.size_bytes


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("as_node", [True, False])
def test_the_standards_own_sparse_constants_become_smaller(flat: bool, as_node: bool, tmp_path: Path) -> None:
    places = np.flatnonzero(WEIGHT) if flat else np.argwhere(WEIGHT)
    values = numpy_helper.from_array(WEIGHT[WEIGHT != 0], "" if as_node else "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64), ""), WEIGHT.shape)
    nodes = [NODE("Constant", [], ["w"], sparse_value=sparse), PRODUCT] if as_node else [PRODUCT]
    contents = save(tmp_path / "m.onnx", nodes, {}, sparse=[] if as_node else [sparse])
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.5 * restored.before_bytes
    np.testing.assert_array_equal(read(restored.path).tensor("w").values(), WEIGHT)


def test_constants_written_as_numbers_become_sparse(tmp_path: Path) -> None:
    nodes = [
        NODE("Constant", [], ["v"], value_floats=WEIGHT.reshape(-1).tolist()),
        NODE("Reshape", ["v", "s"], ["w"]),
        PRODUCT,
    ]
    contents = save(tmp_path / "m.onnx", nodes, {"s": np.array(WEIGHT.shape)})
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.25 * contents.size_bytes


def test_a_mask_of_infinities_stays_and_the_weights_become_sparse(tmp_path: Path) -> None:
    mask = np.where(np.tri(64) > 0, 0, -np.inf).astype(np.float32)
    contents = save(tmp_path / "m.onnx", [NODE("Add", ["x", "m"], ["a"]), NODE("MatMul", ["a", "w"], ["y"])],
                    {"m": mask, "w": WEIGHT})  # fmt: skip
    restored = read(restore(contents.path, tmp_path / "s.onnx").path)
    assert (restored.tensor("m").is_sparse, restored.tensor("w").is_sparse) == (False, True)
    np.testing.assert_array_equal(restored.tensor("m").values(), mask)


def test_an_input_with_a_value_of_its_own_stays_one(tmp_path: Path) -> None:
    listed = [helper.make_tensor_value_info("w", FLOAT, WEIGHT.shape)]
    contents = save(tmp_path / "m.onnx", [PRODUCT], {"w": WEIGHT}, inputs=listed)
    with pytest.raises(UsageError, match=r"'w' \(float32, 9\d% zero\) cannot be stored sparse"):
        restore(contents.path, tmp_path / "s.onnx")
    assert sparse_bytes(contents) is None


def test_before_ir_4_every_constant_is_listed_as_an_input(tmp_path: Path) -> None:
    listed = [helper.make_tensor_value_info("w", FLOAT, WEIGHT.shape)]
    contents = save(tmp_path / "m.onnx", [PRODUCT], {"w": WEIGHT}, inputs=listed, opset=11, ir=3)
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.25 * restored.before_bytes
    assert [value.name for value in onnx.load(restored.path).graph.input] == ["x"]


@pytest.mark.parametrize("name", ["bfloat16", "masked by where"])
def test_what_a_graph_casts_or_chooses_is_stored_as_what_comes_of_it(name: str, tmp_path: Path) -> None:
    nodes, stored, opset = FOLDED[name]
    contents = save(tmp_path / "m.onnx", [*nodes, PRODUCT], stored, opset=opset)
    restored = restore(contents.path, tmp_path / "s.onnx")
    plain = save(tmp_path / "plain.onnx", [PRODUCT], {"w": contents.tensors[0].values()}, opset=opset)
    assert restored.after_bytes <= 1.01 * restore(plain.path, tmp_path / "p.onnx").after_bytes


@pytest.mark.parametrize("shape", [(64, 96), (64, 1), (1, 96), (96,)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64, bool])
def test_masks_of_any_shape_and_type_are_multiplied_in(shape: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    mask = (RNG.random(shape) < 0.1).astype(dtype)
    stored = {"v": RNG.standard_normal((64, 96)).astype(np.float32), "m": mask}
    cast = NODE("Cast", ["m"], ["f"], to=FLOAT)
    nodes = [cast, NODE("Mul", ["v", "f"], ["w"]), PRODUCT] if dtype is not np.float32 else None
    contents = save(tmp_path / "m.onnx", nodes or [NODE("Mul", ["v", "m"], ["w"]), PRODUCT], stored)
    restored = restore(contents.path, tmp_path / "s.onnx")
    plain = save(tmp_path / "plain.onnx", [PRODUCT], {"w": stored["v"] * mask.astype(np.float32)})
    assert restored.after_bytes <= 1.01 * restore(plain.path, tmp_path / "p.onnx").after_bytes


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16])
@pytest.mark.parametrize("encoding", ["auto", "portable", "bitmask", "gaps8", "gaps5", "gaps4"])
def test_integers_whose_zero_is_another_number(dtype: type, encoding: str, tmp_path: Path) -> None:
    zero = 128 if np.dtype(dtype).kind == "u" else -3
    codes = (CODES.clip(-100, 100).astype(int) + zero).astype(dtype)
    stored = {"q": codes, "s": SCALES, "z": np.full(96, zero, dtype)}
    nodes = [NODE("DequantizeLinear", ["q", "s", "z"], ["w"]), PRODUCT]
    contents = save(tmp_path / "m.onnx", nodes, stored)
    restored = restore(contents.path, tmp_path / "s.onnx", encoding=encoding)
    assert restored.after_bytes < 0.5 * restored.before_bytes
    assert sparsity(read(restored.path)) == sparsity(contents)
    np.testing.assert_array_equal(read(restored.path).tensor("q").values(), codes)


@pytest.mark.parametrize("opset", [9, 10])
def test_an_old_opset_is_raised(opset: int, tmp_path: Path) -> None:
    nodes = [*FOLDED["opset 9 slice"][0], PRODUCT]
    contents = save(tmp_path / "m.onnx", nodes if opset == 9 else [PRODUCT], _old(opset), opset=opset, ir=4)
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.25 * restored.before_bytes
    assert onnx.load(restored.path).opset_import[0].version == 11


def _old(opset: int) -> dict[str, np.ndarray]:
    return {"v": weight(70, 96)} if opset == 9 else {"w": WEIGHT}


@pytest.mark.parametrize(
    ("dtype", "opset", "domain", "reason"),
    [
        (ml_dtypes.int2, 25, "", "numbers in int2"),
        (ml_dtypes.int4, 17, "com.microsoft", "int4 is decoded by operators of ONNX opset 21, and the file has 17"),
    ],
)
def test_zeros_that_cannot_be_left_out_are_named(
    dtype: type, opset: int, domain: str, reason: str, tmp_path: Path
) -> None:
    nodes = [NODE("DequantizeLinear", ["v", "s", "z"], ["w"], domain=domain), PRODUCT]
    stored = {"v": CODES.clip(-2, 1).astype(dtype), "s": SCALES, "z": np.zeros(96, dtype)}
    contents = save(tmp_path / "m.onnx", nodes, stored, opset=opset, ir=13 if opset == 25 else 8)
    with pytest.raises(UsageError, match=f"'{contents.tensors[0].name}' .* sparse as it is: {reason}"):
        restore(contents.path, tmp_path / "s.onnx")
