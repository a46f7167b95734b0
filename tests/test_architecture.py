"""The import table: which room may enter which. This table is the architecture, and docs/architecture.md shows it.

`python -m tests.test_architecture` writes it there.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from idp_deploy.formats import FORMATS

PACKAGE = Path(__file__).parents[1] / "idp_deploy"
PAGE = PACKAGE.parent / "docs" / "architecture.md"
MARKS = ("<!-- the import table, by `python -m tests.test_architecture` -->", "<!-- end of the table -->")
_ROW = re.compile(r"idp_deploy(\.\w+)+(:\w+)?")

FOUNDATION = {"errors", "flow", "legible", "waiting", "collecting", "widths"}
CORE = {
    "documents", "files", "ownership", "units", "masks", "encodings", "quantizers", "capturing",
    "tasks", "loading", "reading", "formats", "ledger", "sealing", "facts", "distance",
    "soundness", "arguments", "channels",
}  # fmt: skip
STAGES = {
    "pruning", "hardening", "shrinking", "quantization", "exporting", "verification", "inspection", "simulation",
    "gating",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "flow": set(),
    "legible": set(),
    "waiting": set(),
    "widths": set(),
    "collecting": set(),
    "ledger": FOUNDATION,
    "soundness": {"errors", "ledger"},
    "files": FOUNDATION | {"documents", "packages"},
    "packages": {"documents", "errors", "units"},
    "documents": set(),
    "sealing": {"documents", "files", "flow"},
    "facts": FOUNDATION | {"encodings", "formats"},
    "units": {"errors"},
    "arguments": {"errors", "units"},
    "masks": FOUNDATION,
    "channels": {"errors", "masks"},
    "encodings": FOUNDATION,
    "quantizers": FOUNDATION,
    "capturing": FOUNDATION | {"masks"},
    "tasks": FOUNDATION,
    "reading": FOUNDATION
    | {"arguments", "files", "formats"},  # never encodings: the proof must not share code with the writer
    "ownership": FOUNDATION | {"documents", "files", "packages", "formats", "reading"},
    "loading": FOUNDATION | {"arguments", "soundness", "documents", "files", "ledger", "masks", "ownership"},
    **dict.fromkeys(STAGES, FOUNDATION | CORE),
    "gating": FOUNDATION | CORE | {"formats"},
    "baselines": {"documents", "errors", "flow", "formats", "units"},
    "simulation": FOUNDATION | CORE | {"formats.runtimes", "formats.tools", "vendors"},
    "rewriting": {"errors", "capturing"},
    "distance": set(),
    "verification": FOUNDATION | CORE | {"exporting"},
    "isolation": {"errors"},
    "vendors": {"errors", "isolation"},
    "formats": FOUNDATION | {"documents", "files", "packages", "sealing"},
    "formats.litert": {"errors", "isolation", "formats"},
    "formats.native": {"errors", "isolation"},
    "formats.write": FOUNDATION
    | CORE
    | {"rewriting", "isolation", "formats.litert", "formats.bodies", "formats.functions", "formats.words"},
    "formats.words": set(),
    "formats.bodies": set(),
    "formats.functions": {"formats.bodies"},
    "formats.xnnpack": FOUNDATION | {"formats", "formats.words"},
    "formats.integers": {"flow", "formats", "formats.words"},
    # never encodings, never write: the proof must not share code with it
    "formats.read": FOUNDATION
    | {"documents", "files", "packages", "formats", "formats.native", "formats.bodies", "formats.functions"},
    "formats.interpreter": FOUNDATION | {"formats.read"},
    "formats.run": FOUNDATION
    | {"isolation", "vendors", "distance", "formats", "formats.interpreter", "formats.litert", "formats.native"},
    "formats.runtimes": FOUNDATION | {"documents"},
    "formats.tools": FOUNDATION | {"formats.read", "formats.runtimes"},
    "formats.bisect": FOUNDATION | CORE | {"formats.read", "formats.run", "formats.interpreter"},
    "restoring": FOUNDATION | CORE,
    "aiming": FOUNDATION | CORE | {"formats", "vendors"},
    "trying": FOUNDATION | CORE | STAGES,
    "vendor_remedies": FOUNDATION | CORE | STAGES | {"trying", "weighing"},
    "weighing": FOUNDATION | CORE | STAGES | {"facts"},
    "remedies": FOUNDATION | CORE | STAGES | {"trying", "vendor_remedies", "weighing"},
    "judging": {"errors", "flow", "gating", "remedies", "simulation"},
    "shipping": FOUNDATION | CORE | STAGES,
    "relieving": FOUNDATION | CORE | STAGES,
    "history": {"documents", "files", "ownership"},
    "stages": FOUNDATION | CORE | STAGES | {"aiming", "shipping", "judging", "relieving"},
    "surveying": FOUNDATION | {"documents", "files", "formats", "loading", "reading"},
    "starting": {"errors", "files"},
    "pipeline": {"aiming", "flow", "simulation", "stages"},
    "planning": FOUNDATION | CORE | STAGES | {"aiming", "units"},
    "diffing": FOUNDATION | CORE | STAGES | {"baselines"},
    "schemas": FOUNDATION | CORE | {"configuration", "pruning", "rendering"},
    "commenting": {"errors", "legible"},
    "verbs": FOUNDATION
    | CORE
    | STAGES
    | {"baselines", "configuration", "diffing", "judging", "pipeline", "rendering", "restoring"},
    "configuration": FOUNDATION | {"formats", "documents", "files", "units"},
    "rendering": FOUNDATION | {"files", "formats", "ledger", "units"},
    "cli": FOUNDATION
    | CORE
    | STAGES
    | {
        "aiming",
        "legible",
        "stages",
        "baselines",
        "judging",
        "shipping",
        "relieving",
        "history",
        "surveying",
        "starting",
        "planning",
        "diffing",
        "schemas",
        "restoring",
        "configuration",
        "rendering",
        "formats.write",
        "formats.runtimes",
        "formats.tools",
    },
    "__main__": {"cli"},
    "__init__": FOUNDATION | CORE | STAGES | {"rendering", "verbs"},
}
# whose types a room may name, without loading them
TYPES = {
    "aiming": {"simulation"},
    "rendering": {
        "diffing", "formats", "formats.runtimes", "inspection", "planning", "pruning", "restoring", "simulation",
    },
    "gating": {"simulation"}, "loading": {"tasks"}, "stages": {"history", "simulation"}, "pipeline": {"tasks"},
}  # fmt: skip
# whose functions a room may name by string, loaded when a user asks for that row
ROWS = {
    "formats": {
        "formats.write",
        "formats.read",
        "formats.run",
        "formats.words",
        "formats.bisect",
        "formats.xnnpack",
        "formats.integers",
    },
}
HEAVY = {
    "coremltools": {"formats/coreml/write"},
    "litert_torch": {"formats/tflite/write"},
    "ai_edge_litert": {"formats/tflite/litert", "formats/tflite/write"},
    "coreai": {"formats/coreai/write", "formats/coreai/native"},
    "coreai_torch": {"formats/coreai/write"},
    "ai_edge_quantizer": {"formats/tflite/write"},
    "ethosu": {"vendors/vela"},
    "tflite_micro": {"vendors/tflm"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The folder or file under the package; in formats/, the part of a format: write, read, run, …"""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[0] != "formats":
        return parts[0]
    return ".".join(("formats", *parts[2:3])) if parts[2:3] != ("__init__",) else "formats"


