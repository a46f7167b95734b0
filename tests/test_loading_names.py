"""Names of callables: what is found, and what is said of a misspelt one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from idp_deploy.errors import ExitCode, FileError, UsageError
from idp_deploy.loading import (
    load_module,
    load_task,
    resolve,
)
from tests.loading_fixtures import (
    FACTORY,
    HERE,
)

LAYER = "TransformerEncoderLayer(d_model=8, nhead=2, batch_first=True)"
PARTS = f"torch.nn:TransformerEncoder(encoder_layer={LAYER}, num_layers=1)"


@pytest.mark.parametrize("spec", [FACTORY, PARTS])
def test_factory_builds_and_leaves_random_state_alone(spec: str) -> None:
    before = torch.get_rng_state()
    assert isinstance(load_module(spec), torch.nn.Module)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "does not name a callable"),
        ("tests.loading_fixtures", "write it as pkg.mod:callable"),
        ("tests/loading_fixtures.py:build", "write tests.loading_fixtures:build"),
        ("a:b:c", "does not name a callable"),
        ("os:system('x')", "does not name a callable"),
        ("no_such_package.mod:build", "there is no module 'no_such_package'"),
        ("sample_model.digits:task", "did you mean 'sample_models'?"),
        ("sample_models.mobilenetv1:build", "did you mean 'sample_models.mobilenet_v1'"),
        (f"{HERE}:biuld", "did you mean 'build'"),
        (f"{HERE}:Net.forwrd", "'Net' has no attribute 'forwrd' — did you mean 'forward'"),
        (f"{HERE}:NOT_CALLABLE", "is an int, not a callable"),
        (f"{HERE}:needs_arguments", "missing a required argument: 'width'"),
        (f"{HERE}:fails", "failed with RuntimeError: no weights today"),
        (f"{HERE}:returns_dict", "returned a dict, not a torch.nn.Module"),
        (f"{HERE}:build.missing", "'build' has no attribute 'missing'"),
        (f"{HERE}:needs_arguments(widht=3)", "it takes width"),
        (f"{HERE}:needs_arguments(3)", "does not name a callable with keyword arguments"),
        (f"{HERE}:needs_arguments(width=3", "does not name a callable with keyword arguments"),
        (f"{HERE}:needs_arguments(width=open('x'))", "open('x') is no value — write pkg.mod:callable(width=0.5"),
        (f"{HERE}:needs_arguments(width=1 + len('x'))", "1 + len('x') is no value"),
        (
            f"{HERE}:needs_arguments(width=os.system(command='x'))",
            "os.system is a builtin_function_or_method, not a class",
        ),
        (f"{HERE}:needs_arguments(width=Nett(a=1))", "has no attribute 'Nett' — did you mean 'Net'?"),
        (f"{HERE}:needs_arguments(width=types.SimpleNamespace(a=len(x=1)))", "has no attribute 'len'"),
        (f"{HERE}:needs_arguments(width=datetime.date(year=0))", "datetime.date(year=0) failed with TypeError"),
        (f"{HERE}:needs_arguments(**{{'width': 3}})", "Python literals and classes only"),
        (f"{HERE}:build(width=3)", "it takes no arguments"),
    ],
)
def test_bad_factory_is_a_usage_error(spec: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_module(spec)
    assert words in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_file_for_a_module_is_told_how_to_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def build(): ...\n")
    with pytest.raises(UsageError, match="write net:build"):
        load_module("net.py:build")
    with pytest.raises(UsageError, match=r"there is no module 'other\.py' here|no module 'other'"):
        load_module("other.py:build")


def test_a_factory_takes_literals_by_keyword() -> None:
    module = load_module("sample_models.mobilenet_v1:build(width=0.25, classes=7, activation='relu')")
    assert module.classifier.out_features == 7
    assert sum(isinstance(m, torch.nn.ReLU) for m in module.modules()) == 27


def test_a_factory_takes_objects_of_classes_by_keyword(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sizes_of_own.py").write_text(
        "from dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Sizes:\n    wide: int\n    deep: object = None\n"
        "def build(sizes):\n    return nn.Linear(sizes.wide, sizes.deep.count)\n"
    )
    monkeypatch.chdir(tmp_path)
    module = load_module("sizes_of_own:build(sizes=Sizes(wide=3, deep=types.SimpleNamespace(count=4)))")
    assert (module.in_features, module.out_features) == (3, 4)


def test_a_module_that_a_script_made_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from torch import nn\nnet = nn.Sequential(nn.Linear(3, 2), nn.ReLU())\n"
    (tmp_path / "a_script_of_its_own.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    first, second = load_module("a_script_of_its_own:net"), load_module("a_script_of_its_own:net")
    assert isinstance(first, torch.nn.Sequential)
    assert first is not second
    with pytest.raises(UsageError, match="is a module already and takes no arguments — write a_script_of_its_own:net"):
        load_module("a_script_of_its_own:net(width=3)")


def test_an_error_that_names_its_exit_code_passes_through() -> None:
    with pytest.raises(FileError, match="no data here"):
        load_task(f"{HERE}:lost_task")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_dependency", "needs the package 'no_such_dependency'"),
        ("def build(:", "SyntaxError"),
        ("raise ValueError('broken on purpose')", "ValueError: broken on purpose"),
        ("import sys; sys.exit(9)", "SystemExit: 9"),
    ],
)
def test_module_that_cannot_be_imported(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UsageError, match=words):
        load_module(f"{name}:build")


def test_the_working_folder_is_searched(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from torch import nn\ndef build(): return nn.Linear(2, 3)\n")
    code = "from idp_deploy.loading import load_module; print(load_module('mine:build').out_features)"
    # -P keeps Python itself from adding the working folder
    run = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout == "3\n", run.stderr


def test_a_module_of_another_folder_is_not_taken_for_the_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One notebook, two projects: what was imported in the first one would be built in the second, too."""
    for name, width in (("first", 3), ("second", 5), ("copy", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "oddly_named.py").write_text(
            f"from torch import nn\n\n\ndef build():\n    return nn.Linear(2, {width})\n"
        )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path / "first")
    assert load_module("oddly_named:build").weight.shape == (3, 2)
    monkeypatch.chdir(tmp_path / "copy")
    assert load_module("oddly_named:build").weight.shape == (3, 2)
    monkeypatch.chdir(tmp_path / "second")
    with pytest.raises(UsageError, match=r"first/oddly_named\.py before .*second/oddly_named\.py: rename the file"):
        load_module("oddly_named:build")


