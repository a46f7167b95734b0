#!/usr/bin/env bash
# onnxruntime 1.32.0's transformers optimizer (model_type="bert") fuses the attention of a layer whose heads were pruned with
# the number of heads it is told, without an error or a warning, where the layer leaves its own to be found, as BERT of
# transformers 5 does: x.view(batch, steps, -1, size). Outputs are off by 0.4 to 0.7 of the largest. The size of a head stands in the
# graph next to that -1 and the width in the weights, so that 48 / 16 = 3 heads are known; 4 are written. Pruned heads are
# meant to work (microsoft/onnxruntime#6850, #6920). num_heads=0, which detects them, says "Please specify those parameters in
# argument", but no number fits layers that were pruned differently. Layers that name their heads are right, with a warning.
# Ways out: num_heads=0, which leaves such attention as it is, or heads named in the model's view. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - 2> log <<'PY'
import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.transformers import optimizer
from torch import nn

WIDTH, SIZE = 64, 16


class Attention(nn.Module):
    """Attention of a BERT with so many heads left; the last Linear joins what they give."""

    def __init__(self, heads, named):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, heads * SIZE) for _ in range(3))
        self.out = nn.Linear(heads * SIZE, WIDTH)
        self.heads = heads if named else -1

    def split(self, x):
        return x.view(*x.shape[:2], self.heads, SIZE).transpose(1, 2)

    def forward(self, x, mask):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        y = ((q @ k.transpose(-1, -2) / SIZE**0.5 + mask).softmax(-1) @ v).transpose(1, 2)
        wide = self.heads * SIZE if self.heads > 0 else -1
        return self.out(y.reshape(*y.shape[:2], wide))


class Bert(nn.Module):
    def __init__(self, heads, named):
        super().__init__()
        self.table = nn.Embedding(50, WIDTH)
        self.attention = nn.ModuleList(Attention(count, named) for count in heads)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * len(heads) + 1))
        self.wide = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 128), nn.GELU(), nn.Linear(128, WIDTH)) for _ in heads)

    def forward(self, ids, mask):
        mask = (1 - mask[:, None, None].float()) * torch.finfo(torch.float32).min
        x = self.norms[-1](self.table(ids))
        for i, attention in enumerate(self.attention):
            x = self.norms[2 * i](attention(x, mask) + x)
            x = self.norms[2 * i + 1](self.wide[i](x) + x)
        return x


def answer(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(("ids", "mask"), inputs)))[0]


def off(heads, named, told):
    """How far the optimized file is from the exported one, of the largest output, and the heads of its Attention nodes."""
    torch.manual_seed(0)
    model = Bert(heads, named).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.dim() > 1 else 1)
    ids, mask = torch.randint(0, 50, (2, 8)), torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    axes = {name: {0: "batch", 1: "steps"} for name in ("ids", "mask")}
    words = {"input_names": list(axes), "output_names": ["y"], "dynamic_axes": axes, "opset_version": 17, "dynamo": False}
    torch.onnx.export(model, (ids, mask), "net.onnx", **words)
    right = answer("net.onnx", ids.numpy(), mask.numpy())
    assert np.abs(right - model(ids, mask).detach().numpy()).max() < 1e-4
    optimizer.optimize_model("net.onnx", "bert", num_heads=told, hidden_size=told * SIZE, opt_level=0).save_model_to_file("fused.onnx")
    nodes = [node for node in onnx.load("fused.onnx").graph.node if node.op_type == "Attention"]
    found = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "num_heads"]
    return float(np.abs(answer("fused.onnx", ids.numpy(), mask.numpy()) - right).max() / np.abs(right).max()), found


for heads in ((4, 4), (4, 3), (3, 3), (2, 1)):
    kept, named, undetected = off(heads, False, 4), off(heads, True, 4), off(heads, False, 0)
    print(f"onnxruntime {onnxruntime.__version__}: heads {heads}, told 4: off by {kept[0]:.1e} with {kept[1]}; named:",
          f"{named[0]:.1e} with {named[1]}; told 0: {undetected[0]:.1e} with {undetected[1]}")
    assert kept[1] == [4, 4] and (kept[0] > 0.1) == (heads != (4, 4))
    assert named[0] < 1e-4 and named[1] == list(heads) and undetected[0] < 1e-4 and not undetected[1]
PY
