"""A path → what it holds: one file, an index of shards, or a folder as training tools leave it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor

from idp_deploy import documents
from idp_deploy.errors import FileError
from idp_deploy.loading import foreign, several
from idp_deploy.loading.distributed import read_distributed
from idp_deploy.loading.reading_files import read_bytes, read_content

SHARD = r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})\.(?P<suffix>\w+)"
DISTRIBUTED, PART = ".metadata", ".distcp"  # what torch.distributed.checkpoint calls its index and its files
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pt.tar", "*.pth.tar")
# beside weights in folders of training tools, and none themselves
BESIDE = (
    "optimizer*", "criterion*", "scheduler*", "scaler*", "sampler*", "training_args*", "rng_state*", "random_states*",
    "dl_state*", "recipe_state*", "custom_checkpoint*", "idp_deploy_pruner.pt", "meta.pt", "adapter_*",
    "*_optim_states.pt",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Source:
    """Dicts, lists, tensors and plain values, and the hash of the bytes they came from."""

    content: Any
    sha256: str


def read_source(path: Path, *, trust: bool = False) -> Source:
    """What a file of weights, an index of shards, or a folder with either holds; nothing in it is run.

    Args:
        trust: read a .pt2 (torch.export) archive too, whose loading can run code.

    Raises:
        UnsafeFileError, FileError: as for `read_content`; a shard is missing; a folder has no weights, or several.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.name == DISTRIBUTED:
        return _read_distributed(path)
    data = read_bytes(path)
    if path.suffix == PART:
        raise FileError(f"{path} is {foreign.ENDINGS[PART][0]}", way_out=foreign.ENDINGS[PART][1])
    return Source(read_content(path, data, trust=trust), hashlib.sha256(data).hexdigest())


def _read_shards(index: Path) -> Source:
    """The shards that an index names, which lie beside it, as one state dict."""
    try:
        where = documents.parse_json(read_bytes(index))["weight_map"]
        files = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FileError(f"{index} is not an index of shards: it has no weight_map", way_out="copy it again") from None
    if bad := next((f for f in files if not isinstance(f, str) or not f or Path(f).name != f), None):
        raise FileError(f"{index} names the shard {bad!r}, which is not a file beside it", way_out="copy it again")
    found: dict[str, Tensor] = {}
    digests = [(index.name, hashlib.sha256(read_bytes(index)).hexdigest())]
    for file in files:
        if not (index.parent / file).is_file():
            raise FileError(f"{index} names the shard {file}, which is missing", way_out="copy all of its shards")
        shard = read_source(index.parent / file)
        digests.append((file, shard.sha256))
        if not isinstance(shard.content, Mapping):
            raise FileError(f"{index.parent / file} holds no state dict", way_out="copy it again")
        if lost := [name for name, there in where.items() if there == file and name not in shard.content]:
            raise FileError(
                f"{index.parent / file} has no '{lost[0]}', which {index.name} says", way_out="copy it again"
            )
        found |= {name: value for name, value in shard.content.items() if where.get(name, file) == file}
    return Source(found, _together(digests))


def _read_parts(folder: Path, shards: list[re.Match[str]]) -> Source:
    """Shards of one model whose index is not there: they say themselves how many they are."""
    there, of = {int(part["number"]): part.string for part in shards}, int(shards[0]["of"])
    if lost := next((number for number in range(1, of + 1) if number not in there), None):
        raise FileError(
            f"{folder} lacks part {lost} of {of} of the weights",
            way_out="copy all of its shards, or name the file if it is whole",
        )
    found: dict[str, Any] = {}
    digests = []
    for name in there.values():
        shard = read_source(folder / name)
        digests.append((name, shard.sha256))
        if not isinstance(shard.content, Mapping):
            raise FileError(f"{folder / name} holds no state dict", way_out="copy it again")
        if twice := next((key for key in shard.content if key in found), None):
            raise FileError(f"'{twice}' is in several parts of {folder}", way_out="copy the folder again, whole")
        found |= shard.content
    return Source(found, _together(digests))


