"""restore on .onnx files as other tools leave them: what these share, raise, hand over and draw."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession

from idp_deploy.errors import ConversionError, FileError, UsageError
from idp_deploy.gating import sparsity
from idp_deploy.reading import read
from idp_deploy.restoring import restore
from idp_deploy.verification import run_file
from tests.test_onnx_strangers import NODE, PRODUCT, RNG, WEIGHT, save, weight


def test_a_tied_table_is_stored_once_and_read_both_ways_round(tmp_path: Path) -> None:
    tied, square = RNG.standard_normal((70, 64)).astype(np.float32), weight(64, 64)
    nodes = [
        NODE("MatMul", ["x", "square"], ["h"]),
        NODE("MatMul", ["h", "turned"], ["s"]),
        NODE("MatMul", ["s", "table"], ["y"]),
    ]
    stored = {"table": tied, "turned": np.ascontiguousarray(tied.T), "square": square}
    contents = save(tmp_path / "m.onnx", nodes, stored)
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.after_bytes < 0.55 * restored.before_bytes
    x = RNG.standard_normal((2, 64)).astype(np.float32)
    (a,), (b,) = (run_file(path, [(x,)])["onnxruntime"][0] for path in (contents.path, restored.path))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("turned", [False, True])
def test_a_constant_that_is_argument_here_and_weight_there_is_listed_in_any_order(turned: bool, tmp_path: Path) -> None:
    nodes = [NODE("Expand", ["one", "shape"], ["e"]), NODE("Div", ["one", "x"], ["d"])]
    last = [NODE("Add", ["d", "e"], ["s"]), NODE("MatMul", ["s", "w"], ["y"])]
    stored = {"one": np.ones(1, np.float32), "shape": np.array([1, 64]), "w": WEIGHT}
    contents = save(tmp_path / "m.onnx", [*(reversed(nodes) if turned else nodes), *last], stored)
    assert {tensor.name for tensor in contents.tensors} == {"one", "w"}
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.25 * contents.size_bytes


@pytest.mark.parametrize("ir", [3, 4])
@pytest.mark.parametrize("opset", [7, 8])
def test_a_constant_that_is_no_input_is_raised_from_any_opset(opset: int, ir: int, tmp_path: Path) -> None:
    contents = save(tmp_path / "m.onnx", [PRODUCT], {"w": WEIGHT}, opset=opset, ir=ir)
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.25 * contents.size_bytes


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(
    ("opset", "kind", "factor"), [(9, "Upsample", 2.0), (9, "Upsample", 1.7), (10, "Resize", 2.0), (10, "Resize", 0.5)]
)
def test_an_old_resize_reads_the_same_places_when_raised(
    opset: int, kind: str, factor: float, mode: str, tmp_path: Path
) -> None:
    nodes = [NODE("MatMul", ["x", "w"], ["h"]), NODE("Unsqueeze", ["h"], ["i"], axes=[0, 1])]
    nodes += [NODE(kind, ["i", "s"], ["r"], mode=mode), NODE("Squeeze", ["r"], ["y"], axes=[0, 1])]
    contents = save(tmp_path / "m.onnx", nodes, {"w": WEIGHT, "s": np.float32([1, 1, 1, factor])}, opset=opset)
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.3 * contents.size_bytes


def test_data_without_a_length_is_as_long_as_its_tensor(tmp_path: Path) -> None:
    """As onnxruntime reads it, whatever lies behind."""
    path = save(tmp_path / "m.onnx", [PRODUCT], {"w": WEIGHT}).path
    model = onnx.load(path)
    external = onnx.TensorProto(name="w", dims=WEIGHT.shape, data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    external.external_data.add(key="location", value="w.bin")
    model.graph.initializer[0].CopyFrom(external)
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes() + b"of another tensor")
    onnx.save(model, path)
    np.testing.assert_array_equal(read(path).tensor("w").values(), WEIGHT)
    assert restore(path, tmp_path / "s.onnx").after_bytes < 0.25 * WEIGHT.nbytes


@pytest.mark.parametrize(
    ("kind", "bits"), [("bfloat16", 16), ("float8_e4m3fn", 8), ("float8_e5m2", 8), ("int4", 4), ("uint4", 4)]
)
def test_numbers_take_the_bits_that_they_have_in_the_file(kind: str, bits: int, tmp_path: Path) -> None:
    """Compression, the zeros stored and the bound are counted in them."""
    cast = kind.startswith(("bf", "f"))
    nodes = [NODE("Cast", ["q"], ["w"], to=1) if cast else NODE("DequantizeLinear", ["q", "s"], ["w"]), PRODUCT]
    stored = {"q": WEIGHT.astype(getattr(ml_dtypes, kind))} | ({} if cast else {"s": np.ones(96, np.float32)})
    found = save(tmp_path / "m.onnx", nodes, stored).tensors[0]
    assert found.value_bits == bits
    assert found.size * bits / 8 == found.size_bytes - (0 if cast else 4 * 96)


@pytest.mark.parametrize(("opset", "factor"), [(7, 2.0), (8, 3.0), (8, 1.5)])
def test_an_upsample_with_its_factors_as_attribute_is_raised_bit_for_bit(
    opset: int, factor: float, tmp_path: Path
) -> None:
    """Between convolutions, where onnxruntime lays channels in blocks beside a resize whose places it knows."""
    nodes = [NODE("Reshape", ["x", "shape"], ["i"]), NODE("Conv", ["i", "v"], ["c"], pads=[1, 1, 1, 1])]
    nodes += [NODE("Upsample", ["c"], ["u"], mode="nearest", scales=[1.0, 1.0, factor, factor])]
    nodes += [NODE("GlobalAveragePool", ["u"], ["g"]), NODE("Flatten", ["g"], ["f"]), NODE("MatMul", ["f", "w"], ["y"])]
    stored = {"shape": np.array([1, 1, -1, 16]), "v": weight(64, 1, 3, 3), "w": WEIGHT}
    contents = save(tmp_path / "m.onnx", nodes, stored, opset=opset, ir=4)
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.3 * contents.size_bytes


@pytest.mark.parametrize("opset", [11, 17])
def test_an_encoding_that_the_opset_lacks_is_refused_by_name(opset: int, tmp_path: Path) -> None:
    contents = save(tmp_path / "m.onnx", [PRODUCT], {"w": WEIGHT}, opset=opset)
    with pytest.raises(UsageError, match=f"opset {opset}.*bitmask.*opset 18.*portable"):
        restore(contents.path, tmp_path / "s.onnx", encoding="bitmask")
    assert restore(contents.path, tmp_path / "s.onnx", encoding="portable").after_bytes < 0.25 * contents.size_bytes


def test_a_weight_that_is_handed_to_a_function_as_an_attribute_becomes_sparse(tmp_path: Path) -> None:
    inner = [NODE("Constant", [], ["b"]), NODE("MatMul", ["a", "b"], ["o"])]
    inner[0].attribute.append(onnx.AttributeProto(name="value", ref_attr_name="held", type=onnx.AttributeProto.TENSOR))
    function = helper.make_function("own", "Linear", ["a"], ["o"], inner, [helper.make_opsetid("", 21)], ["held"])
    node = NODE("Linear", ["x"], ["y"], domain="own", held=numpy_helper.from_array(WEIGHT, "held"))
    contents = save(tmp_path / "m.onnx", [node], {}, functions=[function])
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.25 * contents.size_bytes


@pytest.mark.parametrize("kind", ["RandomNormalLike", "Dropout"])
def test_what_draws_random_numbers_is_named(kind: str, tmp_path: Path) -> None:
    drawn = {"RandomNormalLike": ["x"], "Dropout": ["x", "share", "training"]}[kind]
    stored = {"w": WEIGHT, "share": np.float32(0.5), "training": np.array(True)}
    contents = save(tmp_path / "m.onnx", [NODE(kind, drawn, ["r"]), NODE("MatMul", ["r", "w"], ["y"])], stored)
    with pytest.raises(ConversionError, match=r"otherwise the second time in onnxruntime .* in eval mode"):
        restore(contents.path, tmp_path / "s.onnx")
    assert not (tmp_path / "s.onnx").exists()


def test_names_of_classes_are_no_weights_and_stay_as_they_are(tmp_path: Path) -> None:
    nodes = [PRODUCT, NODE("ArgMax", ["y"], ["best"], axis=1, keepdims=0), NODE("Gather", ["names", "best"], ["name"])]
    path = save(tmp_path / "m.onnx", nodes, {"w": WEIGHT, "names": np.array([f"class {i}" for i in range(96)])}).path
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("name", onnx.TensorProto.STRING, ["n"]))
    onnx.save(model, path)
    assert [tensor.name for tensor in read(path).tensors] == ["w"]
    assert restore(path, tmp_path / "s.onnx").after_bytes < 0.25 * path.stat().st_size
    x = RNG.standard_normal((2, 64)).astype(np.float32)
    a, b = (InferenceSession(file).run(None, {"x": x}) for file in (path, tmp_path / "s.onnx"))
    assert a[1].tolist() == b[1].tolist()


@pytest.mark.parametrize(
    ("reason", "stored", "inputs"),
    [
        ("stands among the inputs as well, .* keep_initializers_as_inputs", WEIGHT, ("w",)),
        ("holds infinities", np.where(np.arange(64 * 96).reshape(64, 96) == 7, np.float32(np.inf), WEIGHT), ()),
    ],
)
def test_why_zeros_stay_is_said(reason: str, stored: np.ndarray, inputs: tuple[str, ...], tmp_path: Path) -> None:
    given = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, stored.shape) for name in inputs]
    contents = save(tmp_path / "m.onnx", [PRODUCT], {"w": stored}, inputs=given)
    with pytest.raises(UsageError, match=reason):
        restore(contents.path, tmp_path / "s.onnx")


def test_an_input_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    nodes = [NODE("ConcatFromSequence", ["many"], ["h"], axis=0), NODE("MatMul", ["h", "w"], ["p"])]
    many = helper.make_tensor_sequence_value_info("many", onnx.TensorProto.FLOAT, [2, 64])
    last = NODE("Concat", ["p", "q"], ["y"], axis=0)
    contents = save(
        tmp_path / "m.onnx", [*nodes, NODE("MatMul", ["x", "w"], ["q"]), last], {"w": WEIGHT}, inputs=[many]
    )
    with pytest.raises(ConversionError, match=r"input 'many' is a seq\(tensor\(float\)\), no tensor"):
        restore(contents.path, tmp_path / "s.onnx")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.float32, bool])
def test_a_constant_without_entries_stays(dtype: type, tmp_path: Path) -> None:
    nodes = [PRODUCT, NODE("Concat", ["e", "e"], ["c"], axis=0), NODE("Size", ["c"], ["n"])]
    path = save(tmp_path / "m.onnx", nodes, {"w": WEIGHT, "e": np.zeros((0, 4), dtype)}).path
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("n", onnx.TensorProto.INT64, []))
    onnx.save(model, path)
    assert restore(path, tmp_path / "s.onnx").after_bytes < 0.3 * path.stat().st_size


def test_a_file_of_other_domains_alone_gets_the_operators_to_decode_with(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx", [NODE("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")], {"w": WEIGHT}
    ).path
    model = onnx.load(path)
    model.opset_import[0].domain, model.opset_import[0].version = "com.microsoft", 1
    onnx.save(model, path)
    assert restore(path, tmp_path / "s.onnx").after_bytes < 0.25 * path.stat().st_size


def test_signs_of_zeros_stay_where_outputs_tell_them(tmp_path: Path) -> None:
    signed = np.where(WEIGHT == 0, np.where(RNG.random(WEIGHT.shape) < 0.2, np.float32(-0.0), 0), WEIGHT)
    told = [
        NODE("Div", ["one", "w"], ["r"]),
        NODE("Clip", ["r", "low", "high"], ["c"]),
        NODE("MatMul", ["x", "c"], ["y"]),
    ]
    stored = {"w": signed, "one": np.float32(1), "low": np.float32(-9), "high": np.float32(9)}
    sizes = []
    for name, nodes in {"product": [PRODUCT], "divided": told}.items():
        contents = save(tmp_path / f"{name}.onnx", nodes, stored if name == "divided" else {"w": signed})
        restored = restore(contents.path, tmp_path / "s.onnx")
        sizes.append(restored.after_bytes)
        call = (np.eye(64, dtype=np.float32),)
        (a,), (b,) = (run_file(path, [call])["onnxruntime"][0] for path in (contents.path, restored.path))
        np.testing.assert_array_equal(a, b)
    assert sizes[0] < 0.7 * sizes[1] < 0.4 * contents.size_bytes


@pytest.mark.parametrize("dtype", ["BFLOAT16", "FLOAT8E4M3FN", "INT4"])
@pytest.mark.parametrize("end", ["input", "output"])
def test_an_end_that_python_has_no_type_for_is_named(end: str, dtype: str, tmp_path: Path) -> None:
    number, name = getattr(onnx.TensorProto, dtype), "x" if end == "input" else "z"
    nodes = {
        "input": [NODE("Cast", ["x"], ["f"], to=1), NODE("MatMul", ["f", "w"], ["y"])],
        "output": [PRODUCT, NODE("Cast", ["y"], ["z"], to=number)],
    }
    path = save(tmp_path / "m.onnx", nodes[end], {"w": WEIGHT}).path
    model = onnx.load(path)
    value = (model.graph.input if end == "input" else model.graph.output)[0]
    value.CopyFrom(helper.make_tensor_value_info(name, number, ["n", 64 if end == "input" else 96]))
    onnx.save(model, path)
    with pytest.raises(ConversionError, match=rf"{end} '{name}' is a tensor\({dtype.lower()}\), .* gives float32"):
        restore(path, tmp_path / "s.onnx")


def test_a_sequence_of_tensors_of_several_shapes_is_compared(tmp_path: Path) -> None:
    nodes = [PRODUCT, NODE("SplitToSequence", ["y", "sizes"], ["many"], axis=1)]
    path = save(tmp_path / "m.onnx", nodes, {"w": WEIGHT, "sizes": np.array([10, 86])}).path
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("many", onnx.TensorProto.FLOAT, None))
    onnx.save(model, path)
    assert restore(path, tmp_path / "s.onnx").after_bytes < 0.25 * path.stat().st_size


@pytest.mark.parametrize("encoding", ["auto", "portable", "bitmask", "gaps4", "gaps5", "gaps8"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("operator", ["MatMulInteger", "QGemm", "QLinearConv", "DequantizeLinear"])
def test_integers_with_a_zero_point_a_channel_become_sparse(
    operator: str, dtype: type, encoding: str, tmp_path: Path
) -> None:
    """Channels whose zero is 5 … 250, in unsigned numbers, with entries that reach over the end of the range."""
    points = np.linspace(5, 250, 96).astype(np.uint8).astype(dtype)
    codes = np.where(RNG.random((64, 96)) < 0.05, RNG.integers(0, 256, (64, 96)), points).astype(np.uint8).astype(dtype)
    step, middle, image = np.float32(0.05), np.array(0, np.uint8), np.ascontiguousarray(codes.T[:, :, None, None])
    ends = [NODE("QuantizeLinear", ["x", "s", "m"], ["q"]), NODE("DequantizeLinear", ["r", "s", "m"], ["y"])]
    ways = {
        "MatMulInteger": [NODE("MatMulInteger", ["q", "w", "m", "p"], ["i"]), NODE("Cast", ["i"], ["y"], to=1)],
        "QGemm": [NODE("QGemm", ["q", "s", "m", "w", "t", "p", "", "s", "m"], ["r"], domain="com.microsoft"), ends[1]],
        "QLinearConv": [
            NODE("Unsqueeze", ["q", "a"], ["j"]),
            NODE("QLinearConv", ["j", "s", "m", "w", "t", "p", "s", "m"], ["k"]),
            NODE("Squeeze", ["k", "a"], ["r"]),
            ends[1],
        ],
        "DequantizeLinear": [NODE("DequantizeLinear", ["w", "t", "p"], ["f"]), NODE("MatMul", ["x", "f"], ["y"])],
    }
    stored = {"w": image if operator == "QLinearConv" else codes, "p": points, "s": step, "m": middle}
    stored |= {"t": np.full(96, 0.01, np.float32), "a": np.array([2, 3])}
    nodes = [*ends[: operator != "DequantizeLinear"], *ways[operator]]
    used = {name for node in nodes for name in node.input}
    path = save(tmp_path / "m.onnx", nodes, {k: v for k, v in stored.items() if k in used}, opset=21).path
    restored = restore(path, tmp_path / "s.onnx", encoding=encoding)
    assert restored.after_bytes < 0.45 * restored.before_bytes
    before, after = (next(t for t in read(p).tensors if t.size == codes.size) for p in (path, restored.path))
    assert after.encoding != "dense"
    assert before.zeros == after.zeros == np.count_nonzero(codes == points)
    np.testing.assert_array_equal(before.values(), after.values())


def test_a_decoder_whose_mask_is_as_long_as_past_and_words_is_run(tmp_path: Path) -> None:
    """As transformers' decoders are exported: no number for all free extents fits."""
    nodes = [
        NODE("MatMul", ["x", "w"], ["e"]),
        NODE("Unsqueeze", ["e", "heads"], ["k"]),
        NODE("Concat", ["past", "k"], ["present"], axis=2),
        NODE("Unsqueeze", ["mask", "sides"], ["m"]),
        NODE("Mul", ["present", "m"], ["y"]),
    ]
    ends = [("past", [1, 1, "past", 96]), ("mask", [1, "total"])]
    inputs = [helper.make_tensor_value_info(name, 1, shape) for name, shape in ends]
    stored = {"w": WEIGHT, "heads": np.array([0, 1]), "sides": np.array([1, 3])}
    contents = save(tmp_path / "m.onnx", nodes, stored, inputs=inputs)
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.25 * contents.size_bytes


