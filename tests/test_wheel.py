"""The wheel by itself: built from a copy of the sources, installed without a clone, and used in an empty folder."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("idp_deploy", "sample_models", "targets", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it, over what is installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    others = [sysconfig.get_path("purelib"), *(p for p in sys.path if p.endswith("site-packages"))]
    (packages / "zz_others.pth").write_text("\n".join(dict.fromkeys(others)) + "\n")
    return folder / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "IDP_DEPLOY"))}
    return subprocess.run(
        [str(python), "-P", *arguments], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


def idp_deploy(python: Path, folder: Path, *arguments: str) -> str:
    done = run(python, folder, "-m", "idp_deploy", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_whole_and_says_so(environment: Path, tmp_path: Path) -> None:
    done = run(
        environment,
        tmp_path,
        "-c",
        "import idp_deploy, sample_models; print(idp_deploy.__file__, sample_models.__file__)",
    )
    assert str(environment.parents[1]) in done.stdout
    assert str(ROOT) not in done.stdout
    said = idp_deploy(environment, tmp_path, "doctor")
    assert re.search(r"idp-deploy \d+\.\d+", said)
    assert "onnxruntime" in said
    assert len(idp_deploy(environment, tmp_path, "targets").splitlines()) > 50
    version = idp_deploy(environment, tmp_path, "--version")
    assert version.startswith("idp-deploy ")
    assert re.search(r"verifies \.onnx in onnxruntime \d", version)
    assert "verifies .mlpackage in an interpreter of idp-deploy's own" in version


@pytest.mark.slow
def test_a_new_project_goes_from_nothing_to_a_gated_file(environment: Path, tmp_path: Path) -> None:
    idp_deploy(environment, tmp_path, "new", "first")
    project = tmp_path / "first"
    idp_deploy(environment, project, "prune", "model.pt", "--one-shot", "--target", "0.8")
    idp_deploy(environment, project, "export", "--to", "onnx")
    idp_deploy(environment, project, "check", "--format", "html", "-o", "report.html", "--exit-zero")
    assert "<style>" in (project / "report.html").read_text()
    assert "configuration" not in idp_deploy(environment, project, "diff", "model.pruned.onnx", "model.pruned.onnx")


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    done = run(environment, tmp_path, "-m", "sample_models.demo")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build" / "demo" / "model.pruned.onnx").exists()


def test_the_demo_is_configured_alike_in_a_clone_and_from_a_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["idp-deploy"]
    assert tomllib.loads((ROOT / "sample_models" / "demo.toml").read_text()) == project


def test_the_demo_leaves_another_project_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sample_models.demo import configure

    monkeypatch.chdir(tmp_path)
    configure()
    configure()
    assert (tmp_path / "idp-deploy.toml").exists()
    (tmp_path / "idp-deploy.toml").write_text('model = "mine:build"\n')
    with pytest.raises(SystemExit, match="another model"):
        configure()
    assert (tmp_path / "idp-deploy.toml").read_text() == 'model = "mine:build"\n'


def test_the_oldest_versions_are_those_that_the_package_promises() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])  # type: ignore[union-attr,misc]
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert set(tested) >= set(promised)
    for name, version in promised.items():
        assert (tested[name] + ".0").startswith(version), (
            f"{name} is promised from {version}, tested with {tested[name]}"
        )


def test_what_the_core_reads_with_is_promised_and_not_brought_by_chance() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}  # type: ignore[index]
    trees = [ast.parse(path.read_text()) for path in (ROOT / "idp_deploy" / "surveying").glob("*.py")]
    names = {
        alias.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    outside = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert "yaml" in outside
    assert {{"yaml": "pyyaml"}.get(name, name) for name in outside} <= promised
