#!/usr/bin/env bash
# tinygrad 0.14.0's ONNX runner computes three operators otherwise, without an error:
# - ReduceLogSumExp takes the exponentials as they are: above 88 the answer is inf (two logits of 1000: 1000.69), below -104 it is -inf, where ONNX's own
#   reference and onnxruntime take the largest out first, as torch.logsumexp does,
# - QuantizeLinear rounds halves up (0.5 is 1, -1.5 is -1), where ONNX takes the even one (0, -2), as onnxruntime does and tinygrad's own Round: what
#   lies on halves of the scale, as weights of another grid do, is one step off,
# - Softmax and LogSoftmax of opset 11 and 12 are read as those of 13: one axis, where the standard before 13 takes all from `axis` on together.
# Small logits, what lies off halves, and opset 13 are right. Way out: a Max and a Sub in front of the sum; opset 13. Run by tinygrad's
# own interpreter, which needs no compiler. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tinygrad==0.14.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
DEV=PYTHON venv/bin/python - 2> log <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tinygrad.nn.onnx import OnnxRunner

random = np.random.default_rng(0)


def answers(kind, x, opset=20, constants=(), shape=None, to=TensorProto.FLOAT, **words):
    """onnxruntime's and tinygrad's."""
    values = {f"c{number}": value for number, value in enumerate(constants)}
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", to, x.shape if shape is None else shape)]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph([helper.make_node(kind, ["x", *values], ["y"], **words)], "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0], OnnxRunner("net.onnx")({"x": x})["y"].numpy()


for logits, is_right in (([1000, 1000], False), ([-1000, -1000], False), ([10, 9], True)):
    right, found = answers("ReduceLogSumExp", np.float32([logits]), constants=[np.int64([1])], shape=[1, 1])
    print("tinygrad 0.14.0, ReduceLogSumExp of", logits, found.ravel(), "for", right.ravel())
    assert np.isfinite(right).all() and np.allclose(found, right) == is_right
for x, is_right in (([0.5, 1.5, 2.5, -0.5, -1.5], False), ([0.4, 1.6, -0.7, 3.0, -1.4], True)):
    for zero in (3, 4):
        right, found = answers("QuantizeLinear", np.float32(x), constants=[np.float32(1), np.uint8(zero)], to=TensorProto.UINT8)
        print("tinygrad 0.14.0, QuantizeLinear of", x, "by zero point", zero, found, "for", right)
        assert np.array_equal(right, np.rint(x) + zero) and np.array_equal(found, np.floor(np.float32(x) + 0.5) + zero)
        assert np.array_equal(found, right) == is_right
for kind in ("Softmax", "LogSoftmax"):
    for opset in (11, 12, 13):
        right, found = answers(kind, random.standard_normal((2, 3, 4)).astype(np.float32), opset, axis=1)
        off = float(np.abs(found - right).max())
        print("tinygrad 0.14.0,", kind, "of opset", opset, "off by", round(off, 4))
        assert (off > 0.1) == (opset < 13)
PY
