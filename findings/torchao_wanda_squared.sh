#!/usr/bin/env bash
# torchao 0.18.0: WandaSparsifier scores a weight by |w| · ‖x‖² where Wanda (arXiv 2306.11695, which its docstring names), its own comment
# ("|weight| * ||activation||") and the observer's docstring ("computes the L2 norm of each channel") say |w| · ‖x‖: the observer adds up squares, and no
# root is taken. The masks are those of a metric that overrates loud inputs: where inputs lie a hundredfold apart, as in transformers, 8 to 10 % of
# the weights that are kept are others, at 50 % as in 2:4, and what the layer computes on the very data it was calibrated on is further off than with the
# paper's metric. Inputs that are equally loud hide it. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchao==0.18.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^torchao\|^loud\|^equal\|^holds\|^changed"
import warnings
from importlib.metadata import version

import torch
from torch import nn
from torchao.sparsity import WandaSparsifier

warnings.filterwarnings("ignore")
print("torchao", version("torchao"), flush=True)


def chosen(score, block):
    """The mask that drops the lower half of each block of scores."""
    rows = score.reshape(-1, block or score.numel())
    lost = rows.argsort(dim=1)[:, : rows.shape[1] // 2]
    return torch.ones_like(rows).scatter_(1, lost, 0).reshape(score.shape).bool()


holds = True
for spread in (1.0, 0.0):
    torch.manual_seed(0)
    weight = torch.randn(64, 128)
    batches = [torch.randn(16, 10, 128) * torch.logspace(-spread, spread, 128)[torch.randperm(128, generator=torch.Generator().manual_seed(1))] for _ in range(3)]
    norm = torch.cat(batches).flatten(0, 1).norm(dim=0)
    for block in (None, 4):
        model = nn.Sequential(nn.Linear(128, 64, bias=False))
        model[0].weight.data.copy_(weight)
        sparsifier = WandaSparsifier(sparsity_level=0.5, semi_structured_block_size=block)
        sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
        for batch in batches:
            model(batch)
        sparsifier.step()
        sparsifier.squash_mask()
        found, asked, squared = model[0].weight != 0, chosen(weight.abs() * norm, block), chosen(weight.abs() * norm**2, block)
        x = torch.cat(batches)
        off = {name: float((x @ (weight * mask).T - x @ weight.T).norm() / (x @ weight.T).norm()) for name, mask in (("found", found), ("asked", asked))}
        share = float((found != asked)[asked].float().mean())
        print(f"{'loud and quiet' if spread else 'equal'} inputs, {'2:4' if block else '50 %'}: {share:.1%} of the weights that |w|·norm keeps are lost, "
              f"{float((found != squared).float().mean()):.1%} differ from |w|·norm²; off by {off['found']:.3f}, by the paper's mask {off['asked']:.3f}", flush=True)
        holds &= bool((found == squared).float().mean() > 0.999)
        holds &= share > 0.05 and off["found"] > off["asked"] if spread else share < 0.05
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