def imports(path: Path, *kinds: str) -> set[str]:
    """Absolute names of the modules and attributes that a file imports.

    Args:
        kinds: "top" (when the module is imported), "late" (when a function is called), "type" (for type checkers
            alone), "row" (named by a string, "idp_deploy.room.file:function"); all of them unless given.
    """
    found = _imports(path.read_text())
    return set().union(*(found[kind] for kind in kinds or found))


@cache
def _imports(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {kind: set() for kind in ("top", "late", "type", "row")}

    def visit(node: ast.AST, kind: str) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            kind = "type"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "late"
        elif isinstance(node, ast.Import):
            found[kind].update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            found[kind].update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and _ROW.fullmatch(str(node.value)):
            found["row"].add(str(node.value).partition(":")[0])
        for child in ast.iter_child_nodes(node):
            visit(child, kind)

    visit(ast.parse(text), "top")
    return found


def file_of(name: str) -> Path | None:
    """The file of the package that holds an imported name; None where it is somebody else's."""
    return _file_in(PACKAGE, name)


@cache
def _file_in(package: Path, name: str) -> Path | None:
    parts = name.split(".")
    for end in (len(parts), len(parts) - 1):  # a module, or something in one
        path = package.parent.joinpath(*parts[:end])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if parts[0] == package.name and end and file.is_file():
                return file
    return None


def circle(files: Iterable[Path]) -> list[str]:
    """Files that import each other, the first again at the end; none where there is no circle."""
    arrows = {file: {found for name in imports(file) if (found := file_of(name)) and found != file} for file in files}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return [str(file.relative_to(PACKAGE)) for file in error.args[1]]
    return []


def import_table() -> str:
    """`ALLOWED` as docs/architecture.md shows it: every room, what it is, and where it may go."""
    groups = {"foundation": FOUNDATION, "core": CORE, "stages": STAGES}
    lines = [f"- *{name}*: {_words(members)}" for name, members in groups.items()]
    lines += ["", "| room | what it says of itself | may enter |", "| --- | --- | --- |"]
    for name, entered in sorted(ALLOWED.items()):
        whole = [group for group, members in groups.items() if members <= entered]
        left = entered.difference(*(groups[group] for group in whole))
        goes = ", ".join([f"*{group}*" for group in whole] + ([_words(left)] if left else [])) or "nothing"
        lines.append(f"| {_words([name])} | {'the front door' if name == '__init__' else _says(name)} | {goes} |")
    return "\n".join(lines)


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"`{name.replace('formats.', 'formats/*/')}`" for name in sorted(names))


