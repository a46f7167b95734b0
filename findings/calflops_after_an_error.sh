#!/usr/bin/env bash
# calflops 0.3.2 counts double after a run that failed. It puts counting versions in place of torch's functions and takes them out again
# behind the model's call, so that an error in between (an input of the wrong size, a model that is out of memory) leaves them in place
# for the rest of the process; the next run wraps them once more and adds everything twice, the one after the next error three times.
# No warning: a convolution of 13824 products becomes 27648 and 41472. A sweep that catches errors, as searches over widths do, compares
# numbers of different multiples, and what is left of the model's numbers (parameters) stays right. Way out: a process a model.
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet calflops==0.3.2 accelerate==1.15.0 transformers==5.23.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PY' | grep "^calflops\|^holds\|^changed"
import torch
from calflops import calculate_flops
from torch import nn


def count(model, shape):
    """(products, parameters)."""
    return calculate_flops(model=model, args=[torch.rand(shape)], print_results=False, print_detailed=False, output_as_string=False)[1:]


model, shape = nn.Conv2d(3, 8, 3), (1, 3, 10, 10)
real = 8 * 8 * 8 * 27  # 8 channels of 8 x 8, of 27 products each
seen = [count(model, shape), count(model, shape)]
holds = seen == [(real, 224)] * 2  # once more without an error is right
for failures in (1, 2):
    try:
        count(nn.Linear(3, 3), (2, 2))
        holds = False
    except RuntimeError as error:
        holds &= "shapes cannot be multiplied" in str(error)
    products, parameters = count(model, shape)
    print("calflops 0.3.2 after", failures, "failed runs:", products, "products of", real, "and", parameters, "parameters", flush=True)
    holds &= products == (failures + 1) * real and parameters == 224
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
