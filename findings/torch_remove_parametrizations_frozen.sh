#!/usr/bin/env bash
# torch.nn.utils.parametrize.remove_parametrizations makes a buffer of a frozen layer's weight, and of any under no_grad.
#
# torch 2.13.0 registers what several parts make (weight norm's direction and size) as a parameter only where the result
# requires a gradient. Where the parts were frozen, or inside torch.no_grad(), the layer has no parameter 'weight' afterwards:
# parameters() lacks it, requires_grad_(True) does not reach it, and no optimizer is given it.
# state_dict() shows nothing of this. Spectral norm, which has one part, and the older remove_weight_norm keep a parameter.
# Seen: frozen: ['bias'] under no_grad: ['bias'] otherwise: ['bias', 'weight']
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PY'
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize


def parameters(frozen, around):
    layer = parametrizations.weight_norm(nn.Linear(3, 3))
    layer.requires_grad_(not frozen)
    with around:
        parametrize.remove_parametrizations(layer, "weight")
    layer.requires_grad_(True)
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    return sorted(name for name, _ in layer.named_parameters())


print("torch", torch.__version__)
frozen = parameters(True, nullcontext())
without = parameters(False, torch.no_grad())
otherwise = parameters(False, nullcontext())
print("frozen:", frozen, "under no_grad:", without, "otherwise:", otherwise)
assert otherwise == ["bias", "weight"]
if frozen != ["bias"] or without != ["bias"]:
    raise SystemExit("changed: the weight is a parameter")
PY
