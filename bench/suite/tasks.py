"""The small tasks, once and for all split: defaults are chosen on the tuning tasks, and only the others judge them."""

from __future__ import annotations

from functools import partial

from bench.suite import data, nets
from bench.suite.foreign import FOREIGN
from bench.suite.judging import JUDGING
from bench.suite.regimes import CHOOSING
from bench.suite.small import SmallTask
from bench.suite.tuning import TUNING
from bench.suite.unseen import UNSEEN

__all__ = ["CHOOSING", "FOREIGN", "JUDGING", "RECURRENT", "STUDIED", "TASKS", "TUNING", "UNSEEN", "SmallTask"]

# where shipped IDP was held against plain IDP, one difference at a time; twenty epochs, 38,720 weights
STUDIED = {
    "six-blocks": SmallTask(
        "turned capitals under noise, stem and five separable blocks, depthwise pruned, SGD",
        nets.six_blocks,
        partial(data.turned, 12000, 0.95),
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
TASKS = TUNING | JUDGING | STUDIED | RECURRENT | UNSEEN | CHOOSING | FOREIGN
