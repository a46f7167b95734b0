"""Reading .onnx files of any origin: other tools' ways to store weights, and files that lie."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idp_deploy.errors import ConversionError, FileError
from idp_deploy.formats.onnx.read.contents import read_onnx
from idp_deploy.reading import read
from idp_deploy.verification import run_file

RNG = np.random.default_rng(0)
WEIGHT = np.where(RNG.random((8, 6)) < 0.5, RNG.normal(size=(8, 6)), 0).astype(np.float32)


def save(path, nodes, initializers=(), inputs=None, outputs=None, sparse=(), opset=18, ir=8, functions=(), meta=None):
    inputs = inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])]
    outputs = outputs or [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])]
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, initializer=list(initializers))
    graph.sparse_initializer.extend(sparse)
    opsets = [helper.make_opsetid("", opset), *[helper.make_opsetid(f.domain, 1) for f in functions]]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))
    for key, value in (meta or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])


def test_plain_initializer(tmp_path):
    contents = read(save(tmp_path / "m.onnx", [MATMUL], [tensor("w", WEIGHT)], meta={"author": "someone"}))
    (stored,) = contents.tensors
    assert (stored.name, stored.shape, stored.dtype, stored.encoding) == ("w", (8, 6), "float32", "dense")
    assert stored.zeros == int((WEIGHT == 0).sum())
    assert stored.size_bytes == WEIGHT.nbytes
    (op,) = contents.ops
    assert (op.kind, op.inputs, op.outputs, dict(op.weights)) == ("MatMul", ("x",), ("y",), {"weight": "w"})
    assert contents.values["x"].shape == (-1, 8)
    assert contents.values["y"].shape == (-1, 6)
    assert (contents.inputs, contents.outputs) == (("x",), ("y",))
    assert contents.metadata["author"] == "someone"
    assert contents.metadata["opsets"] == {"ai.onnx": 18}


def test_typed_fields_instead_of_raw_data(tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, (8, 6), WEIGHT.reshape(-1).tolist())
    (stored,) = read_onnx(save(tmp_path / "m.onnx", [MATMUL], [weight])).tensors
    np.testing.assert_array_equal(stored.values(), WEIGHT)
    assert stored.size_bytes == WEIGHT.nbytes


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializer(tmp_path, flat):
    indices = np.flatnonzero(WEIGHT) if flat else np.argwhere(WEIGHT)
    values = tensor("w", WEIGHT[WEIGHT != 0])
    sparse = helper.make_sparse_tensor(values, tensor("", indices.astype(np.int64)), list(WEIGHT.shape))
    contents = read_onnx(save(tmp_path / "m.onnx", [MATMUL], sparse=[sparse]))
    (stored,) = contents.tensors
    assert (stored.encoding, stored.zeros) == ("sparse_initializer", int((WEIGHT == 0).sum()))
    assert stored.size_bytes == int(np.count_nonzero(WEIGHT)) * (4 + 8 * (1 if flat else 2))
    np.testing.assert_array_equal(stored.values(), WEIGHT)


def test_constant_node_and_transpose(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("", WEIGHT.T)),
        helper.make_node("Transpose", ["c"], ["w"], perm=[1, 0]),
        MATMUL,
    ]
    contents = read_onnx(save(tmp_path / "m.onnx", nodes))
    assert [op.kind for op in contents.ops] == ["MatMul"]
    (stored,) = contents.tensors
    assert (stored.name, stored.shape) == ("c", (6, 8))


def test_quantized_weight_per_channel(tmp_path):
    q = np.where(RNG.random((8, 6)) < 0.4, RNG.integers(-127, 127, (8, 6)), 0).astype(np.int8)
    scale = RNG.random(6).astype(np.float32)
    nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1), MATMUL]
    path = save(tmp_path / "m.onnx", nodes, [tensor("q", q), tensor("s", scale), tensor("z", np.zeros(6, np.int8))])
    contents = read_onnx(path)
    (stored,) = contents.tensors
    assert (stored.name, stored.dtype, stored.value_bits) == ("q", "int8", 8.0)
    assert stored.zeros == int((q == 0).sum())
    np.testing.assert_array_equal(stored.values(), q)
    np.testing.assert_allclose(stored.dequantize(), q * scale)
    assert stored.size_bytes == 48 + 24 + 6
    assert dict(contents.ops[0].weights) == {"weight": "q"}


def test_scales_along_another_axis_are_refused(tmp_path):
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0), MATMUL]
    initializers = [tensor("q", np.zeros((1, 6), np.int8)), tensor("s", np.ones(6, np.float32))]
    with pytest.raises(FileError, match="scales that do not fit the axis"):
        read_onnx(save(tmp_path / "m.onnx", nodes, initializers))


def test_zero_point_decides_what_a_zero_is(tmp_path):
    q = np.full((8, 6), 131, np.uint8)
    q[0, 0] = 0
    nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]), MATMUL]
    initializers = [tensor("q", q), tensor("s", np.float32(0.5)), tensor("z", np.uint8(131))]
    (stored,) = read_onnx(save(tmp_path / "m.onnx", nodes, initializers)).tensors
    assert stored.zeros == 47
    assert stored.dequantize()[0, 0] == -65.5


def test_zero_points_by_channel_of_a_transposed_weight(tmp_path):
    zero_points = np.arange(6, dtype=np.uint8)
    q = np.tile(zero_points[:, None], (1, 8)).astype(np.uint8)
    q[0, 0] = 99
    nodes = [
        helper.make_node("Transpose", ["q"], ["t"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["t", "s", "z"], ["w"], axis=1),
        MATMUL,
    ]
    initializers = [tensor("q", q), tensor("s", np.ones(6, np.float32)), tensor("z", zero_points)]
    (stored,) = read_onnx(save(tmp_path / "m.onnx", nodes, initializers)).tensors
    assert (stored.name, stored.shape, stored.zeros) == ("q", (6, 8), 47)


def test_arguments_are_attributes_and_shared_weights_one_tensor(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("MatMul", ["r", "w"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    initializers = [
        tensor("w", WEIGHT),
        tensor("shape", np.array([-1, 8])),
        tensor("low", np.float32(0)),
        tensor("high", np.float32(6)),
    ]
    contents = read_onnx(save(tmp_path / "m.onnx", nodes, initializers))
    assert [t.name for t in contents.tensors] == ["w"]
    assert contents.ops[0].attributes["1"] == [-1, 8]
    assert contents.ops[2].attributes["2"] == 6.0
    assert contents.values["r"].shape == (-1, 8)


def test_local_functions_are_inlined(tmp_path):
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    function = helper.make_function("local", "Product", ["a", "b"], ["c"], body, [helper.make_opsetid("", 18)])
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Product", ["x", "w"], ["y"], domain="local")],
        [tensor("w", WEIGHT)],
        functions=[function],
    )
    assert [op.kind for op in read_onnx(path).ops] == ["MatMul"]


def test_unknown_operators_and_bodies_are_reported(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Strange", ["i"], ["y"], domain="com.example"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    contents = read_onnx(save(tmp_path / "m.onnx", nodes, [tensor("w", WEIGHT)], inputs=inputs))
    assert "w" in contents.ops[0].weights.values()
    assert "x" in contents.ops[0].inputs
    assert any("inside of If" in warning for warning in contents.warnings)
    assert any("com.example.Strange" in warning for warning in contents.warnings)


def test_old_files_that_list_initializers_as_inputs(tmp_path):
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8]),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 6]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    path = save(tmp_path / "m.onnx", [MATMUL], [tensor("w", WEIGHT)], inputs=inputs, outputs=outputs, opset=9, ir=3)
    contents = read_onnx(path)
    assert contents.inputs == ("x",)
    assert contents.values["y"].shape == (4, 6)


def external(path, location, *, offset="0", length=str(WEIGHT.nbytes)):
    weight = TensorProto(name="w", dims=WEIGHT.shape, data_type=TensorProto.FLOAT)
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        weight.external_data.add(key=key, value=value)
    return save(path, [MATMUL], [weight])


def test_external_data(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"1234" + WEIGHT.tobytes())
    contents = read_onnx(external(tmp_path / "m.onnx", "w.bin", offset="4"))
    np.testing.assert_array_equal(contents.tensor("w").values(), WEIGHT)
    assert contents.size_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("location", "fields", "words"),
    [
        ("../w.bin", {}, "not beside it"),
        ("/etc/passwd", {}, "not beside it"),
        ("missing.bin", {}, "not beside it"),
        ("w.bin", {"offset": "8"}, "beyond the end"),
        ("w.bin", {"length": "999999999999"}, "beyond the end"),
        (
            "w.bin",
            {"length": "10"},
            r"\[.*\] is broken: it takes .* bytes, and 10 .* — write the file and its data again",
        ),
        ("w.bin", {"offset": "8", "length": ""}, r"beyond the end of w.bin: bytes 8 to .* — fetch or write it again"),
        ("w.bin", {"offset": "-4"}, "not a number"),
        ("link.bin", {}, "not beside it"),
    ],
)
def test_hostile_external_data(tmp_path, location, fields, words):
    folder = tmp_path / "inside"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    path = external(folder / "m.onnx", location, **fields)
    with pytest.raises(FileError, match=words):
        read_onnx(path)


def linked(folder, name="w.bin"):
    """An ONNX file and its data as the cache of Hugging Face Hub has them: links into one folder of blobs."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    external(blobs / "aaa.onnx", name).rename(blobs / "aaa")
    (blobs / "bbb").write_bytes(WEIGHT.tobytes())
    (snapshot / "m.onnx").symlink_to("../../blobs/aaa")
    (snapshot / "w.bin").symlink_to("../../blobs/bbb")
    return snapshot / "m.onnx"


