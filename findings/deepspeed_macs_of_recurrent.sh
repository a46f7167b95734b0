#!/usr/bin/env bash
# DeepSpeed 0.19.8's flops profiler: get_model_profile counts an LSTM, GRU, RNN, their cells and torch.einsum as 0 MACs, beside FLOPs that are right (within the gates),
# so that a network of a convolution and an LSTM is told to have the MACs of the convolution, and FLOPs many times as large as twice those. A matrix that multiplies a batch of
# matrices (weight @ x, as for mixing tokens) counts once whatever the batch, in both numbers. nn.Linear, convolutions, x @ weight and attention are
# right. No warning. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 setuptools==80.9.0 wheel
"$folder/venv/bin/pip" install --quiet --no-build-isolation deepspeed==0.19.8
cd "$folder"
cat > count.py <<'PY'
import contextlib
import io

import torch
from deepspeed.profiling.flops_profiler import get_model_profile
from torch import nn


class Of(nn.Module):
    def __init__(self, compute, **parts):
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.compute(self, x)


def weight(*shape):
    return nn.Parameter(torch.randn(shape))


tokens, row, image = (4, 7, 24), (4, 24), (4, 8, 10, 12)
product = 4 * 7 * 24 * 32
cases = {  # module, shape of x, multiplications, what of them the profiler should tell
    "Linear": (nn.Linear(24, 32), tokens, product, 1),
    "Conv2d": (nn.Conv2d(8, 16, 3), image, 4 * 16 * 8 * 9 * 80, 1),
    "x @ weight": (Of(lambda self, x: x @ self.w, w=weight(24, 32)), tokens, product, 1),
    "weight @ x": (Of(lambda self, x: self.w @ x, w=weight(32, 7)), tokens, product, 1 / 4),
    "einsum": (Of(lambda self, x: torch.einsum("bti,io->bto", x, self.w), w=weight(24, 32)), tokens, product, 0),
    "LSTM": (nn.LSTM(24, 16, batch_first=True), tokens, 4 * 7 * 64 * 40, 0),
    "GRU": (nn.GRU(24, 16, batch_first=True), tokens, 4 * 7 * 48 * 40, 0),
    "LSTMCell": (nn.LSTMCell(24, 16), row, 4 * 64 * 40, 0),
}
for name, (module, shape, wanted, told) in cases.items():
    with contextlib.redirect_stdout(io.StringIO()):
        flops, macs, _ = get_model_profile(module.eval(), args=[torch.randn(shape)], print_profile=False, as_string=False, warm_up=0)
    print(f"DeepSpeed 0.19.8, {name}: {macs} MACs and {flops} FLOPs for {wanted} multiplications")
    assert macs == told * wanted, name
    assert 1.9 * wanted < flops < 2.3 * wanted or name == "weight @ x" and flops == 2 * macs, name
PY
venv/bin/python count.py 2>log || { tail -5 log; exit 2; }
