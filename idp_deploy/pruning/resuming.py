"""What a killed command goes on from: the state of one training run after every epoch, and the runs of a comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idp_deploy import documents
from idp_deploy.errors import FileError, UsageError
from idp_deploy.files import discard, replacing, sweep, write_bytes
from idp_deploy.flow import Recipe
from idp_deploy.ownership import COMPARISON, TRAINING_STATE, claim
from idp_deploy.pruning.results import Run

_ANEW = "start without --resume, once it is moved away"


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Plain values and tensors only: it is read back with `weights_only=True`."""

    epochs_done: int
    fingerprint: str  # of the model the run started from
    recipe: Recipe
    module: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    pruner: dict[str, Any]
    threads: int = 0  # of torch, on which the last bits of every sum depend; 0 where an earlier version did not say


def fingerprint_of(module: nn.Module) -> str:
    """SHA-256 over names, shapes, types and values of the state dict."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_state(path: Path, state: TrainingState) -> None:
    """Write atomically: a kill at any moment leaves the earlier state or this one."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    fields["recipe"] = _plain(state.recipe)
    save({"kind": TRAINING_STATE, **fields}, path)


def save(content: dict[str, Any], path: Path) -> None:
    """`torch.save`, atomically.

    Raises:
        OSError: the disk is full, or whatever the system said: PyTorch reports it as a RuntimeError on a position.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def state_file(folder: Path) -> Path:
    """Where in a `checkpoint_dir` the training state lies.

    Raises:
        UsageError: the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, and the training state goes into a folder", way_out="move it away")
    return folder / "training_state.pt"


def is_foreign(folder: Path) -> bool:
    """Whether a folder stands there that no interrupted run left."""
    return folder.is_dir() and not state_file(folder).exists()


def forget_state(folder: Path, keep_folder: bool = False) -> None:
    """Remove the training state of a finished run, and the folder where nothing else is in it."""
    state = claim(state_file(folder))
    if keep_folder or not discard(folder, {state.name}):
        state.unlink(missing_ok=True)
        if folder.is_dir():
            sweep(folder)


def load_state(path: Path, recipe: Recipe, fingerprint: str) -> TrainingState | None:
    """The state to continue from, or None where no epoch was finished.

    Args:
        recipe, fingerprint: what the caller wants to run, from which model; the state must belong to the same.

    Raises:
        FileError: the file is broken or something else.
        UsageError: it belongs to another recipe or another starting model.
    """
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FileError(f"'{path}' cannot be read as a training state", way_out=_ANEW) from error
    if not isinstance(saved, dict) or saved.pop("kind", None) != TRAINING_STATE:
        raise FileError(f"'{path}' is not a training state of this version", way_out=_ANEW)
    _refuse_other(path.parent, saved.pop("recipe"), _plain(recipe), saved["fingerprint"], fingerprint)
    return TrainingState(recipe=recipe, **saved)


def save_runs(path: Path, runs: Sequence[Run], recipe: Recipe, fingerprint: str) -> None:
    """The finished runs of a comparison as JSON, written atomically.

    Args:
        recipe, fingerprint: what all runs share, and the model they start from. Of the recipe what each run has for
            itself (method, sparsity, seed) says nothing.
    """
    content = {
        "kind": COMPARISON,
        "fingerprint": fingerprint,
        "recipe": _shared(recipe),
        "runs": [asdict(run) for run in runs],
    }
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def load_runs(path: Path, recipe: Recipe, fingerprint: str) -> list[Run]:
    """What `save_runs` wrote; empty where there is no such file.

    Raises:
        FileError: the file is broken or something else.
        UsageError: it belongs to another recipe or another starting model.
    """
    if not path.exists():
        return []
    try:
        saved = documents.parse_json(documents.read_text(path))
        if saved["kind"] != COMPARISON:
            raise ValueError(saved["kind"])
        runs = [
            Run(
                str(r["method"]),
                float(r["sparsity"]),
                int(r["seed"]),
                float(r["accuracy"]),
                float(r["realised"]),
                dict(r.get("settings", {})),
            )
            for r in saved["runs"]
        ]
        theirs = dict(saved["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"'{path}' cannot be read as a comparison", way_out=_ANEW) from error
    _refuse_other(path, theirs, _shared(recipe), saved.get("fingerprint"), fingerprint)
    return runs


def _refuse_other(
    where: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], their_model: Any, our_model: str
) -> None:
    for key, value in ours.items():
        if theirs.get(key) != value:
            raise UsageError(
                f"the interrupted run in '{where}' had {key} = {theirs.get(key)!r}, this one has {value!r}",
                way_out="repeat its settings, or start without --resume",
            )
    if their_model != our_model:
        raise UsageError(
            f"the interrupted run in '{where}' started from another model", way_out="start without --resume"
        )


def _plain(recipe: Recipe) -> dict[str, Any]:
    fields = asdict(recipe)
    fields["options"] = dict(recipe.options)
    return fields


def _shared(recipe: Recipe) -> dict[str, Any]:
    fields = {key: value for key, value in _plain(recipe).items() if key not in ("method", "sparsity", "seed")}
    shared: dict[str, Any] = json.loads(json.dumps(fields))  # tuples as JSON has them
    return shared
