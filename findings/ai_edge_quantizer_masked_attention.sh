#!/usr/bin/env bash
# ai-edge-quantizer 0.10.0 leaves infinities out of the ranges it calibrates: an additive attention mask of 0 and -inf seems
# to be all zeros, gets a scale for zeros, and the int8 file attends to what was hidden. The same mask as -20 is kept.
# No error, no warning. Seen with litert-torch 0.10.0, ai-edge-litert 2.3.0, torch 2.13.0. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ai-edge-quantizer==0.10.0 litert-torch==0.10.0 litert-converter==0.5.0 \
  ai-edge-litert==2.3.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^hidden\|^holds\|^changed"
import litert_torch
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from ai_edge_quantizer.qtyping import TFLOperationName
from torch import nn


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x, mask):
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        return (scores + mask).softmax(-1) @ self.value(x)


torch.manual_seed(0)
net, x = Attention().eval(), torch.randn(2, 6, 16)
off = {}
for hidden in (-20.0, float("-inf")):
    mask = torch.zeros(2, 1, 6)
    mask[:, :, 3:] = hidden
    content = litert_torch.convert(net, (x, mask)).model_content()
    call = {"args_0": x.numpy(), "args_1": mask.numpy()}
    engine = quantizer.Quantizer(bytearray(content), recipe.static_wi8_ai8())
    for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
        engine.update_quantization_recipe(".*", end, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE)
    ranges = engine.calibrate({"serving_default": [dict(call)]})
    small = bytes(engine.quantize(ranges).quantized_model)
    found = next(iter(Interpreter(model_content=small).get_signature_runner()(**call).values()))
    expected = net(x, mask).detach().numpy()
    off[hidden] = float(abs(found - expected).max() / abs(expected).max())
    print(f"hidden by {hidden}: the int8 file is off by {off[hidden]:.2g} of the largest value", flush=True)
finite, infinite = off.values()
holds = infinite > 0.3 > 0.1 > finite
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
