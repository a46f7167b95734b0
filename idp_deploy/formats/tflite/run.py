"""run: a .tflite file in LiteRT on this machine, twice — through XNNPACK, and through the builtin kernels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy.errors import ConversionError, FileError, require
from idp_deploy.formats.tflite.read.contents import read_tflite

RUNTIMES = ("litert-xnnpack", "litert-builtin")
Arrays = tuple[np.ndarray, ...]


def run_tflite(path: Path, calls: Sequence[Arrays]) -> dict[str, list[Arrays]]:
    """Every call in both runtimes.

    Args:
        calls: each the flattened model inputs in order and in the model's layout (N, C, H, W). Where the file fixes
            a batch of 1 and a call brings more, its samples run one by one and the outputs are joined.

    Returns:
        runtime → one tuple of outputs a call, in the model's order; float outputs as float32.

    Raises:
        FileError: the runtime cannot read or prepare the file. ConversionError: it fails while running.
    """
    require("ai_edge_litert", "tflite")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error
    manifest = read_tflite(path).metadata.get("idp_deploy", {})
    results = {}
    for runtime in RUNTIMES:
        interpreter = _Interpreter(content, runtime, manifest, str(path))
        results[runtime] = [interpreter.run(call) for call in calls]
    return results


class _Interpreter:
    """One loaded file in one runtime."""

    def __init__(self, content: bytes, runtime: str, manifest: Mapping[str, Any], name: str) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolvers = {
            "litert-xnnpack": OpResolverType.AUTO,
            "litert-builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        }
        self.name, self.runtime, self.manifest = name, runtime, manifest
        try:
            self.interpreter = Interpreter(
                model_content=content, num_threads=1, experimental_op_resolver_type=resolvers[runtime]
            )
            self.interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise FileError(f"{runtime} cannot load {name}: {_first_line(error)}") from error
        self.inputs = _ordered(self.interpreter.get_input_details(), "inputs", manifest)
        self.outputs = _ordered(self.interpreter.get_output_details(), "outputs", manifest)

    def run(self, call: Arrays) -> Arrays:
        """Outputs of one call."""
        if len(call) != len(self.inputs):
            raise ConversionError(f"{self.name} takes {len(self.inputs)} inputs; the call brings {len(call)}")
        arrays = [self._arriving(x, detail) for x, detail in zip(call, self.inputs, strict=True)]
        wanted = [tuple(int(n) for n in detail["shape"]) for detail in self.inputs]
        if [a.shape for a in arrays] == wanted:
            return self._invoke(arrays)
        batches = {a.shape[0] for a, w in zip(arrays, wanted, strict=True) if a.shape != w and a.ndim}
        samples = batches.pop() if len(batches) == 1 else 0
        pieces = []
        for i in range(samples):
            piece = [a if a.shape == w else a[i : i + 1] for a, w in zip(arrays, wanted, strict=True)]
            if [a.shape for a in piece] != wanted:
                break
            pieces.append(self._invoke(piece))
        if not pieces:
            raise ConversionError(
                f"{self.name} takes inputs of shape {wanted}; the call brings {[a.shape for a in arrays]}",
                way_out="TFLite files have fixed shapes: export with inputs of this shape",
            )
        return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))

    def _invoke(self, arrays: Sequence[np.ndarray]) -> Arrays:
        for array, detail in zip(arrays, self.inputs, strict=True):
            self.interpreter.set_tensor(detail["index"], _quantized(array, detail))
        try:
            self.interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise ConversionError(f"{self.runtime} fails to run {self.name}: {_first_line(error)}") from error
        return tuple(self._leaving(_dequantized(self.interpreter.get_tensor(d["index"]), d), d) for d in self.outputs)

    def _arriving(self, array: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
        """The array in the file's layout; without a manifest, the layout in which the shape fits."""
        if array.size == 1 and not len(detail["shape"]):
            return array.reshape(())
        wanted = tuple(int(n) for n in detail["shape"])[1:]
        guessed = not self.manifest and array.ndim == 4 and array.shape[1:] != wanted
        if self._layout(detail) == "NHWC" or (guessed and (*array.shape[2:], array.shape[1]) == wanted):
            return np.moveaxis(array, 1, -1)
        return array

    def _leaving(self, array: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
        return np.moveaxis(array, -1, 1) if self._layout(detail) == "NHWC" else array

    def _layout(self, detail: Mapping[str, Any]) -> str:
        layouts: Mapping[str, str] = self.manifest.get("layouts", {})
        return layouts.get(detail["name"], "")


def _ordered(details: Sequence[dict[str, Any]], role: str, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tensor details in the manifest's order, else in the file's."""
    by_name = {detail["name"]: detail for detail in details}
    names = manifest.get(role, [])
    if names and all(name in by_name for name in names):
        return [by_name[name] for name in names]
    return list(details)


def _quantized(array: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    if scale and dtype.kind in "iu" and array.dtype.kind == "f":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(array / scale) + zero_point, limits.min, limits.max).astype(dtype)
    return np.array(array, dtype, order="C")


def _dequantized(array: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if scale and array.dtype.kind in "iu":
        return (array.astype(np.float32) - zero_point) * np.float32(scale)
    return array.astype(np.float32) if array.dtype.kind == "f" else array.copy()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
