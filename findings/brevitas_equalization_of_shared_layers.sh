#!/usr/bin/env bash
# brevitas 0.13.4: preprocess_for_quantize with equalize_iters, the step that its PTQ examples put in front of quantization, makes another network of one
# whose layer is called twice, all in floats. Equalization divides the channels of one layer and multiplies the inputs of the next; a head that is shared by
# two scales (RetinaNet), a trunk called for two views with heads of their own, or a block repeated with the same weights (ALBERT) gets factors that
# fit one of its calls. A number that is added between two layers (relu(conv(x)) + 1) is left out of the factors likewise. Off by 0.1 to 0.5 of the
# largest output, without an error or a warning; with a layer for each call all are right to 1e-5, and so is a factor in place of the sum. Way out: a copy of the
# layer for each call, or equalize_iters=0 (the default). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet brevitas==0.13.4 torch==2.13.0 numpy==2.4.6 setuptools==80.9.0
"$folder/venv/bin/python" -W ignore - 2> "$folder/log" <<'PY'
import copy

import torch
import torch.nn.functional as F
from brevitas.fx import symbolic_trace
from brevitas.graph.quantize import preprocess_for_quantize
from torch import nn

torch.manual_seed(0)


def layer(inputs, outputs):
    """A convolution whose channels are a hundredfold apart, as training leaves depthwise ones."""
    made = nn.Conv2d(inputs, outputs, 3, padding=1)
    made.weight.data *= torch.logspace(-1, 1, outputs).view(-1, 1, 1, 1)
    return made


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.p, self.q, self.head, self.other = layer(3, 8), layer(3, 8), layer(8, 5), layer(8, 5)


class SharedHead(Heads):
    def forward(self, x):
        return torch.cat([self.head(F.relu(self.p(x))), self.head(F.relu(self.q(x)))], 1)


class HeadEach(Heads):
    def forward(self, x):
        return torch.cat([self.head(F.relu(self.p(x))), self.other(F.relu(self.q(x)))], 1)


class SharedTrunk(Heads):
    def forward(self, x):
        return self.head(F.relu(self.p(x))) + self.other(F.relu(self.p(x.flip(3))))


class TrunkEach(Heads):
    def forward(self, x):
        return self.head(F.relu(self.p(x))) + self.other(F.relu(self.q(x.flip(3))))


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = layer(3, 3), layer(3, 5)

    def forward(self, x):
        return self.head(F.relu(self.block(F.relu(self.block(x)))))


class Added(Heads):
    def forward(self, x):
        return self.head(F.relu(self.p(x)) + 1)


class Multiplied(Heads):
    def forward(self, x):
        return self.head(F.relu(self.p(x)) * 0.5)


x = torch.randn(2, 3, 12, 12)
for kind, is_right in ((SharedHead, False), (HeadEach, True), (SharedTrunk, False), (TrunkEach, True), (Repeated, False), (Added, False), (Multiplied, True)):
    model = kind().eval()
    with torch.no_grad():
        right = model(x)
        for iterations in (0, 20):
            graph = symbolic_trace(copy.deepcopy(model))
            found = preprocess_for_quantize(graph, trace_model=False, equalize_iters=iterations)(x)
            off = float((found - right).abs().max() / right.abs().max())
            print("brevitas 0.13.4,", kind.__name__, "equalized" if iterations else "as it is", "off by", round(off, 6))
            assert (off < 1e-4) == (is_right or not iterations), off
            assert off < 1e-4 or off > 0.05
PY
