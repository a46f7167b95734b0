#!/usr/bin/env bash
# torch.nn.utils.remove_spectral_norm leaves its hook on loading behind: afterwards the module refuses its own state dict.
#
# torch 2.13.0 wraps load_state_dict pre-hooks in _WrappedHook, so the isinstance check by which remove_spectral_norm looks
# for its own hook never matches. state_dict() then has 'weight', while load_state_dict() asks for 'weight_orig' and 'weight_u'.
# Seen: Missing key(s) in state_dict: "weight_orig", "weight_u".
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PY'
import torch
from torch import nn

print("torch", torch.__version__)
layer = nn.utils.spectral_norm(nn.Linear(3, 3))
nn.utils.remove_spectral_norm(layer)
state = layer.state_dict()
print("state dict:", sorted(state), "hooks on loading:", len(layer._load_state_dict_pre_hooks))
try:
    layer.load_state_dict(state)
except RuntimeError as error:
    message = str(error)
    print(message)
    assert "weight_orig" in message and "weight_u" in message
else:
    raise SystemExit("changed: the module loads its own state dict")
PY
