"""What a file holds → one flat table of names.

State dicts lie under keys, under keys of keys, and under prefixes that wrappers add. With the keys joined by dots all
of these are the same: a state dict is what stands under some dotted prefix.

>>> content = {"epoch": 3, "nets": {"student": {"0.weight": torch.ones(2, 2)}}}
>>> flatten(content).tensors.keys()
dict_keys(['nets.student.0.weight'])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from idp_deploy.errors import FileError
from idp_deploy.loading.foreign import SAVE_WEIGHTS, kind_of

DEEPEST = 8  # keys of keys, more than any tool nests them
MOST = 200_000  # entries in one file; a list of numbers is one
# segments that wrappers put anywhere in a name, by wrapper
WRAPPERS = {
    "module": "DataParallel, DistributedDataParallel, AveragedModel, DeepSpeed",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning Fabric",
}
_AVERAGED = ("ema", "swa", "average", "averaged", "averaging", "avg", "shadow", "polyak")


@dataclass(frozen=True, eq=False)
class Entries:
    """Every leaf of a file by dotted name."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)  # the type of what is no tensor
    homes: Mapping[str, str] = field(default_factory=dict)  # by tensor: the keys of the dict that holds it
    versions: Mapping[str, Any] = field(default_factory=dict)  # of the modules' formats, as torch records them

    def below(self, prefix: str) -> dict[str, str]:
        """Names of tensors under a dotted prefix, by the rest of the name."""
        start = f"{prefix}." if prefix else ""
        return {name[len(start) :]: name for name in self.tensors if name.startswith(start)}

    def renamed(self, rename: Callable[[str], str]) -> Entries:
        """The same under other names; itself where two names would become one."""
        names = {name: rename(name) for name in self.tensors}
        if len(set(names.values())) < len(names):
            return self
        return Entries(
            {names[name]: tensor for name, tensor in self.tensors.items()},
            self.others,
            {names[name]: rename(home) for name, home in self.homes.items()},
            {rename(key): value for key, value in self.versions.items()},
        )


def flatten(content: Any, source: object = "the file") -> Entries:
    """Leaves of nested dicts and lists; what is nested deeper than any checkpoint counts as a leaf.

    Raises:
        FileError: more of them than any checkpoint has, as where every list holds the next one a thousand times.
    """
    tensors: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    homes: dict[str, str] = {}
    versions: dict[str, Any] = {}
    for count, (path, value) in enumerate(_leaves(content, (), versions, {})):
        if count > MOST:
            raise FileError(f"{source} holds more than {MOST} entries in dicts and lists", way_out=SAVE_WEIGHTS)
        if isinstance(value, Tensor) and not value.is_nested:
            tensors[".".join(path)] = value
            homes[".".join(path)] = ".".join(path[:-1])
        else:
            others[".".join(path)] = kind_of(value)
    return Entries(tensors, others, homes, versions)


def unwrap(name: str) -> str:
    """
    >>> unwrap("module.encoder._orig_mod.0.weight")
    'encoder.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def prefixes(names: Collection[str]) -> Counter[str]:
    """Dotted prefixes of names, with how many names stand under each; the empty one is all of them.

    >>> prefixes(["a.b.weight", "a.bias"])
    Counter({'': 2, 'a': 2, 'a.b': 1})
    """
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        found.update(".".join(parts[:depth]) for depth in range(len(parts)))
    return found


def looks_averaged(prefix: str) -> bool:
    """Whether the name says that weights under it are an average over training.

    >>> [looks_averaged(name) for name in ("state_dict_ema", "model_ema.module", "teacher", "schema", "swaModel")]
    [True, True, False, False, True]
    """
    words = "".join(f" {c.lower()}" if c.isupper() else c if c.isalnum() else " " for c in prefix).split()
    return any(word in _AVERAGED for word in words)


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """The same names and the same values."""
    return first.keys() == second.keys() and all(
        first[name] is second[name]
        or (first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]))
        for name in first
    )


def _is_named(entry: Any) -> bool:
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], Tensor)
    )


def _is_simple(value: list[Any] | tuple[Any, ...], known: dict[int, bool]) -> bool:
    if id(value) not in known:
        known[id(value)] = not any(isinstance(entry, (Tensor, Mapping, list, tuple)) for entry in value)
    return known[id(value)]


def _leaves(
    value: Any, path: tuple[str, ...], versions: dict[str, Any], simple: dict[int, bool]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and value of each leaf. `simple` remembers, of each list, whether it holds only numbers and words."""
    if isinstance(value, Mapping) and len(path) < DEEPEST:
        metadata = getattr(value, "_metadata", None)
        if isinstance(metadata, Mapping):
            own = {".".join(filter(None, (*path, str(key)))): entry for key, entry in metadata.items()}
            versions.update({key: entry for key, entry in own.items() if isinstance(entry, Mapping)})
        pairs = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, (list, tuple)) and len(path) < DEEPEST and not _is_simple(value, simple):
        named = all(map(_is_named, value))  # list(model.named_parameters()), list(state.items())
        pairs = [*value] if named else [(str(index), entry) for index, entry in enumerate(value)]
    else:
        yield path, value
        return
    for key, entry in pairs:
        yield from _leaves(entry, (*path, key), versions, simple)