def _says(name: str) -> str:
    """The first line of a room's docstring; what `formats` says of a part that every format has."""
    part = re.search(rf"formats/<format>/{name.rpartition('.')[2]}\S*\s+(.+)", _docstring("formats"))
    return part[1] if part and "." in name else _docstring(name.replace("formats.", "formats/*/")).splitlines()[0]


def _docstring(place: str) -> str:
    file = min(file for end in (".py", "/__init__.py") for file in PACKAGE.glob(place + end))
    return ast.get_docstring(ast.parse(file.read_text())) or ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    here = room(path)
    assert here in ALLOWED, f"{here} is a new room: give it a row"
    for more, *kinds in ({}, "top", "late"), (TYPES, "type"), (ROWS, "row"):
        for file in filter(None, map(file_of, imports(path, *kinds))):
            assert room(file) in ALLOWED[here] | more.get(here, set()) | {here}, f"{path} imports {room(file)}"


def test_no_file_imports_itself_in_a_circle() -> None:
    assert not circle(FILES)


@pytest.mark.parametrize(
    "back",
    [
        "import idp_deploy.{name}.a",
        "from idp_deploy.{name} import a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from idp_deploy.{name}.a import A",
        "def late():\n    from idp_deploy.{name}.a import A",
        'ROWS = {{"a": "idp_deploy.{name}.a:A"}}',
    ],
)
def test_a_circle_is_seen_whatever_closes_it(back: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "idp_deploy")
    folder = tmp_path / "idp_deploy" / "room"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("from idp_deploy.room.b import B\n")
    (folder / "b.py").write_text("B = 1\n")
    assert not circle(folder.glob("*.py"))
    (folder / "b.py").write_text(back.format(name="room") + "\n")
    assert set(circle(folder.glob("*.py"))) == {"room/a.py", "room/b.py"}


