#!/usr/bin/env bash
# torch.nn.utils.parametrize.remove_parametrizations on a deep copy of a layer breaks the layer that was copied.
#
# torch 2.13.0 puts the computed weight as a property on a class of its own; copy.deepcopy gives the copy that same class, and
# remove_parametrizations deletes the property from it. The original then has no 'weight', though it is still parametrized.
# Seen: 'ParametrizedLinear' object has no attribute 'weight'
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PY'
import copy

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

print("torch", torch.__version__)
layer = parametrizations.weight_norm(nn.Linear(3, 3))
twin = copy.deepcopy(layer)
parametrize.remove_parametrizations(twin, "weight")
print("the copy computes:", tuple(twin(torch.ones(1, 3)).shape), "the original is parametrized:", parametrize.is_parametrized(layer))
try:
    layer(torch.ones(1, 3))
except AttributeError as error:
    print(error)
    assert "no attribute 'weight'" in str(error)
else:
    raise SystemExit("changed: the original still computes its weight")
PY
