"""Ways of training that no other task has: rates, optimizers, batches, losses and patterns as strangers bring them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.suite import data, nets, paces
from bench.suite.paces import Lion
from bench.suite.small import SmallTask

Optimizer = torch.optim.Optimizer
SGD, AdamW, Adam = torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam


@dataclass(frozen=True, eq=False)
class Regime(SmallTask):
    """A small task whose pruning is trained in a way of its own; what comes before it, as all others are."""

    trains: Callable[[Any], Optimizer] = SGD
    pace: Callable[[float], float] = paces.constant  # share of the steps done → share of the rate
    half: bool = False  # bfloat16 by autocast
    objective: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None  # in the place of the usual loss
    groups: Callable[[nn.Module], Iterable[Any]] = nn.Module.parameters
    judged_by: Callable[[Tensor, Tensor], float] | None = None

    @property
    def before(self) -> SmallTask:
        return SmallTask(**{one.name: getattr(self, one.name) for one in fields(SmallTask)})

    def optimizer(self, model: nn.Module) -> Optimizer:
        return self.trains(self.groups(model))

    def schedule(self, optimizer: Optimizer, steps: int) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.pace(step / steps))

    def loss_of(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            if self.objective is not None:
                return self.objective(model, x, y)
            return self.loss(model(x), y)

    def score(self, outputs: Tensor, wanted: Tensor) -> float:
        return super().score(outputs, wanted) if self.judged_by is None else self.judged_by(outputs, wanted)


def convolutions(classes: int = 10, widths: tuple[int, ...] = (16, 32, 32)) -> Callable[[], nn.Module]:
    return partial(nets.convolutions, 1, widths, classes)


def flat(noisy: float = 0.0) -> data.Data:
    x, y, test, wanted = data.digits(True)
    return x, paces.wrong(y, noisy, 10), test, wanted


READER = partial(nets.Reader, 50, 17, 24, 2, 6)
PLAIN = partial(nets.sequence, 4, 24, 3, 16, False)
DIGITS, WAVES, FIGURES = data.digits, partial(data.gratings, 4000, 1.0), partial(data.shapes, 4000, 0.1)
TONES, TOKENS = partial(data.keywords, 6000, 0.4), partial(data.pointers, 8000)
CURVES = partial(data.curves, 6000)
PERCEPTRON = partial(nets.perceptron, (64, 64, 64, 10))
DECAYED: Any = {"momentum": 0.9, "weight_decay": 5e-4}

CHOOSING = {
    "constant": Regime(
        "digits, convolutions, SGD at one rate",
        convolutions(),
        DIGITS,
        (0.95,),
        steps=300,
        trains=partial(SGD, lr=0.03, **DECAYED),
    ),
    "untold-adam": Regime(
        "sequences, Adam at one rate, not made known",
        PLAIN,
        TONES,
        (0.9,),
        steps=400,
        trains=partial(Adam, lr=3e-3),
        told=False,
    ),
    "lion": Regime(
        "regression, Lion",
        partial(nets.perceptron, (16, 64, 64, 1)),
        CURVES,
        (0.9,),
        steps=500,
        kind="values",
        trains=partial(Lion, lr=1e-3),
        pace=paces.cosine,
    ),
    "bare-sgd": Regime(
        "waves, SGD without momentum",
        convolutions(20),
        WAVES,
        (0.9,),
        steps=300,
        trains=partial(SGD, lr=0.2),
    ),
    "barely-adamw": Regime(
        "tokens, transformer, fine-tuned by AdamW at 1e-5",
        READER,
        TOKENS,
        (0.7, 0.9),
        rate=3e-3,
        adamw=True,
        trained=500,
        steps=200,
        trains=partial(AdamW, lr=1e-5),
    ),
    "barely-sgd": Regime(
        "waves, fine-tuned by SGD at 1e-4",
        convolutions(20),
        WAVES,
        (0.7, 0.9),
        trained=300,
        steps=200,
        trains=partial(SGD, lr=1e-4, **DECAYED),
    ),
    "fours": Regime(
        "digits, batches of 4",
        PERCEPTRON,
        flat,
        (0.95,),
        batch=4,
        steps=1200,
        trains=partial(SGD, lr=0.005, momentum=0.9),
    ),
    "sixty": Regime(
        "figures, residual, fine-tuned in 60 steps",
        partial(nets.Residual, 1, (12, 24, 32), 8),
        FIGURES,
        (0.9,),
        trained=250,
        steps=60,
        trains=partial(SGD, lr=0.02, **DECAYED),
        pace=paces.cosine,
    ),
    "wrong-labels": Regime(
        "digits, three in ten labels wrong, steps of the rate",
        PERCEPTRON,
        partial(flat, 0.3),
        (0.95,),
        steps=600,
        trains=partial(SGD, lr=0.05, **DECAYED),
        pace=paces.steps,
    ),
    "head-alone": Regime(
        "digits, only the head learns",
        convolutions(),
        DIGITS,
        (0.7, 0.9),
        trained=300,
        steps=200,
        trains=partial(SGD, lr=0.03, momentum=0.9),
        groups=paces.head,
    ),
    "decayed": Regime(
        "digits, weight decay of 5e-3",
        convolutions(),
        DIGITS,
        (0.95,),
        steps=300,
        trains=partial(SGD, lr=0.05, momentum=0.9, weight_decay=5e-3),
        pace=paces.cosine,
    ),
    "two-of-four": Regime(
        "sequences, 2:4, AdamW with warm-up",
        PLAIN,
        TONES,
        (0.5,),
        steps=400,
        trains=partial(AdamW, lr=5e-3),
        pace=paces.warmed,
        options={"pattern": "2:4"},
    ),
    "blocks-of-tones": Regime(
        "sequences, blocks of 4x1, AdamW with warm-up",
        PLAIN,
        TONES,
        (0.8,),
        steps=400,
        trains=partial(AdamW, lr=5e-3),
        pace=paces.warmed,
        options={"pattern": "block:4x1"},
    ),
    "channels-of-curves": Regime(
        "regression, half of the channels, Adam",
        partial(nets.perceptron, (16, 64, 64, 1)),
        CURVES,
        (0.5,),
        steps=500,
        kind="values",
        trains=partial(Adam, lr=5e-3),
        pace=paces.cosine,
        options={"pattern": "channel"},
    ),
    "signs": Regime(
        "digits, binary weights, Adam",
        partial(paces.binary, (64, 96, 96, 10)),
        flat,
        (0.7,),
        steps=500,
        trains=partial(Adam, lr=3e-3),
        pace=paces.cosine,
    ),
}
