#!/usr/bin/env bash
# onnxscript 0.7.2's optimizer, which torch.onnx runs by itself, takes a ScatterND that goes to every row in order for one that replaces
# them, whatever its `reduction` says (the rule no_op_static_scatter_nd): x.index_add(0, arange, u) and index_put(..., accumulate=True)
# become u alone, x is lost, and in ONNX so are the reductions mul, max and min. No error. Rows in another order are right.
# Way out: torch.onnx.export(..., optimize=False), or x + u. Seen with torch 2.13.0, onnxruntime 1.32.0. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import warnings

import numpy as np
import onnx
import onnxruntime
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper, numpy_helper

warnings.filterwarnings("ignore")


def ran(model, *values):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {end.name: value for end, value in zip(session.get_inputs(), values)})[0]


class Added(torch.nn.Module):
    def __init__(self, way, rows):
        super().__init__()
        self.way = way
        self.register_buffer("rows", torch.tensor(rows))

    def forward(self, x, u):
        if self.way == "index_add":
            return x.index_add(0, self.rows, u)
        return torch.index_put(x, (self.rows,), u, accumulate=True)


torch.manual_seed(0)
x, u = torch.randn(3, 4), torch.randn(3, 4)
every, other = [0, 1, 2], [2, 0, 1]
for way, rows, optimized in (("index_add", every, True), ("index_put", every, True), ("index_add", every, False), ("index_add", other, True)):
    net = Added(way, rows)
    file = torch.onnx.export(net, (x, u), dynamo=True, verbose=False, optimize=optimized).model_proto
    found = ran(file, x.numpy(), u.numpy())
    right, lost = np.allclose(found, net(x, u), atol=1e-5), np.array_equal(found, u)
    print("torch.onnx:", way, "to rows", rows, f"optimize={optimized}:", "right" if right else "u alone" if lost else "wrong")
    assert lost == (rows == every and optimized) != right

for reduction in ("none", "add", "mul", "max", "min"):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in "xuy"]
    node = helper.make_node("ScatterND", ["x", "rows", "u"], ["y"], reduction=reduction)
    graph = helper.make_graph([node], "g", ends[:2], ends[2:], [numpy_helper.from_array(np.int64([[0], [1], [2]]), "rows")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    right, found = ran(model, x.numpy(), u.numpy()), ran(onnxscript.optimizer.optimize(model), x.numpy(), u.numpy())
    print("onnxscript", onnxscript.__version__, "optimize: ScatterND,", reduction, "is u alone:", np.array_equal(found, u), "right:", np.array_equal(found, right))
    assert np.array_equal(found, u) and np.array_equal(found, right) == (reduction == "none")
PY
cd "$folder"
venv/bin/python run.py 2> log || { cat log; exit 1; }
