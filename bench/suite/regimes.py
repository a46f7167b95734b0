"""Ways of training that no other task has: rates, optimizers, batches, losses and patterns as strangers bring them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.suite import data, modern, nets, paces
from bench.suite.paces import Lion
from bench.suite.small import SmallTask

Optimizer = torch.optim.Optimizer
SGD, AdamW, Adam = torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam


@dataclass(frozen=True, eq=False)
class Regime(SmallTask):
    """A small task whose pruning is trained in a way of its own; what comes before it, as all others are."""

    trains: Callable[[Any], Optimizer] = partial(SGD, lr=0.05, momentum=0.9)
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


def _convolutions(classes: int = 10, widths: tuple[int, ...] = (16, 32, 32)) -> Callable[[], nn.Module]:
    return partial(nets.convolutions, 1, widths, classes)


def _flat(noisy: float = 0.0) -> data.Data:
    x, y, test, wanted = data.digits(True)
    return x, paces.wrong(y, noisy, 10), test, wanted


_READER = partial(nets.Reader, 50, 17, 24, 2, 6)
_PLAIN = partial(nets.sequence, 4, 24, 3, 16, False)
_digits, _waves, _figures = data.digits, partial(data.gratings, 4000, 1.0), partial(data.shapes, 4000, 0.1)
_tones, _tokens = partial(data.keywords, 6000, 0.4), partial(data.pointers, 8000)
_curves = partial(data.curves, 6000)
_perceptron = partial(nets.perceptron, (64, 64, 64, 10))
_decayed = {"momentum": 0.9, "weight_decay": 5e-4}

CHOOSING = {
    "constant": Regime(
        "digits, convolutions, SGD at one rate", _convolutions(), _digits, (0.95,), steps=300,
        trains=partial(SGD, lr=0.03, **_decayed),
    ),
    "untold-adam": Regime(
        "sequences, Adam at one rate, not made known", _PLAIN, _tones, (0.9,), steps=400,
        trains=partial(Adam, lr=3e-3), told=False,
    ),
    "lion": Regime(
        "regression, Lion", partial(nets.perceptron, (16, 64, 64, 1)), _curves, (0.9,), steps=500, kind="values",
        trains=partial(Lion, lr=1e-3), pace=paces.cosine,
    ),
    "bare-sgd": Regime(
        "waves, SGD without momentum", _convolutions(20), _waves, (0.9,), steps=300, trains=partial(SGD, lr=0.2),
    ),
    "barely-adamw": Regime(
        "tokens, transformer, fine-tuned by AdamW at 1e-5", _READER, _tokens, (0.7, 0.9), rate=3e-3, adamw=True, trained=500,
        steps=200, trains=partial(AdamW, lr=1e-5),
    ),
    "barely-sgd": Regime(
        "waves, fine-tuned by SGD at 1e-4", _convolutions(20), _waves, (0.7, 0.9), trained=300, steps=200,
        trains=partial(SGD, lr=1e-4, **_decayed),
    ),
    "fours": Regime(
        "digits, batches of 4", _perceptron, _flat, (0.95,), batch=4, steps=1200, trains=partial(SGD, lr=0.005, momentum=0.9),
    ),
    "sixty": Regime(
        "figures, residual, fine-tuned in 60 steps", partial(nets.Residual, 1, (12, 24, 32), 8), _figures, (0.9,), trained=250,
        steps=60, trains=partial(SGD, lr=0.02, **_decayed), pace=paces.cosine,
    ),
    "wrong-labels": Regime(
        "digits, three in ten labels wrong, steps of the rate", _perceptron, partial(_flat, 0.3), (0.95,), steps=600,
        trains=partial(SGD, lr=0.05, **_decayed), pace=paces.steps,
    ),
    "head-alone": Regime(
        "digits, only the head learns", _convolutions(), _digits, (0.7, 0.9), trained=300, steps=200,
        trains=partial(SGD, lr=0.03, momentum=0.9), groups=paces.head,
    ),
    "decayed": Regime(
        "digits, weight decay of 5e-3", _convolutions(), _digits, (0.95,), steps=300,
        trains=partial(SGD, lr=0.05, momentum=0.9, weight_decay=5e-3), pace=paces.cosine,
    ),
    "two-of-four": Regime(
        "sequences, 2:4, AdamW with warm-up", _PLAIN, _tones, (0.5,), steps=400, trains=partial(AdamW, lr=5e-3),
        pace=paces.warmed, options={"pattern": "2:4"},
    ),
    "signs": Regime(
        "digits, binary weights, Adam", partial(paces.binary, (64, 96, 96, 10)), _flat, (0.7,), steps=500,
        trains=partial(Adam, lr=3e-3), pace=paces.cosine,
    ),
}
JUDGING = {
    "stairs": Regime(
        "figures, residual, Nesterov, steps of the rate", partial(nets.Residual, 1, (12, 24, 32), 8), _figures, (0.95,),
        steps=300, trains=partial(SGD, lr=0.05, nesterov=True, **_decayed), pace=paces.steps,
    ),
    "restarts": Regime(
        "waves, warm restarts of the rate", _convolutions(20), _waves, (0.95,), steps=300,
        trains=partial(SGD, lr=0.1, **_decayed), pace=paces.restarts,
    ),
    "rmsprop": Regime(
        "regression, RMSprop", partial(nets.perceptron, (16, 64, 64, 1)), _curves, (0.95,), steps=500, kind="values",
        trains=partial(torch.optim.RMSprop, lr=2e-3), pace=paces.cosine,
    ),
    "adafactor": Regime(
        "tokens, fresh transformer, Adafactor with warm-up", _READER, _tokens, (0.9,), steps=500,
        trains=partial(torch.optim.Adafactor, lr=2e-2), pace=paces.warmed,
    ),
    "lion-digits": Regime(
        "digits, convolutions, Lion", _convolutions(), _digits, (0.95,), steps=300, trains=partial(Lion, lr=1e-3),
        pace=paces.cosine,
    ),
    "untold-adamw": Regime(
        "tokens, fresh transformer, AdamW with warm-up, not made known", _READER, _tokens, (0.9,), steps=500,
        trains=partial(AdamW, lr=3e-3), pace=paces.warmed, told=False,
    ),
    "barely-adamw-tones": Regime(
        "sequences, fine-tuned by AdamW at 1e-5", _PLAIN, _tones, (0.7, 0.9), rate=5e-3, adamw=True, trained=400, steps=200,
        trains=partial(AdamW, lr=1e-5),
    ),
    "barely-sgd-digits": Regime(
        "digits, perceptron, fine-tuned by SGD at 1e-4", _perceptron, _flat, (0.8, 0.95), rate=0.05, trained=500, steps=200,
        trains=partial(SGD, lr=1e-4, momentum=0.9),
    ),
    "whole": Regime(
        "digits, all data in every batch", _perceptron, _flat, (0.95,), batch=1200, steps=200, trains=partial(SGD, lr=0.1, momentum=0.9),
    ),
    "sixty-fresh": Regime(
        "digits, from fresh weights in 60 steps", _convolutions(), _digits, (0.8,), steps=60,
        trains=partial(SGD, lr=0.05, momentum=0.9), pace=paces.cosine,
    ),
    "rare-classes": Regime(
        "digits, two classes in three rare", _convolutions(), paces.unlike, (0.95,), steps=300,
        trains=partial(SGD, lr=0.05, **_decayed), pace=paces.cosine,
    ),
    "mixed": Regime(
        "waves, mixup and soft labels", _convolutions(20), _waves, (0.95,), steps=300, trains=partial(SGD, lr=0.1, **_decayed),
        pace=paces.cosine, objective=paces.mixed,
    ),
    "by-depth": Regime(
        "figures, fine-tuned, rates by depth", partial(nets.Residual, 1, (12, 24, 32), 8), _figures, (0.9,), trained=250, steps=200,
        trains=partial(SGD, lr=0.02, **_decayed), groups=paces.by_depth,
    ),
    "undecayed": Regime(
        "digits, 98 %, no decay, 1,200 steps", _convolutions(), _digits, (0.98,), steps=1200, trains=partial(SGD, lr=0.05, momentum=0.9),
        pace=paces.cosine,
    ),
    "one-of-four": Regime(
        "waves, 1:4, fine-tuned at one rate", partial(nets.convolutions, 1, (16, 32, 32), 20), _waves, (0.75,), trained=300, steps=200,
        trains=partial(SGD, lr=0.02, **_decayed), options={"pattern": "1:4"},
    ),
    "blocks": Regime(
        "tokens, blocks of 4x1, fine-tuned by AdamW", _READER, _tokens, (0.8,), rate=3e-3, adamw=True, trained=500, steps=300,
        trains=partial(AdamW, lr=1e-3), pace=paces.cosine, options={"pattern": "block:4x1"},
    ),
    "contrast": Regime(
        "digits, contrastive", partial(nets.perceptron, (64, 96, 64, 16)), _flat, (0.95,), batch=128, steps=400,
        trains=partial(Adam, lr=3e-3), objective=paces.contrast, judged_by=paces.nearest,
    ),
    "four-bits": Regime(
        "waves, weights of 4 bits in training, AdamW", partial(paces.rounded, 20), _waves, (0.9,), steps=300,
        trains=partial(AdamW, lr=5e-3), pace=paces.cosine,
    ),
    "rewards": Regime(
        "digits, policy gradient", _perceptron, _flat, (0.9,), batch=64, steps=800, trains=partial(Adam, lr=2e-3),
        objective=paces.rewards,
    ),
    "by-heart": Regime(
        "digits, trained ten times as long as needed", _perceptron, _flat, (0.95,), rate=0.1, trained=3000, steps=300,
        trains=partial(SGD, lr=0.02, momentum=0.9),
    ),
    "half": Regime(
        "sequences, bfloat16 by autocast, AdamW, four parts a batch", _PLAIN, _tones, (0.9,), steps=300, batch=64, every=4,
        trains=partial(AdamW, lr=5e-3), pace=paces.cosine, half=True,
    ),
    "head-alone-tones": Regime(
        "sequences, only the head learns, AdamW", _PLAIN, _tones, (0.8,), rate=5e-3, adamw=True, trained=400, steps=200,
        trains=partial(AdamW, lr=1e-3), groups=paces.head,
    ),
    "lean": Regime(
        "real digits through a waist, Adam at one rate", partial(modern.autoencoder, 64, (96, 48, 8)), data.copies, (0.8,), steps=500,
        kind="values", trains=partial(Adam, lr=2e-3),
    ),
}
REGIMES = CHOOSING | JUDGING
