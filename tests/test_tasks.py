"""Task: defaults that fit what loaders yield, and a rehearsal that names what does not."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from idp_deploy.errors import FileError, UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.hardening import harden
from idp_deploy.pruning import prune
from idp_deploy.tasks import Task, evaluate, rehearse


class Rows(Task):
    """Three classes in twelve dimensions."""

    def data(self, seed: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(40, 12, generator=torch.Generator().manual_seed(seed))
        return inputs, inputs[:, :3].argmax(1)

    def train_loader(self, seed: int) -> Any:
        return DataLoader(TensorDataset(*self.data(0)), 16, shuffle=True, generator=torch.Generator().manual_seed(seed))

    def validation_loader(self) -> Any:
        return DataLoader(TensorDataset(*self.data(1)), 16)


class Records(Dataset[dict[str, Tensor]]):
    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.inputs[index], "y": self.labels[index]}


class Named(Rows):
    """Batches, inputs and outputs in dicts."""

    def train_loader(self, seed: int) -> Any:
        return DataLoader(Records(*self.data(0)), 16)

    def validation_loader(self) -> Any:
        return DataLoader(Records(*self.data(1)), 16)

    def inputs(self, batch: Any) -> tuple[Any, ...]:
        return ({"x": batch["x"]},)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return F.cross_entropy(outputs["logits"], batch["y"])

    def score(self, outputs: Any, batch: Any) -> tuple[float, int]:
        return float((outputs["logits"].argmax(1) == batch["y"]).sum()), len(batch["y"])


class FromDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.inner(batch["x"])}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))


def test_defaults_take_one_sample_of_a_dict() -> None:
    task = Named()
    (example,) = task.example_inputs()
    assert example["x"].shape == (1, 12)
    calls = task.calibration_inputs(20)
    assert len(calls) == 20
    first = next(iter(task.train_loader(0)))["x"]
    assert torch.equal(calls[3][0]["x"], first[3:4])


def test_a_model_of_dicts_is_pruned_and_hardened() -> None:
    task, model = Named(), Model(FromDict())
    rehearse(model.module, task)
    sparse = harden(prune(model, task, Recipe(sparsity=0.5, epochs=1)), task)
    assert sparse.zeros == round(0.5 * (12 * 16 + 16 * 3))
    assert 0 <= evaluate(sparse.module, task) <= 1


def test_a_rehearsal_leaves_no_trace() -> None:
    module = net().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    rehearse(module, Rows())
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


class Workers(Rows):
    def train_loader(self, seed: int) -> Any:
        return DataLoader(TensorDataset(*self.data(0)), 16, num_workers=1)


def test_too_long_a_folder_for_the_sockets_of_workers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    rehearse(net(), Rows())
    with pytest.raises(UsageError, match=r"xxx, has too long a path for the sockets of the workers .* train_loader"):
        rehearse(net(), Workers())


class Dying(Rows):
    """Whose workers end as one does that the system had no memory for."""

    def __getitem__(self, index: int) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)

    def __len__(self) -> int:
        return 4

    def train_loader(self, seed: int) -> Any:
        return DataLoader(self, 2, num_workers=1)  # type: ignore[arg-type]


def test_a_worker_that_ends_before_training_is_called_that() -> None:
    with pytest.raises(FileError, match=r"a worker of the task's data loader ended .* use fewer workers"):
        rehearse(net(), Dying())


class Nothing(Rows):
    def train_loader(self, seed: int) -> Any:
        return DataLoader(TensorDataset(*(x[:3] for x in self.data(0))), 16, drop_last=True)


class NoValidation(Rows):
    def validation_loader(self) -> Any:
        return []


class Listed(Rows):
    def train_loader(self, seed: int) -> Any:
        return [self.data(0)]


class Forgotten(Rows):
    def train_loader(self, seed: int) -> Any:
        return None


class Wide(Rows):
    def data(self, seed: int) -> tuple[Tensor, Tensor]:
        return torch.randn(40, 13), torch.zeros(40).long()


class ManyLabels(Rows):
    def data(self, seed: int) -> tuple[Tensor, Tensor]:
        inputs, labels = super().data(seed)
        return inputs, labels + 5


class Records13(Rows):
    validation_loader = Named.validation_loader


class Unsummed(Rows):
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return F.cross_entropy(outputs, batch[-1], reduction="none")


class OneNumber(Rows):
    def score(self, outputs: Any, batch: Any) -> Any:
        return 0.5


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        raise FileError("data.bin is gone")


class Gone(Rows):
    def validation_loader(self) -> Any:
        return DataLoader(Stream(), 4)


class Unpaired(Rows):
    """Two labels, of which the first would be an input."""

    def inputs(self, batch: Any) -> Any:
        return (*batch[:1], batch[1])


class Unseeded(Rows):
    def train_loader(self) -> Any:  # type: ignore[override]
        return self.validation_loader()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Nothing(), "the task's train_loader gives no batch"),
        (NoValidation(), "the task's validation_loader gives no batch"),
        (Listed(), "the task's train_loader returns a list — return a torch.utils.data.DataLoader"),
        (Forgotten(), "the task's train_loader returns a NoneType"),
        (Wide(), "the model's forward fails on (float32 (16, 13)) with RuntimeError: mat1 and mat2 shapes"),
        (Unpaired(), "forward() takes 2 positional arguments but 3 were given — the task's inputs(batch) says what"),
        (Unseeded(), "2 were given — train_loader(self, seed) is given the number"),
        (ManyLabels(), "the task's loss(outputs, batch) fails on float32 (16, 3) with IndexError: Target"),
        (Records13(), "the task's inputs(batch) fails with TypeError: unhashable type: 'slice'"),
        (Unsummed(), "the task's loss returns float32 (16,) — return one number, such as the mean"),
        (OneNumber(), "the task's score returns a float — return (sum of the metric over the batch, entries counted)"),
        (Task(), "the task has no validation_loader() — write it: batches that are held out"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Task) else "",
)
def test_a_misfit_is_named_with_what_it_met(task: Task, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        rehearse(net(), task)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Task(), "the task has no validation_loader() — write it"),
        (Wide(), "the model's forward fails on (float32 (16, 13)) with RuntimeError: mat1 and mat2 shapes"),
        (Records13(), "the task's inputs(batch) fails with TypeError: unhashable type: 'slice'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Task) else "",
)
def test_a_misfit_is_named_where_accuracy_is_measured_too(task: Task, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate(net(), task)
    assert words in str(caught.value)


def test_an_error_that_names_itself_passes_through() -> None:
    with pytest.raises(FileError, match=r"data\.bin is gone"):
        rehearse(net(), Gone())


def test_an_optimizer_that_is_none_is_refused() -> None:
    class Wrong(Rows):
        def optimizer(self, module: nn.Module) -> Any:
            return "adam"

    with pytest.raises(UsageError, match=r"returns a str — return a torch\.optim\.Optimizer, or None for SGD"):
        prune(Model(net()), Wrong(), Recipe(epochs=1))
