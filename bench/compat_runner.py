"""Runs inside an older runtime's own environment, with numpy and that runtime alone: python compat_runner.py FOLDER.

For each case (NAME.json beside the file and NAME.npz) it prints one JSON line: case, and the largest error relative
to the largest expected value, or what went wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = list[np.ndarray]


def onnx(path: Path, case: dict[str, Any], inputs: Arrays) -> Arrays:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(case["outputs"], dict(zip(case["inputs"], inputs))))  # noqa: B905


def tflite(path: Path, case: dict[str, Any], inputs: Arrays) -> Arrays:
    from tflite_runtime.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    sources = {detail["name"]: detail for detail in interpreter.get_input_details()}
    targets = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}
    for name, array in zip(case["inputs"], inputs):  # noqa: B905
        arriving = np.moveaxis(array, 1, -1) if name in case["layouts"] else array
        if arriving.dtype == np.int64:  # integers of 64 bits are 32 wide in these files
            arriving = arriving.astype(sources[name]["dtype"])
        interpreter.set_tensor(sources[name]["index"], arriving)
    interpreter.invoke()
    outputs = [(name, interpreter.get_tensor(targets[name])) for name in case["outputs"]]
    return [np.moveaxis(array, -1, 1) if name in case["layouts"] else array for name, array in outputs]


RUNNERS: dict[str, Callable[[Path, dict[str, Any], Arrays], Arrays]] = {"onnx": onnx, "tflite": tflite}


def main(folder: Path) -> None:
    for description in sorted(folder.glob("*.json")):
        case = json.loads(description.read_text())
        arrays = np.load(description.with_suffix(".npz"))
        inputs = [arrays[f"input_{i}"] for i in range(len(case["inputs"]))]
        expected = [arrays[f"output_{i}"] for i in range(len(case["outputs"]))]
        result: dict[str, Any] = {"case": case["name"]}
        try:
            outputs = RUNNERS[case["format"]](folder / case["file"], case, inputs)
            pairs = list(zip(outputs, expected))  # noqa: B905
            result["error"] = max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)) for a, b in pairs)
        except Exception as error:  # an older runtime refuses in its own ways; each is a result
            result["failed"] = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
