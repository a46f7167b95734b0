#!/usr/bin/env bash
# onnx 1.23.2's onnx.compose joins two models so that a branch of the second reads a weight of the first. add_prefix, by which merge_models keeps names apart
# (prefix2=…), renames the weights of a graph but not where the branches of an If read them. Where the first model has a weight of
# that name, the second computes with it: no error, and onnx's full check and onnxruntime take
# the file. Where there is none of that name the file is invalid. The same layer outside of a branch, a weight stored in the branch itself, and
# models without branches are right; onnx/onnx#4718 taught add_prefix the names that a branch makes itself, not those that it reads. Way out: names that
# differ before joining. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - 2> log <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, compose, helper, numpy_helper

X = np.array([1, 2], np.float32)


def info(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def model(nodes, ends, constants):
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [info(ends[0])], [info(ends[1])], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(made, x):
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def first(name):
    return model([helper.make_node("Mul", ["x", name], ["h"])], ("x", "h"), {name: np.float32(10)})


def second(where):
    """Adds 1 to what it is given: in a branch that is always taken, or outside of one."""
    add = helper.make_node("Add", ["a", "w"], ["t"])
    if where == "outside":
        return model([helper.make_node("Add", ["a", "w"], ["y"])], ("a", "y"), {"w": np.float32(1)})
    stored = [numpy_helper.from_array(np.float32(1), "w")] if where == "stored in the branch" else []
    branches = {key: helper.make_graph([add], key, [], [info("t")], stored) for key in ("then_branch", "else_branch")}
    constants = {"yes": np.array(True)} | ({} if stored else {"w": np.float32(1)})
    return model([helper.make_node("If", ["yes"], ["y"], **branches)], ("a", "y"), constants)


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
answers = {}
for where in ("in a branch", "stored in the branch", "outside"):
    one, two = first("w"), second(where)
    apart = run(two, run(one, X))
    joined = run(compose.merge_models(one, two, io_map=[("h", "a")], prefix2="b_"), X)
    answers[where] = apart.tolist(), joined.tolist()
    print(f"w {where}: one after the other {apart.tolist()}, joined {joined.tolist()}")
try:
    run(compose.merge_models(first("v"), second("in a branch"), io_map=[("h", "a")], prefix2="b_"), X)
    alone = "right"
except onnx.checker.ValidationError as error:
    alone = f"refused by the checker: {str(error).split(chr(10))[0]}"
print("w in a branch, no w in the first:", alone)
holds = answers["in a branch"] == ([11, 21], [20, 30]) and alone != "right"
holds = holds and all(apart == joined == [11, 21] for apart, joined in (answers["outside"], answers["stored in the branch"]))
print("holds" if holds else "changed")
raise SystemExit(not holds)
PY
