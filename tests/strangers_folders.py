"""Folders of strangers, with the model that `init` finds in each."""

from __future__ import annotations

from tests.strangers import FUSED, HEAD, PLAY, SMALL, STACK, TRAINING, TRIPWIRE, WIDE, Folder, notebook
from tests.strangers_given import GIVEN
from tests.strangers_keyed import KEYED
from tests.strangers_odd import ODD
from tests.strangers_registered import REGISTERED
from tests.strangers_settings import SETTINGS
from tests.strangers_shapes import SHAPES

FOLDERS: dict[str, Folder] = {
    "one class": Folder(
        {"net.py": HEAD + SMALL}, "from net import *; torch.save(Net().state_dict(), 'w.pt')", "net:Net", ("1x1x28x28",)
    ),
    "a class with arguments that the weights tell": Folder(
        {"net.py": HEAD + WIDE},
        "from net import *; torch.save(Net(6, classes=7).state_dict(), 'w.pt')",
        "net:Net(width=6, classes=7)",
        ("1x3x224x224",),
    ),
    "a class with arguments that the checkpoint notes": Folder(
        {
            "net.py": HEAD
            + "class Deep(nn.Module):\n    def __init__(self, depth):\n        super().__init__()\n"
            + "        self.layers = nn.ModuleList([nn.Linear(12, 12) for _ in range(depth)])\n"
            + "        self.out = nn.Linear(12, 3)\n    def forward(self, x):\n        for layer in self.layers:\n"
            + "            x = layer(x)\n        return self.out(x)\n"
        },
        "from net import *; d = Deep(2); o = torch.optim.Adam(d.parameters()).state_dict();"
        " torch.save({'epoch': 3, 'hyper_parameters': {'depth': 2, 'lr': 0.1}, 'state_dict': d.state_dict(),"
        " 'optimizer': o}, 'w.pt')",
        "net:Deep(depth=2)",
        ("1x12",),
    ),
    "a class with arguments that a script gives": Folder(
        {
            "net.py": HEAD + WIDE.replace("nn.Linear(2 * width, classes)", "nn.LazyLinear(classes)"),
            "train.py": "from net import Net\nWIDTH = 4\nmodel = Net(WIDTH, classes=5)\n" + TRIPWIRE,
            "eval.py": "import torch\nx = torch.zeros(8, 3, 40, 40)\n",
        },
        "from net import *; n = Net(4, classes=5); n(torch.zeros(1, 3, 8, 8)); torch.save(n.state_dict(), 'w.pt')",
        "net:Net(width=4, classes=5)",
        ("1x3x40x40",),
    ),
    "several classes": Folder(
        {"net.py": HEAD + SMALL + SMALL.replace("class Net", "class Other").replace("1, 8, 3", "3, 8, 3")},
        "from net import *; torch.save(Other().state_dict(), 'w.pt')",
        "net:Other",
        ("1x3x28x28",),
    ),
    "a factory function": Folder(
        {
            "model.py": HEAD
            + "def make(width=8):\n    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.ReLU(),"
            + " nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))\n"
        },
        "from model import *; torch.save(make(6).state_dict(), 'w.pt')",
        "model:make(width=6)",
        ("1x3x224x224",),
    ),
    "a package with __init__": Folder(
        {
            "vision/__init__.py": "from .nets import Net\n" + TRIPWIRE,
            "vision/nets.py": HEAD + SMALL,
            "setup.py": "from setuptools import setup\n",
        },
        "from vision.nets import *; import os; os.makedirs('weights'); torch.save(Net().state_dict(), 'weights/w.pt')",
        "vision.nets:Net",
        ("1x1x28x28",),
        "weights/w.pt",
    ),
    "a checkpoint nested with epoch and optimizer": Folder(
        {"net.py": HEAD + SMALL},
        "from net import *; n = nn.DataParallel(Net()); o = torch.optim.Adam(n.parameters());"
        " n.module(torch.zeros(1, 1, 28, 28)).sum().backward(); o.step();"
        " torch.save({'epoch': 5, 'model': n.state_dict(), 'optimizer': o.state_dict()}, 'w.pt')",
        "net:Net",
        ("1x1x28x28",),
    ),
    "two weight files": Folder(
        {"net.py": HEAD + SMALL},
        "from net import *; torch.save(Net().state_dict(), 'last.pt'); torch.save(Net().state_dict(), 'best.pt');"
        " torch.save(nn.Linear(3, 3).state_dict(), 'other.pt')",
        "net:Net",
        ("1x1x28x28",),
        "best.pt",
        "last.pt would fit as well",
    ),
    "a notebook only": Folder(
        {"play 1.ipynb": notebook("%matplotlib inline\n!pip install x", HEAD, "WIDTH = 8\n", SMALL, TRIPWIRE)},
        PLAY + "; torch.save(Net().state_dict(), 'w.pt')",
        "play_1_model:Net",
        ("1x1x28x28",),
    ),
    "names with spaces": Folder(
        {"my net.py": HEAD + SMALL, "net.py": HEAD + SMALL},
        "from net import *; torch.save(Net().state_dict(), 'my weights.pt')",
        "net:Net",
        ("1x1x28x28",),
        "my weights.pt",
    ),
    "no name that could be imported": Folder(
        {"2024 net-v2.py": HEAD + SMALL},
        "import runpy; globals().update(runpy.run_path('2024 net-v2.py')); torch.save(Net().state_dict(), 'w.pt')",
        "net_2024_net_v2_model:Net",
        ("1x1x28x28",),
    ),
    "a script that trains as it is imported": Folder(
        {
            "main.py": HEAD
            + "from absent_package import x\nDEPTH = 8\n"
            + SMALL.replace("1, 8, 3", "1, DEPTH, 3")
            + TRAINING
        },
        PLAY.replace("play 1.ipynb", "main.py") + "; torch.save(Net().state_dict(), 'w.pt')",
        "main_model:Net",
        ("1x1x28x28",),
    ),
    "a script exported from a notebook": Folder(
        {"main.py": "get_ipython().run_line_magic('matplotlib', 'inline')\n" + HEAD + SMALL},
        PLAY.replace("play 1.ipynb", "main.py") + "; torch.save(Net().state_dict(), 'w.pt')",
        "main_model:Net",
        ("1x1x28x28",),
    ),
    "a factory whose arguments a command line has": Folder(
        {
            "models/__init__.py": "",
            "models/factory.py": HEAD + STACK + "def create_model(channels, base, depth, num_classes):\n"
            "    return Stack(channels, base, depth, num_classes)\n",
            "train.py": "import argparse, torch\nfrom models.factory import create_model\ndef main():\n"
            "    p = argparse.ArgumentParser()\n    p.add_argument('--base', type=int, default=6)\n"
            "    p.add_argument('--depth', default=3)\n    p.add_argument('--img-size', default=48)\n"
            "    args = p.parse_args()\n    model = create_model(1, args.base, args.depth, num_classes=5)\n"
            "    model(torch.randn(4, 1, args.img_size, args.img_size))\nif __name__ == '__main__':\n    main()\n",
        },
        "from models.factory import *; torch.save(create_model(1, 6, 3, 5).state_dict(), 'w.pt')",
        "models.factory:create_model(channels=1, base=6, depth=3, num_classes=5)",
        ("1x1x48x48",),
    ),
    "a factory that hands its arguments on": Folder(
        {"net.py": HEAD + WIDE + "def build(w, n):\n    return Net(w, classes=n)\n"},
        "from net import *; torch.save(build(6, 4).state_dict(), 'w.pt')",
        "net:build(w=6, n=4)",
        ("1x3x224x224",),
    ),
    "arguments in YAML": Folder(
        {
            "conf/model/small.yaml": "_target_: project.net.Stack\nchannels: 3\nbase: 4\ndepth: 2\nclasses: 6\n",
            "conf/config.yaml": "defaults: [{model: small}]\nimage_size: 40\nseed: &a [1, *a]\n",
            "project/__init__.py": "",
            "project/net.py": HEAD + STACK,
        },
        "from project.net import *; import os; os.makedirs('outputs/a/b');"
        " torch.save(Stack(3, 4, 2, 6).state_dict(), 'outputs/a/b/last.ckpt')",
        "project.net:Stack(channels=3, base=4, depth=2, classes=6)",
        ("1x3x40x40",),
        "outputs/a/b/last.ckpt",
    ),
    "an encoder that would fit alone": Folder(
        {
            "net.py": HEAD
            + SMALL.replace("class Net", "class Encoder")
            + SMALL.replace("class Net", "class Other")
            + "class Both(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.first = Encoder()\n        self.second = Other()\n"
            "    def forward(self, x):\n        return self.first(x) + self.second(x)\n"
        },
        "from net import *; torch.save(Both().state_dict(), 'w.pt')",
        "net:Both",
        ("1x1x28x28",),
    ),
    "a teacher and its student": Folder(
        {"net.py": HEAD + SMALL + SMALL.replace("class Net", "class Other").replace("8", "6")},
        "from net import *; torch.save(Net().state_dict(), 'teacher.pt');"
        " torch.save(Other().state_dict(), 'student_best.pt')",
        "net:Other",
        ("1x1x28x28",),
        "student_best.pt",
        "teacher.pt belongs to net:Net",
    ),
    "several inputs, as a call makes them": Folder(
        {
            "net.py": HEAD + FUSED + "if __name__ == '__main__':\n    row = torch.rand(2, 12)\n"
            "    Fused()(torch.randn(2, 3, 20, 24), row)\n"
        },
        "from net import *; torch.save(Fused().state_dict(), 'w.pt')",
        "net:Fused",
        ("1x3x20x24", "1x12"),
    ),
    "several inputs, as their layers take them": Folder(
        {"net.py": HEAD + FUSED},
        "from net import *; torch.save(Fused().state_dict(), 'w.pt')",
        "net:Fused",
        ("1x3x224x224", "1x12"),
    ),
    "tokens, a mask and few positions": Folder(
        {
            "net.py": HEAD + "class Text(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.embed = nn.Embedding(50, 8)\n        self.pos = nn.Parameter(torch.zeros(1, 16, 8))\n"
            "        self.out = nn.Linear(8, 2)\n    def forward(self, ids, mask):\n"
            "        h = self.embed(ids) + self.pos[:, :ids.size(1)]\n"
            "        return self.out((h * mask.unsqueeze(-1)).sum(1))\n"
        },
        "from net import *; torch.save(Text().state_dict(), 'w.pt')",
        "net:Text",
        ("1x16:int64", "1x16:int64"),
    ),
    "safetensors, which sorts by name": Folder(
        {"net.py": HEAD + SMALL.replace("self.fc", "self.a_head").replace("self.conv1", "self.z_first")},
        "from net import *; from safetensors.torch import save_file; save_file(Net().state_dict(), 'w.safetensors')",
        "net:Net",
        ("1x1x28x28",),
        "w.safetensors",
    ),
    "a flattened image": Folder(
        {
            "net.py": HEAD + "class Flat(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.a = nn.Linear(2 * 6 * 6, 8)\n        self.b = nn.Linear(8, 2)\n"
            "    def forward(self, x):\n        return self.b(self.a(x.flatten(1)))\n"
            "def data():\n    return torch.randn(9, 2, 6, 6)\n"
        },
        "from net import *; torch.save(Flat().state_dict(), 'w.pt')",
        "net:Flat",
        ("1x2x6x6",),
    ),
    "what a library saved": Folder(
        {},
        "import transformers as t; c = t.BertConfig(vocab_size=90, hidden_size=16, num_hidden_layers=1,"
        " num_attention_heads=2, intermediate_size=32, max_position_embeddings=24);"
        " t.BertForSequenceClassification(c).save_pretrained('.')",
        "transformers:BertForSequenceClassification.from_pretrained(pretrained_model_name_or_path='.')",
        ("1x24:int64",),
        "model.safetensors",
    ),
    "a dead module beside": Folder(
        {"net.py": HEAD + SMALL, "old.py": "class Net(nn.Module:\n"},
        "from net import *; torch.save(Net().state_dict(), 'w.pt')",
        "net:Net",
        ("1x1x28x28",),
        said="old.py is left out: line 1",
    ),
    "a pickled module beside": Folder(
        {"net.py": HEAD + SMALL},
        "from net import *; torch.save(Net().state_dict(), 'w.pt'); torch.save(nn.Linear(2, 2), 'whole.pt')",
        "net:Net",
        ("1x1x28x28",),
        said="whole.pt is left out",
    ),
    "tokens": Folder(
        {
            "net.py": HEAD
            + "class Tagger(nn.Module):\n    def __init__(self, vocabulary, width=16, tags=4):\n"
            + "        super().__init__()\n        self.emb = nn.Embedding(vocabulary, width)\n"
            + "        self.rnn = nn.LSTM(width, width, batch_first=True)\n        self.out = nn.Linear(width, tags)\n"
            + "    def forward(self, tokens):\n        return self.out(self.rnn(self.emb(tokens))[0])\n"
        },
        "from net import *; torch.save(Tagger(50, 8).state_dict(), 'w.pt')",
        "net:Tagger(vocabulary=50, width=8)",
        ("1x32:int64",),
    ),
    "a script that makes its model as it runs": Folder(
        {
            "play.py": HEAD
            + "class Affine(nn.Module):\n    def __init__(self, i, o):\n        super().__init__()\n"
            + "        self.weight = nn.Parameter(torch.randn(o, i))\n"
            + "        self.offset = nn.Parameter(torch.zeros(o))\n"
            + "    def forward(self, x):\n        return x @ self.weight.t() + self.offset\n"
            + "net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), Affine(16, 16), nn.ReLU(), nn.Linear(16, 3))\n"
        },
        "from play import *; torch.save(net.state_dict(), 'w.pt')",
        "play:net",
        ("1x12",),
    ),
    "a forward that takes a dict": Folder(
        {
            "net.py": HEAD
            + "class Pair(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            + "        self.words = nn.Embedding(50, 8)\n        self.image = nn.Linear(3, 8)\n"
            + "        self.out = nn.Linear(8, 2)\n    def forward(self, batch: dict):\n"
            + "        return self.out(self.words(batch['tokens']).mean(1) + self.image(batch['image']))\n"
        },
        "from net import *; torch.save(Pair().state_dict(), 'w.pt')",
        "net:Pair",
        (),
    ),
    "a package below src, with loaders and means": Folder(
        {
            "src/segm/__init__.py": "",
            "src/segm/layers.py": HEAD
            + "class Unit(nn.Sequential):\n    def __init__(self, i, o, k=3):\n"
            + "        super().__init__(nn.Conv2d(i, o, k), nn.Conv2d(o, o, k))\n",
            "src/segm/net.py": HEAD
            + "from segm.layers import Unit\n"
            + "class Whole(nn.Module):\n    def __init__(self, widths=(6, 12)):\n        super().__init__()\n"
            + "        self.stages = nn.ModuleList(Unit(i, o) for i, o in zip((3, *widths), widths))\n"
            + "        self.heads = nn.Sequential(nn.Conv2d(12, 8, 1), nn.Conv2d(8, 8, 1))\n"
            + "    def forward(self, x):\n        for stage in self.stages:\n            x = stage(x)\n"
            + "        return self.heads(x).mean(dim=(2, 3))\n",
            "src/segm/data.py": "from torch.utils.data import DataLoader\n"
            + "def loaders(root):\n    return DataLoader(root), DataLoader(root)\n",
        },
        "import sys, os; sys.path.insert(0, 'src'); import torch; from segm.net import *; os.makedirs('run 1/deep');"
        " torch.save(Whole().state_dict(), 'run 1/deep/w.pt')",
        "segm.net:Whole",
        ("1x3x224x224",),
        "run 1/deep/w.pt",
    ),
    "a batch whose size is no number": Folder(
        {"net.py": HEAD + WIDE, "data.py": "import torch\nn = len('abc')\nx = torch.randn(n, 3, 48, 40)\n"},
        "from net import *; torch.save(Net(6).state_dict(), 'w.pt')",
        "net:Net(width=6)",
        ("1x3x48x40",),
    ),
    "nothing at all": Folder({}, "", None, (), None),
} | SETTINGS
FOLDERS |= SHAPES | GIVEN | REGISTERED | ODD | KEYED
