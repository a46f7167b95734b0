#!/usr/bin/env bash
# fvcore 0.1.5.post20221221 counts a matrix times a batch of matrices as one product. Its formula for aten::matmul is the entries of the first operand
# times the columns of the second (facebookresearch/fvcore#54), which leaves the batch out where it stands in the second alone or where
# an extent of 1 of the first is repeated: (7, 16) @ (3, 16, 5) is 560 where 1680 products are made. No warning, since the operator is
# known; (3, 7, 16) @ (16, 5) and torch.bmm are right. A learned matrix over tokens or joints (MLP-Mixer's token mixing, Linformer's
# projection, graph convolutions as adjacency @ features) is such a product: its share falls by the size of the batch. Way out: expand the
# matrix to the batch, or the operands the other way round, both transposed. torch's own FlopCounterMode is right. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet fvcore==0.1.5.post20221221 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>&1 <<'PY' | grep "^fvcore\|Error"
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Product(nn.Module):
    def forward(self, a, b):
        return a @ b


for first, second, parts in (
    ((7, 16), (3, 16, 5), 3), ((1, 7, 16), (3, 16, 5), 3), ((3, 1, 7, 16), (3, 4, 16, 5), 4), ((3, 7, 16), (16, 5), 1), ((3, 7, 16), (3, 16, 5), 1),
):
    a, b = torch.rand(first), torch.rand(second)
    real = Product()(a, b).numel() * 16  # each entry of the result is a sum of 16 products
    with FlopCounterMode(display=False) as counter:
        Product()(a, b)
    assert counter.get_total_flops() == 2 * real  # a multiplication and an addition
    analysis = FlopCountAnalysis(Product(), (a, b))
    found = analysis.total()
    print(f"fvcore 0.1.5.post20221221: {first} @ {second} makes {real} products, counted {found}", flush=True)
    assert found * parts == real and not analysis.unsupported_ops()
assert FlopCountAnalysis(Product(), (torch.rand(1, 7, 16).expand(3, 7, 16).contiguous(), torch.rand(3, 16, 5))).total() == 1680
PY
