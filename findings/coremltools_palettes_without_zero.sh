#!/usr/bin/env bash
# coremltools 9.0: palettizing a pruned weight by mode="uniform" leaves no zero in it. The table's values are spread evenly
# from the smallest weight to the largest, an even number of them, so none of them is 0, and the four fifths of the weight that
# were pruned become the value next to it: at 4 bits each is off by a fifteenth of the largest. mode="kmeans" has a value that is zero
# or within 1e-3 of it, so a tool that counts exact zeros may find none there either. No warning. Way out: kmeans, then put what
# was pruned back to 0 by the mask; or prune and palettize the rest (joint_compression, iOS 18). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6 scikit-learn
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
layer = nn.Linear(128, 64).eval()
with torch.no_grad():
    layer.weight[layer.weight.abs() <= layer.weight.abs().flatten().quantile(0.8)] = 0
pruned = layer.weight.detach().numpy() == 0
program = torch.export.export(layer, (torch.randn(1, 128),)).run_decompositions({})
model = ct.convert(program, convert_to="mlprogram", skip_model_load=True, compute_precision=ct.precision.FLOAT32,
                   minimum_deployment_target=ct.target.iOS16)
largest = float(layer.weight.abs().max())
print(f"coremltools {ct.__version__}: {pruned.mean():.3f} of the weight are zeros, the largest entry is {largest:.4f}")
holds = True
for mode in ("uniform", "kmeans"):
    for bits in (2, 4, 6):
        config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode=mode, nbits=bits, weight_threshold=10))
        program = cto.palettize_weights(model, config)._mil_program
        weight = next(op for op in program.functions["main"].operations if op.op_type == "constexpr_lut_to_dense")
        values = weight.materialized_val_inference()
        zeros, nearest = float((values == 0).mean()), float(np.abs(values[pruned]).max())
        print(f"{mode}, {bits} bits: {zeros:.3f} zeros, what was pruned is up to {nearest:.5f}")
        holds &= zeros == 0 and nearest > 0.9 * largest / (2**bits - 1) if mode == "uniform" else nearest < 1e-3
raise SystemExit(not holds)
PY
