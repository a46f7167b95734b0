"""Folders of strangers whose modules are given others, or whose positions are for another size."""

from __future__ import annotations

from tests.strangers import HEAD, Folder, notebook

BACKBONE = """
class Backbone(nn.Module):
    def __init__(self, inside=3, width=16):
        super().__init__()
        self.first = nn.Conv2d(inside, width, 3, 2, 1)
        self.second = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.leaves = 2 * width

    def forward(self, x):
        return F.relu(self.second(F.relu(self.first(x))))
"""
TOP = """
class Top(nn.Module):
    def __init__(self, inside, classes):
        super().__init__()
        self.fc = nn.Linear(inside, classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))
"""
MODEL = """
class Model(nn.Module):
    def __init__(self, backbone, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.top = head

    def forward(self, x):
        return self.top(self.backbone(x))
"""
OUTER = """
class Outer(nn.Module):
    def __init__(self, net, rate=0.1):
        super().__init__()
        self.net, self.rate = net, rate

    def forward(self, x):
        return self.net(x).softmax(-1)
"""
POSITIONS = """
class Patches(nn.Module):
    def __init__(self, image_size=224, patch=16, dim=48, depth=2, classes=10):
        super().__init__()
        count = (image_size // patch) ** 2
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.places = nn.Parameter(torch.zeros(1, count + 1, dim))
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(dim, 4, 2 * dim, batch_first=True), depth)
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.size(0), -1, -1), x], 1) + self.places
        return self.head(self.body(x)[:, 0])
"""
COUNTED = """
class Embed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, inside=3, dim=48):
        super().__init__()
        self.grid = img_size // patch_size
        self.count = self.grid * self.grid
        self.proj = nn.Conv2d(inside, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Patches(nn.Module):
    def __init__(self, img_size=224, patch_size=16, inside=3, classes=1000, dim=48, depth=12):
        super().__init__()
        self.embed = Embed(img_size=img_size, patch_size=patch_size, inside=inside, dim=dim)
        count = self.embed.count
        self.places = nn.Parameter(torch.zeros(1, count, dim))
        self.blocks = nn.ModuleList(
            [nn.TransformerEncoderLayer(dim, 4, 4 * dim, batch_first=True) for _ in range(depth)]
        )
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        x = self.embed(x) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))
"""
GRAPH = """
class Conv(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.linear = nn.Linear(inside, outside)

    def forward(self, x):
        return self.linear(x)


class Net(nn.Module):
    def __init__(self, inside, hidden, classes, dropout):
        super().__init__()
        self.first, self.second = Conv(inside, hidden), Conv(hidden, classes)
        self.dropout = dropout

    def forward(self, x):
        x = F.dropout(F.relu(self.first(x)), self.dropout, training=self.training)
        return self.second(x)
"""
LINES = """
class Lines(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 16, (8, 1))
        self.out = nn.Linear(16, classes)

    def forward(self, x):
        x = self.second(F.max_pool2d(F.relu(self.first(x)), 4))
        assert x.size(2) == 1
        return self.out(x.squeeze(2).permute(0, 2, 1))
"""
APART = {
    "nets/__init__.py": "",
    "nets/backbone.py": HEAD + BACKBONE,
    "nets/top.py": HEAD + TOP,
    "nets/model.py": HEAD + MODEL,
    "nets/build.py": "from .backbone import Backbone\nfrom .model import Model\nfrom .top import Top\n\n\n"
    "def build_model(cfg):\n    backbone = Backbone(width=cfg['width'])\n"
    "    return Model(backbone, Top(backbone.leaves, cfg['classes']))\n",
}
GIVEN: dict[str, Folder] = {
    "parts that another file puts together": Folder(
        APART,
        "from nets.build import *; import torch;"
        " torch.save(build_model({'width': 12, 'classes': 7}).state_dict(), 'w.pt')",
        "nets.model:Model(backbone=nets.backbone.Backbone(width=12), head=nets.top.Top(inside=24, classes=7))",
        ("1x3x224x224",),
    ),
    "parts that nothing here puts together": Folder(
        {"net.py": HEAD + BACKBONE + TOP + MODEL},
        "from net import *; torch.save(Model(Backbone(width=6), Top(12, 3)).state_dict(), 'w.pt')",
        "net:Model(backbone=Backbone(width=6), head=Top(inside=12, classes=3))",
        ("1x3x224x224",),
    ),
    "a module that is given one that is given parts": Folder(
        {"net.py": HEAD + BACKBONE + TOP + MODEL + OUTER},
        "from net import *; torch.save(Outer(Model(Backbone(width=6), Top(12, 3))).state_dict(), 'w.pt')",
        "net:Outer(net=Model(backbone=Backbone(width=6), head=Top(inside=12, classes=3)))",
        ("1x3x224x224",),
    ),
    "a factory whose arguments go to parts": Folder(
        {"net.py": HEAD + BACKBONE + TOP + MODEL
         + "def build(width=16, classes=10):\n"
         "    return Model(Backbone(width=width), Top(2 * width, classes))\n"},
        "from net import *; torch.save(build(8, 5).state_dict(), 'w.pt')",
        "net:build(width=8, classes=5)",
        ("1x3x224x224",),
    ),
    "only the backbone's code": Folder(
        {"net.py": HEAD + BACKBONE},
        "from net import *; n = nn.Module(); n.backbone = Backbone(width=8); n.fc = nn.Linear(16, 2);"
        " torch.save(n.state_dict(), 'w.pt')",
        "net:Backbone(width=8)",
        ("1x3x224x224",),
        said="w.pt holds more beside 'backbone', such as fc.weight, fc.bias: net:Backbone(width=8) may be a part",
    ),
    "parts in a notebook": Folder(
        {"a.ipynb": notebook(HEAD, BACKBONE + TOP, MODEL, "model = Model(Backbone(width=6), Top(12, 3))")},
        f"exec({HEAD + BACKBONE + TOP + MODEL!r});"
        " torch.save(Model(Backbone(width=6), Top(12, 3)).state_dict(), 'w.pt')",
        "a_model:Model(backbone=Backbone(width=6), head=Top(inside=12, classes=3))",
        ("1x3x224x224",),
    ),
    "positions for a size that is no default": Folder(
        {"net.py": HEAD + POSITIONS},
        "from net import *; torch.save(Patches(96, depth=3, classes=7).state_dict(), 'w.pt')",
        "net:Patches(image_size=96, depth=3, classes=7)",
        ("1x3x96x96",),
    ),
    "positions that a part counts": Folder(
        {"net.py": HEAD + COUNTED},
        "from net import *; torch.save({'model': Patches(64, 8, classes=5, dim=32, depth=2).state_dict()}, 'w.pt')",
        "net:Patches(img_size=64, patch_size=8, classes=5, dim=32, depth=2)",
        ("1x3x64x64",),
    ),
    "a picture model that a library saved": Folder(
        {},
        "import transformers as t; c = t.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,"
        " intermediate_size=32, image_size=64, patch_size=8, num_labels=4);"
        " t.ViTForImageClassification(c).save_pretrained('vit')",
        "transformers:ViTForImageClassification.from_pretrained(pretrained_model_name_or_path='vit')",
        ("1x3x64x64",),
        "vit/model.safetensors",
    ),
    "a model that writes, as a library saved it": Folder(
        {},
        "import transformers as t; c = t.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=24);"
        " t.GPT2LMHeadModel(c).save_pretrained('.')",
        "transformers:GPT2LMHeadModel.from_pretrained(pretrained_model_name_or_path='.', use_cache=False)",
        ("1x24:int64",),
        "model.safetensors",
    ),
    "a model of two inputs that a library saved": Folder(
        {},
        "import transformers as t; c = t.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,"
        " vocab_size=40); t.T5ForConditionalGeneration(c).save_pretrained('.')",
        "transformers:T5ForConditionalGeneration.from_pretrained(pretrained_model_name_or_path='.')",
        (),
        "model.safetensors",
    ),
    "a share of dropout that nothing tells": Folder(
        {"net.py": HEAD + GRAPH},
        "from net import *; torch.save(Net(14, 8, 3, 0.5).state_dict(), 'w.pt')",
        "net:Net(inside=14, hidden=8, classes=3, dropout=0.0)",
        ("1x14",),
        said="dropout is set to 0.0: the weights do not tell it, and only training sees it",
    ),
    "lines of text, as high and wide as the settings say": Folder(
        {
            "net.py": HEAD + LINES,
            "train.py": "import argparse\np = argparse.ArgumentParser()\np.add_argument('--imgH', default=32)\n"
            "p.add_argument('--imgW', default=100)\n",
        },
        "from net import *; torch.save(Lines(7).state_dict(), 'w.pt')",
        "net:Lines(classes=7)",
        ("1x1x32x100",),
    ),
    "weights five folders down": Folder(
        {"net.py": HEAD + BACKBONE},
        "from net import *; import os; d = 'logs/train/runs/2026-01-01_10-00-00/checkpoints'; os.makedirs(d);"
        " torch.save(Backbone(width=8).state_dict(), d + '/last.ckpt')",
        "net:Backbone(width=8)",
        ("1x3x224x224",),
        "logs/train/runs/2026-01-01_10-00-00/checkpoints/last.ckpt",
    ),
}  # fmt: skip
