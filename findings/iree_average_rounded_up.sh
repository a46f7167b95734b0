#!/usr/bin/env bash
# IREE 3.13.0 divides by the whole window where ONNX's AveragePool with ceil_mode=1 and count_include_pad=1 looks beyond the image and
# its border: what torch.onnx writes for nn.AvgPool2d(2, ceil_mode=True) halves the last row and column of 7x7 and quarters the
# corner, without an error. (iree-org/iree#24580 says so of pools with a border; one without has the same.) onnxruntime and the
# definition divide by what is there. With count_include_pad=0 IREE does too, which means the same where there is no border: the way
# out. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet iree-base-compiler==3.13.0 iree-base-runtime==3.13.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - 2> log <<'PY'
import subprocess

import iree.compiler
import iree.runtime
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper


def compiled(path, x):
    """What IREE's processor computes of a file."""
    subprocess.run(["venv/bin/iree-import-onnx", path, "-o", "net.mlir"], check=True, capture_output=True)
    module = iree.compiler.compile_file("net.mlir", target_backends=["llvm-cpu"], input_type="onnx",
                                        extra_args=["--iree-llvmcpu-target-cpu=generic"])
    context = iree.runtime.SystemContext(config=iree.runtime.Config("local-sync"))
    context.add_vm_module(iree.runtime.VmModule.copy_buffer(context.instance, module))
    return np.asarray(context.modules.module["g"](x).to_host())


for extent in (7, 8):
    for included in (1, 0):
        x = np.ones((1, 1, extent, extent), np.float32)  # means of ones are ones
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, size, size]) for name, size in (("x", extent), ("y", 4))]
        words = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": included}
        graph = helper.make_graph([helper.make_node("AveragePool", ["x"], ["y"], **words)], "g", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, "net.onnx")
        session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
        assert np.array_equal(session.run(None, {"x": x})[0], np.ones((1, 1, 4, 4), np.float32))
        found = compiled("net.onnx", x)[0, 0]
        print("IREE 3.13.0: means by 2 of", extent, "ones, count_include_pad", included, "end with", found[-1].tolist())
        assert found[-1].tolist() == ([0.5, 0.5, 0.5, 0.25] if extent == 7 and included else [1, 1, 1, 1])
PY
