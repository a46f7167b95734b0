"""Which layers Ethos-U85 computes at 2:4: every group of 4 weights along the input channel holds 2 zeros or more.

Nothing in a file declares it, the compiler looks at the numbers; one group that breaks it puts its whole layer back.
Here the groups are looked at one by one, so that the one that breaks it has a name. Seen with Vela 5.2.0: 1:4
qualifies, groups along the output channel do not.
"""

from __future__ import annotations

import numpy as np

from idp_deploy.flow import Contents, GraphOp
from idp_deploy.formats import COMPILED_FROM
from idp_deploy.formats.sparse_kernels import Finding, SparseLint

NAME = "Ethos-U85"
GROUP, KEPT = 4, 2
_COMPUTES = frozenset({"CONV_2D", "FULLY_CONNECTED"})  # weights (out, kh, kw, in) and (out, in)
_FIX = "prune with --pattern 2:4 (or 1:4), then quantize --scheme int8"


def lint(contents: Contents) -> SparseLint:
    """Every layer that the NPU multiplies by weights: whether it is computed at 2:4, or which group breaks it."""
    if contents.format not in COMPILED_FROM.values():
        message = f"{contents.format} files are not what Vela compiles"
        return SparseLint(False, (), 0.0, (Finding("format", contents.path.name, message, "export --to tflite"),))
    layers = [op for op in contents.ops if op.kind in _COMPUTES and "weight" in op.weights]
    judged = [(op, _broken(contents, op)) for op in layers]
    sparse = tuple(op.name for op, finding in judged if finding is None)
    tensors = [contents.tensor(op.weights["weight"]) for op in layers]
    size, zeros = sum(t.size for t in tensors), sum(t.zeros for t in tensors)
    findings = tuple(finding for _, finding in judged if finding is not None)
    return SparseLint(bool(sparse), sparse, zeros / size if size else 0.0, findings)


def _broken(contents: Contents, op: GraphOp) -> Finding | None:
    """The first rule or group of a layer that stands against 2:4."""
    tensor = contents.tensor(op.weights["weight"])
    if tensor.is_sparse:
        fix = "export --to tflite --target ethos-u85-256"
        return Finding("storage", tensor.name, "its weights are stored sparsely, which Vela leaves to the CPU", fix)
    if tensor.dtype != "int8":
        fix = "quantize --scheme int8, then export --to tflite --io int8"
        return Finding("arithmetic", tensor.name, f"its weights are {tensor.dtype}; the NPU computes int8", fix)
    inputs = tensor.shape[-1]
    if inputs % GROUP:
        message = f"{inputs} input channels do not divide by {GROUP}"
        return Finding("2:4", tensor.name, message, "leave it dense; it is small")
    values = tensor.values()
    full = np.argwhere((values.reshape(*values.shape[:-1], -1, GROUP) != 0).sum(-1) > KEPT)
    if not len(full):
        return None
    first = full[0]
    kernel = f", kernel position {tuple(int(n) for n in first[1:-1])}" if len(first) > 2 else ""
    group = f"inputs {int(first[-1]) * GROUP} to {int(first[-1]) * GROUP + GROUP - 1}"
    message = f"output {int(first[0])}{kernel}, {group} hold more than {KEPT} weights; {len(full):,} of its groups do"
    return Finding("2:4", tensor.name, message, _FIX)
