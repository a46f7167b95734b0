"""What Python's callers give is taken as it is meant, or refused in one message: never an error from inside."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import idp_deploy
from idp_deploy import (
    Artifact,
    Pruner,
    Recipe,
    check,
    compare,
    deploy,
    diff,
    export,
    gate,
    harden,
    inspect,
    load_checkpoint,
    load_model,
    load_target,
    load_task,
    one_shot,
    prune,
    quantize,
    read,
    restore,
    save_checkpoint,
    shrink,
    simulate,
    verify,
)
from idp_deploy.errors import IdpDeployError, UsageError
from idp_deploy.flow import CompressedModel
from tests.pruning_fixtures import Blobs, network

# what nobody can mean as a number, as a name or as a path
ODD: list[Any] = [
    float("nan"),
    float("inf"),
    [0.8],
    {"a": 1},
    b"0.8",
    object(),
    np.zeros(2),
    torch.zeros(2),
    {1},
    print,
]
X = torch.zeros(1, 20)


@pytest.mark.parametrize(
    "sparsity",
    [
        0.8,
        "0.8",
        "80%",
        " 80 % ",
        np.float64(0.8),
        np.array(0.8),
        torch.tensor(0.8, dtype=torch.float64),
        Decimal("0.8"),
    ],
    ids=str,
)
def test_a_share_may_be_written_as_on_the_command_line(sparsity: Any) -> None:
    pruner = Pruner(network(), sparsity=sparsity, epochs=1)
    assert pruner.recipe.sparsity == 0.8
    assert type(pruner.recipe.sparsity) is float
    assert one_shot(network(), sparsity=sparsity).recipe == one_shot(network(), sparsity=0.8).recipe


@pytest.mark.parametrize("argument", ["sparsity", "epochs", "steps_per_epoch", "seed", "mode", "method", "pattern",
                                      "allocation", "optimizer", "rules", "shares", "finish", "kappa"])  # fmt: skip
def test_what_a_pruner_cannot_mean_is_refused(argument: str) -> None:
    none = [] if argument in ("steps_per_epoch", "optimizer") else [None]
    for value in [*ODD, "eighty", *none]:
        with pytest.raises(UsageError):
            Pruner(network(), **{"epochs": 2, argument: value})


def test_scalars_are_plain_in_what_is_kept() -> None:
    given: dict[str, Any] = {"epochs": np.int64(3), "seed": torch.tensor(2), "finish": np.float32(0.5), "skip": "6.*"}
    recipe = Pruner(network(), **given).recipe
    assert (recipe.epochs, recipe.seed, recipe.options, recipe.skip) == (3, 2, {"finish": 0.5}, ("6.*",))
    assert {type(value) for value in (recipe.epochs, recipe.seed)} == {int}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompressedModel, Artifact]:
    sparse = one_shot(network().eval(), sparsity=0.8)
    return sparse, export(sparse, "onnx", (X,), tmp_path_factory.mktemp("made") / "m.onnx")


def test_what_export_returned_goes_where_a_path_goes(made: tuple[CompressedModel, Artifact], tmp_path: Path) -> None:
    sparse, file = made
    assert verify(file, sparse, X).passed
    assert read(file).path == inspect(file).path == simulate(file, "pixel-4").artifact == Path(file) == file.path
    assert check(file, targets="pixel-4").estimates
    assert diff(file, file, "pixel-4")
    assert read(export(sparse, "onnx", X, tmp_path / "alone.onnx")).inputs == read(file).inputs


def test_one_name_need_not_be_in_a_list(tmp_path: Path) -> None:
    given: dict[str, Any] = {"to": "onnx", "targets": "pixel-4", "inputs": X, "skip": "6.*", "keep_float": "4.*"}
    done = deploy(network(), one_shot=True, output=str(tmp_path), sparsity="80%", scheme="int8-weights", **given)
    assert list(done.parities) == ["onnx"]
    assert done.report.estimates[0].target == "pixel-4"
    assert "6.weight" not in load_checkpoint(done.checkpoint, network).masks
    assert list(quantize(one_shot(network()), "int8-weights", keep_float="4.*").quantization.kept_float) == ["4.weight"]
    (run,) = compare(network(), Blobs(), Recipe(epochs=1), methods="magnitude", sparsities="80%", seeds=0).runs
    assert run.sparsity == 0.8


REFUSED: dict[str, Callable[[CompressedModel, Any], Any]] = {
    "example_inputs is a dict": lambda m, f: export(m, "onnx", {"x": X}, f),
    "example_inputs is a NoneType": lambda m, f: export(m, "onnx", None, f),
    "path is None": lambda m, f: export(m, "onnx", (X,), None),
    "has no option 'opset'": lambda m, f: export(m, "onnx", (X,), f, opset=17),
    "dynamic_batch is 'no'": lambda m, f: export(m, "onnx", (X,), f, dynamic_batch="no"),
    "model is a str": lambda m, f: export("model.pt", "onnx", (X,), f),
    "model is an OrderedDict": lambda m, f: verify(f, m.module.state_dict(), (X,)),
    "artifact is None": lambda m, f: verify(None, m, (X,)),
    "artifact is 3": lambda m, f: inspect(3),
    "tolerance is '1%'": lambda m, f: verify(f, m, (X,), tolerance="1%"),
    "seeds is -3": lambda m, f: verify(f, m, (X,), seeds=-3),
    "task is the class Blobs": lambda m, f: prune(network(), Blobs, epochs=1),
    "task is a NoneType": lambda m, f: prune(network(), None, epochs=1),
    "recipe is a list": lambda m, f: one_shot(network(), [0.9]),
    "target is None": lambda m, f: simulate(f, None),
    "target is PosixPath": lambda m, f: load_target(Path("pixel-4")),
    "no file is named": lambda m, f: check([], targets=["pixel-4"]),
    "'600 kB' is no budget": lambda m, f: check(f, budgets="600 kB"),
    "None is no budget": lambda m, f: gate(None, []),
    "size": lambda m, f: check(f, budgets={"pixel-4": {"onnx": {"size": None}}}),
    "baseline is 3": lambda m, f: check(f, targets=["pixel-4"], baseline=3),
    "before is None": lambda m, f: diff(None, f),
    "path is 3": lambda m, f: restore(f, 3),
    "unknown scheme None": lambda m, f: quantize(m, None),
    "values is '16'": lambda m, f: quantize(m, "int8", example_inputs=X, values="16"),
    "Sequential has no soft masks": lambda m, f: harden(network()),
    "Sequential is no pruned model": lambda m, f: (save_checkpoint(network(), f), shrink(network(), (X,))),
    "Linear is no pruned model": lambda m, f: shrink(torch.nn.Linear(2, 2), (X,)),
    "path is b'x'": lambda m, f: load_model(b"x", network),
    "--task is 3": lambda m, f: load_task(3),
    "to is .* names nothing": lambda m, f: deploy(network(), to=[], one_shot=True, inputs=(X,)),
    "one_shot is 'no'": lambda m, f: deploy(network(), one_shot="no"),
    "methods is None": lambda m, f: compare(network(), Blobs(), methods=None),
    "unknown report format 'None'": lambda m, f: idp_deploy.render(diff(f, f), None),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_meant_is_one_message(said: str, made: tuple[CompressedModel, Artifact]) -> None:
    with pytest.raises(IdpDeployError, match=said):
        REFUSED[said](*made)
