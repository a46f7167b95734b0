#!/usr/bin/env bash
# onnxsim 0.8.1's new apply_structured_pruning and apply_structured_wanda_pruning cut channels of a layer without asking who else reads its weights. A weight that
# two layers read (a head over two scales, two views through one trunk, a repeated block) loses channels for both, while the inputs of what stands
# behind the other call stay as many as they were; a bias that two layers share is cut for both likewise. PRelu's slopes of rows (8, 1) are cut as if
# they were the channels'. The functions end without a word, and onnxruntime loads the file and refuses to run it. Weights of their own, and
# slopes of channels (8, 1, 1), are right: channels of zeros, which go first, change nothing. Way out: a copy of the weight for each call.
# Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxsim==0.8.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - 2> log <<'PY'
import numpy as np
import onnx
import onnxruntime
import onnxsim
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
ALIVE = np.array([1, 0, 1, 1, 0, 0, 1, 0])
X = random.standard_normal((1, 4, 8, 8)).astype(np.float32)
KERNELS = {"w": (8, 4), "w2": (8, 4), "v": (8, 8), "u": (8, 8)}
VALUES = {name: random.standard_normal((*shape, 3, 3)) * (ALIVE.reshape(-1, 1, 1, 1) if name[0] == "w" else 1) for name, shape in KERNELS.items()}
VALUES |= {"b": random.standard_normal(8) * ALIVE, "b2": random.standard_normal(8), "rows": random.random((8, 1)), "channels": random.random((8, 1, 1))}


def node(kind, inputs, output):
    words = {"pads": [1] * 4} if kind == "Conv" else {}
    return helper.make_node(kind, inputs, [output], output, **words)


def network(*nodes):
    used = {name for one in nodes for name in one.input}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 8, 8]) for name, channels in (("x", 4), ("y", 8))]
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in VALUES.items() if name in used]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def answer(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


def views(second):
    """Two views through a trunk, a head for each."""
    return network(node("Conv", ["x", "w"], "p"), node("Relu", ["p"], "q"), node("Conv", ["q", "v"], "r"), node("Neg", ["x"], "n"),
                   node("Conv", ["n", second], "s"), node("Softmax", ["s"], "t"), node("Conv", ["t", "u"], "z"), node("Add", ["r", "z"], "y"))


def biased(second):
    return network(node("Conv", ["x", "w", "b"], "p"), node("Relu", ["p"], "q"), node("Conv", ["q", "v", second], "y"))


def sloped(slopes):
    return network(node("Conv", ["x", "w"], "p"), node("PRelu", ["p", slopes], "q"), node("Conv", ["q", "v"], "y"))


onnxruntime.set_default_logger_severity(4)
for name, model, is_right in (("a trunk's weight read twice", views("w"), False), ("a weight each", views("w2"), True), ("a bias read twice", biased("b"), False),
                              ("a bias each", biased("b2"), True), ("slopes of rows", sloped("rows"), False), ("slopes of channels", sloped("channels"), True)):
    right = answer(model)
    for prune, words in ((onnxsim.apply_structured_pruning, {}), (onnxsim.apply_structured_wanda_pruning, {"calibration_data": [{"x": X}]})):
        pruned = prune(model, sparsity=0.5, **words)
        assert pruned.ByteSize() < model.ByteSize()
        try:
            off = float(np.abs(answer(pruned) - right).max() / np.abs(right).max())
            print("onnxsim 0.8.1,", prune.__name__, name, "off by", round(off, 6))
            assert is_right and off < 1e-4
        except Exception as error:
            assert not isinstance(error, AssertionError)
            print("onnxsim 0.8.1,", prune.__name__, name, "refused:", str(error)[-90:].strip())
            assert not is_right
PY