def test_a_torchscript_module_is_refused() -> None:
    with pytest.raises(UsageError, match="returned a TorchScript module, whose weights cannot be masked"):
        load_module(f"{HERE}:scripted")


def test_task_by_name() -> None:
    assert load_task("sample_models.digits:task").metric_name == "accuracy"
    with pytest.raises(UsageError, match=r"returned a dict, which has no train_loader\(\), no validation_loader\(\)"):
        load_task(f"{HERE}:returns_dict")


def test_resolve_names_the_flag() -> None:
    with pytest.raises(UsageError, match=r"^--inputs 'x' does not"):
        resolve("x", what="--inputs")


def test_a_script_exported_from_a_notebook_is_told_what_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exported_nb.py").write_text("get_ipython().run_line_magic('matplotlib', 'inline')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"remove the lines with get_ipython\(\)"):
        resolve("exported_nb:net")


PARSER = "import argparse\np = argparse.ArgumentParser()\n"


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (f"{PARSER}p.add_argument('--wide', default=3)\nW = p.parse_args().wide\n", ""),
        (f"{PARSER}p.add_argument('data')\nW = len(p.parse_args().data)\n", "reads a command line or ends the program"),
        ("import sys\nW = int(sys.argv[1])\n", "reads a command line or ends the program"),
        ("import sys\nW = 3\nsys.exit('usage: me DATA')\n", "reads a command line or ends the program"),
        ("W = 3\nraise RuntimeError('Found no NVIDIA driver on your system')\n", "asks for a GPU, and there is none"),
    ],
)  # fmt: skip
def test_code_that_reads_a_command_line_as_it_is_imported(
    top: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"reads_argv_{abs(hash(top))}"
    (tmp_path / f"{name}.py").write_text(f"{top}from torch import nn\ndef build():\n    return nn.Linear(W, 2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["idp-deploy", "run", "--wide"])
    if not words:
        assert getattr(load_module(f"{name}:build"), "in_features", None) == 3
    else:
        with pytest.raises(UsageError, match=words) as caught:
            load_module(f"{name}:build")
        assert "below `if __name__ == '__main__':`" in str(caught.value)


def test_a_package_in_a_folder_of_its_own_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib" / "lying_deeper").mkdir(parents=True)
    (tmp_path / "reaching.py").write_text("import lying_deeper\n")
    with pytest.raises(UsageError, match=r"needs the package 'lying_deeper', .* set PYTHONPATH=lib"):
        load_module("reaching:build")
