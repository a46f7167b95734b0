"""Networks on tokens, patches, sound and tables in miniature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class FusedAttention(nn.Module):
    """One projection for q, k and v, scaled_dot_product_attention, optionally causal."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.causal = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            heads,
            causal,
        )

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class PreNorm(nn.Module):
    """x + layer(norm(x))."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(width), layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.norm(x))


class ViT(nn.Module):
    """Patches by convolution, a class token, learned positions, pre-norm blocks with fused attention."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        blocks = [PreNorm(width, layer) for layer in (FusedAttention(width, 4), Mlp(width, 64)) for _ in range(1)]
        self.blocks, self.norm, self.out = nn.Sequential(*blocks), nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.out(self.norm(self.blocks(x))[:, 0])


class Mixer(nn.Module):
    """MLP-Mixer: one perceptron across patches, one across channels."""

    def __init__(self, patches: int = 16, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.norm1, self.tokens = nn.LayerNorm(width), Mlp(patches, 32)
        self.channels, self.out = PreNorm(width, Mlp(width, 64)), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return self.out(self.channels(x).mean(1))


class TorchAttention(nn.Module):
    """nn.MultiheadAttention with a residual and layer norm; its projections are no linear layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(width, 4, batch_first=True), nn.LayerNorm(width)
        self.out = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.out(self.norm(x + mixed))


class TransformerLayer(nn.Module):
    """nn.TransformerEncoderLayer, which has a fused fast path in eval mode."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.out = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)).mean(1)


class TiedLanguageModel(nn.Module):
    """Output layer tied to the embedding table, causal attention; the table is not prunable."""

    def __init__(self, words: int = 60, width: int = 32) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(words, width), nn.Linear(width, words, bias=False)
        self.out.weight = self.table.weight
        self.blocks = nn.Sequential(
            PreNorm(width, FusedAttention(width, 4, causal=True)), PreNorm(width, Mlp(width, 64))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.blocks(self.table(tokens)))


class KeywordSpotter(nn.Module):
    """1-D convolutions with stride and dilation over a spectrogram, batch norm, average over time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(40, 32, 5, 2, 2, bias=False), nn.BatchNorm1d(32), nn.ReLU(),
            nn.Conv1d(32, 32, 9, padding=4, groups=32, bias=False), nn.BatchNorm1d(32), nn.ReLU(),
            nn.Conv1d(32, 48, 3, padding=2, dilation=2), nn.ReLU(),
        )  # fmt: skip
        self.out = nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x).mean(2))


class Recurrent(nn.Module):
    """A GRU or LSTM on a sequence; the last hidden vector is classified."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM], bidirectional: bool = False) -> None:
        super().__init__()
        self.recurrent = kind(12, 24, batch_first=True, bidirectional=bidirectional)
        self.out = nn.Linear(48 if bidirectional else 24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.recurrent(x)[0][:, -1])


class TwoInputs(nn.Module):
    """An image and a row of numbers; returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.row = nn.Sequential(nn.Linear(10, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
        self.out, self.value = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, image: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([self.image(image).mean((2, 3)), self.row(row)], 1)
        return self.out(both).log_softmax(-1), self.value(both)


class SharedLayer(nn.Module):
    """One linear layer used three times, a buffer, and arithmetic with scalars."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.out = nn.Linear(20, 32), nn.Linear(32, 32), nn.Linear(32, 8)
        self.register_buffer("mean", torch.linspace(-1, 1, 20))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.first((x - self.mean) / 1.5))
        for _ in range(3):
            x = x + 0.5 * torch.tanh(self.shared(x))
        return F.softplus(self.out(x.clamp(-3, 3)))