def _read_several(first: Path) -> Source:
    """model.safetensors and model_1.safetensors, …: one model each, found by fit."""
    others = sorted(first.parent.glob(f"{first.stem}_*{first.suffix}"))
    found = {file.stem: read_source(file) for file in (first, *others)}
    if not others:
        return found[first.stem]
    digests = [(name, source.sha256) for name, source in found.items()]
    return Source({name: source.content for name, source in found.items()}, _together(digests))


def _read_latest(pointer: Path) -> Source:
    """DeepSpeed writes the folder's name into a file called latest."""
    tag = read_bytes(pointer)[:200].decode(errors="replace").strip()
    if not tag or Path(tag).name != tag or not (pointer.parent / tag).is_dir():
        raise FileError(f"{pointer} names {tag!r}, which is no folder beside it", way_out="name the folder of weights")
    return _read_folder(pointer.parent / tag)


def _read_rank(first: Path) -> Source:
    for glob, (what, way) in foreign.APART.items():
        if others := sorted(first.parent.glob(glob)):
            raise FileError(f"{first.parent} {what.format(others[0].name)}", way_out=way)
    return read_source(first)


def _read_snapshots(home: Path) -> Source:
    """The cache of Hugging Face's hub: a folder a revision, and the newest by name."""
    names, main = sorted(path.name for path in home.iterdir()), home.parent / "refs" / "main"
    newest = read_bytes(main)[:200].decode(errors="replace").strip() if main.is_file() and main.stat().st_size else ""
    if newest not in names and len(names) != 1:
        raise _which(home, names) if names else FileError(f"{home} is empty", way_out="fetch the model again")
    return _read_folder(home / (newest if newest in names else names[0]))


def _read_distributed(metadata: Path) -> Source:
    content, digests = read_distributed(metadata.parent)
    return Source(content, _together(digests))


# what lies in a folder → how it is read; the first that is there counts
FOLDERS: dict[str, Callable[[Path], Source]] = {
    "model.safetensors.index.json": _read_shards,
    "pytorch_model.bin.index.json": _read_shards,
    "*.index.json": _read_shards,
    DISTRIBUTED: _read_distributed,  # torch.distributed.checkpoint: FSDP, Lightning, accelerate
    "model.safetensors": _read_several,
    "pytorch_model.bin": _read_several,
    "diffusion_pytorch_model.safetensors": read_source,
    "diffusion_pytorch_model.bin": read_source,
    "mp_rank_00_model_states.pt": _read_rank,
    "*zero_pp_rank_0_mp_rank_00_model_states.pt": _read_rank,
    "latest": _read_latest,
    "latest_universal": _read_latest,
    "snapshots": _read_snapshots,
    "pytorch_model_fsdp_0": lambda folder: _read_folder(folder),  # accelerate, sharded
    "pytorch_model": lambda folder: _read_folder(folder),  # accelerate with DeepSpeed
}
_WHOLE = {glob for glob in FOLDERS if "model" in glob and glob.endswith((".json", ".safetensors", ".bin"))}
# the same weights in two kinds of file, as one hopes
_TWICE = (
    ["model.safetensors", "pytorch_model.bin"],
    ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"],
)


def _read_folder(folder: Path) -> Source:
    if (listed := folder / several.MODULES).is_file():
        return _read_layers(listed)
    return _read_weights(folder)


