#!/usr/bin/env bash
# LiteRT 2.3.0 on x86-64 has two answers to a division by zero, by who computes it, without an error in either:
# - its own kernels cut quotients and max pools off at the largest float, as if they had an activation of these bounds: 1 / 0 is 3.4e38, the largest of
#   (inf, 1) too, where XNNPACK and torch have inf, so that what looks for an infinity behind it finds none, and 0 * (1 / 0) is 0 instead of NaN,
# - XNNPACK makes NaN of rsqrt(0), where its own kernels and torch have inf: deg.rsqrt() of a node without edges, as graph convolutions have it, is no
#   infinity that a mask could replace; and its exp(NaN) is 0, which hides a NaN that its own kernels hand on.
# Which of them runs is decided outside of the file: XNNPACK, where the interpreter is made as usual and the delegate takes the operator. Way
# out: where(x == 0, ...) in front of the operator instead of a mask behind it. Seen with litert-torch 0.10.0, torch 2.13.0. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet litert-torch==0.10.0 litert-converter==0.5.0 ai-edge-litert==2.3.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2> "$folder/log" <<'PY' | grep "^LiteRT\|^holds\|^changed"
import litert_torch
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn
from torch.nn import functional as F

INF, NAN, LARGEST = float("inf"), float("nan"), float(np.finfo(np.float32).max)
KERNELS = {"XNNPACK": OpResolverType.AUTO, "its own": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# function, input, what torch, XNNPACK and the kernels of LiteRT itself make of it
CASES = {
    "1 / x": (lambda x: 1 / x, [0.0, -0.0, 2.0, 4.0], [INF, -INF, 0.5, 0.25], [INF, -INF, 0.5, 0.25], [LARGEST, -LARGEST, 0.5, 0.25]),
    "max_pool1d(x, 2)": (lambda x: F.max_pool1d(x, 2), [INF, 1.0, 2.0, 3.0], [INF, 3.0], [INF, 3.0], [LARGEST, 3.0]),
    "rsqrt(x)": (torch.rsqrt, [0.0, 1.0, 4.0, 16.0], [INF, 1.0, 0.5, 0.25], [NAN, 1.0, 0.5, 0.25], [INF, 1.0, 0.5, 0.25]),
    "exp(x)": (torch.exp, [NAN, 0.0, INF, -INF], [NAN, 1.0, INF, 0.0], [0.0, 1.0, INF, 0.0], [NAN, 1.0, INF, 0.0]),
}
holds = True
for name, (function, given, torchs, *wanted) in CASES.items():
    x = torch.tensor([[given]])
    module = Net(function).eval()
    content = litert_torch.convert(module, (x,)).model_content()
    holds &= np.allclose(module(x).numpy().ravel(), torchs, equal_nan=True)
    for (kernels, resolver), want in zip(KERNELS.items(), wanted):
        runner = Interpreter(model_content=content, experimental_op_resolver_type=resolver).get_signature_runner()
        found = next(iter(runner(args_0=x.numpy()).values())).ravel()
        print("LiteRT 2.3.0,", name, "of", given, "by", kernels, "kernels", found, "torch", np.float32(torchs), flush=True)
        holds &= np.allclose(found, np.float32(want), equal_nan=True) and bool(np.isinf(found).sum() == np.isinf(want).sum())
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
