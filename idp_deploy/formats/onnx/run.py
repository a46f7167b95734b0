"""Run an .onnx file in onnxruntime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from idp_deploy.errors import ConversionError, FileError
from idp_deploy.flow import Contents
from idp_deploy.formats.sessions import Arrays, Session, as_float32, first_line

RUNTIME = "onnxruntime"


def open_onnx(contents: Contents, *, threads: int = 1) -> dict[str, Session]:
    """One session. Inputs are cast to the types the file declares.

    Raises:
        FileError: onnxruntime cannot load the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    path, (inputs, outputs) = contents.path, (contents.interface.inputs, contents.interface.outputs)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several unrelated types, all for a file it cannot load
        raise FileError(f"onnxruntime cannot load {path}: {first_line(error)}") from error
    declared = {value.name: value for value in session.get_inputs()}

    def run(call: Arrays) -> Arrays:
        """
        Raises:
            ConversionError: onnxruntime cannot run this call.
        """
        if len(call) != len(inputs):
            raise ConversionError(f"{path} takes {len(inputs)} inputs ({', '.join(inputs)}), a call brings {len(call)}")
        feed = {
            name: np.ascontiguousarray(array, _dtype(declared[name].type, array))
            for name, array in zip(inputs, call, strict=True)
            if name in declared
        }
        try:
            return tuple(as_float32(np.asarray(output)) for output in session.run(list(outputs), feed))
        except Exception as error:
            raise ConversionError(f"onnxruntime cannot run {path}: {first_line(error)}") from error

    return {RUNTIME: run}


def _dtype(declared: str, array: np.ndarray) -> np.dtype[Any]:
    """ "tensor(float)" → float32."""
    names = {"float": "float32", "double": "float64"}
    inner = declared.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(names.get(inner, inner))
    except TypeError:
        return array.dtype
