"""The import table: which room may enter which. This table is the architecture."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "idp_deploy"

FOUNDATION = {"errors", "flow"}
CORE = {
    "documents", "files", "ownership", "units", "masks", "encodings", "quantizers", "capturing", "tasks", "loading",
    "reading", "formats", "ledger", "sealing",
}  # fmt: skip
STAGES = {
    "pruning", "hardening", "shrinking", "quantization", "exporting", "verification", "inspection", "simulation",
    "gating",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "flow": set(),
    "ledger": FOUNDATION,
    "files": FOUNDATION | {"documents"},
    "documents": set(),
    "sealing": {"documents", "files"},
    "units": {"errors"},
    "lifting": set(),
    "recurrences": set(),
    "masks": FOUNDATION,
    "encodings": FOUNDATION,
    "quantizers": FOUNDATION,
    "capturing": FOUNDATION | {"lifting", "recurrences"},
    "tasks": FOUNDATION,
    "reading": FOUNDATION | {"files", "formats"},  # never encodings: the proof must not share code with the writer
    "ownership": FOUNDATION | {"documents", "files", "formats", "reading"},
    "loading": FOUNDATION | {"documents", "files", "ledger", "masks", "ownership"},
    **dict.fromkeys(STAGES, FOUNDATION | CORE),
    "gating": FOUNDATION | CORE | {"formats"},
    "simulation": FOUNDATION | CORE | {"formats", "isolation", "formats.litert"},
    "exporting": FOUNDATION | CORE | {"formats", "formats.write"},
    "verification": FOUNDATION | CORE | {"formats", "formats.bisect", "exporting"},
    "isolation": {"errors"},
    "formats": FOUNDATION | {"documents", "sealing"},
    "formats.litert": {"errors", "isolation"},
    "formats.write": FOUNDATION | CORE | {"formats", "exporting", "recurrences", "isolation", "formats.litert"},
    "formats.words": set(),
    # never encodings, never write: the proof must not share code with it
    "formats.read": FOUNDATION | {"documents", "files", "formats"},
    "formats.interpreter": FOUNDATION | {"formats.read"},
    "formats.run": FOUNDATION | {"isolation", "formats", "formats.interpreter", "formats.litert"},
    "formats.runtimes": FOUNDATION | {"documents", "formats.read"},
    "formats.bisect": FOUNDATION
    | CORE
    | {"formats", "formats.read", "formats.run", "formats.interpreter", "verification"},
    "inputs": FOUNDATION | {"loading"},
    "restoring": FOUNDATION | CORE | {"formats.run", "formats.write"},
    "pipeline": FOUNDATION | CORE | STAGES,
    "planning": FOUNDATION | CORE | STAGES,
    "configuration": FOUNDATION | {"formats", "documents", "files", "units"},
    "rendering": FOUNDATION | {"files", "ledger", "units"},
    "cli": FOUNDATION
    | CORE
    | STAGES
    | {
        "pipeline",
        "planning",
        "restoring",
        "configuration",
        "inputs",
        "rendering",
        "formats.write",
        "formats.runtimes",
    },
    "__main__": {"cli"},
    "__init__": FOUNDATION | CORE | STAGES | {"pipeline"},
}
HEAVY = {
    "coremltools": {"formats/coreml/write"},
    "litert_torch": {"formats/tflite/write"},
    "ai_edge_litert": {"formats/tflite/litert", "formats/tflite/write"},
    "ai_edge_quantizer": {"formats/tflite/write"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The folder or file under the package; in formats/, the part of a format: write, read, run, …"""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[0] != "formats":
        return parts[0]
    return ".".join(("formats", *parts[2:3])) if parts[2:3] != ("__init__",) else "formats"


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Absolute module names imported by a file, TYPE_CHECKING blocks left out."""
    found: set[str] = set()

    def visit(node: ast.AST, nested: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if not (nested and top_level_only):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                found.add(node.module or "")
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, nested or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_text()), False)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    here = room(path)
    assert here in ALLOWED, f"{here} is a new room: give it a row"
    for name in imports(path):
        there = _room_of(name)
        if there and there != here:
            assert there in ALLOWED[here], f"{path} imports {there}"


@pytest.mark.parametrize("path", [p for p in FILES if "formats" in p.parts], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_format_imports_no_other_format(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[1]
    for name in imports(path):
        parts = name.split(".")
        other = parts[2:3] and (PACKAGE / "formats" / parts[2]).is_dir() and parts[2] != own
        assert parts[:2] != ["idp_deploy", "formats"] or not other, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_converters_stay_in_their_rooms_and_load_lazily(path: Path) -> None:
    inside = str(path.relative_to(PACKAGE).with_suffix(""))
    for name in imports(path):
        package = name.split(".")[0]
        if package in HEAVY:
            assert any(inside.startswith(prefix) for prefix in HEAVY[package]), f"{path} imports {package}"
    for name in imports(path, top_level_only=True):
        assert name.split(".")[0] not in HEAVY, f"{path} imports {name} at the top"


@pytest.mark.parametrize(
    "statement",
    ["import idp_deploy.cli", "import idp_deploy.flow", "import idp_deploy.reading", "import idp_deploy"],
)
def test_light_modules_import_no_torch(statement: str) -> None:
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_wheel_carries_every_package_and_the_targets() -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(p.parent.relative_to(PACKAGE.parent).parts) for p in PACKAGE.rglob("__init__.py")}
    assert set(settings["packages"]) == found | {"idp_deploy.targets"}
    patterns = settings["package-data"]["idp_deploy.targets"]
    for file in (PACKAGE.parent / "targets").rglob("*"):
        inside = str(file.relative_to(PACKAGE.parent / "targets"))
        assert file.is_dir() or file.suffix == ".py" or any(fnmatch(inside, p) for p in patterns), inside


def _room_of(name: str) -> str | None:
    """The room of an imported module, or None where the name is no module of the package."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    if not name.startswith("idp_deploy.") or not (path.is_dir() or path.with_suffix(".py").is_file()):
        return None
    return room(path.with_suffix(".py") if not path.is_dir() else path / "__init__.py")