def test_a_file_without_weights_says_so(tmp_path: Path) -> None:
    """tf2onnx makes inputs of the constants that a function of TensorFlow finds outside of itself."""
    given = [helper.make_tensor_value_info(name, 1, [64, 64]) for name in ("a", "b")]
    nodes = [NODE("MatMul", ["x", "a"], ["h"]), NODE("MatMul", ["h", "b"], ["y"])]
    contents = save(tmp_path / "m.onnx", nodes, {}, inputs=given)
    assert "it holds no weights; matrices that come in as inputs: a, b" in contents.warnings
    with pytest.raises(UsageError, match=r"holds no weights, so none that is zero — trees .* inputs .* constants"):
        restore(contents.path, tmp_path / "s.onnx")
    beside = save(tmp_path / "n.onnx", [*nodes[:1], NODE("MatMul", ["h", "w"], ["y"])], {"w": WEIGHT}, inputs=given[:1])
    assert not [warning for warning in beside.warnings if "inputs" in warning]


def test_a_sparse_file_and_one_without_zeros_are_told_apart(tmp_path: Path) -> None:
    sparse = restore(save(tmp_path / "m.onnx", [PRODUCT], {"w": WEIGHT}).path, tmp_path / "s.onnx").path
    with pytest.raises(UsageError, match=r"s\.onnx stores its zeros sparse already — use it as it is"):
        restore(sparse, tmp_path / "t.onnx")
    dense = save(tmp_path / "d.onnx", [PRODUCT], {"w": np.ones_like(WEIGHT)}).path
    with pytest.raises(UsageError, match="no zeros that would be smaller stored sparse — prune the model first"):
        restore(dense, tmp_path / "t.onnx")