def _read_weights(folder: Path) -> Source:
    names = sorted(path.name for path in folder.iterdir())
    adapter = next((name for name in reversed(names) if name.startswith("adapter_")), None)
    for glob, read in FOLDERS.items():
        matching = [name for name in names if fnmatchcase(name, glob)]
        if len(matching) > 1:
            raise _which(folder, matching)
        whole = matching[0].removesuffix(".index.json") if matching else ""
        if whole in names and whole not in matching:  # of another moment, for all one knows
            raise _which(folder, [*matching, whole])
        if matching and glob in _WHOLE and "adapter_config.json" in names:
            raise FileError(
                f"{folder} holds a model and an adapter to it, {adapter}",
                way_out="merge the adapter into its model and save that: model.merge_and_unload(); or name "
                f"{folder / matching[0]}, to take the model without it",
            )
        if matching and (twice := next((both for both in _TWICE if matching[0] in both and {*both} <= {*names}), [])):
            return _keyed({name: read(folder / name) for name in twice})
        if matching:
            return read(folder / matching[0])
    weights = [name for name in names if _matches(name, WEIGHTS) and not _matches(name, BESIDE)]
    if shards := [part for name in weights if (part := re.fullmatch(SHARD, name))]:
        if len(shards) < len(weights) or len({(part["stem"], part["of"], part["suffix"]) for part in shards}) > 1:
            raise _which(folder, weights)
        return _read_parts(folder, shards)
    if len(weights) == 1:
        return read_source(folder / weights[0])
    if weights:
        return _read_each(folder, weights)
    deeper = [name for name in names if (folder / name).is_dir() and _has_weights(folder / name)]
    if deeper:
        return _read_each(folder, deeper)
    if other := next((glob for glob in foreign.FOLDERS if any(fnmatchcase(name, glob) for name in names)), None):
        what, way = foreign.FOLDERS[other]
        raise FileError(f"{folder} is {what}", way_out=way)
    if known := next(((name, said) for name in names if (said := foreign.ending(name))), None):
        raise FileError(f"{folder} holds no weights of PyTorch: {known[0]} is {known[1][0]}", way_out=known[1][1])
    raise FileError(
        f"{folder} is a directory without weights" + (f" but with an adapter, {adapter}" if adapter else ""),
        way_out="merge the adapter into its model and save that: model.merge_and_unload()"
        if adapter
        else "name the .pt or .safetensors file, or the folder that holds it",
    )


def _read_each(folder: Path, names: list[str]) -> Source:
    """Several weights of one folder, each under its name, for the factory to choose by what fits.

    Raises:
        FileError: they are parts or moments of one training, too many, or some cannot be read.
    """
    if several.are_of_ranks(names) or len(names) > several.MOST:
        raise _which(folder, names)
    if several.are_moments(names):
        raise _which(folder, sorted(names, key=lambda name: (len(name), name), reverse=True))
    found: dict[str, Source] = {}
    failed: list[FileError] = []
    for key, name in several.keyed(names).items():
        if several.is_text(folder / name):
            continue
        try:
            found[key] = read_source(folder / name)
        except FileError as error:
            failed.append(error)
    if failed and not found:
        raise failed[0]
    # a shrunk model of ours fits no factory as it is, and is no reason to take what it was made from
    if failed or not found or any(several.is_ours(source.content) for source in found.values()):
        raise _which(folder, names)
    return _keyed(found)


def _read_layers(listed: Path) -> Source:
    """A model of sentence-transformers: the weights of every layer under its place."""
    found: dict[str, Source] = {}
    for place, name in several.layers(listed).items():
        home = listed.parent / name
        if not home.is_dir():
            raise FileError(f"{listed} names the folder {name!r}, which is missing", way_out="copy all of its folders")
        if _has_weights(home):
            layer = _read_weights(home)
            found[place] = Source({several.INNER: layer.content}, layer.sha256) if not name else layer
    if not found:
        raise FileError(f"{listed.parent} is a directory without weights", way_out="copy all of its folders")
    return _keyed(found)


def _keyed(sources: Mapping[str, Source]) -> Source:
    digests = [(key, source.sha256) for key, source in sources.items()]
    return Source({key: source.content for key, source in sources.items()}, _together(digests))


def _has_weights(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    return any(_matches(name, (*FOLDERS, *WEIGHTS)) and not _matches(name, BESIDE) for name in names)


def _which(folder: Path, names: list[str]) -> FileError:
    if len(names) == 1:
        return FileError(f"the weights of {folder} lie deeper", way_out=f"name {folder / names[0]}")
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    if several.are_of_ranks(names):
        return FileError(
            f"{folder} holds a file of each process (rank) of one training: {', '.join(names[:5])}{rest}",
            way_out=f"where each process saved the whole model (DDP), name one: {folder / names[0]}; where each saved "
            "its part, gather these first and save them from one (torch.distributed.checkpoint keeps parts together)",
        )
    return FileError(
        f"{folder} holds several weights: {', '.join(names[:5])}{rest}", way_out=f"name one: {folder / names[0]}"
    )


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _together(digests: list[tuple[str, str]]) -> str:
    """One hash of several files, whatever order they were read in."""
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in sorted(digests)).encode()).hexdigest()
