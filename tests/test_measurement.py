"""Timing a file on this host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from idp_deploy.errors import ConversionError, FileError, UsageError
from idp_deploy.simulation.measurement import measure, measure_all


def matmul(path: Path, width: int, *, dtype: type = np.float32) -> Path:
    weight = np.ones((width, width), dtype)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", width])],
        [onnx.helper.make_tensor_value_info("y", kind, ["n", width])], [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_a_larger_matrix_takes_longer_and_the_host_is_named(tmp_path: Path) -> None:
    small, large = measure_all([matmul(tmp_path / "s.onnx", 16), matmul(tmp_path / "l.onnx", 1500)], repeats=9)
    assert small.median_ms < large.median_ms
    for found in (small, large):
        assert found.low_ms <= found.median_ms <= found.high_ms
        assert (found.runtime, found.threads, found.repeats) == ("onnxruntime", 1, 9)
        assert found.host


def test_integer_inputs_and_open_extents_run(tmp_path: Path) -> None:
    assert measure(matmul(tmp_path / "i.onnx", 8, dtype=np.int32), repeats=1).median_ms >= 0


def test_a_tflite_file_runs_in_litert(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from tests.tflite_files import adding

    path = tmp_path / "add.tflite"
    path.write_bytes(adding(np.ones((4, 4), np.float32)))
    assert measure(path, repeats=2).runtime == "litert-xnnpack"


def test_what_cannot_run_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="repeats is 0"):
        measure(matmul(tmp_path / "s.onnx", 4), repeats=0)
    with pytest.raises(FileError, match="no such file"):
        measure(tmp_path / "none.onnx")
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    path = tmp_path / "odd.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:1], info[1:])), path)
    with pytest.raises(ConversionError, match="onnxruntime cannot run"):
        measure(path)
