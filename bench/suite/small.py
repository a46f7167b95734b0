"""What a small task is: a net, its data, and how it is trained and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.suite import data

Kind = Literal["classes", "pixels", "values"]


@dataclass(frozen=True, eq=False)
class SmallTask:
    """A net, its data, and how it is trained: one cycle with the peak `rate`, `steps` batches of `batch`."""

    says: str  # one line for the table
    net: Callable[[], nn.Module]
    data: Callable[[], data.Data]
    sparsities: tuple[float, ...]
    rate: float = 0.1
    steps: int = 500
    batch: int = 32
    adamw: bool = False
    trained: int = 0  # dense steps before pruning starts: a model that is fine-tuned
    depthwise: bool = False  # whether depthwise kernels are pruned, too
    kind: Kind = "classes"
    every: int = 1  # parts of a batch whose gradients are added up
    told: bool = True  # whether the pruner knows the optimizer
    options: Mapping[str, Any] = field(default_factory=dict)  # of the pruner

    @property
    def before(self) -> SmallTask:
        """How the weights that pruning starts from were trained."""
        return self

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum, or AdamW."""
        if self.adamw:
            return torch.optim.AdamW(model.parameters(), self.rate, weight_decay=0.01)
        return torch.optim.SGD(model.parameters(), self.rate, momentum=0.9, weight_decay=5e-4)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """One cycle of the rate."""
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, steps, pct_start=0.2, cycle_momentum=False)

    def loss_of(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What is made small."""
        return self.loss(model(x), y)

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Cross entropy of classes or pixels, or the squared error."""
        if self.kind == "classes":
            return F.cross_entropy(outputs, wanted)
        if self.kind == "pixels":
            return F.binary_cross_entropy_with_logits(outputs, wanted)
        return F.mse_loss(outputs, wanted)

    def score(self, outputs: Tensor, wanted: Tensor) -> float:
        """Accuracy; intersection over union of the pixels; share of the variance explained. At most 1."""
        if self.kind == "classes":
            return float((outputs.argmax(1) == wanted).float().mean())
        if self.kind == "pixels":
            found = outputs > 0
            return float((found & (wanted > 0)).sum() / (found | (wanted > 0)).sum())
        return float(1 - F.mse_loss(outputs, wanted) / wanted.var())
