"""A BERT-like encoder (Devlin et al. 2018, arXiv 1810.04805) of any size, written so that every format can hold it."""

from __future__ import annotations

import math

from torch import Tensor, nn

MASKED_OUT = -1e4  # added to the scores of padding: exp of it is 0, and float16 can hold it


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q·kᵀ/√d + bias)·v, out of plain matrix products.

    Shapes: x (N, L, width), bias (N, 1, 1, L) → (N, L, width).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attend within each sequence; `bias` is 0 where a position may be seen."""
        length = x.shape[1]
        query, key, value = (
            layer(x).reshape(-1, length, self.heads, self.head_width).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * (1 / math.sqrt(self.head_width)) + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2)
        out: Tensor = self.output(mixed.reshape(-1, length, self.heads * self.head_width))
        return out


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each followed by a residual sum and layer norm, as in the paper."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.down = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(N, L, width) → (N, L, width)."""
        x = self.attention_norm(x + self.dropout(self.attention(x, bias)))
        out: Tensor = self.norm(x + self.dropout(self.down(self.gelu(self.up(x)))))
        return out


class Bert(nn.Module):
    """Embeddings, encoder layers, a pooled classifier on the first position.

    Inputs, all integers of shape (N, L): `tokens`, `segments` (0 or 1: which sentence) and `attention` (1 = a token,
    0 = padding). Output: logits (N, classes).
    """

    def __init__(
        self,
        vocabulary: int = 128,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        length: int = 32,
        classes: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, 4 * width, dropout) for _ in range(layers))
        self.pooler = nn.Linear(width, width)
        self.tanh = nn.Tanh()
        self.classifier = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, segments: Tensor, attention: Tensor) -> Tensor:
        """(N, L) three times → (N, classes)."""
        x = self.tokens(tokens) + self.segments(segments) + self.positions.weight[: tokens.shape[1]]
        x = self.dropout(self.norm(x))
        bias = (1.0 - attention.to(x.dtype))[:, None, None, :] * MASKED_OUT
        for layer in self.layers:
            x = layer(x, bias)
        logits: Tensor = self.classifier(self.tanh(self.pooler(x[:, 0])))
        return logits


def build(
    vocabulary: int = 128,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    length: int = 32,
    classes: int = 3,
    dropout: float = 0.0,
) -> Bert:
    """An encoder with fresh weights; its random state is torch's. The defaults fit `sample_models.entailment`.

    Args:
        vocabulary: rows of the token embedding.
        width: of every hidden vector; a multiple of `heads`. The perceptron is four times as wide.
        length: the longest sequence.

    >>> import torch
    >>> with torch.device("meta"):
    ...     base = build(vocabulary=30522, width=768, layers=12, heads=12, length=512)
    >>> sum(p.numel() for p in base.parameters())  # BERT-base with a classifier of three classes
    109484547
    """
    return Bert(vocabulary, width, layers, heads, length, classes, dropout)