def test_external_data_behind_links_of_a_cache(tmp_path):
    np.testing.assert_array_equal(read_onnx(linked(tmp_path)).tensor("w").values(), WEIGHT)


def test_a_link_of_a_cache_leads_nowhere_else(tmp_path):
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    path = linked(tmp_path)
    (path.parent / "w.bin").unlink()
    (path.parent / "w.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(FileError, match="not beside it"):
        read_onnx(path)


def test_data_that_was_not_fetched_is_named(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FileError, match=r"beyond the end of w.bin, a pointer of Git LFS.* — fetch it: git lfs pull"):
        read_onnx(external(tmp_path / "m.onnx", "w.bin"))


def broken(case, path):
    good = save(path, [MATMUL], [tensor("w", WEIGHT)]).read_bytes()
    if case == "empty":
        path.write_bytes(b"")
    elif case == "noise":
        path.write_bytes(RNG.bytes(3000))
    elif case == "text":
        path.write_text("not a model")
    elif case == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif case == "undefined":
        save(path, [MATMUL])
    elif case == "cycle":
        save(path, [helper.make_node("Add", ["y", "w"], ["z"]), helper.make_node("Add", ["z", "w"], ["y"])])
    elif case == "no producer":
        save(path, [helper.make_node("MatMul", ["x", "w"], ["other"])], [tensor("w", WEIGHT)])
    elif case == "short data":
        weight = tensor("w", WEIGHT)
        weight.raw_data = weight.raw_data[:-4]
        save(path, [MATMUL], [weight])
    elif case == "negative extent":
        weight = tensor("w", WEIGHT)
        weight.dims[0] = -8
        save(path, [MATMUL], [weight])
    elif case == "bomb":
        nodes = [helper.make_node("ConstantOfShape", ["shape"], ["w"]), MATMUL]
        save(path, nodes, [tensor("shape", np.array([1 << 40, 6]))])
    elif case == "broadcast bomb":
        nodes = [helper.make_node("Mul", ["a", "b"], ["w"]), MATMUL]
        save(path, nodes, [tensor("a", np.ones((1 << 13, 1), "f")), tensor("b", np.ones((1, 1 << 15), "f"))])
    elif case == "gather bomb":
        nodes = [helper.make_node("Gather", ["a", "i"], ["w"]), MATMUL]
        save(path, nodes, [tensor("a", np.ones((1, 1 << 15), "f")), tensor("i", np.zeros(1 << 13, np.int64))])
    elif case == "sparse index":
        sparse = helper.make_sparse_tensor(tensor("w", np.ones(1, "f")), tensor("", np.array([48])), [8, 6])
        save(path, [MATMUL], sparse=[sparse])
    elif case == "sparse bomb":
        sparse = helper.make_sparse_tensor(tensor("w", np.ones(1, "f")), tensor("", np.array([4])), [1 << 40, 6])
        save(path, [MATMUL], sparse=[sparse])
    elif case == "scatter":
        nodes = [helper.make_node("ScatterElements", ["a", "i", "u"], ["w"]), MATMUL]
        save(path, nodes, [tensor("a", np.zeros(4, "f")), tensor("i", np.array([9])), tensor("u", np.ones(1, "f"))])
    elif case == "reshape":
        nodes = [helper.make_node("Reshape", ["a", "shape"], ["w"]), MATMUL]
        save(path, nodes, [tensor("a", WEIGHT), tensor("shape", np.array([7, 7]))])
    return path


CASES = [
    "empty", "noise", "text", "truncated", "undefined", "cycle", "no producer", "short data", "negative extent", "bomb",
    "broadcast bomb", "gather bomb", "sparse index", "sparse bomb", "scatter", "reshape",
]  # fmt: skip


@pytest.mark.wide
@pytest.mark.parametrize("case", CASES)
def test_a_broken_file_is_refused_by_name(case, tmp_path):
    path = broken(case, tmp_path / "m.onnx")
    with pytest.raises(FileError, match=r"m\.onnx") as caught:
        read_onnx(path)
    assert caught.value.exit_code == 3


def test_every_truncation_is_refused_or_read(tmp_path):
    path = save(tmp_path / "m.onnx", [MATMUL], [tensor("w", WEIGHT)])
    data = path.read_bytes()
    refused = 0
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        try:
            read_onnx(path)
        except FileError:
            refused += 1
    assert refused > 0.9 * len(data) / 7


def test_a_manifest_that_is_not_json_is_ignored_with_a_warning(tmp_path):
    path = save(tmp_path / "m.onnx", [MATMUL], [tensor("w", WEIGHT)], meta={"idp_deploy": "{"})
    contents = read_onnx(path)
    assert "idp_deploy" not in contents.metadata
    assert any("manifest" in warning for warning in contents.warnings)


def test_running_a_foreign_file(tmp_path):
    path = save(tmp_path / "m.onnx", [MATMUL], [tensor("w", WEIGHT)])
    x = RNG.normal(size=(2, 8))
    ((output,),) = run_file(path, [(x,)])["onnxruntime"]
    np.testing.assert_allclose(output, x @ WEIGHT, rtol=1e-5)
    assert output.dtype == np.float32


def test_running_in_the_order_of_the_manifest(tmp_path):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "abcd"]
    nodes = [helper.make_node("Identity", ["a"], ["c"]), helper.make_node("Neg", ["b"], ["d"])]
    meta = {"idp_deploy": json.dumps({"inputs": ["b", "a"], "outputs": ["d", "c"]})}
    path = save(tmp_path / "m.onnx", nodes, inputs=values[:2], outputs=values[2:], meta=meta)
    ((first, second),) = run_file(path, [(np.array([1.0]), np.array([2.0]))])["onnxruntime"]
    assert (first[0], second[0]) == (-1.0, 2.0)


