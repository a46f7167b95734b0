"""survey: what lies in a folder that a configuration could be made of. Source is read, never imported or run.

*.py ──sources──▶ modules, tasks, example tensors      *.pt, *.safetensors ──stored──▶ names and shapes
                             └───────────fitting───────────┘
                                           │
                       Survey ──writing──▶ idp-deploy.toml
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from idp_deploy import documents
from idp_deploy.collecting import seldom_collecting
from idp_deploy.surveying.fitting import Choice, choose
from idp_deploy.surveying.libraries import beside_weights
from idp_deploy.surveying.shapes import Guess, guess
from idp_deploy.surveying.sources import Found, read_folder
from idp_deploy.surveying.stored import Stored, exports, files_of_others, read_weights

__all__ = ["Choice", "Found", "Guess", "Stored", "Survey", "survey"]


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found, best first, and what stands in the way."""

    choice: Choice | None  # the model, with its weights where they fit
    task: str | None  # "pkg.mod:callable"
    inputs: Guess
    weights: Stored | None  # the likeliest, also where no model was found
    exports: tuple[Path, ...]  # files of other tools
    loaders: tuple[str, ...]  # functions that make a DataLoader, around which a task can be written
    notes: tuple[str, ...]


@seldom_collecting()  # trees of source are hundreds of thousands of objects that stay
def survey(folder: Path) -> Survey:
    """Look around in a folder. Files of weights are read as data; a pickled module among them is named, not loaded."""
    found = read_folder(folder)
    stored, unusable = read_weights(folder)
    choice, said = choose(found, stored, folder)
    if choice is None:
        found = replace(found, modules=tuple(beside_weights(folder, stored)))
        choice, said = choose(found, stored, folder)
    others = exports(folder)
    unusable += [] if stored or others else files_of_others(folder)
    task = found.tasks[0] if found.tasks else None
    inputs = Guess((), "the task gives them") if task else guess(found, choice, others)
    weights = choice.weights if choice else stored[0] if stored else None
    if choice and (lacking := choice.definition.missing):
        file = choice.definition.file
        where = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name
        said.append(f"{where} imports {', '.join(lacking)}, not installed here: install it beside idp-deploy")
    said += _stale(found, choice, folder) if choice else ()
    return Survey(choice, task, inputs, weights, others, found.loaders, (*found.notes, *unusable, *said))


def _stale(found: Found, choice: Choice, folder: Path) -> Iterator[str]:
    """That the model is one that was copied earlier, where it is not what would be copied today."""
    taken, held = choice.definition, choice.supplied
    copies = [(one.name, one.copy) for one in found.modules if one.copy and one.copy.path == taken.file]
    for name, copy in copies:
        if name == taken.name and copy.is_own and documents.read_text(copy.path) != copy.text(name, *held):
            yield (
                f"{copy.path.relative_to(folder)} is an earlier copy, and {copy.origin} or the copy was edited since: "
                "delete the copy to have it made anew"
            )
