"""Folders of strangers whose models a registry builds, of tables that name classes."""

from __future__ import annotations

from tests.strangers import HEAD, Folder

REGISTRY = """
class Registry:
    def __init__(self):
        self.known = {}

    def register(self, name=None):
        def keep(kind):
            self.known[name or kind.__name__] = kind
            return kind
        return keep

    def build(self, settings):
        settings = dict(settings)
        return self.known[settings.pop(KEY)](**settings)


MODELS = Registry()


@MODELS.register(NAMED)
class Body(nn.Module):
    def __init__(self, depth, wide=8):
        super().__init__()
        self.first = nn.Conv2d(3, wide, 3, stride=2)
        self.rest = nn.ModuleList([nn.Conv2d(wide, wide, 3, padding=1) for _ in range(depth)])

    def forward(self, x):
        x = F.relu(self.first(x))
        for layer in self.rest:
            x = x + F.relu(layer(x))
        return x


@MODELS.register()
class Loss(nn.Module):
    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight


@MODELS.register()
class Top(nn.Module):
    def __init__(self, seen, classes, loss=None):
        super().__init__()
        self.last = nn.Linear(seen, classes)
        self.loss = MODELS.build(loss) if loss else None

    def forward(self, x):
        return self.last(x.mean((2, 3)))


@MODELS.register()
class Whole(nn.Module):
    def __init__(self, body, top, between=None, training=None):
        super().__init__()
        self.body = MODELS.build(body)
        self.top = MODELS.build(top)
        self.training_settings = training

    def forward(self, x):
        return self.top(self.body(x))
"""
WHOLE = """
BODIES = {}


def known(kind):
    BODIES[kind.__name__] = kind
    return kind


def build_body(cfg):
    return BODIES[cfg.MODEL.BODY.NAME](cfg)


@known
class Body(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.first = nn.Conv2d(3, cfg.MODEL.BODY.WIDE, 3)

    def forward(self, x):
        return F.relu(self.first(x))


class Whole(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.body = build_body(cfg)
        self.last = nn.Linear(cfg.MODEL.BODY.WIDE, cfg.MODEL.CLASSES)

    def forward(self, x):
        return self.last(self.body(x).mean((2, 3)))
"""
SMALL = "model = dict(type='Whole', body=dict(type='Body', depth=1, wide=4), top=dict(type='Top', seen=4, classes=2))\n"
LARGE = """
classes = 7
model = dict(
    type='Whole', body=dict(type='Body', depth=3, wide=12),
    top=dict(type='Top', seen=12, classes=classes, loss=dict(type='Loss', weight=0.5)), training=dict(steps=9))
"""
TABLES = "MODEL:\n  NAME: Whole\n  body: {NAME: tiny, depth: 2, wide: 6}\n  top: {NAME: Top, seen: 6, classes: 5}\n"
SCRIPT = """
def main():
    from net import MODELS
    return MODELS.build({
        'type': 'Whole', 'body': {'type': 'Body', 'depth': 2}, 'top': dict(type='Top', seen=8, classes=3)
    })
"""


def _row(model: str, made: str, files: dict[str, str], key: str = "type", named: str = "") -> Folder:
    text = HEAD + REGISTRY.replace("KEY", repr(key)).replace("NAMED", repr(named) if named else "")
    saves = f"from net import *; {made}; torch.save(MODELS.build(model).state_dict(), 'w.pt')"
    return Folder({"net.py": text, **files}, saves, model, ("1x3x224x224",))


REGISTERED: dict[str, Folder] = {
    "a registry, and two configurations in Python": _row(
        "net:Whole(body={'type': 'Body', 'depth': 3, 'wide': 12}, "
        "top={'type': 'Top', 'seen': 12, 'classes': 7, 'loss': {'type': 'Loss', 'weight': 0.5}})",
        "exec(open('settings/b_large.py').read())",
        {"settings/a_small.py": SMALL, "settings/b_large.py": LARGE},
    ),
    "a registry, and names of its own in YAML": _row(
        "net:Whole(body={'NAME': 'tiny', 'depth': 2, 'wide': 6}, top={'NAME': 'Top', 'seen': 6, 'classes': 5})",
        "import yaml; model = yaml.safe_load(open('run.yaml'))['MODEL']",
        {"run.yaml": TABLES},
        "NAME",
        "tiny",
    ),
    "a registry that a script asks": _row(
        "net:Whole(body={'type': 'Body', 'depth': 2}, top={'type': 'Top', 'seen': 8, 'classes': 3})",
        "model = dict(type='Whole', body=dict(type='Body', depth=2), top=dict(type='Top', seen=8, classes=3))",
        {"train.py": SCRIPT},
    ),
    "a registry, and settings that are handed on whole": Folder(
        {
            "net.py": HEAD + WHOLE,
            "a.yaml": "MODEL: {BODY: {NAME: Body, WIDE: 64}, CLASSES: 9}\nnot-a-name: 3\n",
            "b.yaml": "MODEL: {BODY: {NAME: Body, WIDE: 12}, CLASSES: 5}\n",
        },
        "from types import SimpleNamespace as N; from net import *;"
        " model = Whole(N(MODEL=N(BODY=N(NAME='Body', WIDE=12), CLASSES=5))); torch.save(model.state_dict(), 'w.pt')",
        "net:Whole(cfg=types.SimpleNamespace(MODEL=types.SimpleNamespace(BODY=types.SimpleNamespace("
        "NAME='Body', WIDE=12), CLASSES=5)))",
        ("1x3x224x224",),
    ),
}
