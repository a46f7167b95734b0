"""Small networks whose channels are coupled in ways of their own, and the weights of each that may lose some."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.recurrent_networks import CASES as RECURRENT


class Flattened(nn.Module):
    """A channel is many inputs of what follows."""

    x = (torch.randn(1, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.up, self.norm, self.head = nn.Linear(24 * 16, 64), nn.BatchNorm1d(64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.b(F.relu(self.a(x)))).flatten(1)
        return self.head(F.relu(self.norm(self.up(y))))


class Gated(nn.Module):
    """The halves of a gate, a shuffle of pixels and a split by numbers: channels that cannot go one by one."""

    x = (torch.randn(1, 3, 12, 12),)

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.halves, self.split = nn.Conv2d(3, 20, 1), nn.Conv2d(20, 16, 1), nn.Conv2d(8, 16, 1)
        self.pixels, self.last = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.halves(F.relu(self.inner(x))).chunk(2, 1)
        r, s = F.relu(self.split(torch.tanh(p) * torch.sigmoid(q))).split((8, 8), 1)
        return self.last(F.relu(F.pixel_shuffle(self.pixels(r + s), 2)))


class Products(nn.Module):
    """Features of two branches multiplied, then flattened: the tracer's own walk goes round for ever."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(3, 10, 3), nn.Linear(120, 6)
        self.up, self.out = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bchw,bdhw->bcd", F.relu(self.a(x)), F.relu(self.b(x)))
        return self.out(F.relu(self.up(self.c(y.flatten(1)))))


