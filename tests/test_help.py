"""--help: what it says, and that it says it at once."""

from __future__ import annotations

import inspect
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer

from idp_deploy.cli.app import COMMANDS, _run
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.errors import ExitCode, FileError
from idp_deploy.rendering.document import Document


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_in_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run([name, "--help"], debug=False) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"Example: {COMMANDS[name].example}")


def test_help_imports_no_torch_and_is_quick() -> None:
    code = (
        "import sys; from idp_deploy.cli.app import _run; _run(['prune', '--help'], False);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'onnxruntime', 'coremltools', 'scipy', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_help_says(name: str) -> None:
    module, _, function = COMMANDS[name].function.partition(":")
    documented = inspect.getdoc(getattr(import_module(f"idp_deploy.cli.{module}"), function)) or ""
    assert COMMANDS[name].summary == documented.split("\n\n")[0].replace("\n", " ")


def test_help_takes_at_most_2_2_times_a_bare_application(tmp_path: Path) -> None:
    """By the processor's time, each alone and in turns: the least of five."""
    (tmp_path / "bare.py").write_text(
        "import typer\napp = typer.Typer(rich_markup_mode=None)\n"
        "for name in 'abcdefghijklmnopq':\n    app.command(name)(lambda: None)\napp()\n"
    )
    lines = ([sys.executable, "-m", "idp_deploy", "--help"], [sys.executable, str(tmp_path / "bare.py"), "--help"])
    ours, bare = zip(*[[_processor_seconds(line) for line in lines] for _ in range(5)], strict=True)
    assert min(ours) <= 0.35
    assert min(ours) <= 2.2 * min(bare)


def _processor_seconds(line: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_every_report_is_shown_by_one_place() -> None:
    folder = Path(inspect.getfile(_run)).parent
    assert {path.stem for path in folder.glob("*.py") if "emit(" in path.read_text()} == {"output", "reporting"}
    for name, row in COMMANDS.items():
        module, _, function = row.function.partition(":")
        options = inspect.signature(getattr(import_module(f"idp_deploy.cli.{module}"), function)).parameters
        assert name == "schema" or {"format", "json"} <= options.keys(), name


def test_a_command_ends_as_its_answer_says_once_its_report_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    ending: ExitCode | FileError = ExitCode.OK

    @reports()
    def command() -> Answer:
        return Answer(Document("what was found"), ending)

    one = typer.Typer()
    one.command()(command)
    for ending in (ExitCode.OK, ExitCode.DEPENDENCY, FileError("a.onnx is no file", way_out="name another")):
        try:
            code: object = one([], standalone_mode=False) or ExitCode.OK
        except FileError as error:
            code = error
        assert code == ending
        assert "what was found" in capsys.readouterr().out
