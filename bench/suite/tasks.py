"""The small tasks, once and for all split: defaults are chosen on the tuning tasks, and only the others judge them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.suite import data, nets

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

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum, or AdamW."""
        if self.adamw:
            return torch.optim.AdamW(model.parameters(), self.rate, weight_decay=0.01)
        return torch.optim.SGD(model.parameters(), self.rate, momentum=0.9, weight_decay=5e-4)

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


SMALL, WIDE = ((12, 16, 24, 32, 48), (2, 1, 2, 1)), ((12, 24, 32, 48, 64), (2, 1, 1, 1))
TUNING = {
    "glyphs-separable": SmallTask(
        "grey characters, separable net, depthwise pruned, SGD",
        partial(nets.separable, 1, *SMALL, 36),
        partial(data.characters, 8000, 0.2),
        (0.8, 0.9),
        steps=500,
        depthwise=True,
    ),
    "glyphs-trained": SmallTask(
        "coloured characters, residual net, fine-tuned, SGD",
        partial(nets.Residual, 3, (12, 24, 32), 36),
        partial(data.coloured, 6000, 0.05),
        (0.9,),
        rate=0.05,
        steps=300,
        trained=500,
    ),
    "digits-convolutions": SmallTask(
        "real digits (1,200), plain convolutions, SGD",
        partial(nets.convolutions, 1, (16, 32, 32), 10),
        data.digits,
        (0.95,),
        steps=500,
    ),
    "keywords-separable": SmallTask(
        "sequences, separable conv1d, depthwise pruned, AdamW",
        partial(nets.sequence, 4, 24, 3, 16, True),
        partial(data.keywords, 6000, 0.7),
        (0.8, 0.9),
        rate=5e-3,
        adamw=True,
        depthwise=True,
    ),
    "pointers-trained": SmallTask(
        "token sequences, transformer, fine-tuned, AdamW",
        partial(nets.Reader, 50, 17, 24, 2, 6),
        partial(data.pointers, 8000),
        (0.9, 0.95),
        rate=3e-3,
        steps=300,
        adamw=True,
        trained=600,
    ),
    "curves-perceptron": SmallTask(
        "regression, perceptron without norm, AdamW",
        partial(nets.perceptron, (16, 64, 64, 1)),
        partial(data.curves, 6000),
        (0.95,),
        rate=5e-3,
        steps=600,
        adamw=True,
        kind="values",
    ),
    "keywords-lstm": SmallTask(
        "sequences, an LSTM, AdamW",
        partial(nets.Remembering, 4, 24, 16),
        partial(data.keywords, 6000, 0.7),
        (0.9,),
        rate=5e-3,
        steps=400,
        adamw=True,
    ),
    "keywords-trained": SmallTask(
        "sequences, separable conv1d, fine-tuned, AdamW",
        partial(nets.sequence, 4, 24, 3, 16, True),
        partial(data.keywords, 6000, 0.7),
        (0.9,),
        rate=3e-3,
        steps=300,
        adamw=True,
        trained=500,
    ),
    "keywords-plain": SmallTask(
        "sequences, separable conv1d, depthwise pruned, fine-tuned, SGD",
        partial(nets.sequence, 4, 20, 2, 16, True),
        partial(data.keywords, 6000, 0.7),
        (0.9,),
        rate=0.05,
        steps=300,
        trained=400,
        depthwise=True,
    ),
    "pointers-small": SmallTask(
        "token sequences, small transformer from fresh weights, AdamW",
        partial(nets.Reader, 50, 17, 16, 2, 6),
        partial(data.pointers, 8000),
        (0.9,),
        rate=3e-3,
        steps=600,
        adamw=True,
    ),
    "curves-tuned": SmallTask(
        "regression, perceptron with layer norm, fine-tuned, AdamW",
        partial(nets.perceptron, (16, 64, 64, 1), True),
        partial(data.curves, 6000),
        (0.95,),
        rate=3e-3,
        steps=300,
        adamw=True,
        trained=500,
        kind="values",
    ),
}
JUDGING = {
    "glyphs-wide": SmallTask(
        "grey characters, wider separable net, depthwise pruned, SGD",
        partial(nets.separable, 1, *WIDE, 36),
        partial(data.characters, 8000, 0.25),
        (0.8, 0.9),
        steps=500,
        depthwise=True,
    ),
    "glyphs-convolutions": SmallTask(
        "grey characters, plain convolutions, SGD",
        partial(nets.convolutions, 1, (24, 32, 48), 36),
        partial(data.characters, 8000, 0.2),
        (0.9, 0.95),
        steps=500,
    ),
    "colour-trained": SmallTask(
        "coloured characters, separable net, fine-tuned, SGD",
        partial(nets.separable, 3, *SMALL, 36),
        partial(data.coloured, 6000, 0.05),
        (0.8, 0.9),
        rate=0.05,
        steps=300,
        trained=600,
    ),
    "glyphs-few": SmallTask(
        "1,500 grey characters, residual net, SGD",
        partial(nets.Residual, 1, (12, 24, 32), 36),
        partial(data.characters, 1500, 0.1),
        (0.9,),
    ),
    "digits-separable": SmallTask(
        "real digits (1,200), separable net, depthwise pruned, AdamW",
        partial(nets.separable, 1, (16, 24, 32), (1, 2), 10, 1),
        data.digits,
        (0.9,),
        rate=5e-3,
        adamw=True,
        depthwise=True,
        steps=300,
    ),
    "digits-perceptron": SmallTask(
        "real digits (1,200), perceptron without norm, SGD",
        partial(nets.perceptron, (64, 64, 64, 10)),
        partial(data.digits, True),
        (0.95, 0.98),
        rate=0.05,
        steps=600,
    ),
    "keywords-dense": SmallTask(
        "sequences, plain conv1d, AdamW",
        partial(nets.sequence, 4, 24, 3, 16, False),
        partial(data.keywords, 6000, 0.7),
        (0.9,),
        rate=5e-3,
        adamw=True,
    ),
    "keywords-recurrent": SmallTask(
        "sequences, conv1d and a GRU, AdamW",
        partial(nets.Listener, 4, 32, 16),
        partial(data.keywords, 6000, 0.7),
        (0.95,),
        rate=5e-3,
        steps=400,
        adamw=True,
    ),
    "pointers-fresh": SmallTask(
        "token sequences, transformer from fresh weights, AdamW",
        partial(nets.Reader, 50, 17, 32, 2, 6),
        partial(data.pointers, 8000),
        (0.8, 0.95),
        rate=3e-3,
        steps=800,
        adamw=True,
    ),
    "outlines": SmallTask(
        "segmentation, transposed convolutions, AdamW",
        partial(nets.Hourglass, 12),
        partial(data.outlines, 3000, 2.0),
        (0.9,),
        rate=5e-3,
        steps=300,
        adamw=True,
        kind="pixels",
    ),
    "curves-normed": SmallTask(
        "regression, perceptron with layer norm, SGD",
        partial(nets.perceptron, (16, 64, 64, 1), True),
        partial(data.curves, 6000),
        (0.95,),
        rate=0.05,
        steps=600,
        kind="values",
    ),
    "curves-trained": SmallTask(
        "regression, perceptron without norm, fine-tuned, AdamW",
        partial(nets.perceptron, (16, 96, 48, 1)),
        partial(data.curves, 4000),
        (0.98,),
        rate=5e-3,
        steps=300,
        adamw=True,
        trained=500,
        kind="values",
    ),
    # the following were written before a rule by situation was chosen, and looked at only once it was
    "colour-adaptive": SmallTask(
        "coloured characters, residual net, AdamW",
        partial(nets.Residual, 3, (12, 24, 32), 36),
        partial(data.coloured, 6000, 0.05),
        (0.9,),
        rate=5e-3,
        steps=400,
        adamw=True,
    ),
    "keywords-heard": SmallTask(
        "sequences, conv1d and a GRU, fine-tuned, AdamW",
        partial(nets.Listener, 4, 24, 16),
        partial(data.keywords, 6000, 0.7),
        (0.9,),
        rate=3e-3,
        steps=300,
        adamw=True,
        trained=500,
    ),
    "pointers-tuned": SmallTask(
        "token sequences, transformer, fine-tuned, AdamW",
        partial(nets.Reader, 50, 17, 32, 1, 6),
        partial(data.pointers, 6000),
        (0.9,),
        rate=2e-3,
        steps=300,
        adamw=True,
        trained=600,
    ),
    "digits-normed": SmallTask(
        "real digits (1,200), perceptron with layer norm, AdamW",
        partial(nets.perceptron, (64, 48, 48, 10), True),
        partial(data.digits, True),
        (0.95,),
        rate=3e-3,
        steps=400,
        adamw=True,
    ),
    "outlines-plain": SmallTask(
        "segmentation, transposed convolutions, SGD",
        partial(nets.Hourglass, 8),
        partial(data.outlines, 3000, 1.5),
        (0.9,),
        steps=300,
        kind="pixels",
    ),
    "digits-tuned": SmallTask(
        "real digits (1,200), separable net, depthwise pruned, fine-tuned, SGD",
        partial(nets.separable, 1, (12, 24, 32), (1, 2), 10, 1),
        data.digits,
        (0.9,),
        rate=0.05,
        steps=300,
        trained=300,
        depthwise=True,
    ),
}
# where shipped IDP was held against plain IDP, one difference at a time; twenty epochs, 38,720 weights
STUDIED = {
    "six-blocks": SmallTask(
        "grey characters, stem and five separable blocks, depthwise pruned, SGD",
        partial(nets.separable, 1, (16, 32, 64, 64, 128, 128), (1, 2, 1, 2, 1), 36),
        partial(data.characters, 12000, 0.5),
        (0.95,),
        steps=1860,
        batch=128,
        depthwise=True,
    )
}
# recurrent layers and nothing before them: every weight but the last layer's is used once a step
RECURRENT = {
    f"spoken-{kind.lower()}": SmallTask(
        f"sequences, two layers of {kind} on the frames, AdamW",
        partial(nets.Spoken, kind, 4, 32, 2, 16),
        partial(data.keywords, 6000, 0.5),
        (0.8, 0.9),
        rate=1e-2,
        adamw=True,
    )
    for kind in ("GRU", "LSTM")
}
TASKS = TUNING | JUDGING | STUDIED | RECURRENT
