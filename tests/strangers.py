"""Code that strangers might have written, and what lies in a folder of theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass

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
STACK = """
class Stack(nn.Module):
    def __init__(self, channels, base, depth, classes):
        super().__init__()
        self.blocks = nn.ModuleList()
        for step in range(depth):
            self.blocks.append(nn.Conv2d(channels, base * 2**step, 3, padding=1))
            channels = base * 2**step
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        for block in self.blocks:
            x = F.relu(block(x))
        return self.head(x.mean((2, 3)))


"""
FUSED = """
class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table = nn.Linear(12, 8)
        self.head = nn.Linear(16, 2)

    def forward(self, image, row):
        return self.head(torch.cat([self.image(image), self.table(row)], 1))


"""
TRAINING = """
model = Net()
for epoch in range(2):
    model(torch.zeros(1, 1, 28, 28)).sum().backward()
    open('ran.txt', 'a').write('trained')
"""
# what the owner ran in the notebook or the script
PLAY = (
    "import re; text = open('play 1.ipynb').read(); import json;"
    " text = '\\n'.join(''.join(c['source']) for c in json.loads(text)['cells']) if text[:1] == '{' else text;"
    " exec(re.sub(r'(?m)^([%!]|get_ipython|from absent|model =|for epoch|    model|    open).*$', '', text))"
)
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
    unsaid: str = "\n"  # in no note


def notebook(*cells: str) -> str:
    return json.dumps({"cells": [{"cell_type": "code", "source": [cell]} for cell in cells], "nbformat": 4})
