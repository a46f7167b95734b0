"""Folders of strangers whose inputs are told by following forward, and whose arguments stand further off."""

from __future__ import annotations

from tests.strangers import HEAD, Folder

DIGITS = """
class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3)
        self.drop = nn.Dropout(0.2)
        self.f1 = nn.Linear(12 * 12 * 12, 20)
        self.f2 = nn.Linear(20, 10)

    def forward(self, x):
        x = F.relu(self.c1(x))
        x = F.max_pool2d(F.relu(self.c2(x)), 2)
        x = torch.flatten(self.drop(x), 1)
        return F.log_softmax(self.f2(F.relu(self.f1(x))), dim=1)


if __name__ == "__main__":
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    print(parser.parse_args())
"""
LADDER = """
def pair(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU())


class Ladder(nn.Module):
    def __init__(self, classes=2, widths=(4, 8, 16)):
        super().__init__()
        self.steps, self.climbs, before = nn.ModuleList(), nn.ModuleList(), 3
        for width in widths:
            self.steps.append(pair(before, width))
            before = width
        for width in reversed(widths):
            self.climbs.append(nn.ConvTranspose2d(2 * width, width, 2, 2))
            self.climbs.append(pair(2 * width, width))
        self.deep, self.out = pair(widths[-1], 2 * widths[-1]), nn.Conv2d(widths[0], classes, 1)

    def forward(self, x):
        kept = []
        for step in self.steps:
            x = step(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.deep(x)
        for i in range(0, len(self.climbs), 2):
            x = self.climbs[i](x)
            x = self.climbs[i + 1](torch.cat([kept.pop(), x], dim=1))
        return self.out(x)
"""
TWINS = """
class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.mind = nn.Linear(8 * 6 * 6, 16)

    def look(self, picture):
        return self.mind(self.eye(picture))

    def forward(self, left, right):
        return F.pairwise_distance(self.look(left), self.look(right))
"""
STATE = """
class Speaker(nn.Module):
    def __init__(self, letters, width=32, layers=2):
        super().__init__()
        self.seen = nn.Embedding(letters, width)
        self.gru = nn.GRU(width, width, layers, batch_first=True)
        self.said = nn.Linear(width, letters)

    def forward(self, text, state):
        out, state = self.gru(self.seen(text), state)
        return self.said(out), state
"""
GRAPH = """
class Spread(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(i, o).uniform_(-1, 1))

    def forward(self, nodes, adjacency):
        return adjacency @ (nodes @ self.weight)


class Graph(nn.Module):
    def __init__(self, features, hidden, classes):
        super().__init__()
        self.first, self.second = Spread(features, hidden), Spread(hidden, hidden)
        self.out = nn.Linear(hidden, classes)

    def forward(self, nodes, adjacency):
        return self.out(self.second(F.relu(self.first(nodes, adjacency)), adjacency))
"""
COLUMNS = """
class Rows(nn.Module):
    def __init__(self, kinds=(9, 5, 7), numbers=6, wide=4):
        super().__init__()
        self.words = nn.ModuleList([nn.Embedding(kind, wide) for kind in kinds])
        self.norm = nn.BatchNorm1d(numbers)
        self.out = nn.Linear(len(kinds) * wide + numbers, 2)

    def forward(self, said, measured):
        said = [word(said[:, i]) for i, word in enumerate(self.words)]
        return self.out(torch.cat([*said, self.norm(measured)], 1))
"""
SOUND = """
class Sound(nn.Module):
    def __init__(self, words=30, width=8):
        super().__init__()
        self.ear = nn.Conv1d(1, width, 80, stride=16)
        self.rest = nn.Sequential(nn.MaxPool1d(4), nn.Conv1d(width, width, 3), nn.ReLU(), nn.MaxPool1d(4))
        self.out = nn.Linear(width, words)

    def forward(self, wave):
        return self.out(self.rest(self.ear(wave)).mean(-1))
"""
POINTS = """
class Cloud(nn.Module):
    def __init__(self, classes=8):
        super().__init__()
        self.each = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.out = nn.Linear(16, classes)

    def forward(self, points):
        return self.out(self.each(points.transpose(1, 2)).max(2)[0])
"""
SHORTCUTS = """
class Step(nn.Module):
    growth = 1

    def __init__(self, i, o, stride=1):
        super().__init__()
        self.one, self.two = nn.Conv2d(i, o, 3, stride, 1), nn.Conv2d(o, o, 3, 1, 1)
        self.skip = nn.Sequential()
        if stride != 1 or i != o:
            self.skip = nn.Sequential(nn.Conv2d(i, o * self.growth, 1, stride), nn.BatchNorm2d(o * self.growth))

    def forward(self, x):
        out = self.two(F.relu(self.one(x)))
        out += self.skip(x)
        return F.relu(out)


class Steps(nn.Module):
    def __init__(self, kind, depths, classes=10):
        super().__init__()
        self.wide = 8
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.low = self._stage(kind, 8, depths[0], stride=1)
        self.high = self._stage(kind, 16, depths[1], stride=2)
        self.out = nn.Linear(16 * kind.growth, classes)

    def _stage(self, kind, wide, depth, stride):
        rows = []
        for one in [stride] + [1] * (depth - 1):
            rows.append(kind(self.wide, wide, one))
            self.wide = wide * kind.growth
        return nn.Sequential(*rows)

    def forward(self, x):
        x = F.avg_pool2d(self.high(self.low(self.stem(x))), 16)
        return self.out(x.view(x.size(0), -1))


def short():
    return Steps(Step, [1, 1])


def long():
    return Steps(Step, [2, 3])
"""
ENCODER = """
class Reader(nn.Module):
    def __init__(self, words, wide=16, layers=2, longest=40):
        super().__init__()
        self.word, self.place = nn.Embedding(words, wide), nn.Embedding(longest, wide)
        layer = nn.TransformerEncoderLayer(wide, 2, dim_feedforward=4 * wide, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=layers)
        self.out = nn.Linear(wide, 3)

    def forward(self, ids, attention_mask):
        x = self.word(ids) + self.place(torch.arange(ids.shape[1]).unsqueeze(0))
        return self.out(self.encoder(x, src_key_padding_mask=attention_mask == 0)[:, 0])
"""
WRAPPED = """
def begun(layer, gain=1.4):
    nn.init.orthogonal_(layer.weight, gain)
    return layer


class Player(nn.Module):
    def __init__(self, seen, moves):
        super().__init__()
        self.worth = nn.Sequential(begun(nn.Linear(seen, 16)), nn.Tanh(), begun(nn.Linear(16, 1), gain=1.0))
        self.move = nn.Sequential(begun(nn.Linear(seen, 16)), nn.Tanh(), begun(nn.Linear(16, moves), gain=0.01))

    def forward(self, board):
        return self.move(board), self.worth(board)
"""
NESTED = """
class Sized(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.stem = nn.Conv2d(cfg.model.bands, cfg.model.wide, 3, 2, 1)
        self.rest = nn.Sequential(*[nn.Conv2d(cfg.model.wide, cfg.model.wide, 3, 1, 1) for _ in range(cfg.model.deep)])
        self.out = nn.Linear(cfg.model.wide, cfg.data.classes)

    def forward(self, x):
        return self.out(self.rest(self.stem(x)).mean([2, 3]))
"""
GROWTH = """
class More(nn.Module):
    def __init__(self, i, growth):
        super().__init__()
        self.conv = nn.Conv2d(i, growth, 3, padding=1)

    def forward(self, x):
        return torch.cat([x, F.relu(self.conv(x))], 1)


class Grown(nn.Module):
    def __init__(self, growth=8, depth=3, classes=10, share=1.0):
        super().__init__()
        wide, last = 2 * growth, int(64 * share)
        self.stem, rows = nn.Conv2d(3, wide, 3, padding=1), []
        for _ in range(depth):
            rows.append(More(wide, growth))
            wide += growth
        self.body, self.thin = nn.Sequential(*rows), nn.Conv2d(wide, last, 1)
        self.out = nn.Linear(int(64 * share), classes)

    def forward(self, x):
        return self.out(F.adaptive_avg_pool2d(self.thin(self.body(self.stem(x))), 1).flatten(1))
"""
TIME = """
import math


class Waves(nn.Module):
    def __init__(self, wide):
        super().__init__()
        self.wide = wide

    def forward(self, step):
        half = torch.exp(torch.arange(self.wide // 2) * (-math.log(1e4) / self.wide))
        return torch.cat([(step[:, None] * half[None]).sin(), (step[:, None] * half[None]).cos()], -1)


class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.clock = nn.Sequential(Waves(16), nn.Linear(16, 12), nn.SiLU())
        self.down, self.up = nn.Conv2d(3, 12, 4, 2, 1), nn.ConvTranspose2d(12, 3, 4, 2, 1)

    def forward(self, x, timestep):
        return x + self.up(F.silu(self.down(x) + self.clock(timestep)[..., None, None]))
"""
TOP = """
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--wide", type=int, default=24)
parser.add_argument("--seen", type=int, default=9)
opt = parser.parse_args()
opt.half = opt.wide // 2


class Top(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(opt.seen, opt.wide), nn.ReLU(), nn.Linear(opt.wide, opt.half))

    def forward(self, x):
        return self.net(x)


net = Top()
net(torch.randn(8, opt.seen)).sum().backward()
"""
SIDES = """
class Screen(nn.Module):
    def __init__(self, h, w, moves):
        super().__init__()
        self.eye = nn.Conv2d(3, 8, 5, stride=2)
        self.move = nn.Linear(8 * ((h - 5) // 2 + 1) * ((w - 5) // 2 + 1), moves)

    def forward(self, x):
        return self.move(self.eye(x).flatten(1))
"""
STAGES = """
class Step(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv, self.short = nn.Conv2d(inside, outside, 3, stride, 1), stride == 1 and inside == outside

    def forward(self, x):
        y = F.relu(self.conv(x))
        return x + y if self.short else y


class Staged(nn.Module):
    def __init__(self, wide=8, depths=(1, 2, 2), classes=4):
        super().__init__()
        rows, inside = [nn.Conv2d(3, wide, 3, padding=1)], wide
        for level, depth in enumerate(depths):
            for place in range(depth):
                rows.append(Step(inside, wide * (level + 1), 2 if place == 0 else 1))
                inside = wide * (level + 1)
        self.body = nn.Sequential(*rows)
        self.head = nn.Linear(inside POOLED, classes)

    def forward(self, x):
        return self.head(self.body(x)OUT)
"""
CONF = "model: {bands: 3, wide: 8, deep: 2}\ndata: {classes: 5, image_size: 48}\n"


