"""A small task, a small network and a plain loop that the pruning tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.flow import Model
from idp_deploy.pruning import METHODS, Pruner
from idp_deploy.tasks import Task

PRUNABLE = 20 * 48 + 48 * 32 + 32 * 8
X = torch.randn(16, 20, generator=torch.Generator().manual_seed(3))
RECIPES = dict.fromkeys(METHODS, ("unstructured", 0.9)) | {
    "sr-ste": ("2:4", 0.5),
    "lagunas-block": ("block:1x4", 0.9),
    "l1-channel": ("channel", 0.5),
}  # method → a pattern it makes sense for, and a sparsity


class Blobs(Task):
    """Eight noisy directions in 20 dimensions."""

    def __init__(self, samples: int = 512) -> None:
        generator = torch.Generator().manual_seed(7)
        centres = torch.randn(8, 20, generator=generator)
        labels = torch.randint(0, 8, (samples + 256,), generator=generator)
        inputs = centres[labels] + 0.7 * torch.randn(samples + 256, 20, generator=generator)
        self.train = TensorDataset(inputs[:samples], labels[:samples])
        self.validation = TensorDataset(inputs[samples:], labels[samples:])

    def train_loader(self, seed: int) -> DataLoader[Any]:
        return DataLoader(self.train, 64, shuffle=True, generator=torch.Generator().manual_seed(seed))

    def validation_loader(self) -> DataLoader[Any]:
        return DataLoader(self.validation, 256)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(20, 48),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(48, 32),
        nn.ReLU(),
        nn.Linear(32, 8),
    )


def train(model: nn.Module, pruner: Any, steps: int, rate: float = 0.1) -> None:
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    task = Blobs()
    inputs, labels = task.train.tensors
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        pruner.step()


def zeros(module: nn.Module) -> int:
    return sum(int((m.weight == 0).sum()) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def trained() -> Model:
    model, task = network(), Blobs()
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for epoch in range(5):
        for batch in task.train_loader(epoch):
            optimizer.zero_grad()
            task.loss(model(batch[0]), batch).backward()
            optimizer.step()
    return Model(model.eval())


def pruner_of(model: nn.Module, steps: int = 20, method: str = "idp", **settings: Any) -> Pruner:
    pattern, sparsity = RECIPES[method]
    inputs, labels = Blobs().train.tensors
    chosen = {"sparsity": sparsity, "pattern": pattern, "example_inputs": (inputs[:2],), **settings}
    loss = lambda: nn.functional.cross_entropy(model(inputs[:64]), labels[:64])  # noqa: E731
    return Pruner(model, epochs=1, steps_per_epoch=steps, method=method, loss=loss, **chosen)


def fresh(like: nn.Module) -> nn.Module:
    """A net of its own with the state dict of `like`."""
    net = network()
    net.load_state_dict(like.state_dict())
    return net.eval()


def pruner_for(model: nn.Module, steps: int = 20, **settings: Any) -> Pruner:
    return Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=steps, **settings)
