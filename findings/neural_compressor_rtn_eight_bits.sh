#!/usr/bin/env bash
# neural-compressor 3.10: RTNConfig(bits=8, use_sym=False), weight-only 8 bits with a zero point, makes a model of noise: weights come back off by the whole
# range of a row, and the output of one layer by about its own size, without a warning. Fewer bits with a zero point and 8 without are right
# (8: 0.004), so that 4 bits are seven times nearer than 8. The difference of weight and zero point, -255 to 255, is cast to int8 when it is read (recover of
# INCWeightOnlyLinear: `torch.subtract(weight, zp).to(torch.int8)`). Way out: use_sym=True. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 setuptools==80.9.0
"$folder/venv/bin/pip" install --quiet neural-compressor==3.10 transformers==5.23.0 accelerate==1.15.0 wcwidth prettytable psutil py-cpuinfo pydantic
cd "$folder"
cat > rtn.py <<'PY'
import copy
import logging

import torch
from neural_compressor.torch.quantization import RTNConfig, convert, prepare
from torch import nn

logging.disable(logging.WARNING)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 48)).eval()
x = torch.randn(16, 64)
eye = torch.eye(64)
with torch.no_grad():
    right, bias = model(x), model[0].bias
    weight = model[0].weight
    span = float((weight.amax(1) - weight.amin(1)).max())
    off = {}
    for bits in (8, 4):
        for symmetric in (True, False):
            for group in (-1, 16):
                made = convert(prepare(copy.deepcopy(model), RTNConfig(bits=bits, use_sym=symmetric, group_size=group)))
                read = (made(eye) - bias).T
                step = float((read - weight).abs().max()) / span
                off[bits, symmetric, group] = float((made(x) - right).norm() / right.norm())
                print(f"neural-compressor 3.10: {bits} bits, use_sym={symmetric}, group_size={group}: output off by {off[bits, symmetric, group]:.4f} of its size, weights by {step:.3f} of a row's range at most")
for (bits, symmetric, group), share in off.items():
    assert share > 0.4 if bits == 8 and not symmetric else share < {8: 0.02, 4: 0.2}[bits], (bits, symmetric, group)
PY
venv/bin/python rtn.py 2>log || { tail -5 log; exit 2; }
