"""restore: a file whose zeros another tool stored densely → the same file, sparse again and proved equal.

Needs neither the model nor PyTorch. The new file takes its name only after every runtime of its format gave the same
outputs for both files, bit for bit, on seeded inputs, and all its weights were read back with the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from idp_deploy import files
from idp_deploy.errors import ConversionError, FileError, UsageError
from idp_deploy.flow import Contents, StoredTensor
from idp_deploy.formats import FORMATS
from idp_deploy.formats.redundancy import sparse_forms
from idp_deploy.formats.sessions import Arrays, Session
from idp_deploy.reading import read
from idp_deploy.waiting import counted

CALLS = 2  # seeded inputs that both files are run on
_KEEP = "keep the file as it is, and report this"
_ELSE = "docs/formats.md, 'Dense files of other tools', says which weights can"
_WORTH_NAMING_BYTES = 1000
# (the first, the others) of an input's free extents: a batch of one, what a sequence needs, what halves of images need;
# and a sequence with nothing in front of it, for a decoder whose mask is as long as both
_FREE = ((1, 1), (2, 2), (16, 16), (1, 32), (1, 64), (1, 224), (2, 4))
_NO_PAST = (2, 4)


@dataclass(frozen=True)
class Restored:
    """What `restore` wrote. `zeros` of `entries` weights are zero in both files."""

    source: Path
    path: Path
    before_bytes: int
    after_bytes: int
    zeros: int
    entries: int
    outputs: int  # compared bit for bit, in every one of `runtimes`
    runtimes: tuple[str, ...]


def restore(source: Path, path: Path, *, encoding: str = "auto") -> Restored:
    """Store the zeros of any .onnx or .tflite file sparse.

    Args:
        encoding: as in `export --to` that format.

    Raises:
        FileError: a broken file, or one that its runtime does not load.
        UsageError: another format, or nothing to gain.
        ConversionError: the file cannot hold sparse weights, or did not compute the same afterwards.
    """
    before = read(source)
    files.landing(path)
    forms = sparse_forms(before, encoding=encoding)
    form = next(forms, None)
    runs = list(_runs(before))
    problem: ConversionError | None = None
    while form and len(form) < before.size_bytes:
        with files.workspace(path.parent) as holder:
            trial = holder / f"{path.stem}{FORMATS[before.format].suffix}"
            trial.write_bytes(form)
            problem = _difference(before, runs, read(trial))
        if problem is None:
            files.write_bytes(path, form)
            entries, zeros = (sum(getattr(t, count) for t in before.tensors) for count in ("size", "zeros"))
            outputs = sum(len(run.contents.outputs) for run in runs) * CALLS
            everywhere = tuple(name for name in runs[0].expected if all(name in run.expected for run in runs))
            return Restored(source, path, before.size_bytes, len(form), zeros, entries, outputs, everywhere)
        form = next(forms, None)
    if form is not None:  # what keeps more of the file, such as every -0, makes it no smaller
        problem = None
    raise problem or _nothing_gained(before)


def _nothing_gained(before: Contents) -> UsageError:
    """The weight with the most zeros to leave out is named where these are what cannot be left out."""
    dense = [tensor for tensor in before.tensors if not tensor.is_sparse and tensor.zeros > tensor.size / 2]
    heaviest = max(dense, key=lambda tensor: tensor.zeros * tensor.value_bits, default=None)
    if not before.tensors:
        return UsageError(
            f"{before.path} ({before.size_bytes:,} bytes) holds no weights, so none that is zero",
            way_out="trees have none, nor linear models of ai.onnx.ml; matrices that are inputs are to be constants",
        )
    if heaviest is None or heaviest.zeros * heaviest.value_bits < 8 * _WORTH_NAMING_BYTES:
        if any(tensor.is_sparse for tensor in before.tensors):
            return UsageError(f"{before.path} stores its zeros sparse already", way_out="use it as it is")
        return UsageError(
            f"{before.path} ({before.size_bytes:,} bytes) has no zeros that would be smaller stored sparse",
            way_out="prune the model first",
        )
    why = FORMATS[before.format].function("kept_dense")(before, heaviest)
    reason, way_out = (f": {why[0]}", why[1]) if why else ("", _ELSE)
    what = f"'{heaviest.name}' ({heaviest.dtype}, {heaviest.zeros / heaviest.size:.0%} zero)"
    return UsageError(f"{before.path}: {what} cannot be stored sparse as it is{reason}", way_out=way_out)


@dataclass(frozen=True)
class _Run:
    """The file, or one function or body of it that the first does not run, on seeded inputs."""

    contents: Contents
    calls: Sequence[Arrays]
    expected: dict[str, list[Arrays]]  # by runtime


def _runs(before: Contents) -> Iterator[_Run]:
    """Everything of the file that a runtime here can call.

    Raises:
        ConversionError: what its users call does not run on any inputs tried.
    """
    yield _Run(before, *_outputs(before))
    for entry in _entries(before):
        try:
            yield _Run(entry, *_outputs(entry))
        except (ConversionError, FileError):  # by itself, outside of the loop or branch that it is the body of
            if entry.parsed is before.parsed:
                raise


def _entries(contents: Contents) -> list[Contents]:
    row = FORMATS[contents.format]
    return list(row.function("entries")(contents)) if row.entries else []


def _difference(before: Contents, runs: Sequence[_Run], after: Contents) -> ConversionError | None:
    """What the new file does otherwise than the old one; None where it is the same in every respect."""
    try:
        again = {entry.signature: entry for entry in (after, *_entries(after))}
        for run in runs:
            problem = _otherwise(run, again[run.contents.signature])
            if problem is not None:
                return problem
    except (ConversionError, FileError) as error:
        said = str(error).replace(str(after.path), "it")
        return ConversionError(f"{before.path} runs, but not its sparse form: {said}", way_out=_KEEP)
    known = {next(_digests(tensor)) for tensor in after.tensors}
    for tensor in counted(before.tensors, "comparing weights"):
        if known.isdisjoint(_digests(tensor)):
            return _changed(before, f"weight '{tensor.name}'", "this tool's reader")
    return None


def _otherwise(run: _Run, after: Contents) -> ConversionError | None:
    before, sessions = run.contents, _opened(after)
    for runtime, wanted in run.expected.items():
        if runtime not in sessions:
            return ConversionError(f"{runtime} runs {before.path}, but not its sparse form", way_out=_KEEP)
        pairs = list(zip(run.calls, wanted, strict=True))
        for call, outputs in counted(pairs, f"comparing outputs in {runtime}"):
            for name, a, b in zip(after.interface.outputs, sessions[runtime](call), outputs, strict=True):
                if not _same(a, b):
                    return _drawing(before, run.calls) or _changed(before, f"output '{name}'", runtime)
    return None


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _drawing(before: Contents, calls: Sequence[Arrays]) -> ConversionError | None:
    """The reason where the file itself answers the same call otherwise the second time."""
    for runtime, run in _opened(before).items():
        if not all(_same(a, b) for call in calls for a, b in zip(run(call), run(call), strict=True)):
            return ConversionError(
                f"{before.path} answers the same inputs otherwise the second time in {runtime}",
                way_out="nothing can be compared; export the model in eval mode",
            )
    return None


def _changed(before: Contents, what: str, runtime: str) -> ConversionError:
    return ConversionError(
        f"{what} of {before.path} changed in {runtime} when its weights were stored sparse",
        way_out=_KEEP,
    )


def _digests(tensor: StoredTensor) -> Iterator[bytes]:
    """Of the numbers a tensor means, whatever its shape and however it is stored; −0 is 0.

    Then of a matrix transposed, as one that is the other way round a second time is kept (a tied table of words).
    """
    values = (tensor.dequantize or tensor.values)()
    values = values.astype(np.float32) if values.dtype == np.float16 else values
    values = values + np.zeros((), values.dtype)
    for each in (values, values.T)[: values.ndim or 1]:
        yield blake2b(np.ascontiguousarray(each).tobytes(), digest_size=16).digest()


def _opened(contents: Contents) -> dict[str, Session]:
    """As anybody opens the file: both forms of it are to agree there."""
    row = FORMATS[contents.format]
    opened: dict[str, Session] = row.function("open_plain" if row.open_plain else "open")(contents)
    return opened


def _outputs(contents: Contents) -> tuple[list[Arrays], dict[str, list[Arrays]]]:
    """Seeded calls that the file runs, and what it makes of them in each runtime.

    The first of `_FREE` whose outputs all have entries, else the first that runs.
    """
    sessions = _opened(contents)
    found: tuple[list[Arrays], dict[str, list[Arrays]]] | None = None
    problem: ConversionError | None = None
    for extents in _FREE:
        generator = np.random.default_rng(0)
        names = contents.interface.inputs
        calls = [tuple(_drawn(contents, name, extents, generator) for name in names) for _ in range(CALLS)]
        try:
            outputs = {runtime: [run(call) for call in calls] for runtime, run in sessions.items()}
        except ConversionError as error:
            problem = problem or error
            continue
        found = found or (calls, outputs)
        if all(array.size for each in outputs.values() for arrays in each for array in arrays):
            return calls, outputs
        if not any(-1 in contents.values[name].shape for name in names if name in contents.values):
            break  # none to choose
    if found is None:
        assert problem is not None
        raise problem
    return found


def _drawn(contents: Contents, name: str, extents: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    if name not in contents.values:  # the outputs do not depend on it: anything will do
        return np.zeros(1, np.float32)
    value = contents.values[name]
    is_past = extents == _NO_PAST and len(value.shape) == 4  # keys or values: (batch, heads, past, width)
    shape = tuple(
        n if n >= 0 else 0 if is_past and axis == 2 else extents[axis > 0] for axis, n in enumerate(value.shape)
    )
    dtype = np.dtype(value.dtype)
    if dtype.kind == "f":
        drawn = generator.standard_normal(shape).astype(dtype)
    elif dtype.kind in "iu" and dtype.itemsize == 1:  # what was a float once
        drawn = generator.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    else:
        drawn = generator.integers(0, 2, shape).astype(dtype)  # ids, masks: 0 and 1 are within any table
    turned = contents.interface.layouts.get(name) == "NHWC"  # sessions take what the model takes
    return np.moveaxis(drawn, -1, 1) if turned else drawn
