"""Folders of strangers whose models take their sizes in one object, in lists, or from a function of their own."""

from __future__ import annotations

from tests.strangers import HEAD, Folder

TINY = """
from dataclasses import dataclass


class Part(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width, bias=config.bias)
        self.down = nn.Linear(4 * config.width, config.width, bias=config.bias)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


@dataclass
class Sizes:
    words: int = 50304
    length: int = 1024
    depth: int = 12
    width: int = 768
    bias: bool = True


class Tiny(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.body = nn.ModuleDict(dict(
            words=nn.Embedding(config.words, config.width),
            places=nn.Embedding(config.length, config.width),
            parts=nn.ModuleList([Part(config) for _ in range(config.depth)]),
        ))
        self.head = nn.Linear(config.width, config.words, bias=False)

    def forward(self, ids, targets=None):
        x = self.body.words(ids) + self.body.places(torch.arange(ids.size(1)))
        for part in self.body.parts:
            x = part(x)
        return self.head(x)
"""
PAIR = """
class Net(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.a = nn.Linear({inside}, {hidden})
        self.b = nn.Linear({own}, 2 * {classes})

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))
"""
BY_NAME = PAIR.format(inside="cfg.inside", hidden="cfg.hidden", own="self.cfg.hidden", classes="cfg.classes")
BY_KEY = PAIR.format(
    inside="cfg['inside']", hidden="cfg['hidden']", own="cfg['hidden']", classes="cfg.get('classes', 2)"
)
CONF = """
class Conf:
    def __init__(self, inside, hidden=12, classes=2, seed=0):
        self.inside, self.hidden, self.classes = inside, hidden, classes
"""
UNET = """
from .blocks import conv


class UNet(nn.Module):
    def __init__(self, channels: int, classes: int, width: int = 16):
        super().__init__()
        self.down, self.deep = conv(channels, width), conv(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.out: nn.Module = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x):
        a = self.down(x)
        return self.out(torch.cat([a, self.up(self.deep(F.max_pool2d(a, 2)))], 1)).mean((2, 3))
"""
LISTED = """
class Net(nn.Module):
    def __init__(self, inside, hidden=(64, 64), classes=3):
        super().__init__()
        layers = []
        before = inside
        for size in hidden:
            layers.append(nn.Linear(before, size))
            layers += [nn.BatchNorm1d(size), nn.ReLU()]
            before = size
        layers.append(nn.Linear(before, classes))
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x)
"""
ZIPPED = """
class Net(nn.Module):
    def __init__(self, inside, hidden, classes):
        super().__init__()
        sizes = [inside] + list(hidden) + [classes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:]))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x
"""
PUT_AWAY = """
class Net(nn.Module):
    def __init__(self, bands, width, depth, classes):
        super().__init__()
        self.width, self.classes = width, classes
        self.stem: nn.Module = nn.Conv1d(bands, self.width, 3, padding=1)
        self.body = nn.Sequential(*[nn.Conv1d(width, width, 3, padding=1) for _ in range(depth)])
        self.out = nn.Linear(self.width, self.classes)

    def forward(self, x):
        return self.out(self.body(self.stem(x)).mean(-1))
"""

SETTINGS: dict[str, Folder] = {
    "sizes in a dataclass that goes down to the parts": Folder(
        {"net.py": HEAD + TINY},
        "from net import *; torch.save({'model': Tiny(Sizes(65, 40, 2, 16, False)).state_dict(),"
        " 'model_args': {'depth': 2, 'bias': False, 'dropout': 0.1}}, 'w.pt')",
        "net:Tiny(config=Sizes(words=65, length=40, depth=2, width=16, bias=False))",
        ("1x32:int64",),
    ),
    "sizes in an object of no class that is known": Folder(
        {"net.py": HEAD + BY_NAME},
        "from net import *; from types import SimpleNamespace as S;"
        " torch.save(Net(S(inside=6, hidden=12, classes=3)).state_dict(), 'w.pt')",
        "net:Net(cfg=types.SimpleNamespace(inside=6, hidden=12, classes=3))",
        ("1x6",),
    ),
    "sizes in a class of another file": Folder(
        {"pkg/__init__.py": "", "pkg/net.py": HEAD + BY_NAME, "pkg/conf.py": CONF},
        "from pkg.net import *; from pkg.conf import *; torch.save(Net(Conf(6, classes=3)).state_dict(), 'w.pt')",
        "pkg.net:Net(cfg=pkg.conf.Conf(inside=6, classes=3))",
        ("1x6",),
    ),
    "sizes in a dict": Folder(
        {"net.py": HEAD + BY_KEY},
        "from net import *; torch.save(Net(dict(inside=6, hidden=12, classes=4)).state_dict(), 'w.pt')",
        "net:Net(cfg={'inside': 6, 'hidden': 12, 'classes': 4})",
        ("1x6",),
    ),
    "a function that makes parts": Folder(
        {
            "src/pkg/__init__.py": "",
            "src/pkg/blocks.py": HEAD
            + "def conv(i, o):\n    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o))\n",
            "src/pkg/unet.py": HEAD + UNET,
            "src/pkg/data.py": "import torch\nx = torch.zeros(2, 3, 64, 64)\n",
        },
        "import sys; sys.path.insert(0, 'src'); from pkg.unet import *;"
        " torch.save({'state_dict': {f'net.{k}': v for k, v in UNet(3, 4, 8).state_dict().items()}}, 'last.ckpt')",
        "pkg.unet:UNet(channels=3, classes=4, width=8)",
        ("1x3x64x64",),
        "last.ckpt",
    ),
    "a list of sizes, line by line": Folder(
        {"net.py": HEAD + LISTED},
        "from net import *; torch.save(Net(7, (32, 24, 16), 5).state_dict(), 'w.pt')",
        "net:Net(inside=7, hidden=[32, 24, 16], classes=5)",
        ("1x7",),
    ),
    "a list of sizes, in pairs": Folder(
        {"net.py": HEAD + ZIPPED},
        "from net import *; torch.save(Net(7, (32, 24), 5).state_dict(), 'w.pt')",
        "net:Net(inside=7, hidden=[32, 24], classes=5)",
        ("1x7",),
    ),
    "arguments put away under self": Folder(
        {"net.py": HEAD + PUT_AWAY},
        "from net import *; torch.save(Net(20, 16, 3, 4).state_dict(), 'w.pt')",
        "net:Net(bands=20, width=16, depth=3, classes=4)",
        ("1x20x32",),
    ),
}
