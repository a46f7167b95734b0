"""Run an .onnx file in onnxruntime on the CPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy.errors import ConversionError, FileError

RUNTIME = "onnxruntime"


def run_onnx(path: Path, calls: Sequence[tuple[np.ndarray, ...]]) -> dict[str, list[tuple[np.ndarray, ...]]]:
    """Outputs of every call, in the model's order; float outputs as float32.

    Args:
        calls: each the flattened inputs of the model, in order; cast to the types the file declares.

    Raises:
        FileError: onnxruntime cannot load the file. ConversionError: it cannot run one of the calls.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several unrelated types, all for a file it cannot load
        raise FileError(f"onnxruntime cannot load {path}: {_first_line(error)}") from error
    declared = {value.name: value for value in session.get_inputs()}
    inputs, outputs = _order(session, declared)
    results = []
    for call in calls:
        if len(call) != len(inputs):
            raise ConversionError(f"{path} takes {len(inputs)} inputs ({', '.join(inputs)}), a call brings {len(call)}")
        feed = {
            name: np.ascontiguousarray(array, _dtype(declared[name].type, array))
            for name, array in zip(inputs, call, strict=True)
            if name in declared
        }
        try:
            results.append(tuple(_float32(output) for output in session.run(outputs, feed)))
        except Exception as error:
            raise ConversionError(f"onnxruntime cannot run {path}: {_first_line(error)}") from error
    return {RUNTIME: results}


def _order(session: Any, declared: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Input and output names in the model's order: the manifest's where there is one that fits, else the file's."""
    outputs = [value.name for value in session.get_outputs()]
    try:
        manifest = json.loads(session.get_modelmeta().custom_metadata_map.get("idp_deploy", "{}"))
        ours = list(manifest["inputs"]), list(manifest["outputs"])
    except (ValueError, KeyError, TypeError):
        return list(declared), outputs
    fits = set(declared) <= set(ours[0]) and set(outputs) == set(ours[1])
    return ours if fits else (list(declared), outputs)


def _dtype(declared: str, array: np.ndarray) -> np.dtype:
    """ "tensor(float)" → float32."""
    names = {"float": "float32", "double": "float64"}
    inner = declared.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(names.get(inner, inner))
    except TypeError:
        return array.dtype


def _float32(output: Any) -> np.ndarray:
    array = np.asarray(output)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
