"""The Core ML reader on packages written by hand: every compression form, and files that are broken or hostile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idp_deploy.errors import FileError
from idp_deploy.formats.coreml.read.blob import bits_of, packed_bytes, unpack
from idp_deploy.formats.coreml.read.program import load
from idp_deploy.formats.coreml.read.schema import SCHEMA
from idp_deploy.formats.coreml.read.wire import Field, parse
from idp_deploy.gating import sparsity
from idp_deploy.reading import read
from tests import coreml_files as by_hand

WEIGHT = np.array([[1, 0, 0, 2], [0, 0, 0, 0], [0, -3, 0.5, 0]], np.float16)


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    return by_hand.linear_package(tmp_path / "linear.mlpackage")


# ── what is read ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sparse_weight_is_decoded_and_its_zeros_are_those_of_the_mask(linear: Path) -> None:
    contents = read(linear)
    (tensor,) = contents.tensors
    assert (tensor.name, tensor.shape, tensor.dtype, tensor.encoding) == ("w", (3, 4), "float16", "sparse")
    np.testing.assert_array_equal(tensor.values(), WEIGHT)
    assert tensor.zeros == 8
    assert tensor.value_bits == 16
    assert tensor.size_bytes == 128 + 2 + 8  # a blob record; mask and shape lie in the program
    assert [op.kind for op in contents.ops] == ["cast", "linear", "cast"]
    assert contents.ops[1].weights == {"weight": "w"}
    assert contents.ops[1].inputs == ("x16",)
    assert (contents.inputs, contents.outputs) == (("x",), ("y",))
    assert contents.values["x"].shape == (1, 4)


def test_weights_of_every_function_are_counted_and_shared_ones_once(tmp_path: Path) -> None:
    """The same weights in three functions, in the program itself: nothing tells that these are one."""
    w = by_hand.const("w", by_hand.number(WEIGHT[:, :2]), "float16", (3, 2))
    names = ("main", "adapted", "plain")
    path = by_hand.package(
        tmp_path / "m.mlpackage", [w, _linear("w", 2)], inputs=[("x", "float32", (1, 2))], functions=names
    )
    assert tuple(load(path).others) == ("main", "adapted")
    apart = "runs by itself: its weights are counted, its time is not"
    contents = read(path)
    assert contents.warnings == (f"function 'main' {apart}", f"function 'adapted' {apart}")
    assert [tensor.name for tensor in contents.tensors] == ["w", "main/w", "adapted/w"]
    assert [op.weights for op in contents.beside if op.weights] == [{"weight": "main/w"}, {"weight": "adapted/w"}]


def test_functions_that_share_the_file_of_weights_share_tensors(tmp_path: Path) -> None:
    """As coremltools puts two models of one base together: the bytes lie there once."""
    import coremltools as ct
    from coremltools.converters.mil import Builder

    generator = np.random.default_rng(0)
    base, heads = generator.standard_normal((64, 64)).astype(np.float32), []
    base[generator.random(base.shape) < 0.9] = 0
    described = ct.utils.MultiFunctionDescriptor()
    for name in ("one", "two"):
        heads.append(generator.standard_normal((32, 64)).astype(np.float32))

        @Builder.program(input_specs=[Builder.TensorSpec(shape=(1, 64))], opset_version=ct.target.iOS18)
        def program(x: Any) -> Any:
            return Builder.linear(x=Builder.linear(x=x, weight=base), weight=heads[-1])

        model = ct.convert(program, minimum_deployment_target=ct.target.iOS18, compute_precision=ct.precision.FLOAT32)
        model.save(str(tmp_path / f"{name}.mlpackage"))
        described.add_function(str(tmp_path / f"{name}.mlpackage"), "main", name)
    described.default_function_name = "one"
    ct.utils.save_multifunction(described, str(tmp_path / "both.mlpackage"))
    _, zeros, entries = sparsity(read(tmp_path / "both.mlpackage"))
    assert entries == 64 * 64 + 2 * 32 * 64
    assert zeros == np.count_nonzero(base == 0)


@pytest.mark.parametrize("labels", [("cat", "dog", ""), (4, 7, -1)])
def test_a_classifier_with_the_names_of_its_classes_is_read(labels: tuple[str | int, ...], tmp_path: Path) -> None:
    w = by_hand.const("w", by_hand.number(WEIGHT[:, :2]), "float16", (3, 2))
    ends = [("label", "string", ()), ("shares", "float32", ())]
    last = by_hand.operation(
        "classify", "last", {"probabilities": "y16", "classes": by_hand.listed(labels)}, outputs=ends
    )
    path = by_hand.package(
        tmp_path / "m.mlpackage",
        [w, _linear("w", 2), last],
        inputs=[("x", "float32", (1, 2))],
        outputs=("label", "shares"),
    )
    contents = read(path)
    assert contents.ops[-1].attributes == {"classes": list(labels)}
    assert contents.tensor("w").zeros == 4


@pytest.mark.parametrize(
    ("field", "said"), [(202, "a pipeline of models"), (403, "a neural network"), (555, "an older")]
)
def test_what_is_no_program_is_named(field: int, said: str, tmp_path: Path) -> None:
    path = by_hand.package(tmp_path / "m.mlpackage", [])
    model = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model.write_bytes(by_hand.field(1, 1) + by_hand.field(field, b""))
    with pytest.raises(FileError, match=f"holds no ML program but {said}"):
        read(path)


def test_a_kept_zero_counts_as_kept(tmp_path: Path) -> None:
    op = by_hand.operation(
        "constexpr_sparse_to_dense",
        "w",
        attributes={
            "nonzero_data": by_hand.number(np.array([0, 5], np.float16)),
            "mask": by_hand.number(np.array([0b0101], np.uint8)),
            "shape": by_hand.number(np.array([2, 2], np.uint32)),
        },
        outputs=[("w", "float16", (2, 2))],
    )
    path = by_hand.package(tmp_path / "m.mlpackage", [op, _linear("w", 2)], inputs=[("x", "float32", (1, 2))])
    (tensor,) = read(path).tensors
    assert tensor.zeros == 2
    np.testing.assert_array_equal(tensor.values(), [[0, 0], [5, 0]])


def test_a_dense_weight_counts_the_zeros_in_its_numbers(tmp_path: Path) -> None:
    (tensor,) = read(by_hand.linear_package(tmp_path / "m.mlpackage", sparse=False)).tensors
    assert (tensor.encoding, tensor.zeros, tensor.size_bytes) == ("dense", 8, 128)


def _linear(weight: str, rows: int) -> bytes:
    return by_hand.operation("linear", "fc", {"x": "x", "weight": weight}, outputs=[("y", "float32", (1, rows))])


MASK = np.array([[1, 1, 0, 0], [0, 0, 1, 0]], np.uint8)
BITS = by_hand.field(2, by_hand.tensor_type("uint1", (2, 4))) + by_hand.field(
    3, by_hand.field(1, by_hand.field(7, by_hand.field(1, np.packbits(MASK, bitorder="little").tobytes())))
)


def _packed(dtype: str, shape: tuple[int, ...], payload: bytes) -> bytes:
    content = by_hand.field(3, by_hand.field(1, by_hand.field(7, by_hand.field(1, payload))))
    return by_hand.field(2, by_hand.tensor_type(dtype, shape)) + content


SCALE = by_hand.number(np.array([[0.5], [2.0]], np.float16))
JOINT_INT8 = [
    by_hand.operation(
        "constexpr_sparse_blockwise_shift_scale",
        "q",
        {"data_mask": BITS, "nonzero_data": by_hand.number(np.array([10, -4, 3], np.int8)), "scale": SCALE},
        outputs=[("q_mask", "uint1", (2, 4)), ("q_kept", "float16", (3,))],
    ),
    by_hand.operation(
        "constexpr_sparse_to_dense",
        "w",
        {"nonzero_data": "q_kept", "mask": "q_mask"},
        outputs=[("w", "float16", (2, 4))],
    ),
]
LUT = by_hand.number(np.array([0, -1, 2] + [9] * 13, np.float16).reshape(1, 1, 16, 1))
JOINT_LUT4 = [
    by_hand.operation(
        "constexpr_lut_to_sparse",
        "p",
        {"indices_mask": BITS, "indices_nonzero_data": _packed("uint4", (3,), bytes([0x21, 0x01])), "lut": LUT},
        outputs=[("p_mask", "uint1", (2, 4)), ("p_kept", "float16", (3,))],
    ),
    by_hand.operation(
        "constexpr_sparse_to_dense",
        "w",
        {"nonzero_data": "p_kept", "mask": "p_mask"},
        outputs=[("w", "float16", (2, 4))],
    ),
]
FORMS = {
    "sparse+int8": (JOINT_INT8, "sparse", "int8", 8, [[5, -2, 0, 0], [0, 0, 6, 0]], 5),
    "sparse+lut4": (JOINT_LUT4, "sparse+lut4", "float16", 4, [[-1, 2, 0, 0], [0, 0, -1, 0]], 5),
    "sparse, one-bit mask": (
        [
            by_hand.operation(
                "constexpr_sparse_to_dense",
                "w",
                {"nonzero_data": by_hand.number(np.array([7, 8, 9], np.float16)), "mask": BITS},
                outputs=[("w", "float16", (2, 4))],
            )
        ],
        "sparse",
        "float16",
        16,
        [[7, 8, 0, 0], [0, 0, 9, 0]],
        5,
    ),
    "int8 blocks": (
        [
            by_hand.operation(
                "constexpr_blockwise_shift_scale",
                "w",
                {
                    "data": by_hand.number(np.array([[1, 2, 3, 4], [5, 6, 7, 1]], np.int8)),
                    "scale": by_hand.number(np.array([[1, 10], [1, 100]], np.float16)),
                    "offset": by_hand.number(np.array([[1, 0], [5, 1]], np.int8)),
                },
                outputs=[("w", "float16", (2, 4))],
            )
        ],
        "dense",
        "int8",
        8,
        [[0, 1, 30, 40], [0, 1, 600, 0]],
        3,
    ),
    "palette, iOS 16": (
        [
            by_hand.operation(
                "constexpr_lut_to_dense",
                "w",
                attributes={
                    "indices": by_hand.number(np.array([0b11100100, 0b00000001], np.uint8)),
                    "lut": by_hand.number(np.array([0, 1, 2, 4], np.float16)),
                    "shape": by_hand.number(np.array([2, 4], np.uint32)),
                },
                outputs=[("w", "float16", (2, 4))],
            )
        ],
        "lut2",
        "float16",
        2,
        [[0, 1, 2, 4], [1, 0, 0, 0]],
        4,
    ),
    "palette, iOS 18": (
        [
            by_hand.operation(
                "constexpr_lut_to_dense",
                "w",
                {"indices": _packed("uint4", (2, 4), bytes([0x10, 0x02, 0x22, 0x01])), "lut": LUT},
                outputs=[("w", "float16", (2, 4))],
            )
        ],
        "lut4",
        "float16",
        4,
        [[0, -1, 2, 0], [2, 2, -1, 0]],
        3,
    ),
    "affine, iOS 16": (
        [
            by_hand.operation(
                "constexpr_affine_dequantize",
                "w",
                attributes={
                    "quantized_data": by_hand.number(np.array([[1, 2, 3, 4], [5, 6, 7, 1]], np.int8)),
                    "scale": by_hand.number(np.array([2, 0.5], np.float16)),
                    "zero_point": by_hand.number(np.array([2, 1], np.int8)),
                    "axis": by_hand.number(np.array(0, np.int32)),
                },
                outputs=[("w", "float16", (2, 4))],
            )
        ],
        "dense",
        "int8",
        8,
        [[-2, 0, 2, 4], [2, 2.5, 3, 0]],
        2,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_compression_form_decodes_as_defined(tmp_path: Path, form: str) -> None:
    operations, encoding, dtype, bits, expected, zeros = FORMS[form]
    path = by_hand.package(tmp_path / "m.mlpackage", [*operations, _linear("w", 2)], opset="CoreML8")
    (tensor,) = read(path).tensors
    assert (tensor.encoding, tensor.dtype, tensor.value_bits, tensor.zeros) == (encoding, dtype, bits, zeros)
    seen = tensor.dequantize() if tensor.dequantize else tensor.values()
    np.testing.assert_array_equal(seen.astype(np.float32), np.array(expected, np.float32))


def test_a_manifest_is_read_and_a_broken_one_is_not_trusted(tmp_path: Path) -> None:
    for text, expected in (('{"scheme":"int8"}', {"scheme": "int8"}), ("{", None), ("[1]", None)):
        path = by_hand.package(tmp_path / f"{len(text)}.mlpackage", [], outputs=(), metadata={"idp_deploy": text})
        assert read(path).metadata.get("idp_deploy") == expected
        assert len(read(path).warnings) == (expected is None)


def test_reading_imports_neither_torch_nor_coremltools(linear: Path) -> None:
    code = (
        f"from idp_deploy.reading import read; read({str(linear)!r}); "
        "import sys; sys.exit(bool({'torch', 'coremltools', 'google'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(bits=st.sampled_from([1, 2, 3, 4, 6]), data=st.data())
def test_packed_numbers_come_back(bits: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=40))
    whole = sum(n << (i * bits) for i, n in enumerate(numbers))
    raw = whole.to_bytes((len(numbers) * bits + 7) // 8, "little")
    assert unpack(raw, f"uint{bits}", len(numbers)).tolist() == numbers


def test_signed_nibbles_have_their_sign() -> None:
    assert unpack(bytes([0x8F, 0x07]), "int4", 3).tolist() == [-1, -8, 7]
    assert (bits_of("uint1"), bits_of("bool"), packed_bytes("int4", 3)) == (1, 8, 2)


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        message = parse(data, SCHEMA["Model"], SCHEMA)
    except FileError:
        return
    assert isinstance(message, dict)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a\x05abc", "runs past the end"),
        (b"\x80", "runs past the end"),
        (b"\xff" * 12, "runs past the end"),
        (b"\x0b", "wire type 3"),
        (b"\x0a\x01\xff", "not text"),
        (b"\x08\x01", "wire type 0"),
    ],
)
def test_wire_faults_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(FileError, match=reason):
        parse(data, {1: Field("name", "string")})


def test_nesting_has_an_end() -> None:
    data = b""
    for _ in range(100):
        data = by_hand.field(1, data)
    with pytest.raises(FileError, match="nested deeper"):
        parse(data, {1: Field("a", "A")}, {"A": {1: Field("a", "A")}})
