#!/usr/bin/env bash
# hls4ml 1.3.0 leaves two numbers out of PyTorch modules, without a warning: the value of nn.Threshold(threshold, value), which is 0 in the C++ that it
# writes, and the ceil_mode of pools, so that a pool of two over seven columns has three results for torch's four. nn.Threshold(0.1, 0) and pools whose
# windows fill the image are right. What the C++ gives is compiled by g++ and asked in fixed<32,16>, whose steps of 1.5e-5 are the rest of the difference.
# Way out: nn.Threshold(threshold, 0), the value taken off before and added behind; an image padded to whole windows. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hls4ml==1.3.0 torch==2.13.0 numpy==2.4.6 h5py==3.16.0
cd "$folder"
venv/bin/python -W ignore - 2> log <<'PY' | grep "^hls4ml 1\|^holds\|^changed"
import hls4ml
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
holds = True
for name, layer, shape, wanted in (
    ("Threshold(0.1, -2)", nn.Threshold(0.1, -2.0), (6,), "value"), ("Threshold(0.1, 0)", nn.Threshold(0.1, 0.0), (6,), "right"),
    ("MaxPool1d(2, ceil_mode=True) of 7", nn.MaxPool1d(2, ceil_mode=True), (1, 7), "size"), ("MaxPool1d(2, ceil_mode=True) of 8", nn.MaxPool1d(2, ceil_mode=True), (1, 8), "right"),
    ("AvgPool1d(2, ceil_mode=True) of 7", nn.AvgPool1d(2, ceil_mode=True), (1, 7), "size"),
):
    module = nn.Sequential(layer).eval()
    config = hls4ml.utils.config_from_pytorch_model(module, shape, default_precision="fixed<32,16>")
    model = hls4ml.converters.convert_from_pytorch_model(module, hls_config=config, output_dir=f"net{len(name)}{shape[-1]}", backend="Vitis", io_type="io_parallel")
    model.compile()
    x = torch.randn(4, *shape)
    right = module(x).numpy().reshape(4, -1)
    found = np.asarray(model.predict(np.ascontiguousarray(x.numpy().reshape(4, -1, *shape[:-1])))).reshape(4, -1)
    print("hls4ml 1.3.0,", name, found[0].round(3).tolist(), "for", right[0].round(3).tolist(), flush=True)
    if wanted == "size":
        holds &= found.shape[1] == 3 and right.shape[1] == 4 and np.allclose(found, right[:, :3], atol=1e-3)
    else:
        holds &= np.allclose(found, np.where(right == -2, 0, right) if wanted == "value" else right, atol=1e-3) and (wanted == "right" or bool((right == -2).any()))
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
