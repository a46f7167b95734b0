"""The command line as a user meets it: the whole way through, exit codes, messages, and files left intact."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch

from idp_deploy.cli.app import COMMANDS, _interrupt, _terminate
from idp_deploy.errors import ConversionError
from tests.cli_project import CONFIGURATION, call


def test_run_makes_every_file_and_passes_its_budgets(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert {check["metric"] for check in report["checks"]} == {"size", "latency"}
    assert (project / "out" / "model.pruned.pt").is_file()
    assert (project / "out" / "model.pruned.onnx").is_file()


def test_the_commands_one_by_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("prune", "model.pt", "--target", "0.5", "--epochs", "2") == 0
    assert "Next: idp-deploy export model.pruned.pt" in capsys.readouterr().out
    assert call("export", "--to", "onnx") == 0
    assert call("verify", "model.pruned.onnx", "model.pruned.pt") == 0
    assert call("verify", "model.pruned.onnx") == 0
    assert call("inspect", "model.pruned.onnx") == 0
    assert call("simulate", "model.pruned.onnx", "--target", "pixel-4", "--layers") == 0
    capsys.readouterr()
    assert call("check", "--json", "-o", "base.json") == 0
    assert call("check", "--baseline", "base.json") == 0


def test_soft_then_harden_equals_prune(project: Path) -> None:
    assert call("prune", "model.pt", "--target", "0.5", "--epochs", "2", "-o", "whole.pt") == 0
    assert call("prune", "model.pt", "--target", "0.5", "--epochs", "2", "--soft", "-o", "model.soft.pt") == 0
    assert call("harden", "model.soft.pt", "-o", "halves.pt") == 0
    whole, halves = (torch.load(name, weights_only=True)["state_dict"] for name in ("whole.pt", "halves.pt"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[key], halves[key]) for key in whole)


def test_one_shot_and_quantize_need_no_training(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("prune", "model.pt", "--target", "0.5", "--one-shot") == 0
    assert "without training" in capsys.readouterr().err
    assert call("quantize", "model.pruned.pt", "--scheme", "int8-weights") == 0
    assert (project / "model.pruned.int8-weights.pt").is_file()


def test_what_check_suggests_can_be_typed_as_it_stands(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = 'inputs = ["1x3x16x16"]\n'
    text = "".join(line for line in CONFIGURATION.splitlines(True) if not line.startswith(("task", "inputs")))
    (project / "idp-deploy.toml").write_text(inputs + text.replace("[prune]", "[prune]\none-shot = true"))
    assert call("prune", "--pattern", "channel", "--target", "0.5") == 0  # the weights of configuration, without data
    assert call("shrink") == 0  # what was made last
    assert call("quantize", "--scheme", "int8") == 0
    assert (project / "model.pruned.small.int8.pt").is_file()
    assert call("prune", "--no-one-shot") == 2
    assert "no task says with which data" in capsys.readouterr().err


def test_rules_and_options_reach_the_recipe(project: Path) -> None:
    (project / "idp-deploy.toml").write_text(
        CONFIGURATION + '[prune.rules]\nlinear = "skip"\n[prune.options]\nkappa = 6.0\nfinish = 0.5\n'
    )
    assert call("prune", "model.pt", "--rule", "3.*=block:4x1", "--option", "kappa=8", "--option", "distill=0.5") == 0
    recipe = torch.load("model.pruned.pt", weights_only=True)["recipe"]
    assert recipe["options"] == {
        "kappa": 8, "finish": 0.5, "distill": 0.5, "rules": {"linear": "skip", "3.*": "block:4x1"}
    }  # fmt: skip
    weight = torch.load("model.pruned.pt", weights_only=True)["state_dict"]["3.weight"]
    blocks = (weight.reshape(8, 4, 16) == 0).sum(1)
    assert set(blocks.unique().tolist()) == {0, 4}
    assert call("prune", "model.pt", "--one-shot", "--rule", "8.*=unstructured") == 0  # over the file's 'linear'
    assert set(torch.load("model.pruned.pt", weights_only=True)["masks"]) == {"0.weight", "3.weight", "8.weight"}


def test_a_target_in_per_cent(project: Path) -> None:
    assert call("prune", "model.pt", "--target", "50%", "--one-shot") == 0
    assert torch.load("model.pruned.pt", weights_only=True)["recipe"]["sparsity"] == 0.5


def test_a_flag_of_zero_beats_the_file(project: Path) -> None:
    (project / "idp-deploy.toml").write_text(CONFIGURATION.replace("epochs = 2", "epochs = 1\nseed = 5"))
    assert call("prune", "model.pt", "--seed", "0") == 0
    assert torch.load("model.pruned.pt", weights_only=True)["recipe"]["seed"] == 0


def test_channels_are_pruned_taken_out_and_exported(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("prune", "model.pt", "--pattern", "channel", "--epochs", "2") == 0
    said = capsys.readouterr().out
    assert "not pruned (its channels are the model's outputs): " in " ".join(said.split())
    assert "Next: idp-deploy shrink model.pruned.pt" in said
    assert call("shrink", "model.pruned.pt", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["after"] < 0.6 * report["before"]
    assert call("export", "--to", "onnx") == 0
    assert call("verify", "model.pruned.small.onnx", "model.pruned.small.pt") == 0
    assert call("shrink", "model.pruned.small.pt") == 2
    assert "no channel in model.pruned.small.pt is zero as a whole" in capsys.readouterr().err


def test_run_takes_channels_out(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CONFIGURATION.replace("epochs = 2", 'epochs = 2\npattern = "channel"')
    (project / "idp-deploy.toml").write_text(text)
    assert call("run", "--json") == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    saved = torch.load("out/model.pruned.pt", weights_only=True)
    assert saved["provenance"]["steps"][-1] == "shrink"
    assert saved["state_dict"]["3.weight"].shape == (16, 8, 1, 1)
    assert facts["zeros"] > 0


def test_shrinking_comes_before_quantizing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("prune", "model.pt", "--one-shot", "--pattern", "channel", "--inputs", "1x3x16x16") == 0
    assert call("quantize", "model.pruned.pt", "--scheme", "int8-weights") == 0
    assert call("shrink", "model.pruned.int8-weights.pt") == 2
    assert "shrink first, then quantize" in capsys.readouterr().err


def test_a_broken_budget_exits_1_and_names_the_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("prune", "model.pt", "--target", "0.5", "--one-shot") == 0
    assert call("export", "--to", "onnx") == 0
    (project / "tight.toml").write_text('[budgets.pixel-4.onnx]\nsize = "1 kB"\n')
    capsys.readouterr()
    assert call("check", "model.pruned.onnx", "--budgets", "tight.toml", "--format", "github") == 1
    assert "title=pixel-4 onnx size" in capsys.readouterr().out
    assert call("check", "model.pruned.onnx", "--budgets", "tight.toml", "--exit-zero") == 0
    (project / "learnt.toml").write_text("[budgets.pixel-4.onnx]\naccuracy = 0.9\n")
    assert call("check", "model.pruned.onnx", "--budgets", "learnt.toml") == 2
    assert "no file tells it: 'run' reports the score of a task" in capsys.readouterr().err


def test_check_names_a_file_that_was_changed_since_it_was_written(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("prune", "model.pt", "--target", "0.5", "--one-shot") == 0
    assert call("export", "--to", "onnx") == 0
    capsys.readouterr()
    assert call("check", "--target", "pixel-4") == 0
    assert "its seal is broken" not in capsys.readouterr().out
    changed = onnx.load(project / "model.pruned.onnx")
    weight = max(changed.graph.initializer, key=lambda one: len(one.raw_data))
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    onnx.save(changed, project / "model.pruned.onnx")
    assert call("check", "--target", "pixel-4") == 0
    assert "model.pruned.onnx: not the file that was written: its seal is broken" in " ".join(
        capsys.readouterr().out.split()
    )


def test_check_names_a_file_that_was_made_of_other_weights(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said() -> str:
        capsys.readouterr()
        assert call("check", "--target", "pixel-4") == 0
        return " ".join(capsys.readouterr().out.split())

    assert call("prune", "model.pt", "--target", "0.5", "--one-shot") == 0
    assert call("export", "--to", "onnx") == 0
    for weights, old in (("model.pt", False), ("model.pruned.pt", False), ("model.pt", True), ("absent.pt", False)):
        text = CONFIGURATION.replace('weights = "model.pt"', f'weights = "{weights}"')
        (project / "idp-deploy.toml").write_text(text)
        if old:
            state = torch.load(project / "model.pt", weights_only=True)
            torch.save({name: value * 1.01 for name, value in state.items()}, project / "model.pt")
        named = "model.pruned.onnx: not made of the present model.pt (another file was named, or it was written anew"
        assert (named in said()) is old


@pytest.mark.wide
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["prune", "none.pt", "--target", "0.9"], 3, "no such file: none.pt"),
        (["prune", "model.pt", "--target", "1.5"], 2, "--target 1.5 is not between 0 and 1"),
        (["prune", "model.pt", "--target", "pixel4"], 2, "pixel-4"),
        (["prune", "model.pt", "--target", "0.9", "--method", "idpp"], 2, "idp"),
        (["prune", "model.pt", "--target", "0.9", "--pattern", "2:x"], 2, "2:x"),
        (["prune", "model.pt", "--option", "kapa=4"], 2, "did you mean 'kappa'"),
        (["prune", "model.pt", "--option", "start=4"], 2, "it belongs to --mode paper"),
        (["prune", "model.pt", "--option", "kappa"], 2, "write --option NAME=VALUE"),
        (["prune", "model.pt", "--option", "kappa=soft"], 2, "option kappa is 'soft' — give a number above 0"),
        (["prune", "model.pt", "--option", "clip=1"], 2, "option clip is 1 — give true or false"),
        (["prune", "model.pt", "--learning-rate", "0"], 2, "option learning_rate is 0.0 — give a number above 0"),
        (["prune", "model.pt", "--rule", "stem.*=2:4"], 2, "'stem.*' matches no prunable weight"),
        (["prune", "model.pt", "--one-shot", "--rule", "linear=3:x"], 2, "3:x"),
        (["compare", "model.pt", "--methods", "idp,gmp", "--option", "kapa=4"], 2, "did you mean 'kappa'"),
        (["compare", "model.pt", "--methods", "idp,idp"], 2, "names fewer than two"),
        (["compare", "model.pt", "--methods", "gmp,idp", "--tune", "99"], 2, "give --tune 36 at most"),
        (["compare", "model.pt", "--methods", "idp,sr-ste"], 2, "use --pattern 2:4"),
        (
            ["compare", "model.pt", "--methods", "idp,gmp", "--target", "0.5", "--target", "0.9999"],
            2,
            "lower the target",
        ),
        (["prune", "model.pt", "--mode", "paper", "--option", "start=5"], 2, "start earlier, raise the rate"),
        (
            ["prune", "model.pt", "--mode", "paper", "--option", "start=1", "--option", "rate=1", "--target", "0.9999"],
            2,
            "lower the target",
        ),
        (["prune", "model.pt", "--option", "dense=1"], 2, "option dense is 1 — give a share from 0 to below 1"),
        (["prune", "model.pt", "--target", "0.3", "--rule", "3.*=1:4"], 2, "raise the target to"),
        (["prune", "model.pt", "--seed", "-1"], 2, "--seed"),
        (["prune", "model.pt", "--one-shot", "--soft"], 2, "nothing to keep soft"),
        (["prune", "model.pt", "--one-shot", "--resume"], 2, "nothing to resume"),
        (["prune", "model.pt", "-o", "."], 2, "is a directory"),
        (["prune", "model.pt", "-o", "./model.pt"], 2, "-o model.pt is the file to read — name another one"),
        (["quantize", "model.pt", "--scheme", "int8", "-o", "model.pt"], 2, "is the file to read"),
        (["prune", "model.pt", "-o", "new/../model.pt"], 2, "-o new/../model.pt is the file to read"),
        (["prune", "model.pt", "-o", "model.pt/x.pt"], 3, "takes no new files"),
        (["prune", "model.pt", "--target", "150%"], 2, "--target 150% is not between 0 and 1"),
        (["prune", "pickled.pt", "--target", "0.9"], 3, "state_dict"),
        (["prune", "garbage.pt", "--target", "0.9"], 3, "garbage.pt"),
        (["prune", "model.pt", "--model", "tiny:biuld"], 2, "build"),
        (["prune", "model.pt", "--model", "tiny:not_a_module"], 2, "not_a_module"),
        (["prune", "model.pt", "--model", "tinny:build"], 2, "tinny"),
        (["verify"], 2, "ARTIFACT"),
        (["prune", "model.pt", "--tarhget", "0.9"], 2, "--tarhget"),
        (["export", "model.pt", "--to", "onx"], 2, "onx"),
        (["export", "--to", "onnx"], 2, "no checkpoint was made in this folder yet"),
        (["export", "model.pt", "--to", "onnx", "--inputs", "1xx3"], 2, "1xx3"),
        (["export", "model.pt", "--to", "onnx", "--inputs", "1x3x99999999x99999"], 2, "over 2e+09 elements"),
        (["export", "model.pt", "--to", "onnx", "--inputs", f"1x{10**30}"], 2, "elements"),
        (["prune", "model.pt", "--epochs", f"{10**30}"], 2, "--epochs"),
        (["compare", "model.pt", "--seeds", f"{10**30}"], 2, "--seeds"),
        (["compare", "model.pt", "--tune", f"{10**30}"], 2, "--tune"),
        (["compare", "model.pt", "--epochs", f"{10**30}"], 2, "--epochs"),
        (["targets", "new", "mine", "--threads", f"{10**30}"], 2, "--threads"),
        (["quantize", "model.pt", "--scheme", "int9"], 2, "int9"),
        (["verify", "garbage.onnx"], 3, "garbage.onnx"),
        (["inspect", "garbage.tflite"], 3, "garbage.tflite"),
        (["inspect", "model.pt"], 3, ".onnx"),
        (["simulate", "garbage.onnx", "--target", "pixel-4"], 3, "garbage.onnx"),
        (["simulate", "model.onnx", "--target", "pixel4"], 2, "pixel-4"),
        (["check", "none.onnx", "--target", "pixel-4"], 3, "none.onnx"),
        (["check"], 2, "no artifact to check"),
        (["inspect", "garbage.onnx", "--format", "jsn"], 2, "did you mean 'json'"),
        (["targets", "pixle-4"], 2, "pixel-4"),
        (["init", "idp-deploy.toml"], 2, "--force"),
    ],
)
def test_bad_input_is_one_message_with_its_exit_code(
    arguments: list[str], code: int, message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(torch.nn.Linear(2, 2), "pickled.pt")
    for name in ("garbage.pt", "garbage.onnx", "garbage.tflite"):
        (project / name).write_bytes(b"\x08not a model" * 40)
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert call(*arguments) == code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in captured.err
    after = {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert after == before


def test_prune_without_a_task_explains_that_idp_trains(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "idp-deploy.toml").write_text('model = "tiny:build"\n')
    assert call("prune", "model.pt", "--target", "0.9") == 2
    assert "IDP trains" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("prune",), ("export", "--to", "onnx"), ("quantize", "--scheme", "int8")])
def test_a_file_that_could_run_code_is_refused_before_a_factory_is_asked_for(
    command: tuple[str, ...], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "idp-deploy.toml").unlink()
    torch.save(torch.nn.Linear(2, 2), "pickled.pt")
    name, *flags = command
    assert call(name, "pickled.pt", *flags) == 3
    assert "could run code" in capsys.readouterr().err
    assert call(name, "model.pt", *flags) == 2
    assert "model.pt holds weights, not code, and no model factory is named" in capsys.readouterr().err


def test_the_examples_of_help_run(project: Path) -> None:
    """In the order of the pipeline, each example as typed."""
    torch.save(torch.load("model.pt"), "unused.pt")
    assert call("prune", "model.pt", "--target", "0.5", "--epochs", "2", "--soft") == 0
    assert (
        call("prune", "model.pt", "--target", "0.5", "--one-shot", "--pattern", "channel", "-o", "model.channels.pt")
        == 0
    )
    (project / "idp-deploy.toml").write_text(CONFIGURATION + "\n")
    for name, row in COMMANDS.items():
        example = row.example
        if name == "init":
            (project / "idp-deploy.toml").unlink()
        if name == "restore":  # what a tool makes of the file that `export` wrote
            assert call("export", "model.pruned.pt", "--to", "onnx", "--encoding", "dense", "-o", "dense") == 0
            shutil.copy("dense/model.pruned.onnx", "model.slim.onnx")
            shutil.copy("dense/model.pruned.onnx", "model.onnx")
        assert call(*example.split()[1:]) == 0, example


def test_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("idp_deploy.cli.app.app", interrupted)
    assert call("doctor") == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_other_code_wraps_is_told_as_one(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is raised while Python 3.11 makes a class, or PyTorch unpacks arguments, comes out as another error."""

    def signalled(*_: object, **__: object) -> None:
        with suppress(BaseException):  # as C++ does, which keeps the text alone
            signal.raise_signal(number)
        raise ConversionError("torch.export cannot capture this model: argument 'stride' failed to unpack")

    monkeypatch.setattr("idp_deploy.cli.app.app", signalled)
    ours = {signal.SIGINT: _interrupt, signal.SIGTERM: partial(_terminate, os.getpid())}
    before = {one: signal.signal(one, handler) for one, handler in ours.items()}
    try:
        assert call("doctor") == code
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert "no file was changed half-way" in capsys.readouterr().err
    monkeypatch.undo()
    assert call("verify", "none.onnx", "none.pt") == 3  # the next command knows nothing of it
    assert "no file was changed" not in capsys.readouterr().err


