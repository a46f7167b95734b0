"""Folders whose model is made from another, or whose files have names that nobody expects."""

from __future__ import annotations

from tests.strangers import HEAD, SMALL, Folder

BASE = """
class Base(nn.Module):
    def __init__(self, inside, hidden):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inside, hidden), nn.ReLU())
        self.begin()
    def begin(self):
        raise NotImplementedError
    def forward(self, x):
        raise NotImplementedError
"""
DERIVED = """
class Derived(Base):
    def __init__(self, classes, width=8, **more):
        super().__init__(hidden=4 * width, **more)
        self.head = nn.Linear(4 * width, classes)
    def begin(self):
        pass
    def forward(self, x):
        return self.head(self.body(x))
"""
OVERRIDING = """
class Plain(nn.Module):
    act = staticmethod(torch.relu)
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), None
        self.b = nn.Linear(16, 2)
    def forward(self, x):
        return self.b(self.act(self.a(x)))
class Smooth(Plain):
    act = staticmethod(torch.tanh)
"""
ABSTRACT = """
class Any(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), None
        self.b = nn.Linear(16, 2)
    def forward(self, x):
        \"\"\"What a subclass does.\"\"\"
        raise NotImplementedError("in a subclass")
class Filling(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), None
        self.b = nn.Linear(16, 2)
    def forward(self, x):
        return self.b(self.bend(self.a(x)))
    def bend(self, x):
        raise NotImplementedError
class Zero(Any):
    def forward(self, x):
        return self.b(torch.relu(self.a(x)))
    def loss(self, x):
        raise NotImplementedError
"""
DETECTOR = """
class Detector(nn.Module):
    def __init__(self, classes=20, anchors=3):
        super().__init__()
        self.classes, self.anchors = classes, anchors
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.deep = nn.Conv2d(8, 16, 3, 2, 1)
        self.heads = nn.ModuleList(nn.Conv2d(c, anchors * (5 + classes), 1) for c in (8, 16))
    def forward(self, x):
        first = self.stem(x)
        found = []
        for head, y in zip(self.heads, (first, self.deep(first))):
            y = head(y)
            b, _, h, w = y.shape
            found.append(y.view(b, self.anchors, 5 + self.classes, h, w))
        return found
"""
GENERATOR = """
class Generator(nn.Module):
    def __init__(self, drawn, width=8):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(drawn, 2 * width, 4, 1, 0), nn.ReLU(), nn.ConvTranspose2d(2 * width, 1, 4, 2, 1)
        )
    def forward(self, z):
        return torch.tanh(self.main(z))
"""
SHORT = """
Conv, L = nn.Conv2d, nn.Linear
C = nn.Conv2d
class Short(nn.Module):
    def __init__(s, width=8, classes=4):
        super().__init__()
        s.a, s.b = C(3, width, 3), nn.Conv2d(width, 12, 1)
        s.top = nn.Linear(12, classes)
    def forward(this, x):
        return this.top(torch.relu(this.b(torch.relu(this.a(x)))).mean((2, 3)))
"""


def _row(text: str, made: str, model: str, *inputs: str, file: str = "net", saved: str = "", **notes: str) -> Folder:
    saves = saved or f"from {file} import *; torch.save({made}.state_dict(), 'w.pt')"
    return Folder({f"{file}.py": HEAD + text}, saves, model, inputs, **notes)


_SMALL = "(lambda c: (exec(open('types.py').read(), c), c)[1])({})"
ODD: dict[str, Folder] = {
    "a class made from one of another file": Folder(
        {"base.py": HEAD + BASE, "net.py": HEAD + "from base import Base\n" + DERIVED},
        "from net import *; torch.save(Derived(5, 12, inside=9).state_dict(), 'w.pt')",
        "net:Derived(classes=5, width=12, inside=9)",
        ("1x9",),
    ),
    "a class that only changes another": _row(
        OVERRIDING, "Smooth()", "net:Smooth", "1x8", said="the weights would also fit net:Plain"
    ),
    "a class beside bases that leave something open": _row(
        ABSTRACT, "Zero()", "net:Zero", "1x8", unsaid="also fit"
    ),
    "an argument in all layers of a row, beside another": _row(
        DETECTOR, "Detector(8)", "net:Detector(classes=8)", "1x3x224x224"
    ),
    "a generator that draws": _row(GENERATOR, "Generator(24)", "net:Generator(drawn=24)", "1x24x1x1"),
    "short names for layers and self": _row(
        SHORT, "Short(6, 7)", "net:Short(width=6, classes=7)", "1x3x224x224"
    ),
    "a file of a name that Python has": _row(
        SMALL, "", "types_model:Net", "1x1x28x28", file="types",
        saved=f"import torch; torch.save({_SMALL}['Net']().state_dict(), 'w.pt')",
    ),
    "weights under a name of long ago": Folder(
        {"net.py": HEAD + SMALL},
        "from net import *; torch.save({'net': Net().state_dict(), 'acc': 91.2}, 'ckpt.t7')",
        "net:Net", ("1x1x28x28",), "ckpt.t7",
    ),
    "weights of timm's training": Folder(
        {"net.py": HEAD + SMALL},
        "from net import *; torch.save({'state_dict': Net().state_dict()}, 'model_best.pth.tar')",
        "net:Net", ("1x1x28x28",), "model_best.pth.tar",
    ),
    "weights of PyTorch 1.5": Folder(
        {"net.py": HEAD + SMALL},
        "from net import *; torch.save(Net().state_dict(), 'epoch_3', _use_new_zipfile_serialization=False)",
        "net:Net", ("1x1x28x28",), "epoch_3",
    ),
}  # fmt: skip