def test_the_architecture_page_shows_this_table() -> None:
    assert import_table() in PAGE.read_text(), "run 'python -m tests.test_architecture'"


@pytest.mark.parametrize("path", [p for p in FILES if "formats" in p.parts], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_format_imports_no_other_format(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[1]
    for name in imports(path, "top", "late", "type"):
        parts = name.split(".")
        other = parts[2:3] and (PACKAGE / "formats" / parts[2]).is_dir() and parts[2] != own
        assert parts[:2] != ["idp_deploy", "formats"] or not other, f"{path} imports {name}"


# where a format may be named outside its folder and its row, and why
NAMES: dict[str, str] = {
    "cli/environment.py": "which extra brings which package",
    "verbs.py": "what a bare export writes",
    "simulation/descriptions.py": "the runtime of a network that is described and does not say",
    "surveying/writing.py": "which budget a new configuration begins with",
    "surveying/shapes.py": "the one whose inputs lie as the model's for certain",
}


def test_a_format_is_named_in_its_own_folder_alone() -> None:
    named: dict[str, set[str]] = {}
    for path in FILES:
        if "formats" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in FORMATS:
                named.setdefault(str(path.relative_to(PACKAGE)), set()).add(str(node.value))
    assert named.keys() == NAMES.keys()


def test_words_of_a_format_are_those_that_its_exporter_takes() -> None:
    for row in FORMATS.values():
        if row.convert:
            module, _, name = row.convert.partition(":")
            file = file_of(module)
            assert file is not None
            made = next(
                n for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == name
            )
            assert set(row.options) <= {argument.arg for argument in made.args.kwonlyargs}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_converters_stay_in_their_rooms_and_load_lazily(path: Path) -> None:
    inside = str(path.relative_to(PACKAGE).with_suffix(""))
    for name in imports(path):
        package = name.split(".")[0]
        if package in HEAVY:
            assert any(inside.startswith(prefix) for prefix in HEAVY[package]), f"{path} imports {package}"
    for name in imports(path, "top"):
        assert name.split(".")[0] not in HEAVY, f"{path} imports {name} at the top"


def test_every_room_that_may_load_a_converter_does() -> None:
    loads = {(name.split(".")[0], str(path.relative_to(PACKAGE))) for path in FILES for name in imports(path)}
    for package, prefix in ((package, prefix) for package, rooms in HEAVY.items() for prefix in rooms):
        assert any(what == package and where.startswith(prefix) for what, where in loads), (package, prefix)


@pytest.mark.parametrize(
    "statement",
    ["import idp_deploy.cli", "import idp_deploy.flow", "import idp_deploy.reading", "import idp_deploy"],
)
def test_light_modules_import_no_torch(statement: str) -> None:
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_simulation_brings_no_pipe_to_a_child() -> None:
    code = "import idp_deploy.simulation.estimating, sys; sys.exit('multiprocessing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_wheel_carries_every_package_and_the_targets() -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(p.parent.relative_to(PACKAGE.parent).parts) for p in PACKAGE.rglob("__init__.py")}
    assert set(settings["packages"]) == found | {"idp_deploy.targets", "sample_models", "sample_models.recipes"}
    assert "py.typed" in settings["package-data"]["idp_deploy"]
    assert (PACKAGE / "py.typed").exists()
    patterns = settings["package-data"]["idp_deploy.targets"]
    for file in (PACKAGE.parent / "targets").rglob("*"):
        inside = str(file.relative_to(PACKAGE.parent / "targets"))
        assert file.is_dir() or file.suffix == ".py" or any(fnmatch(inside, p) for p in patterns), inside


if __name__ == "__main__":
    before, rest = PAGE.read_text().split(MARKS[0])
    PAGE.write_text(f"{before}{MARKS[0]}\n{import_table()}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
