"""What callables of others return and leave behind: modules that cannot be pruned, tasks with other methods."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from idp_deploy.errors import UsageError
from idp_deploy.loading import load_model, load_module, load_task
from idp_deploy.loading.factories import TASK_METHODS
from idp_deploy.tasks import Task
from tests.loading_fixtures import X, build, same, source

HERE = __name__


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return build()


def table_on_meta() -> nn.Module:
    module = build()
    module.register_buffer("positions", torch.empty(4, device="meta"), persistent=False)
    return module


def exported() -> nn.Module:
    return torch.export.export(build().eval(), (X,)).module()


def ends() -> nn.Module:
    sys.exit("no GPU here")


def wants_a_command_line() -> nn.Module:
    torch.manual_seed(int(sys.argv[1]))
    return build()


def without_gradients() -> nn.Module:
    with torch.inference_mode():
        return build()


def averaged() -> nn.Module:
    return AveragedModel(build())


def elsewhere() -> nn.Module:
    os.chdir("/")
    torch.set_grad_enabled(False)
    sys.argv.append("--wide")
    return build()


@pytest.mark.parametrize(
    ("factory", "words", "way_out"),
    [
        (on_meta, "without values: 'stem.0.weight' is on the meta device", "outside of torch.device"),
        (table_on_meta, "without values: 'positions' is on the meta device", "outside of torch.device"),
        (exported, "a graph of torch.export", "the module that was exported"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_modules_that_cannot_be_trained_are_refused(
    factory: Callable[[], nn.Module], words: str, way_out: str, named: bool, tmp_path: Path
) -> None:
    torch.save(source().state_dict(), tmp_path / "m.pt")
    with pytest.raises(UsageError, match=words) as caught:
        load_model(tmp_path / "m.pt", f"{HERE}:{factory.__name__}" if named else factory)
    assert way_out in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("ends", "ended the program .SystemExit: no GPU here"), ("wants_a_command_line", "IndexError: list index")],
)
def test_a_factory_that_is_a_program_is_told_so(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_module(f"{HERE}:{name}")


def test_weights_of_inference_mode_can_be_trained(tmp_path: Path) -> None:
    torch.save(source().state_dict(), tmp_path / "m.pt")
    module = load_model(tmp_path / "m.pt", without_gradients).module
    assert same(module, source())
    module(X).sum().backward()


def test_an_average_that_a_factory_builds_takes_the_weights_of_the_model(tmp_path: Path) -> None:
    torch.save(source().state_dict(), tmp_path / "m.pt")
    assert same(load_model(tmp_path / "m.pt", averaged).module.module, source())


def test_a_factory_leaves_folder_gradients_and_command_line_as_they_were() -> None:
    before = os.getcwd(), torch.is_grad_enabled(), list(sys.argv)
    load_module(f"{HERE}:elsewhere")
    assert (os.getcwd(), torch.is_grad_enabled(), sys.argv) == before


class Seedless(Task):
    def train_loader(self) -> Any:  # type: ignore[override]
        return []


class WithLabels(Task):
    def loss(self, outputs: Any, inputs: Any, labels: Any) -> Any:  # type: ignore[override]
        return outputs.sum()


class Keyed(Task):
    def loss(self, *given: Any, **options: Any) -> Any:
        return given[0].sum()


def test_what_a_task_is_given_is_what_its_methods_take() -> None:
    for name, given in TASK_METHODS.items():
        assert tuple(inspect.signature(getattr(Task(), name)).parameters) == given
    load_task(f"{HERE}:Keyed")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            "Seedless",
            r"train_loader\(\) does not take .*too many positional.* write it as def train_loader\(self, seed\)",
        ),
        ("WithLabels", r"loss\(\) does not take .*'labels'.* write it as def loss\(self, outputs, batch\)"),
    ],
)
def test_a_method_that_takes_something_else_is_told_how_to_be_written(task: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_task(f"{HERE}:{task}")
