#!/usr/bin/env bash
# onnxscript 0.7.2's optimize and rewrite write a file that no runtime opens where one tensor goes through two chains of the same kind: two Flattens of x,
# as two heads have them, or two clamps after a clamp. Each rewritten node reads a constant named after the tensor (x/shape, x_min); the second one's is
# called x/shape_1, and is not put among the initializers. Nothing is said while it is written; onnxruntime's refusal ("Node input 'x/shape_1' is not a
# graph input, initializer, or output of a previous node") and onnx.checker's speak of a name that the model never had. One chain is right. Way out:
# a Reshape to a shape of its own in place of a Flatten, one Clip in place of two. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - 2> log <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer, rewriter

x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
bounds = {f"{end}{i}": np.float32(value) for i, size in enumerate((2, 1, 0.5)) for end, value in (("low", -size), ("high", size))}


def clip(source, i, to):
    return helper.make_node("Clip", [source, f"low{i}", f"high{i}"], [to])


KINDS = {
    "Flatten": [helper.make_node("Flatten", ["x"], ["a"], axis=1), helper.make_node("Flatten", ["x"], ["b"], axis=2)],
    "Clip behind Clip": [clip("x", 0, "c"), clip("c", 1, "a"), clip("x", 0, "d"), clip("d", 2, "b")],
}


def computed(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})


def answer(nodes, outputs, rewrite):
    """"right", "other numbers", or what onnxruntime says of the rewritten file."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in bounds.items() if any(k in node.input for node in nodes)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])], ends, stored)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    onnx.checker.check_model(model, full_check=True)
    wanted = computed(model)
    changed = rewrite(onnx.ModelProto.FromString(model.SerializeToString()))
    try:
        found = computed(changed)
    except Exception as refused:
        return str(refused).split("model. ")[-1]
    return "right" if all(np.array_equal(one, other) for one, other in zip(wanted, found, strict=True)) else "other numbers"


holds = True
shapes = {"rows": np.array([2, 12]), "columns": np.array([6, 4])}
bounds |= shapes
ways_out = [helper.make_node("Reshape", ["x", name], [to]) for name, to in zip(shapes, "ab")], [clip("x", 1, "a"), clip("x", 2, "b")]
for nodes in ways_out:
    found = [answer(nodes, "ab", rewrite) for rewrite in (optimizer.optimize, rewriter.rewrite)]
    print(f"onnxscript 0.7.2, two {nodes[0].op_type}s of x: {found}", flush=True)
    holds &= found == ["right", "right"]
for kind, nodes in KINDS.items():
    for rewrite in (optimizer.optimize, rewriter.rewrite):
        two, one = answer(nodes, "ab", rewrite), answer(nodes[: len(nodes) // 2], "a", rewrite)
        print(f"onnxscript 0.7.2, {rewrite.__name__}, {kind}: two chains: {two}; one chain: {one}", flush=True)
        holds &= "is not a graph input, initializer, or output" in two and one == "right"
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
