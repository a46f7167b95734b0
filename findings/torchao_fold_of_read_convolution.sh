#!/usr/bin/env bash
# torchao 0.18.0: prepare_pt2e folds a batch norm into the convolution in front of it without asking who else reads either of the two.
# - Where something beside the norm reads the convolution (a skip taken in front of the norm, y + norm(y)), that reader gets what is behind the norm.
# - Where one convolution stands in front of two norms, as heads shared over scales have it, both get the first one's fold.
# - Where one convolution is called with a norm and without one, the call without gets it too.
# No error and no warning, in prepare_pt2e as in what convert_pt2e gives. Here a quantizer annotates nothing, so that all numbers are floats and folding
# is all that happens: it is not a matter of rounding. The same networks with a convolution for each reader are right to 1e-5 (the way out). Linear layers
# and their norms fare alike. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchao==0.18.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PY' | grep "^torchao\|^off\|^holds\|^changed"
from importlib.metadata import version

import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import Quantizer

print("torchao", version("torchao"), "torch", torch.__version__, flush=True)


class Nothing(Quantizer):
    """Asks for no quantization at all."""

    def annotate(self, model):
        return model

    def validate(self, model):
        pass


def norm(wide):
    made = nn.BatchNorm2d(wide) if wide == 6 else nn.BatchNorm1d(wide)
    for tensor in (made.weight.data, made.running_var):
        tensor.uniform_(0.4, 2.5)
    for tensor in (made.bias.data, made.running_mean):
        tensor.normal_()
    return made


class Readers(nn.Module):
    def __init__(self, kind, own, layer):
        super().__init__()
        self.kind, wide = kind, 6 if isinstance(layer, nn.Conv2d) else 5
        self.a, self.first, self.second = layer, norm(wide), norm(wide)
        self.b = type(layer)(*((6, 6, 3) if wide == 6 else (5, 5))) if own else layer  # the same weights, stored twice
        self.b.load_state_dict(layer.state_dict())

    def forward(self, x):
        if self.kind == "skip":
            y = self.a(x)
            return self.first(y) + (self.b(x) if self.b is not self.a else y)
        if self.kind == "two norms":
            return self.first(self.a(x)) + self.second(self.b(2 * x))
        return self.first(self.a(x)) + self.b(2 * x)


off = {}
for name, layer, shape in (("Conv2d", lambda: nn.Conv2d(6, 6, 3), (2, 6, 7, 7)), ("Linear", lambda: nn.Linear(5, 5), (4, 5))):
    for kind in ("skip", "two norms", "with and without"):
        for own in (False, True):
            torch.manual_seed(0)
            model, x = Readers(kind, own, layer()).eval(), torch.randn(shape)
            with torch.no_grad():
                wanted = model(x)
                prepared = prepare_pt2e(torch.export.export(model, (x,)).module(), Nothing())
                given = prepared(x)
                converted = convert_pt2e(prepared)(x)
            off[name, kind, own] = [float((y - wanted).abs().max() / wanted.abs().max()) for y in (given, converted)]
            print(f"off by {off[name, kind, own][0]:.1g} prepared, {off[name, kind, own][1]:.1g} converted: {name}, {kind}, {'a layer each' if own else 'one layer'}", flush=True)
wrong = [min(parts) > 0.1 for (_, _, own), parts in off.items() if not own]
right = [max(parts) < 1e-5 for (_, _, own), parts in off.items() if own]
print("holds" if all(wrong) and all(right) else "changed", flush=True)
raise SystemExit(not (all(wrong) and all(right)))
PY
