#!/usr/bin/env bash
# onnxsim 0.8.1's new pruning functions cut 2:4 where no sparse hardware looks for it: n=2, m=4 of a Conv takes its groups of four along the flattened kernel (channel, row,
# column), so that a 3x3 layer has two zeros in every four neighbouring kernel places. Sparse tensor cores (TensorRT) and the Ethos-U85 need them in every four input
# channels of one kernel place, and some 30 % of those groups hold three or four weights: the layer runs dense, with half of its weights lost.
# onnxsim/onnxsim#802 added convolutions for TensorRT's sake. apply_magnitude_pruning, apply_wanda_pruning and apply_sparsegpt_pruning alike,
# without a warning. MatMul, Gemm with and without transB, and 1x1 convolutions are right. Beside it, apply_magnitude_pruning leaves the
# dense weight in the file under its old name, where nothing reads it: the "pruned" file is twice as large as before (onnxsim.simplify takes it away).
# Way out: permute the kernel to (rows, columns, channels) and prune that. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxsim==0.8.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - 2> log <<'PY'
import numpy as np
import onnx
import onnxsim
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
IMAGE = ([1, 32, 8, 8], [1, 16, 8, 8])


def network(kind, shape, ends, **words):
    """One layer, and what it reads."""
    weight = numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in zip("xy", ends)]
    graph = helper.make_graph([helper.make_node(kind, ["x", "w"], ["y"], "layer", **words)], "g", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model, {"x": random.standard_normal(ends[0]).astype(np.float32)}


def over(weight, axis):
    """Share of the groups of four along an axis that hold more than two weights."""
    groups = np.moveaxis(weight, axis, -1).reshape(-1, 4)
    return float(((groups != 0).sum(1) > 2).mean())


for name, (model, feeds), inputs, is_right in (
    ("Conv 3x3", network("Conv", (16, 32, 3, 3), IMAGE, pads=[1] * 4), 1, False), ("Conv 1x1", network("Conv", (16, 32, 1, 1), IMAGE), 1, True),
    ("MatMul", network("MatMul", (32, 16), ([4, 32], [4, 16])), 0, True), ("Gemm, transB", network("Gemm", (16, 32), ([4, 32], [4, 16]), transB=1), 1, True),
):
    for prune in ("apply_magnitude_pruning", "apply_wanda_pruning", "apply_sparsegpt_pruning"):
        words = {} if prune == "apply_magnitude_pruning" else {"calibration_data": [feeds] * 2}
        pruned = getattr(onnxsim, prune)(model, n=2, m=4, **words)
        read = pruned.graph.node[0].input[1]
        weights = {one.name: numpy_helper.to_array(one) for one in pruned.graph.initializer}
        share, unread = over(weights[read], inputs), [one for one in weights if one != read]
        flat = over(weights[read].reshape(16, -1), 1) if name.startswith("Conv") else 0
        larger = pruned.ByteSize() / model.ByteSize()
        print("onnxsim 0.8.1,", prune, name, "zeros", float((weights[read] == 0).mean()), "groups of channels above two: %.2f," % share,
              "of the flattened kernel: %.2f," % flat, "size %.2f" % larger)
        assert (weights[read] == 0).mean() == 0.5 and flat == 0 and ((share == 0) if is_right else (0.2 < share < 0.4))
        assert len(onnxsim.simplify(pruned)[0].graph.initializer) == 1
        assert bool(unread) == (prune == "apply_magnitude_pruning") and (larger > 1.8) == bool(unread)
PY
