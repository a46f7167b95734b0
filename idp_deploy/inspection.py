"""inspect: how every tensor of a file is stored, what that costs, and what it could cost. Imports no torch."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from idp_deploy.arguments import FilePath
from idp_deploy.encodings import bound_bytes
from idp_deploy.files import transfer_bytes
from idp_deploy.flow import Contents, FormatName, Shown, StoredTensor
from idp_deploy.formats.redundancy import sparse_bytes
from idp_deploy.reading import read
from idp_deploy.units import show
from idp_deploy.waiting import counted

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
class Redundancy:
    """Zeros stored densely, in words. `sparse_bytes`: what the file could take; None where it must be exported anew."""

    message: str
    sparse_bytes: int | None


@dataclass(frozen=True)
class Inspection(Shown):
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
    sparse_bytes: int | None = None  # what `restore` would write, where zeros are stored densely

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


def inspect(path: FilePath) -> Inspection:
    """Look into an .onnx, .mlpackage, .tflite, .aimodel or .pte file, ours or another tool's.

    Transfer sizes are gzip at level 6 and brotli at quality 5, a package's files compressed one by one.

    Raises:
        FileError: the file is missing, broken, or not what its suffix says.
    """
    contents = read(path)
    tensors = tuple(describe(tensor) for tensor in counted(contents.tensors, "weighing tensors"))
    gzip_bytes, brotli_bytes = transfer_bytes(contents.path)
    redundancy = redundancy_of(contents)
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
        warnings=(*contents.warnings, *([redundancy.message] if redundancy else [])),
        sparse_bytes=redundancy.sparse_bytes if redundancy else None,
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


def redundancy_of(contents: Contents) -> Redundancy | None:
    """Zeros that take room where leaving them out would be smaller; None where there are none worth a word.

    The size that the file could have is that of the file `restore` would write, before it is run.
    """
    dense = [t for t in contents.tensors if not t.is_sparse]
    wasteful = [t for t in dense if len(t.shape) > 1 and t.size_bytes - describe(t).bound_bytes > 0.1 * t.size_bytes]
    wasted = sum(t.zeros * t.value_bits / 8 for t in wasteful)
    if wasted < _WORTH_SAYING_BYTES:
        return None
    largest = max(wasteful, key=lambda t: t.zeros * t.value_bits)
    what = f"{wasted / 1e6:.2f} MB of zeros are stored densely in {_counted(len(wasteful))}, most in '{largest.name}'"
    again = sparse_bytes(contents)
    if again is None and contents.manifest and len(dense) < len(contents.tensors):
        return None  # ours, and sparse wherever that was smaller
    if again is None:
        return Redundancy(f"{what}: export this model with sparse weight encodings to leave them out", None)
    if contents.size_bytes - again < _WORTH_SAYING_BYTES:
        return None  # they cost less than what would restore them
    share = sum(t.zeros for t in contents.tensors) / sum(t.size for t in contents.tensors)
    sizes = f"{show(contents.size_bytes, 'bytes')} at {show(share, 'share')} zeros, {show(again, 'bytes')}"
    way_out = f"idp-deploy restore {shlex.quote(str(contents.path))}"
    return Redundancy(f"{what}: {sizes} as this tool stores it: {way_out}", again)


def _counted(tensors: int) -> str:
    return "1 tensor" if tensors == 1 else f"{tensors} tensors"
