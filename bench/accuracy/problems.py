"""What is pruned: nets and tasks small enough that a run takes a quarter of a minute on one core.

A problem called `…-few` has a quarter of the training data and goes through it four times as often: the net then
learns its images by heart, zeros do it good, and methods hardly differ. ImageNet is not like that, nor are the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.flow import Model, Recipe
from idp_deploy.pruning import prune
from idp_deploy.tasks import Task
from sample_models import bert, characters, entailment, mobilenet_v1, resnet18
from sample_models.characters import Characters

# six depthwise-separable blocks: (output channels at width 1.0, stride)
SIX_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1))


@dataclass(frozen=True, eq=False)
class Problem:
    """One net and task. With `trained` the dense net has had that many epochs before pruning starts.

    `tuned_on` is the problem whose tuning runs choose the settings; without one every method runs as it is shipped.
    """

    net: Callable[[], nn.Module]
    task: Callable[[], Task]
    sparsities: tuple[float, ...]
    epochs: int
    learning_rate: float
    trained: int = 0
    tuned_on: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    pattern: str = "unstructured"
    skip: tuple[str, ...] = ()

    def start(self, seed: int) -> Model:
        """The net that every method begins with at `seed`; the same for all of them."""
        return deepcopy(_start(self, seed))


class Noisy(Characters):
    """Light characters on dark ground under heavy noise, batches in channels-last order, which a CPU trains faster."""

    def train_loader(self, seed: int) -> DataLoader[Any]:
        """Training images shuffled by `seed`; the incomplete last batch is dropped."""
        generator = torch.Generator().manual_seed(seed)
        return _loader(self.train, self.batch_size, shuffle=True, drop_last=True, generator=generator)

    def validation_loader(self) -> DataLoader[Any]:
        """Images that training never sees."""
        return _loader(self.validation, 500)


@lru_cache
def noisy(samples: int = 24000, held_out: int = 8000) -> Noisy:
    """Images of 20×20: a dense net gets about six in ten right."""
    return Noisy(samples, held_out, noise=0.4, distractors=2, size=20, colours=False)


@lru_cache
def pairs(samples: int = 48000, held_out: int = 8000) -> Task:
    """Pairs of sentences."""
    return entailment.task(samples=samples, validation=held_out, batch_size=128)


def six_blocks(width: float = 0.5) -> nn.Module:
    """A MobileNet-v1 of six blocks; at width 0.5 it has 58,564 parameters."""
    return mobilenet_v1.build(width=width, classes=len(characters.ALPHABET), blocks=SIX_BLOCKS)


def thin_resnet(width: float = 0.0625) -> nn.Module:
    """A ResNet-18; at width 1/16 it has 47,676 parameters, at 1/8 178,092."""
    return resnet18.build(width=width, classes=len(characters.ALPHABET))


def small_bert() -> nn.Module:
    """A BERT of two layers, width 16: 9,507 parameters."""
    return bert.build(width=16)


MOBILENET = Problem(six_blocks, noisy, (0.95, 0.866), 5, 0.2, tuned_on="mobilenet")
TRAINED = replace(MOBILENET, epochs=2, learning_rate=0.1, trained=5, tuned_on=None)
RESNET = replace(MOBILENET, net=thin_resnet, sparsities=(0.855,), epochs=3)
# the stem's 27 inputs do not divide by four
TWO_OF_FOUR = replace(MOBILENET, tuned_on=None, sparsities=(0.5,), pattern="2:4", skip=("features.0.*",))
ONE_OF_FOUR = replace(TWO_OF_FOUR, sparsities=(0.75,), pattern="1:4")
BERT = Problem(small_bert, pairs, (0.9,), 2, 1e-3, trained=3, options={"distill": 0.95})

# four times as long: whether a lead is one of speed alone; twice as wide: whether it is one of small nets alone
LONG = replace(MOBILENET, epochs=20)
WIDE = replace(MOBILENET, net=partial(six_blocks, 1.0))
FEW = {"task": partial(noisy, 6000, 2000), "epochs": 20}
PROBLEMS = {
    "mobilenet": MOBILENET,
    "mobilenet-trained": TRAINED,
    "resnet": RESNET,
    "bert": BERT,
    "mobilenet-2of4": TWO_OF_FOUR,
    "mobilenet-1of4": ONE_OF_FOUR,
    "mobilenet-long": LONG,
    "mobilenet-wide": WIDE,
    "mobilenet-few": replace(MOBILENET, **FEW, tuned_on="mobilenet-few"),
    "mobilenet-trained-few": replace(TRAINED, **FEW | {"epochs": 8}, trained=20),
    "resnet-few": replace(RESNET, **FEW | {"epochs": 12}, net=partial(thin_resnet, 0.125), tuned_on="mobilenet-few"),
    "bert-few": replace(BERT, task=partial(pairs, 12000, 2000), epochs=8, trained=6),
    "mobilenet-2of4-few": replace(TWO_OF_FOUR, **FEW),
    "mobilenet-1of4-few": replace(ONE_OF_FOUR, **FEW),
}


@lru_cache(maxsize=4)
def _start(problem: Problem, seed: int) -> Model:
    torch.manual_seed(1000 + seed)
    model = Model(problem.net())
    if not problem.trained:
        return model
    # twice the pruning rate, as a first training has it
    rate = {"learning_rate": 2 * problem.learning_rate} if problem.learning_rate > 0.01 else {}
    trained = prune(model, problem.task(), Recipe(sparsity=0.0, epochs=problem.trained, seed=seed, options=rate))
    return Model(trained.module)


def _loader(data: TensorDataset, batch_size: int, **settings: Any) -> DataLoader[Any]:
    """Batches picked out of whole tensors, which is faster than image by image."""
    images, labels = data.tensors

    def pick(rows: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(rows)
        return images[chosen].contiguous(memory_format=torch.channels_last), labels[chosen]

    return DataLoader(range(len(labels)), batch_size, collate_fn=pick, **settings)  # type: ignore[arg-type]
