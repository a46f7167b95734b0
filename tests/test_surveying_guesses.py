"""What `init` tells of inputs, beside what the nets take as they run: what it tells runs, or it leaves it open."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from idp_deploy.surveying import survey
from idp_deploy.surveying.writing import write_toml
from tests.strangers import HEAD

WINDOW_OF_ONE_LENGTH = """
class S(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.fc = nn.Linear(10 * 50, 4)
    def forward(self, x):
        h, _ = self.lstm(x)
        return self.fc(h.reshape(h.size(0), -1))
"""
BATCH_OF_GRAPHS = """
class Layer(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.lin = nn.Linear(i, o)
    def forward(self, h, a):
        return F.relu(torch.bmm(a, self.lin(h)))
class Gnn(nn.Module):
    def __init__(self, i=7, hid=8):
        super().__init__()
        self.layers = nn.ModuleList([Layer(i, hid), Layer(hid, hid)])
        self.out = nn.Linear(hid, 1)
    def forward(self, h, a):
        for l in self.layers:
            h = l(h, a)
        return self.out(h.mean(1))
"""
CONVOLUTIONS_THAT_NEED_MANY_STEPS = """
class Tcn(nn.Module):
    def __init__(self, i=4, w=8, classes=3):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv1d(i if k == 0 else w, w, 3, dilation=2 ** k) for k in range(6)])
        self.fc = nn.Linear(w, classes)
    def forward(self, x):
        for b in self.blocks:
            x = F.relu(b(x))
        return self.fc(x.mean(-1))
"""
LONG_WORDS = """
class TC(nn.Module):
    def __init__(self, v=40, d=8, k=6, sizes=(3, 4, 50)):
        super().__init__()
        self.e = nn.Embedding(v, d)
        self.convs = nn.ModuleList([nn.Conv2d(1, k, (s, d)) for s in sizes])
        self.fc = nn.Linear(k * len(sizes), 2)
    def forward(self, x):
        x = self.e(x).unsqueeze(1)
        x = [F.relu(c(x)).squeeze(3) for c in self.convs]
        x = [F.max_pool1d(i, i.size(2)).squeeze(2) for i in x]
        return self.fc(torch.cat(x, 1))
"""
POOL_BEFORE_THE_FIRST_MATRIX = """
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(768, 32), nn.Linear(32, 10)
    def forward(self, x):
        x = F.avg_pool2d(x, 2).flatten(1)
        return self.b(F.relu(self.a(x)))
"""
CHANNELS_THAT_FORWARD_ADDS = """
class C1(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv1d(1, 4, 3, padding=1)
        self.f = nn.Linear(4 * 11, 2)
    def forward(self, x):
        x = x.unsqueeze(1)
        return self.f(self.c(x).flatten(1))
"""
FRAMES_IN_A_BATCH = """
class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.rnn = nn.LSTM(8, 12, batch_first=True)
        self.fc = nn.Linear(12, 4)
    def forward(self, clip):
        b, t, c, h, w = clip.shape
        f = self.cnn(clip.view(b * t, c, h, w)).view(b, t, -1)
        o, _ = self.rnn(f)
        return self.fc(o[:, -1])
"""
HEIGHTS_THAT_ARE_ASSERTED = """
class Crnn(nn.Module):
    def __init__(self, nc=1, classes=20, nh=16):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(nc, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2),
            nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2),
            nn.Conv2d(16, 16, 2, (2, 1), 0), nn.MaxPool2d((3, 1)))
        self.rnn = nn.LSTM(16, nh, bidirectional=True)
        self.fc = nn.Linear(2 * nh, classes)
    def forward(self, x):
        y = self.cnn(x)
        b, c, h, w = y.size()
        assert h == 1
        y = y.squeeze(2).permute(2, 0, 1)
        y, _ = self.rnn(y)
        return self.fc(y)
