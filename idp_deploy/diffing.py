"""diff: two files layer by layer, whatever their formats and whoever wrote them; two folders of such; or two reports.

Layers are matched by the module they were; what is left, as in files of other tools that keep no such names, by its
number of entries in the order of execution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from idp_deploy.baselines import checks_of, ends, matched
from idp_deploy.errors import FileError
from idp_deploy.facts import facts_of
from idp_deploy.files import transfer_bytes
from idp_deploy.flow import Contents, Estimate, FileFacts, Layer, Shown, StoredTensor
from idp_deploy.formats import format_of, models_in
from idp_deploy.formats.layer_names import key_of
from idp_deploy.reading import read
from idp_deploy.simulation import simulate
from idp_deploy.units import METRICS

if TYPE_CHECKING:
    from idp_deploy.simulation.targets import Target

SAME = 2e-3  # of the largest weight: what rounding to float16 moves the values of a layer at most


@dataclass(frozen=True)
class LayerChange:
    """One layer in both files; `before` or `after` is None where only the other has it."""

    name: str
    before: Layer | None
    after: Layer | None
    moved: float | None = None  # largest difference of sorted values over the largest weight; None: not comparable

    @property
    def kind(self) -> str:
        """`same`, `weights`, `shape`, `added`, `removed`, or `stored` where the values are the same."""
        if self.before is None or self.after is None:
            return "added" if self.before is None else "removed"
        if self.before.entries != self.after.entries:
            return "shape"
        if self.moved is None or self.moved > SAME or self.before.zeros != self.after.zeros:
            return "weights"
        alike = (self.before.encoding, self.before.size_bytes) == (self.after.encoding, self.after.size_bytes)
        return "same" if alike else "stored"


@dataclass(frozen=True)
class Side:
    """One of the two files."""

    facts: FileFacts
    gzip_bytes: int
    brotli_bytes: int
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Difference(Shown):
    """What `diff` found between two files."""

    before: Side
    after: Side
    layers: tuple[LayerChange, ...]

    @property
    def changed(self) -> tuple[LayerChange, ...]:
        """Layers that are not the same in both."""
        return tuple(layer for layer in self.layers if layer.kind != "same")


@dataclass(frozen=True)
class FolderDifference(Shown):
    """What `diff` found between two folders of model files."""

    before: Path
    after: Path
    pairs: tuple[Difference, ...]  # files that are one, by name
    removed: tuple[Path, ...]  # in the first folder alone
    added: tuple[Path, ...]  # in the second alone


@dataclass(frozen=True)
class MetricChange:
    """One budget in two reports of `check --json` or `run --json`."""

    target: str
    format: str
    metric: str
    before: float | None
    after: float | None
    artifact: str = ""  # the end of its path, where the reports hold several files of the format

    @property
    def ratio(self) -> float | None:
        """After over before."""
        return None if self.before in (None, 0) or self.after is None else self.after / float(self.before or 1)

    @property
    def kind(self) -> str:
        """`better`, `worse`, `same`, `added` or `removed`."""
        if self.before == self.after:
            return "same"
        if self.before is None or self.after is None:
            return "added" if self.before is None else "removed"
        return "better" if (self.after > self.before) == METRICS[self.metric].at_least else "worse"


def diff(before: Path, after: Path, targets: Sequence[Target] = ()) -> Difference:
    """Hold two model files against each other.

    Args:
        targets: where to estimate both, in the runtime of each one's format.

    Raises:
        FileError: one of them cannot be read.
    """
    old, new = read(before), read(after)
    sides = [_side(contents, targets) for contents in (old, new)]
    matched = _match(sides[0].facts.layers, sides[1].facts.layers)
    layers = [LayerChange(_name(a, b), a, b, _moved(old, a, new, b)) for a, b in matched]
    return Difference(sides[0], sides[1], tuple(layers))


def diff_folders(before: Path, after: Path, targets: Sequence[Target] = ()) -> FolderDifference:
    """Hold the model files in two folders against each other, each pair as `diff` does.

    Files of a format are paired by name, and where each folder has one of it whatever they are called; then what is
    left by name without suffix, so that `net.onnx` may have become `net.tflite`.

    Raises:
        FileError: one of them cannot be read, or no file of one is any of the other.
    """
    old, new = models_in(before), models_in(after)
    became: dict[Path, Path] = {}
    for format in {*map(format_of, old)}:
        became |= _paired(*([path for path in side if format_of(path) == format] for side in (old, new)))
    left, free = ([path for path in side if path not in {*became, *became.values()}] for side in (old, new))
    stems, others = ({path.stem: path for path in side} for side in (left, free))
    if len(stems) == len(left) and len(others) == len(free):
        became |= {path: others[stem] for stem, path in stems.items() if stem in others}
    if not became:
        names = (", ".join(path.name for path in side) for side in (old, new))
        raise FileError(
            f"no file of {before} ({next(names)}) is one of {after} ({next(names)})",
            way_out="name two files",
        )
    pairs = tuple(diff(path, became[path], targets) for path in old if path in became)
    removed = tuple(path for path in old if path not in became)
    return FolderDifference(before, after, pairs, removed, tuple(p for p in new if p not in became.values()))


def _paired(old: Sequence[Path], new: Sequence[Path]) -> dict[Path, Path]:
    """Which file of one format became which, by the names in their folders."""
    there, here = ({path.name: path for path in side} for side in (old, new))
    return {there[one]: here[other] for one, other in matched(there, here).items()}


def diff_reports(before: Path, after: Path) -> tuple[MetricChange, ...]:
    """Hold two reports of `check --json` against each other.

    Raises:
        FileError: one of them is none.
    """
    rows = [checks_of(path)[0] for path in (before, after)]
    became, named = {}, {}
    for format in {row[1] for row in (*rows[0], *rows[1])}:
        there, here = ([row[4] for row in side if row[1] == format] for side in rows)
        became[format] = matched(there, here)
        named[format] = ends([*here, *({*there} - {*became[format]})])
    old = {(t, f, m, became[f].get(file, file)): value for t, f, m, value, file in rows[0]}
    new = {(t, f, m, file): value for t, f, m, value, file in rows[1]}
    keys = dict.fromkeys([*old, *new])
    return tuple(MetricChange(*key[:3], old.get(key), new.get(key), named[key[1]][key[3]]) for key in keys)


def _side(contents: Contents, targets: Sequence[Target]) -> Side:
    gzip_bytes, brotli_bytes = transfer_bytes(contents.path)
    estimates = tuple(simulate(contents, target, transfer=False) for target in targets)
    return Side(facts_of(contents), gzip_bytes, brotli_bytes, estimates)


def _match(before: Sequence[Layer], after: Sequence[Layer]) -> list[tuple[Layer | None, Layer | None]]:
    """Pairs in the order of the first; by name, then by entries in order."""
    there = {key_of(layer.name): layer for layer in after}
    pairs: dict[int, Layer] = {i: there[key] for i, layer in enumerate(before) if (key := key_of(layer.name)) in there}
    taken = {layer.name for layer in pairs.values()}
    left = [i for i in range(len(before)) if i not in pairs]
    free = [layer for layer in after if layer.name not in taken]
    matcher = SequenceMatcher(None, [before[i].entries for i in left], [layer.entries for layer in free], False)
    for mine, theirs, length in matcher.get_matching_blocks():
        pairs |= {left[mine + n]: free[theirs + n] for n in range(length)}
    taken = {layer.name for layer in pairs.values()}
    found: list[tuple[Layer | None, Layer | None]] = [(layer, pairs.get(i)) for i, layer in enumerate(before)]
    return found + [(None, layer) for layer in after if layer.name not in taken]


def _name(before: Layer | None, after: Layer | None) -> str:
    """Of the same module the spelling with dots, else the first file's."""
    names = [layer.name for layer in (before, after) if layer is not None]
    return next((name for name in names if "." in name and key_of(name) == key_of(names[0])), names[0])


def _moved(old: Contents, before: Layer | None, new: Contents, after: Layer | None) -> float | None:
    """How far the values are apart. Sorted, so that no layout of a format plays a part."""
    if before is None or after is None or before.entries != after.entries or not before.entries:
        return None
    one, other = (_sorted(contents, layer) for contents, layer in ((old, before), (new, after)))
    if one.size != other.size:
        return None
    if np.array_equal(one, other, equal_nan=True):
        return 0.0
    largest = float(max(np.abs(one).max(), np.abs(other).max()))
    moved = float(np.abs(one - other).max()) / largest
    return moved if np.isfinite(moved) else float("inf")


def _sorted(contents: Contents, layer: Layer) -> np.ndarray:
    return np.sort(np.concatenate([_decoded(contents.tensor(name)).ravel() for name in layer.tensors]))


def _decoded(tensor: StoredTensor) -> np.ndarray:
    return np.asarray((tensor.dequantize or tensor.values)(), np.float32)