def _row(text: str, made: str, model: str, *inputs: str, **more: str) -> Folder:
    files = {"net.py": HEAD + text} | {name.replace("__", "."): content for name, content in more.items()}
    saves = f"import sys; sys.argv = ['net.py']; from net import *; torch.save({made}.state_dict(), 'w.pt')"
    return Folder(files, saves, model, inputs)


_INSIDE = "types.SimpleNamespace(bands=3, wide=8, deep=2), data=types.SimpleNamespace(classes=5)"
SHAPES: dict[str, Folder] = {
    "a pool after the second layer alone": _row(DIGITS, "Digits()", "net:Digits", "1x1x28x28"),
    "a U-Net, to which nothing tells a size": _row(
        LADDER, "Ladder(4, (4, 8))", "net:Ladder(classes=4, widths=[4, 8])", "1x3x224x224"
    ),
    "twins that go through one method": _row(TWINS, "Twins()", "net:Twins", "1x1x28x28", "1x1x28x28"),
    "a state that goes round": _row(
        STATE, "Speaker(40, 24)", "net:Speaker(letters=40, width=24)", "1x32:int64", "2x1x24"
    ),
    "nodes and their neighbours": _row(
        GRAPH, "Graph(20, 8, 4)", "net:Graph(features=20, hidden=8, classes=4)", "32x20", "32x32"
    ),
    "columns, each with its embedding": _row(
        COLUMNS, "Rows((12, 4), 5)", "net:Rows(kinds=[12, 4], numbers=5)", "1x2:int64", "1x5"
    ),
    "a sound, long enough for every layer": _row(
        SOUND, "Sound(9)", "net:Sound(words=9)", "1x1x8000", data__py="SAMPLE_RATE = 8000\n"
    ),
    "points that are turned first": _row(POINTS, "Cloud(5)", "net:Cloud(classes=5)", "1x32x3"),
    "layers made in a method, and shortcuts that are not always there": _row(
        SHORTCUTS, "long()", "net:long", "1x3x32x32"
    ),
    "an encoder around a layer": _row(
        ENCODER, "Reader(50, 16, 1, 24)", "net:Reader(words=50, layers=1, longest=24)", "1x24:int64", "1x24:int64"
    ),
    "layers inside of what begins them": _row(WRAPPED, "Player(7, 3)", "net:Player(seen=7, moves=3)", "1x7"),
    "settings within settings": _row(
        "from types import SimpleNamespace as S\n" + NESTED,
        "Sized(S(model=S(bands=3, wide=8, deep=2), data=S(classes=5)))",
        f"net:Sized(cfg=types.SimpleNamespace(model={_INSIDE}))",
        "1x3x48x48",
        conf__yaml=CONF,
    ),
    "a size that grows, and a share of one": _row(
        GROWTH, "Grown(4, 2, 5, 0.25)", "net:Grown(growth=4, depth=2, classes=5, share=0.25)", "1x3x224x224"
    ),
    "a picture and its time": _row(TIME, "Noise()", "net:Noise", "1x3x224x224", "1"),
    "a command line that is read at the top": _row(TOP, "Top()", "net_model:Top", "1x9"),
    "height and width": _row(
        SIDES, "Screen(40, 90, 2)", "net:Screen(h=40, w=90, moves=2)", "1x3x40x90",
        play__py="from net import Screen\nplayer = Screen(40, 90, 2)\n",
    ),
    "blocks in stages, a loop in a loop, laid flat": _row(
        STAGES.replace("POOLED", "* 8 * 8").replace("OUT", ".flatten(1)"),
        "Staged(12)", "net:Staged(wide=12)", "1x3x64x64",
    ),
    "blocks in stages, as many as a table of another file says": _row(
        STAGES.replace("POOLED", "").replace("OUT", ".mean((2, 3))").replace("depths=(1, 2, 2), ", "")
        .replace("enumerate(depths)", "enumerate(open_table('base'))")
        .replace("class Step", "def open_table(name):\n    return {'base': (1, 2)}[name]\n\n\nclass Step"),
        "Staged(12)", "net:Staged(wide=12)", "1x3x224x224",
    ),
    "weights and no code": Folder(
        {}, "import torch; torch.save(torch.nn.Linear(4, 3).state_dict(), 'w.pt')", None, (), None,
        "w.pt holds weights (2 tensors, from 'weight' 3×4 to 'weight' 3×4): a module that could take them is defined",
    ),
}  # fmt: skip
