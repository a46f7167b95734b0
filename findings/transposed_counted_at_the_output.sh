#!/usr/bin/env bash
# torchinfo 1.8.0, thop 0.1.1.post2209072238 and torch-pruning 1.6.1 count a transposed convolution as if each weight met every place of the
# output. It meets every place of the input: with a stride of 2 the count is four times too large (and the border more), with 4 sixteen times, so the decoder of
# a U-Net or a GAN looks like the part to prune. fvcore and torch's FlopCounterMode count the input's places, and so does counting the products of a
# transposed convolution written out. No warning. On record for thop (Lyken17/pytorch-OpCounter#93, ultralytics/thop#92,
# mended in ultralytics' copy). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchinfo==1.8.0 thop==0.1.1.post2209072238 torch-pruning==1.6.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import warnings

import thop
import torch
import torch_pruning
import torchinfo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def written_out(layer, x):
    """The layer's answer from one product for each place of the input, and how many multiplications that took."""
    (span, _), (step, _), made = layer.kernel_size, layer.stride, 0
    out = torch.zeros(1, layer.out_channels, *((extent - 1) * step + span for extent in x.shape[2:]))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            out[0, :, i * step : i * step + span, j * step : j * step + span] += torch.einsum("i,iohw->ohw", x[0, :, i, j], layer.weight)
            made += layer.weight.numel()
    return out, made


for step in (1, 2, 4):
    layer, x = nn.ConvTranspose2d(8, 12, 4, stride=step, bias=False), torch.randn(1, 8, 10, 10)
    with torch.no_grad():
        out, products = written_out(layer, x)
        assert torch.allclose(out, layer(x), atol=1e-5)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * products
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = {
            "torchinfo 1.8.0": torchinfo.summary(layer, input_data=[x], verbose=0).total_mult_adds,
            "thop 0.1.1": thop.profile(layer, (x,), verbose=False)[0],
            "torch-pruning 1.6.1": torch_pruning.utils.count_ops_and_params(layer, x)[0],
        }
    assert not [one for one in said if "count" in str(one.message) or "flop" in str(one.message).lower()]
    print(f"stride {step}: {products} products;", ", ".join(f"{name} {value / products:.2f} times that" for name, value in found.items()))
    assert all(value == layer.weight.numel() * out.shape[2] * out.shape[3] for value in found.values())
PY
