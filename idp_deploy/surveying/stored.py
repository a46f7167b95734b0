"""Files of weights and of other tools' exports in a folder, read as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from idp_deploy.errors import IdpDeployError
from idp_deploy.formats import suffixes
from idp_deploy.formats.foreign import model_of
from idp_deploy.surveying.places import folders
from idp_deploy.surveying.rooms import Rooms, rooms_of

SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".pt2")
MOST_BYTES = 4 << 30  # of a file that is looked into
MOST_FILES = 20  # that are looked into in one folder, and outside of the usual places
MOST_NOTES = 3  # about files of one folder that hold no weights
PLACES = ("", "weights", "checkpoints", "models", "model", "ckpt", "runs", "output", "outputs")
_PLAIN = (int, float, str, bool)


@dataclass(frozen=True, eq=False)
class Stored:
    """A file of weights: shapes by dotted name, wrappers' prefixes removed, and the plain values beside them."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, object]  # such as a checkpoint's hyper-parameters, by their last key
    bytes_of: Mapping[str, int]  # by the same names, as an export in float32 has them

    def size_bytes(self, prefix: str) -> int:
        """Of all whose names begin there: an average of the same model may lie beside it."""
        return sum(count for name, count in self.bytes_of.items() if not prefix or name.startswith(f"{prefix}."))

    @cached_property
    def rooms(self) -> Rooms:
        """What lies in each module, by its dotted name."""
        return rooms_of(self.shapes)


def read_weights(folder: Path) -> tuple[list[Stored], list[str]]:
    """Files of weights here and in folders that usually hold them, the likeliest first; and what is said of others."""
    paths = _weight_files(folder)
    if not paths:  # PyTorch reads such files, and is not loaded for none
        return [], []
    from idp_deploy.loading.entries import flatten, unwrap
    from idp_deploy.loading.misfits import of_an_optimizer
    from idp_deploy.loading.reading_files import read_bytes, read_content

    found: list[Stored] = []
    left: dict[Path, list[str]] = {}
    for path in paths:
        try:
            content = read_content(path, read_bytes(path))
            entries = flatten(content, path).renamed(unwrap)
        except IdpDeployError as error:
            inside = path.relative_to(folder)
            why = (
                f"it {error.message.removeprefix(f'{path} ')}"
                if error.message.startswith(f"{path} ")
                else error.message
            )
            way_out = f" — {error.way_out}" if error.way_out else ""
            said = f"{inside} is left out: {why.replace(str(path), str(inside))}{way_out}"
            left.setdefault(inside.parent, []).append(said)
            continue
        tensors = {name: tensor for name, tensor in entries.tensors.items() if not of_an_optimizer(name)}
        ordered = sorted(tensors) if path.suffix == ".safetensors" else tensors  # which keeps no order of its own
        shapes = {name: tuple(tensors[name].shape) for name in ordered}
        if not shapes or _is_ours(content):
            continue
        bytes_of = {
            name: tensor.numel() * (4 if tensor.is_floating_point() else tensor.element_size())
            for name, tensor in tensors.items()
        }
        found.append(Stored(path, shapes, dict(_settings(content, 3)), bytes_of))
    notes = [note for each in left.values() for note in each[:MOST_NOTES]]
    more = ((place, len(each) - MOST_NOTES) for place, each in left.items())
    notes += [f"{count} more files in {place} hold no weights either" for place, count in more if count > 0]
    return sorted(found, key=lambda stored: _rank(stored.path)), notes


def exports(folder: Path) -> tuple[Path, ...]:
    """Files of the formats that we read, whoever wrote them."""
    return tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes()))


def files_of_others(folder: Path) -> list[str]:
    """What is said of models in the usual places that only other tools read."""
    below = (path for place in PLACES if (folder / place).is_dir() for path in sorted((folder / place).iterdir()))
    known = ((path.relative_to(folder), said) for path in below if (said := model_of(path)))
    return [f"{path} is left out: it is {what} — {way}" for path, (what, way) in known][:MOST_NOTES]


def _weight_files(folder: Path) -> list[Path]:
    """Those in the usual places; where there are none, the newest of those below."""
    usual = [path for place in PLACES for path in _newest(_usable(folder / place))[:MOST_FILES]]
    if usual:
        return usual
    below = [(place, path) for each in folders(folder) for place, path in enumerate(_newest(_usable(each)))]
    ranked = sorted(below, key=lambda one: (one[0], -one[1].stat().st_mtime))  # no folder of data hides another
    return [path for _, path in ranked[:MOST_FILES]]


def _newest(paths: Iterable[Path]) -> list[Path]:
    """What calls itself the best, then the newest."""
    return sorted(paths, key=_rank)


def _rank(path: Path) -> tuple[bool, float]:
    return ("best" not in path.stem.lower(), -path.stat().st_mtime)


def _usable(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith((".", "optimizer", "scheduler", "training_args")) or not path.is_file():
            continue
        if path.stat().st_size < MOST_BYTES and (path.suffix in SUFFIXES or _begins_as_saved(path)):
            yield path


def _begins_as_saved(path: Path) -> bool:
    """Whether `torch.save` wrote it, under whatever name: `model_best.pth.tar`, `ckpt.t7`, `epoch_3`."""
    try:
        with path.open("rb") as file:
            begin = file.read(_LONGEST_NAME)
    except OSError:
        return False
    first = begin[30 : 30 + int.from_bytes(begin[26:28], "little")]  # the name of a zip file's first member
    return begin.startswith(_OLDER) or (begin.startswith(b"PK\x03\x04") and first.endswith(b"/data.pkl"))


_OLDER = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # with which files from before PyTorch 1.6 begin
_LONGEST_NAME = 512


def _is_ours(content: Any) -> bool:
    return isinstance(content, Mapping) and str(content.get("format", content.get("kind", ""))).startswith("idp-deploy")


def _settings(content: Any, depth: int) -> Iterator[tuple[str, object]]:
    if isinstance(content, Mapping) and depth:
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, _PLAIN):
                yield key, value
            yield from _settings(value, depth - 1)