@pytest.mark.wide
@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (lambda check: False, "base.json holds no checks"),
        (lambda check: check["metric"] != "latency", "base.json has no value for it"),
        (lambda check: check.update(target="pixel-6"), "base.json holds no checks"),
    ],
    ids=["empty", "a metric is missing", "another target"],
)
def test_a_baseline_that_holds_nothing_back_fails(
    kept: Callable[[dict[str, str]], object], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("prune", "model.pt", "--one-shot") == 0
    assert call("export", "--to", "onnx") == 0
    assert call("check", "model.pruned.onnx", "--json", "-o", "base.json") == 0
    report = json.loads(Path("base.json").read_text())
    report["checks"] = [check for check in report["checks"] if kept(check)]
    Path("base.json").write_text(json.dumps(report))
    capsys.readouterr()
    assert call("check", "model.pruned.onnx", "--baseline", "base.json") == 1
    captured = capsys.readouterr()
    assert message in captured.out + captured.err
    assert "--allow-missing" in captured.out + captured.err
    assert call("check", "model.pruned.onnx", "--baseline", "base.json", "--allow-missing") == 0


def test_weights_beyond_float16_are_computed_in_float32_unless_float16_is_asked_for(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("coremltools")
    state = torch.load("model.pt", weights_only=True)
    state["8.weight"][0, 0] = 1e5
    torch.save(state, "large.pt")
    reason = "'8.weight' reaches 100000, beyond float16's 65504"
    assert call("export", "large.pt", "--to", "coreml", "--precision", "float16") == 3
    assert f"{reason} — export with --precision float32" in capsys.readouterr().err
    assert call("export", "large.pt", "--to", "coreml") == 0
    assert f"computed in float32: weight {reason}" in capsys.readouterr().out
    assert call("verify", "large.mlpackage", "large.pt") == 0
    assert call("export", "large.pt", "--to", "coreml", "--precision", "float64") == 2
    assert call("export", "large.pt", "--to", "onnx", "--io", "int8") == 2
    assert "--io is for tflite, which is not exported — add --to tflite" in capsys.readouterr().err
    assert call("export", "large.pt", "--to", "onnx", "--layout", "nhwc") == 2
    assert "--layout is for tflite, which is not exported — add --to tflite" in capsys.readouterr().err
    assert call("export", "large.pt", "--to", "tflite", "--io", "int8") == 2
    assert "--io int8 needs int8 activations" in capsys.readouterr().err
