#!/usr/bin/env bash
# coremltools 9.0: compressing the weights of a package that was converted for iOS 15 gives one for iOS 16, without a word.
# prune_weights, palettize_weights and linear_quantize_weights raise the specification version from 6 to 7, since their
# operators came with iOS 16; the package no longer opens on the phones that minimum_deployment_target=iOS15 was asked for.
# Joint compression below iOS 18 is refused instead, naming the target. Way out: compare get_spec().specificationVersion
# before and after (6 iOS 15, 7 iOS 16, 8 iOS 17, 9 iOS 18). Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6 scikit-learn
"$folder/venv/bin/python" - 2>"$folder/stderr" <<'PY' | tee "$folder/seen"
import warnings

import coremltools as ct
import coremltools.optimize.coreml as cto
import torch
from torch import nn

net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
program = torch.export.export(net, (torch.randn(1, 64),)).run_decompositions({})
model = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS15, skip_model_load=True)
ways = {
    "prune_weights": (cto.prune_weights, cto.OpMagnitudePrunerConfig(target_sparsity=0.8, weight_threshold=10)),
    "palettize_weights": (cto.palettize_weights, cto.OpPalettizerConfig(nbits=4, weight_threshold=10)),
    "linear_quantize_weights": (cto.linear_quantize_weights, cto.OpLinearQuantizerConfig(weight_threshold=10)),
}
before = model.get_spec().specificationVersion
print(f"coremltools {ct.__version__}, torch {torch.__version__}: converted for iOS 15, specification {before}", flush=True)
holds = before == 6
for name, (compress, config) in ways.items():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        after = compress(model, cto.OptimizationConfig(global_config=config)).get_spec().specificationVersion
    told = any("iOS" in str(one.message) or "specification" in str(one.message).lower() for one in said)
    print(f"{name}: specification {after}, a warning says so: {told}", flush=True)
    holds &= after == 7 and not told
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
if grep -i "iOS \?1[56]\|deployment target\|specification" "$folder/stderr"; then echo "changed: it is said on stderr"; exit 1; fi
