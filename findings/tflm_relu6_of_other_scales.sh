#!/usr/bin/env bash
# TensorFlow Lite Micro (tflite-micro 0.dev20261023182759) gives an int8 RELU6 other numbers than LiteRT 2.3.0 where its input and
# output have different scales: it cuts the stored integers at 0 and 6 of the input's scale and copies the rest, without converting
# them. With the natural scale of an output between 0 and 6, 0.0 comes out as 3.0 and 1.0 as 3.5, on the device alone and without
# an error; LiteRT's XNNPACK and builtin kernels are right. RELU converts in both, and equal scales are right too. TFLite's
# quantization specification asks nothing of a RELU6's scales, and what follows a concatenation, which takes no fused
# activation, is such a RELU6. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tflite-micro==0.dev20261023182759 ai-edge-litert==2.3.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^tflite\|^[A-Z0-9]*, \|^holds\|^changed"
from importlib.metadata import version

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_micro.python.tflite_micro import runtime

INSIDE = (0.05, 0)  # scale and zero point of the input: -6.4 to 6.35


def activation(name, outside):
    """One activation of 6 numbers, as TFLite's schema has it."""
    model, graph = tfl.ModelT(), tfl.SubGraphT()
    model.version, model.description, model.buffers = 3, "one activation", [tfl.BufferT()]
    graph.name, graph.tensors = "main", []
    for label, (scale, zero) in (("x", INSIDE), ("y", outside)):
        tensor = tfl.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = label, [1, 6], tfl.TensorType.INT8, 0
        tensor.quantization = tfl.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = np.float32([scale]), np.int64([zero])
        graph.tensors.append(tensor)
    code, operator = tfl.OperatorCodeT(), tfl.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(tfl.BuiltinOperator, name)
    code.version = 2
    operator.inputs, operator.outputs = [0], [1]
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [1]
    model.operatorCodes, model.subgraphs = [code], [graph]
    builder = flatbuffers.Builder(1 << 12)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def on_a_phone(content, x, kernels):
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def on_a_microcontroller(content, x):
    interpreter = runtime.Interpreter.from_bytes(content)
    interpreter.set_input(x, 0)
    interpreter.invoke()
    return interpreter.get_output(0)


x = np.float32([[-3, 0, 1, 2.4, 4, 6.3]])
stored = np.int8(np.round(x / INSIDE[0]) + INSIDE[1])
print("tflite-micro", version("tflite-micro"), "ai-edge-litert", version("ai-edge-litert"), flush=True)
off = {}
for name, outside in (("RELU6", (6 / 255, -128)), ("RELU6", INSIDE), ("RELU", (6.4 / 255, -128))):
    content = activation(name, outside)
    wanted = np.clip(x, 0, 6 if name == "RELU6" else None)  # in numpy alone
    answers = {
        "LiteRT": on_a_phone(content, stored, OpResolverType.AUTO),
        "its builtin kernels": on_a_phone(content, stored, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES),
        "Micro": on_a_microcontroller(content, stored),
    }
    real = {who: (answer.astype(np.float32) - outside[1]) * np.float32(outside[0]) for who, answer in answers.items()}
    said = ", ".join(f"{who} {values.round(2).ravel().tolist()}" for who, values in real.items())
    print(f"{name}, scales {INSIDE[0]} and {outside[0]:.4f}: numpy {wanted.round(2).ravel().tolist()}, {said}", flush=True)
    off[name, outside] = [bool(np.abs(values - wanted).max() > 0.06) for values in real.values()]
holds = list(off.values()) == [[False, False, True], [False] * 3, [False] * 3]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
