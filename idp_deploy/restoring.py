"""restore: a file whose zeros another tool stored densely → the same file, sparse again and proved equal.

Needs neither the model nor PyTorch. The new file takes its name only after onnxruntime gave the same outputs, bit for
bit, for both files on seeded inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idp_deploy import files
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import Contents, Value
from idp_deploy.formats import FORMATS
from idp_deploy.reading import read

CALLS = 2  # seeded inputs that both files are run on
_FREE = (1, 2, 16)  # extents tried for a free dimension: a batch of one, else what a sequence needs


@dataclass(frozen=True)
class Restored:
    """What `restore` wrote. `zeros` of `entries` weights are zero in both files."""

    source: Path
    path: Path
    before_bytes: int
    after_bytes: int
    zeros: int
    entries: int
    outputs: int  # compared bit for bit


def restore(source: Path, path: Path, *, encoding: str = "auto") -> Restored:
    """Store the zeros of any .onnx file sparse.

    Args:
        encoding: as in `export --to onnx`.

    Raises:
        FileError: not an ONNX file, or one that onnxruntime does not load.
        UsageError: another format, or nothing to gain.
        ConversionError: the file cannot hold sparse weights, or did not compute the same afterwards.
    """
    before = read(source)
    row = FORMATS[before.format]
    if not row.restore:
        suffixes = " or ".join(one.suffix for one in FORMATS.values() if one.restore)
        raise UsageError(
            f"{source} is not an {suffixes} file",
            way_out=f"export --to {before.format} stores the model's zeros sparse",
        )
    open_file = row.function("open")
    calls, expected = _outputs(before)
    with files.replacing(path) as temporary:
        size = row.function("restore")(source, temporary, encoding=encoding)
        if size >= before.size_bytes:
            raise UsageError(
                f"{source} ({before.size_bytes:,} bytes) has no zeros that would be smaller stored sparse",
                way_out="prune the model first; or this file stores its zeros sparse already",
            )
        after = read(temporary)
        (session,) = open_file(after).values()
        for call, wanted in zip(calls, expected, strict=True):
            for name, a, b in zip(after.interface.outputs, session(call), wanted, strict=True):
                if not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                    raise ConversionError(
                        f"output '{name}' of {source} changed when its weights were stored sparse",
                        way_out="keep the file as it is, and report this",
                    )
        if _zeros(after) != _zeros(before):
            raise ConversionError(
                f"{source} holds {_zeros(before)} zeros, its sparse copy {_zeros(after)}",
                way_out="keep the file as it is, and report this",
            )
    entries = sum(tensor.size for tensor in before.tensors)
    return Restored(source, path, before.size_bytes, size, _zeros(before), entries, len(before.outputs) * CALLS)


def _outputs(contents: Contents) -> tuple[list[tuple[np.ndarray, ...]], list[tuple[np.ndarray, ...]]]:
    """Seeded calls that the file runs, and what it makes of them."""
    (session,) = FORMATS[contents.format].function("open")(contents).values()
    problem: ConversionError | None = None
    for extent in _FREE:
        generator = np.random.default_rng(0)
        values = [contents.values[name] for name in contents.interface.inputs]
        calls = [tuple(_drawn(value, extent, generator) for value in values) for _ in range(CALLS)]
        try:
            outputs = [session(call) for call in calls]
        except ConversionError as error:
            problem = problem or error
        else:
            return calls, outputs
    assert problem is not None
    raise problem


def _drawn(value: Value, extent: int, generator: np.random.Generator) -> np.ndarray:
    shape = tuple(extent if n < 0 else n for n in value.shape)
    if value.dtype.startswith("float"):
        return generator.standard_normal(shape).astype(value.dtype)
    return generator.integers(0, 2, shape).astype(value.dtype)  # ids, masks: 0 and 1 are within any table


def _zeros(contents: Contents) -> int:
    return sum(tensor.zeros for tensor in contents.tensors)