class Normed(nn.Module):  # a norm of which several entries serve one channel
    x = (torch.randn(2, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm1d(128), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(F.relu(self.a(x)).flatten(1)))


class Upsampled(nn.Module):  # a transposed convolution of one filter a channel
    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.out = (
            nn.Conv2d(3, 12, 1),
            nn.ConvTranspose2d(12, 12, 2, 2, groups=12),
            nn.Conv2d(12, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.up(F.relu(self.a(x)))))


class Counting(nn.Module):
    """What every call leaves behind: a buffer, numbers, a state that begins the next one, a tensor with graph."""

    x = (torch.randn(1, 5, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.up, self.recurrent = nn.Linear(8, 24), nn.GRU(24, 16, batch_first=True)
        self.wide, self.out = nn.Linear(16, 20), nn.Linear(20, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.seen: list[int] = []
        self.state: Tensor | None = None
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        y, state = self.recurrent(F.relu(self.up(x)), self.state)
        self.state, self.last = state, y
        return self.out(F.relu(self.wide(y)))


class Answering(nn.Module):  # results that are no tensors, no numbers or have no graph
    x = (torch.randn(2, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> dict[str, object]:
        y = self.c(F.relu(self.b(F.relu(self.a(x)))))
        infinite = y.masked_fill(torch.tensor([True, False]), float("-inf"))
        return {"y": y, "none": None, "count": 3, "best": y.argmax(-1), "nan": infinite * 0, "infinite": infinite}


class Tied(nn.Module):
    """One weight in two layers, whose neighbours are not the same."""

    x = (torch.randn(2, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.c.weight, self.out = self.b.weight, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(F.relu(self.first(x))))
        return self.out(F.relu(self.c(F.relu(self.b(y)))))


class Halves(nn.Module):
    """Shuffled halves, of which the tracer cannot count the channels, beside channels that it can."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.c, self.d, self.out = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        for up, down in ((self.a, self.b), (self.c, self.d)):
            p, q = y.chunk(2, 1)
            y = F.channel_shuffle(torch.cat([p, F.relu(down(F.relu(up(q))))], 1), 2)
        return self.out(y.mean((2, 3)))


class Joined(nn.Module):
    """Every layer reads all that came before it, each through norms of its own, as in DenseNet."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(24, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (8, 14, 24))
        self.grown = nn.ModuleList(nn.Conv2d(*widths, 3, padding=1) for widths in ((8, 6), (14, 10)))
        with torch.no_grad():
            for norm in self.norms:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_()
                norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for norm, grow in zip(self.norms, self.grown, strict=False):
            y = torch.cat([y, grow(F.relu(norm(y)))], 1)
        return self.out(F.relu(self.norms[2](y)).mean((2, 3)))


class Filtered(nn.Module):
    """GhostNet: filters of one channel each beside those that they read, and halves of which one opens the other."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.filters = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.b, self.norm, self.out = nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.Linear(12, 3)
        with torch.no_grad():
            self.norm.bias.normal_()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        y, gate = self.norm(self.b(torch.cat([y, F.relu(self.filters(y))], 1))).chunk(2, 1)
        return self.out((F.relu(y) * torch.sigmoid(gate)).mean((2, 3)))


class Parts(nn.Module):
    """YOLO's C2f: a part that three read, next to one that goes past them; then a part nobody reads, and a `glu`."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.parted, self.worked, self.joined = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(24, 18, 1)
        self.norm, self.gate, self.out = nn.BatchNorm2d(16), nn.Linear(12, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = list(F.relu(self.norm(self.parted(x))).chunk(2, 1))
        y.append(y[-1] + F.relu(self.worked(y[-1])))
        last, _, first = F.relu(self.joined(torch.cat(y, 1))).chunk(3, 1)
        return self.out(F.glu(self.gate(torch.cat([first, last], 1).mean((2, 3))), -1))


class Scaled(nn.Module):
    """Factors and shifts of every channel that are parameters of the network itself, and a mean over channels."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.down = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 1), nn.Conv2d(16, 12, 1)
        self.factor, self.shift = nn.Parameter(torch.rand(12, 1, 1)), nn.Parameter(torch.randn(1, 12, 1, 1))
        self.meant, self.scale, self.out = nn.Conv2d(12, 10, 1), nn.Parameter(torch.rand(10, 1, 1)), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + self.shift
        y = y + self.factor * self.down(F.gelu(self.up(F.relu(y))))
        y = self.meant(F.relu(y))
        return self.out(y * y.square().mean(1, keepdim=True).rsqrt() * self.scale)


class Grouped(nn.Module):
    """ResNeXt: convolutions in groups of several channels, one of them in a sum."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.BatchNorm2d(32)
        self.c, self.d, self.out = nn.Conv2d(32, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=2), nn.Conv2d(24, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.c(F.relu(self.norm(self.b(F.relu(self.a(x)))))))
        return self.out(F.relu(y + self.d(y)))


class Fused(nn.Module):
    """Attention whose heads one layer makes, between norms that keep the width; numbers as timm's modules have them."""

    x = (torch.randn(1, 5, 24),)

    def __init__(self, width: int = 24, heads: int = 6, head: int = 6) -> None:
        super().__init__()
        self.width, self.heads, self.head, self.inner = width, heads, head, heads * head
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * heads * head)
        self.proj, self.out = nn.Linear(heads * head, width), nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        parts = self.qkv(self.norm(x)).reshape(n, length, 3, self.heads, self.head).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts.unbind(0))
        return self.out(x + self.proj(y.transpose(1, 2).reshape(n, length, self.inner)))


class Headed(nn.Module):
    """Attention whose heads three layers make, counted by their width alone, as BERT's are."""

    x = (torch.randn(1, 5, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(16, 32)
        self.proj, self.norm, self.out = nn.Linear(32, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(*x.shape[:2], -1, 8).transpose(1, 2) for layer in (self.query, self.key, self.value))
        y = ((q @ k.transpose(2, 3)) / 8**0.5).softmax(-1) @ v
        return self.out(self.norm(x + self.proj(y.transpose(1, 2).flatten(2))))


class Counted(nn.Module):
    """Res2Net and MixNet: splits by numbers, and by lists of them, that the modules keep."""

    x = (torch.randn(1, 3, 8, 8),)

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.splits = 8, [16, 8]
            self.a, self.b, self.c = nn.Conv2d(3, 24, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(24, 24, 1)
            self.up, self.down = nn.Conv2d(16, 12, 1), nn.Conv2d(8, 12, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            p, q, r = F.relu(self.a(x)).split(self.width, 1)
            y = F.relu(self.c(torch.cat([p, F.relu(self.b(q)), r], 1)))
            y, z = y.split(self.splits, 1)
            return self.up(y) + self.down(z)

    def __init__(self) -> None:
        super().__init__()
        self.part, self.out = self.Part(), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.part(x)))


CASES = RECURRENT | {
    "grouped": (Grouped, {"a.weight", "b.weight", "c.weight", "d.weight"}),
    "fused": (Fused, {"qkv.weight"}),
    "headed": (Headed, {"query.weight", "key.weight", "value.weight"}),
    "counted": (Counted, {f"part.{name}.weight" for name in ("a", "b", "c", "up", "down")}),
    "scaled": (Scaled, {"a.weight", "up.weight", "down.weight"}),
    "parts": (Parts, {"parted.weight", "worked.weight", "joined.weight", "gate.weight"}),
    "joined": (Joined, {"stem.weight", "grown.0.weight", "grown.1.weight"}),
    "filtered": (Filtered, {"a.weight", "b.weight"}),
    "flattened": (Flattened, {"a.weight", "b.weight", "up.weight"}),
    "gated": (Gated, {"inner.weight", "halves.weight"}),
    "products": (Products, {"c.weight", "up.weight"}),
    "normed": (Normed, {"a.weight"}),
    "upsampled": (Upsampled, {"a.weight"}),
    "counting": (Counting, {"up.weight", "wide.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0"}),
    "answering": (Answering, {"a.weight", "b.weight"}),
    "halves": (Halves, {"a.weight", "c.weight"}),
    "tied": (Tied, {"first.weight"}),
}