def test_the_shapes_of_integers_are_known(tmp_path: Path) -> None:
    """As onnxruntime's quantizer writes a classifier's end in operators of its own."""
    own = {"domain": "com.microsoft"}
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "m"], ["q"]),
        NODE("Unsqueeze", ["q", "a"], ["i"]),
        NODE("QLinearGlobalAveragePool", ["i", "s", "m", "s", "m"], ["g"], channels_last=0, **own),
        NODE("Flatten", ["g"], ["f"]),
        NODE("QGemm", ["f", "s", "m", "w", "s", "m", "", "s", "m"], ["r"], transB=1, **own),
        NODE("QLinearAdd", ["r", "s", "m", "r", "s", "m", "s", "m"], ["t"], **own),
        NODE("DequantizeLinear", ["t", "s", "m"], ["y"]),
    ]
    codes = np.ascontiguousarray(WEIGHT.T * 40).clip(0, 127).astype(np.uint8)
    stored = {"w": codes, "s": np.float32(0.1), "m": np.array(0, np.uint8), "a": np.array([2, 3])}
    values = save(tmp_path / "m.onnx", nodes, stored).values
    assert [values[name].shape for name in ("g", "r", "y")] == [(-1, 64, 1, 1), (-1, 96), (-1, 96)]


@pytest.mark.parametrize(
    "stored",
    [
        {"w": np.where(RNG.random(WEIGHT.shape) < 0.6, 7, np.where(WEIGHT == 0, 0, 300 * WEIGHT)).astype(np.int16)},
        {"w": np.where(RNG.random(WEIGHT.shape) < 0.05, 3, (40 * WEIGHT).clip(-127, 127)).astype(np.int8)},
    ],
    ids=["int16", "int8"],
)
def test_what_is_stored_sparse_is_not_stored_anew(stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The values kept repeat themselves here, and would be sparse once more."""
    nodes = [NODE("DequantizeLinear", ["w", "s"], ["d"]), NODE("MatMul", ["x", "d"], ["y"])]
    once = restore(save(tmp_path / "m.onnx", nodes, {**stored, "s": np.float32(0.1)}).path, tmp_path / "s.onnx").path
    with pytest.raises(UsageError, match="stores its zeros sparse already"):
        restore(once, tmp_path / "t.onnx")


def test_signs_of_zeros_that_were_kept_are_kept_again(tmp_path: Path) -> None:
    """Every zero of the second weight is -0, so that keeping them leaves it dense."""
    other = np.where(WEIGHT == 0, np.float32(-0.0), WEIGHT)
    nodes = [PRODUCT, NODE("Reciprocal", ["v"], ["r"]), NODE("ReduceMax", ["r"], ["m"], keepdims=0)]
    nodes[0] = NODE("MatMul", ["x", "w"], ["h"])
    nodes.append(NODE("Add", ["h", "m"], ["y"]))
    once = restore(save(tmp_path / "m.onnx", nodes, {"w": weight(64, 96), "v": other}).path, tmp_path / "s.onnx").path
    with pytest.raises(UsageError, match="outputs tell its -0 from 0, and keeping every -0 saves nothing"):
        restore(once, tmp_path / "t.onnx")


@pytest.mark.parametrize("turned", [True, False])
def test_a_table_that_is_stored_for_each_reader_is_one_that_is_tied(turned: bool, tmp_path: Path) -> None:
    """Folded constants: the head reads the table turned, which `restore` stores once again."""
    table, head = weight(96, 64), weight(64, 80)
    again = np.ascontiguousarray(table.T) if turned else table.copy()
    ids = helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])
    nodes = [NODE("Gather", ["t", "ids"], ["e"]), NODE("Add", ["x", "e"], ["h"]), NODE("MatMul", ["h", "w"], ["u"])]
    nodes.append(NODE("Gemm", ["h", "a"], ["v"], transB=int(not turned)))
    nodes.append(NODE("Concat", ["u", "v"], ["y"], axis=1))
    contents = save(tmp_path / "m.onnx", nodes, {"t": table, "a": again, "w": head}, inputs=[ids])
    assert sparsity(contents)[1:] == (np.count_nonzero(head == 0), head.size)
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert sparsity(read(restored.path)) == sparsity(contents)


@pytest.mark.parametrize("as_node", [False, True])
def test_two_constants_of_one_name_are_named(as_node: bool, tmp_path: Path) -> None:
    """onnxruntime warns that it takes the latest and takes the first."""
    path = save(tmp_path / "m.onnx", [PRODUCT], {"w": WEIGHT}).path
    model, second = onnx.load(path), numpy_helper.from_array(weight(64, 96), "w")
    if as_node:
        model.graph.node.insert(0, NODE("Constant", [], ["w"], value=second))
    else:
        model.graph.initializer.append(second)
    onnx.save(model, path)
    with pytest.raises(FileError, match="2 constants are called 'w'"):
        read(path)
