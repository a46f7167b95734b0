"""Folders of strangers whose factories take a key, with arguments that no weight tells."""

from __future__ import annotations

from tests.strangers import HEAD, Folder

NET = """
class Net(nn.Module):
    def __init__(self, width=32, classes=10, stride=1, act="relu"):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, stride=stride)
        self.head = nn.Linear(width, classes)
        self.act = nn.SiLU() if act == "silu" else nn.ReLU()

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean((2, 3)))


"""
TABLE = """
SIZES = {
    "tiny": dict(width=8, stride=1),
    "base": dict(width=16, stride=2, act="silu"),
}


"""
NAMED, WHOLE = "build(variant='base')", "Net(width=16, stride=2, act='silu')"


def _row(code: str, model: str = NAMED, made: str = "build('base')", said: str = "", unsaid: str = "\n") -> Folder:
    saves = f"from net import *; torch.save({made}.state_dict(), 'w.pt')"
    return Folder({"net.py": HEAD + NET + code}, saves, f"net:{model}", ("1x3x224x224",), said=said, unsaid=unsaid)


KEYED: dict[str, Folder] = {
    "a factory that hands on a row of a table": _row(
        TABLE + "def build(variant, classes=10):\n    return Net(**SIZES[variant], classes=classes)\n", unsaid="variant"
    ),
    "a factory whose usual key has other sizes": _row(
        TABLE
        + "def build(variant='tiny'):\n    row = SIZES.get(variant)\n    net = Net(row['width'], stride=row['stride'],"
        " act=row.get('act', 'relu'))\n    return net\n"
    ),
    "a factory that takes a row apart": _row(
        "SIZES = {'tiny': (8, 1, 'relu'), 'base': (16, 2, 'silu')}\n\n\ndef build(variant):\n"
        "    width, stride, act = SIZES[variant]\n    return Net(width, 10, stride, act)\n"
    ),
    "a factory that asks for its key": _row(
        "def build(variant):\n    if variant == 'tiny':\n        return Net(8)\n    elif variant in ('base', 'b'):\n"
        "        return Net(16, stride=2, act='silu')\n    raise ValueError(variant)\n",
        said="variant is 'base' or 'b' in the code",
    ),
    "a key of the usual sizes": _row(
        TABLE.replace("16", "32")
        + "def build(variant):\n    row = SIZES[variant]\n    return Net(row['width'], 10, row['stride'],"
        " row.get('act', 'relu'))\n",
    ),
    "rows of one size": _row(
        TABLE.replace("}", "    'wide': dict(width=16, stride=1),\n}")
        + "def build(variant):\n    return Net(**SIZES[variant])\n",
        said="variant is 'base' or 'wide' in the code beside the same sizes",
    ),
    "a table of constructors": _row(
        "NETS = {'tiny': lambda: Net(8), 'base': lambda: Net(16, stride=2, act='silu')}\n\n\n"
        "def build(variant):\n    return NETS[variant]()\n",
        WHOLE,
    ),
    "a table of partial calls": _row(
        "from functools import partial\n\nNETS = {'tiny': partial(Net, 8), 'base': partial(Net, 16, 10, 2, 'silu')}\n\n"
        "def build(variant):\n    return NETS[variant]()\n",
        WHOLE,
    ),
    "functions that hand on their own table": _row(
        "def _create(name, **kwargs):\n    return Net(**kwargs)\n\n\n"
        "def tiny(**kwargs):\n    own = dict(width=8)\n    return _create('tiny', **dict(own, **kwargs))\n\n\n"
        "def base(**kwargs):\n    own = dict(width=16, stride=2, act='silu')\n"
        "    return _create('base', **dict(own, **kwargs))\n",
        WHOLE,
        "base()",
    ),
    "a key that no text names": _row(
        "def build(variant='tiny'):\n    if variant == 'tiny':\n        width, stride, act = 8, 1, 'relu'\n    else:\n"
        "        width, stride, act = 16, 2, 'silu'\n    return Net(width, stride=stride, act=act)\n",
        "Net(width=16)",
        said="computes stride, act, which its text does not tell",
    ),
}
