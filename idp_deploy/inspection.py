"""inspect: how every tensor of a file is stored, what that costs, and what it could cost. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from idp_deploy.encodings import bound_bytes
from idp_deploy.files import transfer_bytes
from idp_deploy.flow import Contents, FormatName, StoredTensor
from idp_deploy.formats import FORMATS
from idp_deploy.reading import read

_WORTH_SAYING_BYTES = 10_000


@dataclass(frozen=True)
class TensorReport:
    """One stored tensor. `bound_bytes` is stored · value bits + n · H(zeros / n): no lossless code of random positions
    is smaller on average."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    entries: int
    zeros: int
    value_bits: float
    size_bytes: int
    bound_bytes: float

    @property
    def sparsity(self) -> float:
        """Share of zeros, in [0, 1]; 0.0 for an empty tensor."""
        return self.zeros / self.entries if self.entries else 0.0


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found. Sums over tensors leave out what a file holds besides them (the graph, padding)."""

    path: Path
    format: FormatName
    size_bytes: int
    gzip_bytes: int
    brotli_bytes: int
    tensors: tuple[TensorReport, ...]
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]  # name, shape (−1 = free), dtype
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]
    ops: int
    ours: bool  # carries our manifest
    warnings: tuple[str, ...] = ()

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def bound_bytes(self) -> float:
        """Sum of the bounds of all tensors."""
        return sum(tensor.bound_bytes for tensor in self.tensors)

    @property
    def entries(self) -> int:
        """Entries of all tensors."""
        return sum(tensor.entries for tensor in self.tensors)

    @property
    def zeros(self) -> int:
        """Zeros of all tensors."""
        return sum(tensor.zeros for tensor in self.tensors)


def inspect(path: Path | str) -> Inspection:
    """Look into an .onnx, .mlpackage or .tflite file, ours or another tool's.

    Transfer sizes are gzip at level 6 and brotli at quality 5, a package's files compressed one by one.

    Raises:
        FileError: the file is missing, broken, or not what its suffix says.
    """
    contents = read(path)
    tensors = tuple(describe(tensor) for tensor in contents.tensors)
    gzip_bytes, brotli_bytes = transfer_bytes(contents.path)
    return Inspection(
        path=contents.path,
        format=contents.format,
        size_bytes=contents.size_bytes,
        gzip_bytes=gzip_bytes,
        brotli_bytes=brotli_bytes,
        tensors=tensors,
        inputs=_values(contents, contents.inputs),
        outputs=_values(contents, contents.outputs),
        ops=len(contents.ops),
        ours=bool(contents.manifest),
        warnings=(*contents.warnings, *_warnings(contents, tensors)),
    )


def describe(tensor: StoredTensor) -> TensorReport:
    """The report of one tensor; decodes nothing."""
    return TensorReport(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        encoding=tensor.encoding,
        entries=tensor.size,
        zeros=tensor.zeros,
        value_bits=tensor.value_bits,
        size_bytes=tensor.size_bytes,
        bound_bytes=bound_bytes(tensor.size, tensor.size - tensor.zeros, tensor.value_bits),
    )


def _values(contents: Contents, names: tuple[str, ...]) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    values = (contents.values[name] for name in names if name in contents.values)
    return tuple((value.name, value.shape, value.dtype) for value in values)


def _warnings(contents: Contents, tensors: tuple[TensorReport, ...]) -> list[str]:
    """Zeros that take room, where leaving them out would have been smaller."""
    wasteful = [
        tensor
        for stored, tensor in zip(contents.tensors, tensors, strict=True)
        if not stored.is_sparse and tensor.size_bytes - tensor.bound_bytes > 0.1 * tensor.size_bytes
    ]
    wasted = sum(tensor.zeros * tensor.value_bits / 8 for tensor in wasteful)
    if wasted < _WORTH_SAYING_BYTES:
        return []
    again = FORMATS[contents.format].restore
    way_out = f"idp-deploy restore {contents.path}" if again else "export this model with sparse weight encodings"
    largest = max(wasteful, key=lambda tensor: tensor.zeros * tensor.value_bits)
    return [
        f"{wasted / 1e6:.2f} MB of zeros are stored densely in {_counted(len(wasteful))}, most in '{largest.name}': "
        f"{way_out} to leave them out"
    ]


def _counted(tensors: int) -> str:
    return "1 tensor" if tensors == 1 else f"{tensors} tensors"
