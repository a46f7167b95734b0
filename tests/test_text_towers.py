"""Encoders of text as packages build them: masks of padding, means of words, the place of the largest token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.verification import verify
from tests.formats_here import HERE


class Layer(nn.Module):
    """Attention of four heads between tokens, with numbers that are added to its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward, self.norm = nn.Linear(32, 96), nn.Linear(32, 32), nn.LayerNorm(32)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        parts = (part.view(*part.shape[:2], 4, 8).transpose(1, 2) for part in self.inward(x).chunk(3, -1))
        met = F.scaled_dot_product_attention(*parts, attn_mask=mask)
        return self.norm(x + self.outward(met.transpose(1, 2).reshape(*x.shape[:2], -1)))


class Sentence(nn.Module):
    """One direction for each sentence: the mean of the words that are no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layers = nn.Embedding(60, 32), nn.ModuleList(Layer() for _ in range(2))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.table(tokens)
        for layer in self.layers:
            x = layer(x, (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min)
        share = mask.unsqueeze(-1).expand(x.shape).float()
        return F.normalize((x * share).sum(1) / share.sum(1).clamp(min=1e-9), dim=1)


class Tower(nn.Module):
    """What stands at the largest token, which ends a sentence; and other places among whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer, self.out = nn.Embedding(60, 32), nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        x = self.layer(self.table(tokens))
        ends = x[torch.arange(len(x)), tokens.argmax(-1)]
        few = tokens.to(torch.uint8)
        others = tokens.argmin(1, keepdim=True), tokens.argmax(), few.argmax(1)
        return self.out(ends), *others, *tokens.max(1), *tokens.min(1, keepdim=True), *few.max(1)


class Streams(nn.Module):
    """Several streams beside each other, which a vector and a matrix weigh, as hyper-connections do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.share = nn.Linear(16, 32), nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        streams = self.layer(x).unsqueeze(2) * torch.linspace(0.5, 1, 4).reshape(4, 1)  # (batch, tokens, 4, 32)
        weights = (streams @ self.share).tanh()
        return torch.einsum("...ab,...ac->...bc", weights.unsqueeze(-1), streams) + (
            self.share[:4] @ streams
        ).unsqueeze(2)


@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("kind", [Sentence, Tower, Streams])
def test_the_file_is_right(kind: type[nn.Module], format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens, mask = torch.randint(1, 59, (2, 16)), (torch.arange(16) < torch.tensor([[12], [16]])).long()
    tokens[0, 3] = tokens[0, 7] = 59  # of equals the first
    example = {Sentence: (tokens, mask), Tower: (tokens,), Streams: (torch.randn(2, 5, 16),)}[kind]
    model = one_shot(Model(kind().eval()), Recipe(0.6))
    parity = verify(export(model, format, example, tmp_path / f"m{FORMATS[format].suffix}").path, model, example)
    assert parity.passed, (parity.outputs, parity.notes)
