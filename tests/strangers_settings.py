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
RESIDUAL = """
class Basic(nn.Module):
    def __init__(self, inside, outside, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outside)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, block, numbers, classes=10):
        super().__init__()
        self.inside = 16
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.layer1 = self._made(block, 16, numbers[0], 1)
        self.layer2 = self._made(block, 32, numbers[1], 2)
        self.out = nn.Linear(32, classes)

    def _made(self, block, outside, number, stride):
        layers = []
        for one in [stride] + [1] * (number - 1):
            layers.append(block(self.inside, outside, one))
            self.inside = outside
        return nn.Sequential(*layers)

    def forward(self, x):
        return self.out(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


def small(**more):
    return Net(Basic, [1, 1], **more)


def middle(classes=10):
    return Net(Basic, [2, 2], classes)


def large(classes=10):
    return Net(Basic, [2, 3], classes)
"""
PATCHES = """
class Block(nn.Module):
    def __init__(self, dim, heads, ratio=4.0):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, int(dim * ratio)), nn.GELU(), nn.Linear(int(dim * ratio), dim))

    def forward(self, x):
        h = self.norm(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(x)


class Patches(nn.Module):
    def __init__(self, img_size=64, patch=8, dim=48, depth=3, heads=4, classes=10):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.places = nn.Parameter(torch.zeros(1, (img_size // patch) ** 2, dim))
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))
"""
MADE = """
class Maker(nn.Module):
    def __init__(self, noise=64, width=32, layers=2):
        super().__init__()
        self.width = width
        self.start = nn.Linear(noise, width * 4 * 4)
        self.net = nn.Sequential(nn.ConvTranspose2d(width, width // 2, 4, 2, 1), nn.ReLU(), nn.Conv2d(width // 2, 3, 1))
        self.rnn = nn.GRU(12, width, layers, batch_first=True)

    def forward(self, z):
        x = self.net(self.start(z).view(-1, self.width, 4, 4))
        return self.rnn(x.flatten(2)[:, :, :12])[0]
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
    "factories that differ in how many layers they ask for": Folder(
        {"nets/__init__.py": "", "nets/res.py": HEAD + RESIDUAL},
        "from nets.res import *; torch.save({'net': {f'module.{k}': v for k, v in middle(7).state_dict().items()},"
        " 'acc': 91.2}, 'w.pt')",
        "nets.res:middle(classes=7)",
        ("1x3x224x224",),
    ),
    "a size that only positions tell": Folder(
        {"net.py": HEAD + PATCHES},
        "from net import *; torch.save(Patches(48, 8, 32, 2, 4, 5).state_dict(), 'w.pt')",
        "net:Patches(img_size=48, dim=32, depth=2, classes=5)",
        ("1x3x48x48",),
    ),
    "sizes that are products, and layers in a GRU": Folder(
        {"net.py": HEAD + MADE},
        "from net import *; torch.save(Maker(32, 16, 1).state_dict(), 'w.pt')",
        "net:Maker(noise=32, width=16, layers=1)",
        ("1x32",),
    ),
    "arguments put away under self": Folder(
        {"net.py": HEAD + PUT_AWAY},
        "from net import *; torch.save(Net(20, 16, 3, 4).state_dict(), 'w.pt')",
        "net:Net(bands=20, width=16, depth=3, classes=4)",
        ("1x20x32",),
    ),
}
