"""`init` in folders of strangers: what it finds by reading alone runs without an edit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from idp_deploy.configuration import load
from idp_deploy.surveying import survey

HEAD = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"
SMALL = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.fc = nn.Linear(16 * 5 * 5, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(torch.flatten(x, 1))
"""
WIDE = """
class Block(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm = nn.BatchNorm2d(outside)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, width, classes=10, *, drop=0.1):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(Block(width, 2 * width), Block(2 * width, 2 * width))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x):
        return self.head(self.drop(self.pool(self.body(self.stem(x))).flatten(1)))
"""
TRIPWIRE = "\nopen('ran.txt', 'a').write('imported')\n"
SAVE = "torch.save({build}.state_dict(), {name!r})"


@dataclass(frozen=True)
class Folder:
    """A stranger's folder, and what `init` makes of it."""

    files: dict[str, str]
    saves: str  # run in the folder once, by its owner
    model: str | None
    inputs: tuple[str, ...] = ()
    weights: str | None = "w.pt"
    said: str = ""


def notebook(*cells: str) -> str:
    return json.dumps({"cells": [{"cell_type": "code", "source": [cell]} for cell in cells], "nbformat": 4})


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
        {"play.ipynb": notebook("%matplotlib inline", HEAD + SMALL)}, "", None, (), None, "play.ipynb defines Net"
    ),
    "names with spaces": Folder(
        {"my net.py": HEAD + SMALL, "net.py": HEAD + SMALL},
        "from net import *; torch.save(Net().state_dict(), 'my weights.pt')",
        "net:Net",
        ("1x1x28x28",),
        "my weights.pt",
        "cannot be imported: rename the file",
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
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a row, with its weights saved."""
    root = tmp_path_factory.mktemp("strangers")

    def make(name: str) -> Path:
        folder = root / f"a folder {list(FOLDERS).index(name)}"
        if not folder.exists():
            folder.mkdir()
            for file, text in FOLDERS[name].files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(text)
            if FOLDERS[name].saves:
                subprocess.run([sys.executable, "-c", FOLDERS[name].saves], cwd=folder, check=True)
            (folder / "ran.txt").unlink(missing_ok=True)
        return folder

    return make


@pytest.mark.wide
@pytest.mark.parametrize("name", FOLDERS)
def test_what_a_folder_holds_is_told_without_running_it(name: str, made: Callable[[str], Path]) -> None:
    row, folder = FOLDERS[name], made(name)
    found = survey(folder)
    choice = found.choice
    assert (choice.spec if choice else None) == row.model
    assert not (choice and choice.unknown)
    weights = choice.weights.path.relative_to(folder).as_posix() if choice and choice.weights else None
    assert (found.inputs.inputs, weights) == (row.inputs, row.weights)
    assert row.said in " | ".join(found.notes)
    assert not (folder / "ran.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in FOLDERS.items() if row.model and row.inputs])
def test_init_run_check_without_an_edit(name: str, made: Callable[[str], Path]) -> None:
    folder = made(name)
    for line in (["init"], ["run"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "idp_deploy", *line], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
    assert load(folder / "idp-deploy.toml", environment={}).budget_list()


def test_loaders_are_pointed_out_and_a_part_is_no_rival(made: Callable[[str], Path]) -> None:
    found = survey(made("a package below src, with loaders and means"))
    assert found.loaders == ("segm.data:loaders",)
    assert "fit" not in " ".join(found.notes)  # Unit fits `heads` alone


def test_a_dict_is_named_by_its_keys(made: Callable[[str], Path]) -> None:
    found = survey(made("a forward that takes a dict")).inputs
    assert found.source == "forward takes a dict with 'tokens', 'image': a function that returns (dict,)"
    assert found.template == "my_data:example_inputs"


def test_a_task_is_found_and_trains(tmp_path: Path) -> None:
    tiny = Path(__file__).parent / "tiny_project" / "tiny.py"
    (tmp_path / "tiny.py").write_text(tiny.read_text())
    found = survey(tmp_path)
    assert found.task == "tiny:task"
    assert found.choice is not None
    assert found.choice.spec == "tiny:build"


def test_an_export_of_another_tool_tells_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(HEAD + WIDE)
    code = (
        "from net import *; n = Net(4).eval(); torch.save(n.state_dict(), 'w.pt');"
        "torch.onnx.export(n, (torch.zeros(1, 3, 48, 40),), 'net.onnx', dynamo=True)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert survey(tmp_path).inputs.inputs == ("1x3x48x40",)
