"""What the regimes are made of: rates over a run, losses, groups of parameters, and nets whose weights are rounded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.suite import data


def constant(done: float) -> float:
    """One rate throughout."""
    return 1.0


def cosine(done: float) -> float:
    """Half a cosine to zero."""
    return 0.5 * (1 + math.cos(math.pi * done))


def warmed(done: float) -> float:
    """Up in a tenth of the steps, then straight to zero."""
    return min(10 * done + 0.01, (1 - done) / 0.9)


def steps(done: float) -> float:
    """A tenth after half of the steps, a hundredth after three quarters."""
    return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01


def restarts(done: float) -> float:
    """Three half cosines, one after the other."""
    return cosine(3 * done % 1)


class Lion(torch.optim.Optimizer):
    """The sign of a mean of gradients. Source: Chen et al. 2023, arXiv 2302.06675."""

    def __init__(self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            near, far = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                mean = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_((mean * near + p.grad * (1 - near)).sign_(), alpha=-group["lr"])
                mean.lerp_(p.grad, 1 - far)


def head(model: nn.Module) -> Iterable[nn.Parameter]:
    """The parameters of the last layer; all others are frozen."""
    layers = [one for one in model.modules() if isinstance(one, nn.Linear)]
    model.requires_grad_(False)
    layers[-1].requires_grad_(True)
    return layers[-1].parameters()


def by_depth(model: nn.Module) -> Iterable[dict[str, Any]]:
    """The first parameters learn at a hundredth of the last ones' rate."""
    found = list(model.parameters())
    return [{"params": [p], "lr": 0.02 * 0.01 ** (1 - place / (len(found) - 1))} for place, p in enumerate(found)]


def wrong(labels: Tensor, share: float, classes: int) -> Tensor:
    """A share of the labels drawn anew."""
    generator = torch.Generator().manual_seed(11)
    drawn = torch.randint(classes, labels.shape, generator=generator)
    return torch.where(torch.rand(labels.shape, generator=generator) < share, drawn, labels)


def unlike() -> data.Data:
    """Real digits of which two classes in three keep a tenth of their images."""
    x, y, test, wanted = data.digits()
    kept = (y % 3 == 0) | (torch.rand(y.shape, generator=torch.Generator().manual_seed(12)) < 0.1)
    return x[kept], y[kept], test, wanted


def mixed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Two images in one, by the share of either, with a tenth of the labels spread over all classes."""
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    other = torch.randperm(len(y))
    outputs = model(share * x + (1 - share) * x[other])
    both = [F.cross_entropy(outputs, wanted, label_smoothing=0.1) for wanted in (y, y[other])]
    return share * both[0] + (1 - share) * both[1]


def contrast(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Images of one class together, all others apart. Source: Khosla et al. 2020, arXiv 2004.11362."""
    z = F.normalize(model(x), dim=1)
    near = (z @ z.T / 0.2).masked_fill(torch.eye(len(y), dtype=torch.bool), -1e9)
    alike = (y[:, None] == y) & ~torch.eye(len(y), dtype=torch.bool)
    chances = F.log_softmax(near, 1)
    return -((chances * alike).sum(1) / alike.sum(1).clamp_min(1)).mean()


def nearest(outputs: Tensor, wanted: Tensor) -> float:
    """Share of the points whose nearest other one is of their class."""
    z = F.normalize(outputs, dim=1)
    near = (z @ z.T).fill_diagonal_(-2).argmax(1)
    return float((wanted[near] == wanted).float().mean())


def rewards(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A drawn class and one point where it is right. Source: Williams 1992, REINFORCE, with the mean as baseline."""
    policy = torch.distributions.Categorical(logits=model(x))
    drawn = policy.sample()
    gain = (drawn == y).float()
    return -((gain - gain.mean()) * policy.log_prob(drawn)).mean() - 0.01 * policy.entropy().mean()


class _Sign(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        hard = weight.sign() * weight.detach().abs().mean()
        return weight + (hard - weight).detach()


class _Round(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().flatten(1).abs().amax(1).div(7).clamp_min(1e-8).reshape(-1, *[1] * (weight.dim() - 1))
        return weight + ((weight / scale).round() * scale - weight).detach()


class Signed(nn.Linear):
    """A linear layer that computes with the signs of its weights; zero stays zero."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, _Sign()(self.weight), self.bias)


class Rounded(nn.Conv2d):
    """A convolution that computes with weights of four bits."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, _Round()(self.weight), self.bias)


def binary(widths: tuple[int, ...]) -> nn.Module:
    """A perceptron of signs with batch norms."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [Signed(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def rounded(classes: int) -> nn.Module:
    """Convolutions of four bits with batch norms."""
    layers: list[nn.Module] = []
    for before, after in pairwise((1, 16, 32, 32)):
        layers += [Rounded(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))
