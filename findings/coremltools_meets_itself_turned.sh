#!/usr/bin/env bash
# coremltools 9.0 takes a tensor for its own transpose. Where something turned (x = p.transpose(1, 2)) meets itself turned back, in one operator, the pass
# common::reduce_transposes of the default pipeline takes away both turns as a pair, and the operator's two inputs become the same one:
# - x.transpose(1, 2) - x, the skew part of a learned adjacency, is zeros; x.transpose(1, 2) + x is 2x, the maximum of both x, the concatenation x twice,
# - x.transpose(1, 2) @ x, the Gram matrix of descriptors, is the product of two others where there are as many descriptors as features, and
#   otherwise the conversion ends ("are not broadcastable", a matmul that the model does not have).
# The same pass moves turns over `pow` with an exponent for each channel, as generalized mean pooling has them: (x.transpose(1, 2) ** c).transpose(1, 2) of a
# square x takes the exponent of the row for that of the column (a pull request for that is open: apple/coremltools#2784).
# No warning; from torch.jit.trace and from torch.export alike; judged by numpy on the operators of the program that comes out. Way out: the pass
# left out, by pipeline.remove_passes(["common::reduce_transposes"]), which is right for all. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet coremltools==9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2> "$folder/log" <<'PY'
import coremltools as ct
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, meet):
        super().__init__()
        self.meet, self.exponents = meet, nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, p):
        return self.meet(p.relu().transpose(1, 2), self.exponents)


def product(x, y, transpose_x=False, transpose_y=False):
    return (x.swapaxes(-1, -2) if transpose_x else x) @ (y.swapaxes(-1, -2) if transpose_y else y)


OPERATORS = {"transpose": lambda x, perm: x.transpose(perm), "relu": lambda x: np.maximum(x, 0), "pow": lambda x, y: x**y, "matmul": product,
             "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "maximum": lambda x, y: np.maximum(x, y),
             "concat": lambda values, axis, interleave: np.concatenate(values, axis)}


def computed(program, x):
    """What the operators of a MIL program give for its one input, by numpy."""
    main = program.functions["main"]
    values = {name: x for name in main.inputs}

    def value(read):
        return [value(one) for one in read] if isinstance(read, (list, tuple)) else values[read.name] if read.val is None else read.val

    for op in main.operations:
        if op.op_type != "const":
            values[op.outputs[0].name] = OPERATORS[op.op_type](**{name: value(read) for name, read in op.inputs.items()})
    return values[main.outputs[0].name]


def program(module, x, source, removed):
    pipeline = ct.PassPipeline.DEFAULT
    pipeline.remove_passes(removed)
    traced = source == "torch.jit.trace"
    net = torch.jit.trace(module, x) if traced else torch.export.export(module, (x,)).run_decompositions({})
    words = {"inputs": [ct.TensorType("p", x.shape)]} if traced else {}
    return ct.convert(net, convert_to="milinternal", compute_precision=ct.precision.FLOAT32, pass_pipeline=pipeline, **words)


CASES = {"x.T - x": (lambda x, c: x.transpose(1, 2) - x, 3), "x.T + x": (lambda x, c: x.transpose(1, 2) + x, 3),
         "max(x, x.T)": (lambda x, c: torch.maximum(x, x.transpose(1, 2)), 3), "cat(x, x.T)": (lambda x, c: torch.cat([x, x.transpose(1, 2)], 1), 3),
         "x.T @ x": (lambda x, c: x.transpose(1, 2) @ x, 3), "x.T @ x of 5 by 3": (lambda x, c: x.transpose(1, 2) @ x, 5),
         "(x ** c).T": (lambda x, c: (x**c).transpose(1, 2), 3)}
torch.manual_seed(0)
for source in ("torch.jit.trace", "torch.export"):
    for case, (meet, rows) in CASES.items():
        module, x = Net(meet).eval(), torch.rand(1, rows, 3) + 0.5
        right = module(x).detach().numpy()
        for removed in ([], ["common::reduce_transposes"]):
            try:
                found = computed(program(module, x, source, removed), x.numpy())
                off = float(np.abs(found - right).max()) if found.shape == right.shape else "another shape"
            except ValueError as error:
                off = str(error)
            print("coremltools 9.0,", source, case, "without the pass" if removed else "as it is", "off by", off, flush=True)
            assert off < 1e-5 if removed else "not broadcastable" in off if rows == 5 else off > 0.05
        if case == "x.T - x":
            assert not computed(program(module, x, source, []), x.numpy()).any()
PY
