"""Run a .tflite file in LiteRT on this machine: through XNNPACK, the builtin kernels alone, and CompiledModel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from idp_deploy.errors import ConversionError, FileError
from idp_deploy.flow import Contents
from idp_deploy.formats.sessions import Arrays, Sessions, first_line, noise
from idp_deploy.formats.tflite.litert import COMPILED, RUNTIMES, Detail, Litert, dequantized, quantized
from idp_deploy.isolation import ForeignError
from idp_deploy.vendors import tflm


def open_tflite(contents: Contents, *, threads: int = 1) -> Sessions:
    """A session in each runtime, and a note where CompiledModel is not there or does not take the file.

    Where the file fixes a batch of 1 and a call brings more, its samples run one by one and the outputs are joined.

    Raises:
        FileError: a runtime cannot read or prepare the file, or ends over it.
    """
    if any(op.kind == "CUSTOM:ethos-u" for op in contents.ops):
        raise FileError(
            f"{contents.path} is compiled for Ethos-U, which no runtime of this machine computes",
            way_out="verify the .tflite that it was made of, or run it in Arm's models (FVP)",
        )
    if any(tensor.encoding == "tflm" for tensor in contents.tensors):
        return Sessions({tflm.RUNTIME: _Interpreter(contents, tflm.RUNTIME, threads).run})
    sessions = Sessions((runtime, _Interpreter(contents, runtime, threads).run) for runtime in RUNTIMES)
    if contents.signature is not None:  # CompiledModel lists only what the first has
        return sessions
    try:
        sessions[COMPILED] = _Interpreter(contents, COMPILED, threads).run
    except FileError as error:  # the interpreter has just taken the file
        if not isinstance(error.__cause__, ForeignError):
            raise
        sessions.notes = (f"not run by {COMPILED}: {first_line(error.__cause__)}",)
    return sessions


def time_tflite(contents: Contents, threads: int) -> tuple[str, Callable[[], float]]:
    """The runtime's name, and one more inference on seeded noise: CPU milliseconds of the process that runs it.

    Raises:
        FileError, ConversionError: LiteRT refuses the file.
    """
    runtime = RUNTIMES[0]
    litert = Litert(contents.parsed, runtime, str(contents.path), threads=threads)
    generator = np.random.default_rng(0)
    try:
        litert.run([noise(item.shape, item.dtype, generator) for item in litert.inputs])
    except ForeignError as error:
        raise ConversionError(f"LiteRT cannot run {contents.path}: {first_line(error)}") from error
    return runtime, litert.time_ms


class Micro:
    """One file in TensorFlow Lite Micro, which knows no names: they are those of the file, in its order."""

    def __init__(self, contents: Contents) -> None:
        self._session = tflm.open_micro(contents.parsed, str(contents.path))
        ends = {"inputs": contents.inputs, "outputs": contents.outputs}
        details, _ = self._session.call("details", inputs=len(contents.inputs), outputs=len(contents.outputs))
        self.inputs, self.outputs = (
            [
                Detail(i, name, tuple(d["shape"]), np.dtype(d["dtype"]), d["scale"], d["zero_point"])
                for i, (name, d) in enumerate(zip(names, details[role], strict=True))
            ]
            for role, names in ends.items()
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """As `Litert.run`."""
        given = {str(i): array for i, array in enumerate(arrays)}
        _, results = self._session.call("run", given, outputs=len(self.outputs))
        return tuple(results[str(i)] for i in range(len(self.outputs)))


class _Interpreter:
    """One loaded file in one runtime."""

    def __init__(self, contents: Contents, runtime: str, threads: int) -> None:
        self.name, self.runtime, self.contents = str(contents.path), runtime, contents
        self.litert = (
            Micro(contents)
            if runtime == tflm.RUNTIME
            else Litert(contents.parsed, runtime, self.name, threads=threads, signature=contents.signature)
        )
        self.inputs = _ordered(self.litert.inputs, contents.interface.inputs)
        self.outputs = _ordered(self.litert.outputs, contents.interface.outputs)

    def run(self, call: Arrays) -> Arrays:
        """Outputs of one call.

        Raises:
            ConversionError: the runtime fails, or the call does not fit.
        """
        if len(call) != len(self.inputs):
            raise ConversionError(f"{self.name} takes {len(self.inputs)} inputs; the call brings {len(call)}")
        arrays = [self._arriving(x, detail) for x, detail in zip(call, self.inputs, strict=True)]
        wanted = [detail.shape for detail in self.inputs]
        if all(map(_fits, arrays, wanted)):
            return self._invoke(arrays)
        batches = {a.shape[0] for a, w in zip(arrays, wanted, strict=True) if not _fits(a, w) and a.ndim}
        samples = batches.pop() if len(batches) == 1 else 0
        pieces = []
        for i in range(samples):
            piece = [a if _fits(a, w) else a[i : i + 1] for a, w in zip(arrays, wanted, strict=True)]
            if not all(map(_fits, piece, wanted)):
                break
            pieces.append(self._invoke(piece))
        if not pieces:
            raise ConversionError(
                f"{self.name} takes inputs of shape {wanted}; the call brings {[a.shape for a in arrays]}",
                way_out="TFLite files have fixed shapes: export with inputs of this shape",
            )
        return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))

    def _invoke(self, arrays: Sequence[np.ndarray]) -> Arrays:
        given = {d.position: quantized(array, d) for d, array in zip(self.inputs, arrays, strict=True)}
        try:
            results = self.litert.run([given[i] for i in range(len(given))])
        except ForeignError as error:
            raise ConversionError(f"{self.runtime} fails to run {self.name}: {first_line(error)}") from error
        return tuple(self._leaving(dequantized(results[d.position], d), d) for d in self.outputs)

    def _arriving(self, array: np.ndarray, detail: Detail) -> np.ndarray:
        """The array in the file's layout; without a manifest, the layout in which the shape fits."""
        if array.size == 1 and not detail.shape:
            return array.reshape(())
        wanted = detail.shape[1:]
        guessed = not self.contents.manifest and array.ndim == 4 and array.shape[1:] != wanted
        if self._layout(detail) == "NHWC" or (guessed and (*array.shape[2:], array.shape[1]) == wanted):
            return np.moveaxis(array, 1, -1)
        return array

    def _leaving(self, array: np.ndarray, detail: Detail) -> np.ndarray:
        return np.moveaxis(array, -1, 1) if self._layout(detail) == "NHWC" else array

    def _layout(self, detail: Detail) -> str:
        return self.contents.interface.layouts.get(detail.name, "")


def _fits(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a call may bring it."""
    return array.ndim == len(shape) and all(n in (extent, -1) for n, extent in zip(shape, array.shape, strict=True))


def _ordered(details: Sequence[Detail], names: Iterable[str]) -> list[Detail]:
    """Tensor details by name; in the file's order where a tensor is listed twice or goes by another name."""
    by_name = {detail.name: detail for detail in details}
    wanted = list(names)
    known = len(wanted) == len(details) and all(name in by_name for name in wanted)
    return [by_name[name] for name in wanted] if known else list(details)
