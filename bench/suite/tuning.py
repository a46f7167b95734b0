"""Small tasks on which defaults are chosen."""

from __future__ import annotations

from functools import partial

from bench.suite import data, nets
from bench.suite.small import SmallTask

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
    "digits-narrow": SmallTask(
        "real digits (1,200), narrow perceptron without norm, SGD",
        partial(nets.perceptron, (64, 48, 32, 10)),
        partial(data.digits, True),
        (0.95, 0.97),
        rate=0.05,
        steps=500,
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
