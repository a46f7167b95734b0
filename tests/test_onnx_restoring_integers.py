"""restore on .onnx files whose weights are integers, or would be: in blocks with zero points, and one value for all."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnxruntime import InferenceSession

from idp_deploy.errors import UsageError
from idp_deploy.formats.onnx.write.restoring import restored_onnx
from idp_deploy.formats.onnx.write.storing import Weight, choose
from idp_deploy.gating import sparsity
from idp_deploy.reading import read
from idp_deploy.restoring import restore
from tests.test_onnx_strangers import NODE, RNG, WEIGHT, save, weight


@pytest.mark.parametrize(
    ("other", "encoding"),
    [
        (np.full((96, 96), 0.0625, np.float32), "auto"),
        ((np.float32(0.25) * np.r_[np.full((1, 96), 127), np.full((95, 96), 9)]).astype(np.float32), "auto"),
        (np.repeat(RNG.integers(1, 100, (96, 1)), 96, axis=1).astype(np.float32), "auto"),
        (np.ones((96, 96), np.int8), "sparse-initializer"),
    ],
    ids=["one value", "mostly one value", "one value a row", "repeated"],
)
def test_a_second_time_finds_nothing_that_the_first_did_not(other: np.ndarray, encoding: str, tmp_path: Path) -> None:
    """A float matrix that is 8 bits with a scale, most of which are one number: scales in blocks of QMoE are such."""
    nodes = [NODE("MatMul", ["x", "w"], ["h"])]
    for name in ("v", "u"):
        nodes += [NODE("Cast", [name], [f"{name}f"], to=1), NODE("MatMul", ["h", f"{name}f"], [f"{name}y"])]
    nodes.append(NODE("Add", ["vy", "uy"], ["y"]))
    path = save(tmp_path / "m.onnx", nodes, {"w": weight(64, 96), "v": other, "u": other}).path
    once = restore(path, tmp_path / "s.onnx", encoding=encoding).path
    with pytest.raises(UsageError, match="stores its zeros sparse already"):
        restore(once, tmp_path / "t.onnx", encoding=encoding)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [0, 1])
def test_integers_with_a_zero_point_a_block_become_sparse(kind: type, axis: int, tmp_path: Path) -> None:
    """As quantizers of weights in blocks write them; no number is most of a channel."""
    points = np.repeat(RNG.integers(0, 40, (4, 96) if axis == 0 else (64, 6)), 16, axis=axis)
    codes = ((40 * WEIGHT).clip(-60, 60).astype(int) + points + 60 * (kind is np.uint8)).astype(kind)
    firsts = (slice(None),) * axis + (slice(0, None, 16),)
    stored = {"w": codes, "z": (points + 60 * (kind is np.uint8)).astype(kind)[firsts]}
    stored["s"] = np.full(stored["z"].shape, 0.1, np.float32)
    nodes = [NODE("DequantizeLinear", ["w", "s", "z"], ["d"], axis=axis, block_size=16)]
    path = save(tmp_path / "m.onnx", [*nodes, NODE("MatMul", ["x", "d"], ["y"])], stored).path
    restored = restore(path, tmp_path / "s.onnx")
    assert restored.before_bytes - restored.after_bytes > 0.6 * codes.size
    assert sparsity(read(restored.path)) == sparsity(read(path))
    with pytest.raises(UsageError, match="stores its zeros sparse already"):
        restore(restored.path, tmp_path / "t.onnx")


@pytest.mark.parametrize("offsets", ["none", "one", "a channel", "a block"])
@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
def test_integers_of_four_bits_become_sparse(dtype: type, offsets: str, tmp_path: Path) -> None:
    """Half a byte an entry, of which onnxruntime makes `MatMulNBits`, whose bits tell how it is stored."""
    lowest, extents = (-8 if dtype is ml_dtypes.int4 else 0), {"a channel": (1, 96), "a block": (2, 96)}
    points = RNG.integers(lowest, lowest + 16, extents.get(offsets, (1, 1))) * (offsets != "none")
    codes = np.broadcast_to(np.repeat(points, 64 // len(points), axis=0), (64, 96)).copy()
    kept = RNG.random(codes.shape) < 0.1
    codes[kept] = RNG.integers(lowest, lowest + 16, np.count_nonzero(kept))
    shape = {"a channel": (96,), "a block": (2, 96)}.get(offsets, ())
    stored = {"v": codes.astype(dtype), "s": RNG.random(shape, np.float32)}
    stored |= {} if offsets == "none" else {"z": points.reshape(shape).astype(dtype)}
    block = {"axis": 0, "block_size": 32} if offsets == "a block" else {}
    nodes = [NODE("DequantizeLinear", [*stored], ["w"], **block), NODE("MatMul", ["x", "w"], ["y"])]
    contents = save(tmp_path / "m.onnx", nodes, stored)
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.before_bytes - restored.after_bytes > 0.4 * codes.size / 2
    assert sparsity(read(restored.path)) == sparsity(contents)
    x = RNG.standard_normal((3, 64)).astype(np.float32)
    a, b = (InferenceSession(path).run(None, {"x": x})[0] for path in (contents.path, restored.path))
    np.testing.assert_array_equal(a, b)
    with pytest.raises(UsageError, match="stores its zeros sparse already"):
        restore(restored.path, tmp_path / "t.onnx")


@pytest.mark.parametrize("kind", ["e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz"])
def test_floats_of_eight_bits_become_sparse(kind: str, tmp_path: Path) -> None:
    values = WEIGHT.astype(getattr(ml_dtypes, f"float8_{kind}"))
    nodes = [NODE("DequantizeLinear", ["v", "s"], ["w"]), NODE("MatMul", ["x", "w"], ["y"])]
    contents = save(tmp_path / "m.onnx", nodes, {"v": values, "s": np.float32(0.5)})
    assert restore(contents.path, tmp_path / "s.onnx").after_bytes < 0.3 * contents.size_bytes
    assert sparsity(read(tmp_path / "s.onnx")) == sparsity(contents)


def test_integers_of_four_bits_stay_where_a_runtime_does_not_cast_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime does since 1.23; the other weights of the file become sparse before that too."""
    codes = (3 * weight(96, 96)).round().clip(-8, 7).astype(ml_dtypes.int4)
    nodes = [
        NODE("MatMul", ["x", "w"], ["h"]),
        NODE("DequantizeLinear", ["v", "s"], ["d"]),
        NODE("MatMul", ["h", "d"], ["y"]),
    ]
    contents = save(tmp_path / "m.onnx", nodes, {"w": WEIGHT, "v": codes, "s": np.float32(0.1)})
    forms = list(restored_onnx(contents))
    assert len(forms) == 2
    assert forms[0] != forms[1]
    later = iter(forms[1:])
    monkeypatch.setattr("idp_deploy.restoring.sparse_forms", lambda *_, **__: later)
    restored = restore(contents.path, tmp_path / "s.onnx")
    stored = {tensor.name: tensor.is_sparse for tensor in read(restored.path).tensors}
    assert stored["w"]
    assert not stored["v"]


