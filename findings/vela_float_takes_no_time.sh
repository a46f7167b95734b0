#!/usr/bin/env bash
# Vela 5.2.0 compiles a float32 TFLite file for an Ethos-U55 with exit 0 and a summary that says it takes no time: 0 NPU
# cycles, 0 cycles in all, inference_time 0.0 s. The one convolution in it stays on the CPU, which Vela's summary counts as
# nothing. Whoever gates a build on the CSV (or on the exit status) lets a file through that never reaches the NPU. Only the
# text on stdout tells ("NPU operators = 0"). The same convolution in int8 takes cycles. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ethos-u-vela==5.2.0 ai-edge-litert==2.3.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import csv
import glob
import subprocess
import sys

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl


def convolution(quantized):
    """A 1×1 convolution of 64 channels over 8×8 positions, as TFLite's schema has it."""
    model, graph = tfl.ModelT(), tfl.SubGraphT()
    model.version, model.description, model.buffers = 3, "one convolution", [tfl.BufferT()]
    graph.name, graph.tensors = "main", []
    kind = tfl.TensorType.INT8 if quantized else tfl.TensorType.FLOAT32

    def tensor(name, shape, of, values=None, scale=0.0):
        entry = tfl.TensorT()
        entry.name, entry.shape, entry.type, entry.buffer = name, shape, of, 0
        if values is not None:
            holder = tfl.BufferT()
            holder.data = np.frombuffer(values.tobytes(), np.uint8)
            model.buffers.append(holder)
            entry.buffer = len(model.buffers) - 1
        if quantized:
            entry.quantization = tfl.QuantizationParametersT()
            entry.quantization.scale, entry.quantization.zeroPoint = np.float32([scale]), np.int64([0])
        graph.tensors.append(entry)
        return len(graph.tensors) - 1

    numbers = np.random.default_rng(0).integers(1, 100, (64, 1, 1, 64))
    x = tensor("x", [1, 8, 8, 64], kind, scale=0.05)
    w = tensor("w", [64, 1, 1, 64], kind, numbers.astype(np.int8 if quantized else np.float32), 0.01)
    bias = tfl.TensorType.INT32 if quantized else kind
    b = tensor("b", [64], bias, np.zeros(64, np.int32 if quantized else np.float32), 0.0005)
    y = tensor("y", [1, 8, 8, 64], kind, scale=0.1)
    code, operator, options = tfl.OperatorCodeT(), tfl.OperatorT(), tfl.Conv2DOptionsT()
    code.builtinCode = code.deprecatedBuiltinCode = tfl.BuiltinOperator.CONV_2D
    code.version = 3 if quantized else 1
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    operator.inputs, operator.outputs = [x, w, b], [y]
    operator.builtinOptionsType, operator.builtinOptions = tfl.BuiltinOptions.Conv2DOptions, options
    graph.operators, graph.inputs, graph.outputs = [operator], [x], [y]
    model.operatorCodes, model.subgraphs = [code], [graph]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


found = {}
for name in ("float32", "int8"):
    with open(f"{name}.tflite", "wb") as file:
        file.write(convolution(name == "int8"))
    command = [sys.executable, "-m", "ethosu.vela", f"{name}.tflite", "--accelerator-config", "ethos-u55-128"]
    done = subprocess.run([*command, "--output-dir", name], capture_output=True, text=True)
    with open(glob.glob(f"{name}/*summary*.csv")[0], newline="") as file:
        row = next(csv.DictReader(file))
    npu = next(line.strip() for line in done.stdout.splitlines() if line.startswith("NPU operators"))
    found[name] = (done.returncode, int(row["cycles_total"]), float(row["inference_time"]), npu)
    print(f"{name:8} exit {done.returncode}, cycles_total {row['cycles_total']}, inference_time {row['inference_time']} s; {npu}")
holds = found["float32"] == (0, 0, 0.0, "NPU operators = 0 (0.0%)") and found["int8"][1] > 0
print("holds" if holds else "changed")
raise SystemExit(not holds)
PY
