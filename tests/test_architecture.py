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
CORE = {"files", "ownership", "units", "masks", "encodings", "quantizers", "capturing", "tasks", "loading", "reading"}
STAGES = {
    "pruning", "hardening", "shrinking", "quantization", "exporting", "verification", "inspection", "simulation",
    "gating",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "flow": set(),
    "files": FOUNDATION,
    "units": {"errors"},
    "lifting": set(),
    "masks": FOUNDATION,
    "encodings": FOUNDATION,
    "quantizers": FOUNDATION,
    "capturing": FOUNDATION | {"lifting"},
    "tasks": FOUNDATION,
    "reading": FOUNDATION | {"files"},  # never encodings: the proof must not share code with the writer
    "ownership": FOUNDATION | {"files", "reading"},
    "loading": FOUNDATION | {"files", "masks", "ownership"},
    **dict.fromkeys(STAGES, FOUNDATION | CORE),
    "inputs": FOUNDATION | {"loading"},
    "pipeline": FOUNDATION | CORE | STAGES,
    "planning": FOUNDATION | CORE | STAGES,
    "configuration": FOUNDATION | {"files", "units"},
    "rendering": FOUNDATION | {"files", "units"},
    "cli": FOUNDATION | CORE | STAGES | {"pipeline", "planning", "configuration", "inputs", "rendering"},
    "__main__": {"cli"},
    "__init__": FOUNDATION | CORE | STAGES | {"pipeline"},
}
HEAVY = {
    "coremltools": {"exporting/coreml", "reading/coreml", "verification/coreml", "simulation"},
    "litert_torch": {"exporting/tflite"},
    "ai_edge_quantizer": {"exporting/tflite"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


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
        if name.startswith("idp_deploy."):
            there = name.split(".")[1]
            if there == here or not any(f == there or f == f"{there}.py" for f in _rooms()):
                continue
            assert there in ALLOWED[here], f"{path} imports {there}"


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


def _rooms() -> set[str]:
    return {p.name for p in PACKAGE.iterdir()}