"""
STATES_OF_A_ROW = """
class S(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc0 = nn.Linear(6, 8)
        self.gru = nn.GRU(8, 10, batch_first=True)
        self.fc = nn.Linear(10, 4)
    def forward(self, x):
        h, last = self.gru(torch.tanh(self.fc0(x)))
        return self.fc(last[-1])
"""
TABLE_OF_POSITIONS = """
class Patch(nn.Module):
    def __init__(self, img, patch, c, dim):
        super().__init__()
        self.n = (img // patch) ** 2
        self.proj = nn.Conv2d(c, dim, kernel_size=patch, stride=patch)
    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)
class Attn(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.out((a @ v).transpose(1, 2).reshape(B, N, C))
class ViT(nn.Module):
    def __init__(self, img=36, patch=6, c=3, dim=16, heads=2, depth=2, classes=5):
        super().__init__()
        self.embed = Patch(img, patch, c, dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos = nn.Parameter(torch.zeros(1, self.embed.n + 1, dim))
        self.blocks = nn.ModuleList([Attn(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
    def forward(self, x):
        x = self.embed(x)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.pos
        for b in self.blocks:
            x = x + b(x)
        return self.head(self.norm(x)[:, 0])
"""
PICTURE_OF_NO_USUAL_SIZE = """
class VAE(nn.Module):
    def __init__(self, z=6):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 4, 2), nn.Conv2d(8, 16, 4, 2)
        self.mu, self.lv = nn.Linear(16 * 11 * 11, z), nn.Linear(16 * 11 * 11, z)
        self.fc = nn.Linear(z, 16 * 11 * 11)
        self.t1, self.t2 = nn.ConvTranspose2d(16, 8, 4, 2), nn.ConvTranspose2d(8, 3, 4, 2)
    def forward(self, x):
        h = F.relu(self.c2(F.relu(self.c1(x)))).reshape(x.shape[0], -1)
        mu, lv = self.mu(h), self.lv(h)
        z = mu + torch.exp(0.5 * lv)
        h = self.fc(z).view(-1, 16, 11, 11)
        return self.t2(F.relu(self.t1(h))), mu, lv
"""
NETS = {
    "a window of one length": (WINDOW_OF_ONE_LENGTH, "S()"),
    "a batch of graphs": (BATCH_OF_GRAPHS, "Gnn()"),
    "convolutions that need many steps": (CONVOLUTIONS_THAT_NEED_MANY_STEPS, "Tcn()"),
    "long words": (LONG_WORDS, "TC()"),
    "a pool before the first matrix": (POOL_BEFORE_THE_FIRST_MATRIX, "M()"),
    "channels that forward adds": (CHANNELS_THAT_FORWARD_ADDS, "C1()"),
    "frames in a batch": (FRAMES_IN_A_BATCH, "Clip()"),
    "heights that are asserted": (HEIGHTS_THAT_ARE_ASSERTED, "Crnn()"),
    "states of a row": (STATES_OF_A_ROW, "S()"),
    "a table of positions": (TABLE_OF_POSITIONS, "ViT()"),
    "a picture of no usual size": (PICTURE_OF_NO_USUAL_SIZE, "VAE()"),
}
TOLD = {
    "convolutions that need many steps",
    "long words",
    "heights that are asserted",
    "states of a row",
    "a table of positions",
    "a picture of no usual size",
}


@pytest.mark.parametrize("name", NETS)
def test_what_is_told_of_inputs_runs(name: str, tmp_path: Path) -> None:
    text, made = NETS[name]
    names: dict[str, object] = {}
    exec(HEAD + text, names)
    net = eval(made, names)
    assert isinstance(net, torch.nn.Module)
    (tmp_path / "net.py").write_text(HEAD + text)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    told = survey(tmp_path).inputs.inputs
    assert bool(told) == (name in TOLD)
    if told:
        entries = [entry.partition(":") for entry in told]
        shapes = [(tuple(map(int, shape.split("x"))), dtype) for shape, _, dtype in entries]
        with torch.no_grad():
            net.eval()(*(torch.zeros(shape, dtype=getattr(torch, dtype or "float32")) for shape, dtype in shapes))


def test_matrices_of_no_layer_are_pruned_by_a_rule(tmp_path: Path) -> None:
    layer = (
        "class Graph(nn.Module):\n    def __init__(self, i, o):\n        super().__init__()\n"
        "        self.weight = nn.Parameter(torch.randn(i, o))\n"
        "    def forward(self, x):\n        return x @ self.weight\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = Graph(14, 8), {last}\n"
        "    def forward(self, x):\n        return self.b(torch.relu(self.a(x)))\n"
    )
    for last, ruled in (("Graph(8, 3)", True), ("nn.Linear(8, 3)", False)):
        (tmp_path / "net.py").write_text(HEAD + layer.format(last=last))
        shape = (8, 3) if ruled else (3, 8)
        torch.save({"a.weight": torch.zeros(14, 8), "b.weight": torch.zeros(*shape)}, tmp_path / "w.pt")
        text = write_toml(survey(tmp_path), tmp_path, ["onnx"], [])
        assert ('[prune.rules]\nmatrix = "unstructured"' in text) is ruled


@pytest.mark.parametrize("average", [False, True])
def test_a_size_is_of_the_weights_alone(tmp_path: Path, average: bool) -> None:
    """An optimizer under any key and an average beside them are not shipped, and are no sign of a larger model."""
    (tmp_path / "net.py").write_text(f"{HEAD}class Net(nn.Sequential):\n    def __init__(self):\n{_LAYERS}")
    module = torch.nn.Sequential(torch.nn.Linear(100, 300), torch.nn.ReLU(), torch.nn.Linear(300, 100))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    kept = {"net": module.half().state_dict(), "opt": optimizer.state_dict()}
    torch.save({**kept, **({"ema": module.state_dict()} if average else {})}, tmp_path / "last.pt")
    found = survey(tmp_path)
    assert 'size = "0.33 MB"' in write_toml(found, tmp_path, ["onnx"], [])  # 1.1 · 4 · 60,400 bytes and 64 kB
    assert not any("a part of the model" in note for note in found.notes)


_LAYERS = "        super().__init__(nn.Linear(100, 300), nn.ReLU(), nn.Linear(300, 100))\n"
