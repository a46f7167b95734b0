"""Folders with several files of weights: what each is called, and which are one model at several moments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idp_deploy import documents
from idp_deploy.errors import FileError
from idp_deploy.ownership import CHECKPOINT

MOST = 12  # that are read, to see which of them fits
MODULES = "modules.json"  # of sentence-transformers: which folder holds the weights of which layer
_ENDING = r"(\.\d{5}-of-\d{5})?(\.(pt|pth|bin|ckpt|safetensors|tar))+$"
_RANK = r"(^|[^a-z])rank\W?_?\d+"
_HEAD = 256  # bytes that tell text from weights
INNER = "auto_model"  # what a layer of transformers is called inside of one of sentence-transformers


def are_of_ranks(names: Sequence[str]) -> bool:
    """Whether each process (rank) of a training wrote one.

    >>> are_of_ranks(["rank0.pt", "rank1.pt"]), are_of_ranks(["rank0.pt", "frank1.pt"])
    (True, False)
    """
    return all(re.search(_RANK, name.lower()) for name in names)


def are_moments(names: Sequence[str]) -> bool:
    """Whether they are told apart by numbers alone, as what one training wrote at several moments.

    >>> are_moments(["epoch_1.pth", "epoch_12.pth"]), are_moments(["encoder.pt", "decoder.pt"])
    (True, False)
    """
    return len({re.sub(r"\d+", "0", name) for name in names}) == 1


def keyed(names: Sequence[str]) -> dict[str, str]:
    """Under which key each is read: its name without the ending, and with it where two would be one.

    >>> keyed(["encoder.ckpt", "best.pth.tar", "best.pt"])
    {'encoder': 'encoder.ckpt', 'best.pth.tar': 'best.pth.tar', 'best.pt': 'best.pt'}
    """
    stems = {name: re.sub(_ENDING, "", name) for name in names}
    times = Counter(stems.values())
    return {stem if stem and times[stem] == 1 else name: name for name, stem in stems.items()}


def is_text(path: Path) -> bool:
    """Whether a file is something that people read: counters and settings of trainers, whatever its name ends with."""
    if path.is_dir():
        return False
    try:
        head = documents.read_head(path, _HEAD).decode("ascii")
    except (OSError, ValueError):
        return False
    return bool(head) and documents.instead(head.encode()) is None and all(c.isprintable() or c.isspace() for c in head)


def is_ours(content: Any) -> bool:
    """Whether a file's content is a checkpoint of idp-deploy."""
    return isinstance(content, Mapping) and content.get("format") == CHECKPOINT


def layers(listed: Path) -> dict[str, str]:
    """Place of a layer in a model of sentence-transformers → its folder beside `listed`, "" for that folder itself.

    Raises:
        FileError: it is no such list, or leaves its folder.
    """
    try:
        found = {str(int(entry["idx"])): entry["path"] for entry in documents.parse_json(documents.read_bytes(listed))}
    except (OSError, ValueError, KeyError, TypeError):
        raise FileError(f"{listed} is not a list of layers", way_out="copy it again") from None
    for folder in found.values():
        if not isinstance(folder, str) or (folder and (Path(folder).name != folder or folder == "..")):
            raise FileError(f"{listed} names the folder {folder!r}, which is not beside it", way_out="copy it again")
    return found