@pytest.mark.parametrize("bits", [4, 8])
def test_matrices_of_a_few_bits_with_zero_points_become_sparse(bits: int, tmp_path: Path) -> None:
    """`MatMulNBits`: the blocks of a row lie behind each other, (96, 2, bytes of 32 entries)."""
    points = RNG.integers(1, 1 << bits - 1, (96, 2, 1))
    steps = np.where(RNG.random((96, 2, 32)) < 0.95, 0, RNG.integers(0, 1 << bits - 1, (96, 2, 32)))
    codes = (points + steps).astype(np.uint8)
    packed = codes if bits == 8 else codes[..., 0::2] | codes[..., 1::2] << 4
    zero = points[..., 0].astype(np.uint8)
    stored = {
        "w": packed,
        "s": np.full(192, 0.1, np.float32),
        "z": zero if bits == 8 else zero[:, :1] | zero[:, 1:] << 4,
    }
    nodes = [NODE("MatMulNBits", ["x", "w", "s", "z"], ["y"], domain="com.microsoft", K=64, N=96, bits=bits,
                  block_size=32)]  # fmt: skip
    contents = save(tmp_path / "m.onnx", nodes, stored)
    assert sparsity(contents)[1] == np.count_nonzero(steps == 0)
    restored = restore(contents.path, tmp_path / "s.onnx")
    assert restored.before_bytes - restored.after_bytes > 0.5 * packed.size
    assert sparsity(read(restored.path)) == sparsity(contents)


@pytest.mark.parametrize("zeros", [0.9, 0.8])
def test_large_tensors_take_what_opens_in_less_memory(zeros: float) -> None:
    """Unless it takes a hundredth more of the dense tensor: halves of zeros stay bits."""
    mask = RNG.random((4096, 1024)) >= zeros
    values = mask.astype(np.float32)
    assert choose(Weight("w", values, mask), "auto") == "gaps5"
    assert choose(Weight("w", values[1:], mask[1:]), "auto") == "gaps4"
    half = RNG.random(mask.shape) >= 0.5
    assert choose(Weight("w", half.astype(np.float32), half), "auto") == "bitmask"
