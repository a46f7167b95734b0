#!/usr/bin/env bash
# torch 2.13.0: torch.nn.utils.prune on the out_proj of an nn.MultiheadAttention (as pruning every nn.Linear of a transformer does) makes a weight
# that stands still. prune multiplies weight_orig by the mask in a hook in front of the layer's forward, and attention reads out_proj.weight without calling out_proj:
# the product of the moment of pruning stays. A state dict that is loaded afterwards, such as the trained one of the same pruned
# model, is accepted in full, in eval and without a warning, and the outputs are those of before; training goes wrong at the second step
# (its optimizer changes weight_orig alone). linear1 and linear2 of an nn.TransformerEncoderLayer are right. Way out: prune.remove and
# prune anew after each load, or a parametrization (torch.nn.utils.parametrize), which is computed at every read. 2.14.1's prune.py is the same. Exit 0
# while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import torch
from torch import nn
from torch.nn.utils import parametrize, prune


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def pruned(seed, names, how):
    """A layer whose linear parts of those names lose what is below the middle of their sizes."""
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True).eval()
    for name in names:
        part = layer.get_submodule(name)
        if how == "prune":
            prune.l1_unstructured(part, "weight", 0.5)
        else:
            mask = (part.weight.abs() > part.weight.abs().median()).float()
            parametrize.register_parametrization(part, "weight", Masked(mask))
    return layer


x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
off = {}
for names, how in ((["self_attn.out_proj"], "prune"), (["linear1", "linear2"], "prune"), (["self_attn.out_proj"], "parametrize")):
    trained, fresh = pruned(1, names, how), pruned(2, names, how)
    print("loaded:", fresh.load_state_dict(trained.state_dict()), end="; ")
    with torch.no_grad():
        off[names[0], how] = float((fresh(x) - trained(x)).abs().max())
    print(f"torch {torch.__version__}, {how}, {names}: off by {off[names[0], how]:.2g}")
assert off["self_attn.out_proj", "prune"] > 0.1
assert off["linear1", "prune"] < 1e-5 and off["self_attn.out_proj", "parametrize"] < 1e-5

attention = nn.MultiheadAttention(16, 2, batch_first=True)
prune.l1_unstructured(attention.out_proj, "weight", 0.5)
before = attention.out_proj.weight.detach().clone()
optimizer = torch.optim.SGD(attention.parameters(), lr=1.0)
attention(x, x, x)[0].square().sum().backward()
optimizer.step()
attention(x, x, x)
stored = attention.out_proj.weight_orig * attention.out_proj.weight_mask
assert torch.equal(attention.out_proj.weight, before) and not torch.allclose(before, stored)
print("after a step of training, forward still reads the weight of before:", torch.equal(attention.out_proj.weight, before))
PY