def test_a_file_that_cannot_run_is_refused(tmp_path):
    path = save(tmp_path / "m.onnx", [MATMUL], [tensor("w", WEIGHT)])
    with pytest.raises(ConversionError, match="takes 1 inputs"):
        run_file(path, [(np.ones((1, 8)), np.ones(1))])
    with pytest.raises(ConversionError, match="cannot run"):
        run_file(path, [(np.ones((1, 9)),)])
    path.write_bytes(b"\x08\x08")
    with pytest.raises(FileError, match="no ONNX graph"):
        run_file(path, [])


GOLDEN = Path(__file__).with_name("golden") / "bitshift_decode.onnx"


def test_files_that_unpack_by_bitshift_are_still_recognised():
    """Written by the first release of this format; every weight is (16, 9) and read by one MatMul."""
    contents = read_onnx(GOLDEN)
    names = {"w_bitmask": "bitmask", "w_gaps8": "gaps8", "w_gaps4": "gaps4", "w_gaps4_lut4": "gaps4+lut4"}
    assert {tensor.name: tensor.encoding for tensor in contents.tensors} == names | {"w_dense_lut4": "lut4"}
    x = np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)
    outputs = run_file(GOLDEN, [(x,)])["onnxruntime"][0]
    for output, tensor in zip(outputs, contents.tensors, strict=True):
        np.testing.assert_allclose(output, x @ tensor.values(), rtol=1e-5, atol=1e-5)
