"""IDP written once more from the facts alone, against which the product's is held: a hundred lines, no schedule object.

κ = t²/τ = 10, the derivative clipped at 1 and no floor, t at every step, dense epochs, a cubic ramp a epoch at a time,
and the last 30 % of the epochs on the frozen hard mask. Everything that could differ is a field of `Plain`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.masks import prunable_weights
from idp_deploy.pruning.allocation import Layer, allocate


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, t, kappa, floor):  # type: ignore[no-untyped-def]
        tau = t * t / kappa
        m = torch.sigmoid((w * w - t * t) / tau)
        ctx.save_for_backward((m + 2 * w * w / tau * m * (1 - m)).clamp(floor, 1.0))
        return m * w

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad * ctx.saved_tensors[0], None, None, None


@dataclass
class Plain:
    """Call `step()` behind every optimizer step and `finalize()` at the end."""

    model: nn.Module
    budgets: dict[str, int]
    steps_per_epoch: int
    epochs: int
    dense: float = 3  # epochs
    ramp: float = 6  # epochs
    finish: float = 0.3
    kappa: float = 10.0
    floor: float = 0.0
    staged: bool = True  # the ramp moves once an epoch, or at every step
    row_floor: bool = False  # the hard mask keeps the best of each output row
    bake: bool = False  # weights take their soft values when the mask is frozen
    steps: int = 0
    masks: dict[str, Tensor] = field(default_factory=dict)
    t: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = {name: self.model.get_parameter(name) for name in self.budgets}
        self.handles: list[Any] = []
        for name in self.budgets:
            owner = name.rpartition(".")[0]
            layer = self.model.get_submodule(owner)
            self.handles.append(layer.register_forward_pre_hook(partial(self._put, name)))
            self.handles.append(layer.register_forward_hook(_dense_again))

    def ratio(self, step: int) -> float:
        if step < self.dense * self.steps_per_epoch:
            return 0.0
        done = (step - self.dense * self.steps_per_epoch) / self.steps_per_epoch
        done = int(done) + 1 if self.staged else done + 1 / self.steps_per_epoch
        return 1 - (1 - min(1.0, done / self.ramp)) ** 3

    def frozen(self, step: int) -> bool:
        return step >= round((1 - self.finish) * self.epochs * self.steps_per_epoch)

    @torch.no_grad()
    def step(self) -> None:
        """A step is done."""
        self.steps += 1
        step = self.steps
        if self.frozen(step):
            for name, w in self.weights.items():
                if name not in self.masks:
                    if self.bake and name in self.t:
                        w.mul_(torch.sigmoid((w * w / self.t[name] ** 2 - 1) * self.kappa))
                    self.masks[name] = hard(w, self.budgets[name], self.row_floor)
                w.mul_(self.masks[name])
            self.t = {}
            return
        ratio = self.ratio(step)
        if ratio:
            for name, w in self.weights.items():
                zeros = round(ratio * self.budgets[name])
                if zeros:
                    ordered = w.abs().flatten().sort().values
                    self.t[name] = (ordered[zeros - 1] + ordered[zeros]) / 2

    def finalize(self) -> None:
        """The hooks go; the zeros are in the weights since the freeze."""
        for handle in self.handles:
            handle.remove()

    def _put(self, name: str, module: nn.Module, args: Any) -> None:
        w = self.weights[name]
        if name in self.masks:
            module.__dict__["weight"] = w * self.masks[name]
        elif name in self.t:
            module.__dict__["weight"] = _Masked.apply(w, self.t[name], self.kappa, self.floor)


def _dense_again(module: nn.Module, args: object, output: Tensor) -> None:
    module.__dict__.pop("weight", None)


def plain(
    model: nn.Module, *, sparsity: float, steps: int, depthwise: bool, allocation: str = "erk", **options: Any
) -> Plain:
    """On twenty "epochs" of `steps` steps together, with the product's budgets."""
    weights = {name: w for name, w in prunable_weights(model).items() if depthwise or w.kind != "depthwise"}
    layers = [Layer(name, model.get_parameter(name).detach()) for name in weights]
    return Plain(model, allocate(layers, sparsity, allocation), steps // 20, 20, **options)


def hard(w: Tensor, zeros: int, row_floor: bool) -> Tensor:
    """Bool mask without the `zeros` smallest |w|."""
    size = w.abs()
    if row_floor:
        flat = size.flatten(1)
        size = flat.scatter(1, flat.argmax(1, keepdim=True), torch.inf).reshape(w.shape)
    mask = torch.ones(w.numel(), dtype=torch.bool)
    mask[size.flatten().argsort(stable=True)[:zeros]] = False
    return mask.reshape(w.shape)
