#!/usr/bin/env bash
# coremltools 9.0 turns sqrt(x ** 2) into x, negative numbers included: the pass mil_backend::fuse_pow2_sqrt puts an
# `identity` in the place of pow(x, 2) and sqrt, whatever x is, without a warning; torch gives |x|. It is one of the passes
# of the back end, which a pass_pipeline given to ct.convert does not reach. Way out: x * x or torch.abs. Seen with torch
# 2.13.0 on Linux, where the operators of the saved program are read: nothing but `identity` and casts is left. Exit 0
# while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" 2>/dev/null <<'PY'
import sys

import coremltools as ct
import torch
from torch import nn


class Size(nn.Module):
    def forward(self, x):
        return (x + 1).pow(2).sqrt()


x = torch.tensor([-3.0, -1.5, 2.0])
exported = torch.export.export(Size().eval(), (x,)).run_decompositions({})
pipeline = ct.PassPipeline.DEFAULT
pipeline.remove_passes([name for name in pipeline.passes if "pow2_sqrt" in name])
model = ct.convert(
    exported, convert_to="mlprogram", skip_model_load=True, compute_precision=ct.precision.FLOAT32, pass_pipeline=pipeline
)
(block,) = model.get_spec().mlProgram.functions["main"].block_specializations.values()
kinds = [operation.type for operation in block.operations if operation.type not in ("const", "cast")]
print("coremltools", ct.__version__, "torch", torch.__version__)
print("torch", Size()(x).tolist(), "program", kinds, "which gives", (x + 1).tolist())
raise SystemExit(kinds != ["add", "identity"])
PY
