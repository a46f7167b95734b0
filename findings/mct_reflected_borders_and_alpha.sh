#!/usr/bin/env bash
# model-compression-toolkit 2.6.1 (Sony's MCT), two substitutions that pytorch_post_training_quantization makes by default change the network, without an error or a warning:
# - behind GELU, SiLU and Hardswish it adds a number, so that activations need no sign, and takes it off in the next convolution. A convolution with
#   padding_mode="reflect" or "circular" becomes one with a border of that constant: its results are off by half of the largest. "zeros" is right, and so are
#   these borders behind a ReLU, or with shift_negative_activation_correction=False (the way out),
# - a convolution and its own input added behind it become one convolution, whose middle weight is raised by 1, whatever torch.add says of alpha:
#   torch.add(conv(x), x, alpha=2) is conv(x) + x. conv(x) + 2 * x is right, and so is residual_collapsing=False (the ways out).
# 8 bits are within 0.06 elsewhere here. An empty stand-in for torchvision, which the images of data generation need, keeps the script small.
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet model-compression-toolkit==2.6.1 torch==2.13.0
cd "$folder"
cat > torchvision.py <<'PY'
import importlib.abc
import importlib.machinery
import sys
import types

__version__, __path__ = "0.28.0", []


class Anything(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("torchvision."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Anything(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(Finder())
PY
cat > run.py <<'PY'
import torch
import torch.nn.functional as F
from torch import nn

import model_compression_toolkit as mct
from model_compression_toolkit.core import CoreConfig, QuantizationConfig

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, border, activation):
        super().__init__()
        self.first, self.second, self.activation = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1, padding_mode=border), activation
        self.first.weight.data *= 3

    def forward(self, x):
        return self.second(self.activation(self.first(x)))


class Sum(nn.Module):
    def __init__(self, add):
        super().__init__()
        self.conv, self.add = nn.Conv2d(3, 3, 3, padding=1), add

    def forward(self, x):
        return self.add(self.conv(x), x)


def off(model, **words):
    x = torch.randn(2, 3, 12, 12)
    model.eval()
    settings = CoreConfig(quantization_config=QuantizationConfig(**words))
    quantized, _ = mct.ptq.pytorch_post_training_quantization(
        model, lambda: ([x] for _ in range(3)), core_config=settings, target_platform_capabilities=mct.get_target_platform_capabilities())
    with torch.no_grad():
        right = model(x)
        return float((quantized(x) - right).abs().max() / right.abs().max())


for name, made, is_right in (
    ("GELU in front of a border that reflects", lambda: off(Net("reflect", F.gelu)), False),
    ("SiLU in front of a circular border", lambda: off(Net("circular", F.silu)), False),
    ("GELU in front of zeros", lambda: off(Net("zeros", F.gelu)), True),
    ("ReLU in front of a border that reflects", lambda: off(Net("reflect", F.relu)), True),
    ("GELU, reflects, without the shift", lambda: off(Net("reflect", F.gelu), shift_negative_activation_correction=False), True),
    ("alpha=2", lambda: off(Sum(lambda y, x: torch.add(y, x, alpha=2))), False),
    ("2 * x", lambda: off(Sum(lambda y, x: y + 2 * x)), True),
    ("alpha=2, not collapsed", lambda: off(Sum(lambda y, x: torch.add(y, x, alpha=2)), residual_collapsing=False), True),
):
    found = made()
    print("MCT 2.6.1,", name, "off by", round(found, 3), flush=True)
    assert (found < 0.06) == is_right and (is_right or found > 0.1), found
PY
venv/bin/python -W ignore run.py 2> log
