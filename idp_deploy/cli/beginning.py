"""init and new: how to begin."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idp_deploy import files
from idp_deploy.cli.output import say
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.configuration import NAMES, OWN
from idp_deploy.errors import UsageError
from idp_deploy.formats import FORMATS, usual
from idp_deploy.rendering.document import Document, Table, shell

if TYPE_CHECKING:
    from idp_deploy.surveying import Survey


@reports()
def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")] = Path(OWN),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> Answer:
    """Look around in this folder and write a configuration that runs.

    Python files are read, never imported; files of weights are read as data. What cannot be told is left to fill in.
    """
    from idp_deploy.ownership import is_ours
    from idp_deploy.surveying import survey
    from idp_deploy.surveying.writing import write_toml

    files.landing(path, elsewhere=f"name a file elsewhere: 'idp-deploy init /elsewhere/{OWN}'")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already", way_out="edit it, or pass --force to replace it")
    found = survey(Path.cwd())
    missing = [name for name in usual() if any(find_spec(package) is None for package in FORMATS[name].converter)]
    usable = [name for name in usual() if name not in missing]
    copy = found.choice.definition.copy if found.choice else None
    if copy is not None:
        copied = copy.text(found.choice.definition.name, *found.choice.supplied) if found.choice else ""
        files.landing(copy.path)
        if copy.path.exists() and not (force and copy.is_own):
            way_out = (
                "pass --force to replace it" if copy.is_own else f"move it away: {copy.origin} would be copied there"
            )
            raise UsageError(f"{copy.path.name} exists already", way_out=way_out)
        files.write_bytes(copy.path, copied.encode())
    files.write_bytes(path, write_toml(found, path.absolute().parent, usable, missing).encode())
    choice = found.choice
    weights = found.weights
    rows = [
        ("model", choice.spec if choice else "not found"),
        ("weights", weights.path.relative_to(Path.cwd()).as_posix() if weights else "not found"),
        ("task", _task(found)),
        ("inputs", _inputs(found)),
    ]
    notes = list(found.notes)
    if copy is not None and choice is not None:
        place = copy.path.relative_to(Path.cwd())
        notes.append(f"{copy.origin}: {copy.why}; {choice.definition.name} is copied into {place}, nothing else of it")
    left = []
    shipped = found.exports[0].relative_to(Path.cwd()) if choice is None and weights is None and found.exports else None
    if shipped is not None:
        whose = "was written by idp-deploy" if is_ours(shipped) else "was made by another tool"
        notes.append(f"{shipped} {whose}: it can be checked as it is, and pruned where its model is")
        rows = [*rows[:2], ("file", shipped.as_posix())]
    else:
        left += ["model"] if choice is None or choice.unknown else []
        left += ["weights"] if weights is None else []
        left += ["inputs"] if not found.task and not found.inputs.inputs else []
    if choice is not None and choice.unknown:
        notes.append(f"{choice.definition.spec} needs {', '.join(choice.unknown)}, which nothing here tells")
    data = {"file": str(path), "found": dict(rows), "fill_in": left}
    found_there = path.absolute().parent == Path.cwd() and path.name in NAMES
    then = "idp-deploy run" + ("" if found_there else f" {shell(path)}")
    if shipped:
        then = f"idp-deploy check {shell(shipped)}" + ("" if found_there else f" --config {shell(path)}")
    follow = f"fill in {', '.join(left)} in {path}, then: {then}" if left else then
    return Answer(Document(f"wrote {path}", [Table("", ("what", "found"), rows)], data, notes, next=follow))


def _task(found: Survey) -> str:
    if found.task or not found.loaders:
        return found.task or "not found: pruning by magnitude, without data"
    return f"not found: pruning by magnitude, without data; a class around {found.loaders[0]} can be one, see the file"


def _inputs(found: Survey) -> str:
    if found.task:
        return found.inputs.source
    return f"{', '.join(found.inputs.inputs) or 'not known'} ({found.inputs.source})"


@reports()
def new(
    name: Annotated[Path, typer.Argument(metavar="NAME", help="Folder to write, which is not there yet.")],
) -> Answer:
    """Write a whole small project that runs: model, task, trained weights, configuration, CI.

    Its data are drawn by itself: put your own in their place.
    """
    from idp_deploy.starting import new_project

    say(f"writing {name} and training its model, which takes some seconds")
    written = new_project(name)
    data = {"folder": str(name), "files": [str(path) for path in written]}
    rows = [(str(path),) for path in written]
    document = Document(f"wrote {name}", [Table("", ("file",), rows)], data, next=f"cd {shell(name)} && idp-deploy run")
    return Answer(document)
