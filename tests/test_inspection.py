"""What inspect says about a file, on contents built by hand."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import pytest

from idp_deploy import inspection
from idp_deploy.errors import FileError
from idp_deploy.files import transfer_bytes
from idp_deploy.flow import Contents, StoredTensor, Value
from idp_deploy.formats.foreign import MODELS


def tensor(name: str, size_bytes: int, encoding: str, zeros: int, bits: float = 32) -> StoredTensor:
    return StoredTensor(name, (100, 100), "float32", encoding, size_bytes, zeros, lambda: np.zeros(0), bits)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"abc" * 5000)

    def write(*tensors: StoredTensor, **more: Any) -> Path:
        values = {"x": Value("x", (-1, 3), "float32"), "y": Value("y", (-1, 5), "float32")}
        found = Contents(path, "onnx", 15000, tensors, (), values, ("x",), ("y",), **more)
        monkeypatch.setattr(inspection, "read", lambda _: found)
        return path

    return write


def test_bytes_zeros_and_bounds_are_summed(file: Any) -> None:
    path = file(tensor("a", 4_600, "gaps8", 9_000), tensor("b", 40_000, "dense", 0))
    found = inspection.inspect(path)
    assert (found.entries, found.zeros, found.tensor_bytes) == (20_000, 9_000, 44_600)
    a, b = found.tensors
    assert a.sparsity == 0.9
    entropy = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    assert a.bound_bytes == pytest.approx(1_000 * 4 + 10_000 * entropy / 8)
    assert b.bound_bytes == 40_000
    assert found.bound_bytes == pytest.approx(a.bound_bytes + b.bound_bytes)
    assert found.inputs == (("x", (-1, 3), "float32"),)
    assert found.outputs == (("y", (-1, 5), "float32"),)
    assert not found.ours
    assert found.warnings == ()


def test_transfer_sizes_are_those_of_the_compressors(file: Any) -> None:
    path = file()
    data = path.read_bytes()
    found = inspection.inspect(path)
    assert found.size_bytes == 15_000
    assert found.gzip_bytes == len(gzip.compress(data, 6, mtime=0)) < 200
    assert found.brotli_bytes == len(brotli.compress(data, quality=5)) < 200


def test_a_package_counts_every_file_in_it(tmp_path: Path) -> None:
    package = tmp_path / "net.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Manifest.json").write_bytes(b"{}")
    (package / "Data" / "weight.bin").write_bytes(bytes(10_000))
    one = transfer_bytes(package / "Data" / "weight.bin")
    two = transfer_bytes(package / "Manifest.json")
    assert transfer_bytes(package) == (one[0] + two[0], one[1] + two[1])


def test_zeros_stored_densely_are_a_warning(file: Any) -> None:
    path = file(
        tensor("big", 40_000, "dense", 9_000), tensor("small", 20_000, "dense", 5_000, bits=16), warnings=("old",)
    )
    old, warning = inspection.inspect(path).warnings
    assert old == "old"
    assert warning.startswith("0.05 MB of zeros are stored densely in 2 tensors, most in 'big'")


@pytest.mark.parametrize(("zeros", "encoding"), [(100, "dense"), (9_000, "gaps4"), (9_000, "sparse+lut4")])
def test_a_few_zeros_or_sparse_ones_are_not(file: Any, zeros: int, encoding: str) -> None:
    assert inspection.inspect(file(tensor("a", 40_000, encoding, zeros))).warnings == ()


def test_a_dense_palette_of_mostly_zeros_is(file: Any) -> None:
    wide = StoredTensor("a", (1000, 1000), "float16", "lut4", 500_032, 950_000, lambda: np.zeros(0), 4)
    assert inspection.inspect(file(wide)).warnings[0].startswith("0.47 MB of zeros are stored densely in 1 tensor,")


def test_our_own_files_are_told_from_others(file: Any) -> None:
    assert inspection.inspect(file(metadata={"idp_deploy": {"schema_version": 1}})).ours


def test_an_empty_tensor_has_no_zeros_to_speak_of() -> None:
    empty = StoredTensor("e", (0, 3), "float32", "dense", 0, 0, lambda: np.zeros((0, 3)))
    described = inspection.describe(empty)
    assert (described.entries, described.sparsity, described.bound_bytes) == (0, 0.0, 0.0)


def test_a_missing_file_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        inspection.inspect(tmp_path / "none.onnx")


def test_it_imports_no_torch() -> None:
    code = "import idp_deploy.inspection, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("suffix", MODELS)
def test_a_file_of_another_tool_is_named_with_the_way_out(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"net{suffix}").write_bytes(b"anything")
    with pytest.raises(FileError, match=rf"net\{suffix} is an? .* — \w+"):
        inspection.inspect(tmp_path / f"net{suffix}")


def test_a_folder_of_tensorflow_is_named(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(FileError, match="is a SavedModel of TensorFlow — convert it first"):
        inspection.inspect(tmp_path)
