#!/usr/bin/env bash
# LiteRT 2.3.0's interpreter, as it comes, does not load a valid file with a FULLY_CONNECTED, MEAN or CONCATENATION of seven dimensions:
# XNNPACK, which is on by default and holds six, takes the node first and then fails to prepare it ("failed to delegate
# MEAN node #0"), where it should leave it to the builtin kernels as it leaves other operators; google/XNNPACK#11036 is open for
# FULLY_CONNECTED. Without the delegate the same file is right. litert-torch 0.10.0 writes such files without a word:
# nn.Linear(…, bias=False), x.mean((1, 3)) and torch.cat of windows in a film (batch, time, rows, columns, a window's rows
# and columns, channels). Six dimensions load. Way out: BUILTIN_WITHOUT_DEFAULT_DELEGATES, or reshape to fewer dimensions
# around the operator. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ai-edge-litert==2.3.0 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY' | grep "^ai-edge\|^[A-Z_]*, \|^holds\|^changed"
from importlib.metadata import version

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tfl
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def one_operator(name, options, inputs, shape):
    """A float file of one operator, as TFLite's schema has it; an input that is an array is stored."""
    model, graph = tfl.ModelT(), tfl.SubGraphT()
    model.version, model.description, model.buffers = 3, name, [tfl.BufferT()]
    graph.name, graph.tensors = "main", []
    for given in (*inputs, shape):
        tensor, stored = tfl.TensorT(), isinstance(given, np.ndarray)
        tensor.name, tensor.shape = f"t{len(graph.tensors)}", list(given.shape if stored else given)
        tensor.type = tfl.TensorType.INT32 if stored and given.dtype == np.int32 else tfl.TensorType.FLOAT32
        tensor.buffer = 0
        if stored:
            buffer = tfl.BufferT()
            buffer.data = np.frombuffer(given.tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        graph.tensors.append(tensor)
    code, operator = tfl.OperatorCodeT(), tfl.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(tfl.BuiltinOperator, name)
    code.version = 1
    operator.inputs, operator.outputs = list(range(len(inputs))), [len(inputs)]
    operator.builtinOptionsType = getattr(tfl.BuiltinOptions, type(options).__name__.removesuffix("T"))
    operator.builtinOptions = options
    graph.operators, graph.inputs, graph.outputs = [operator], [0], operator.outputs
    model.operatorCodes, model.subgraphs = [code], [graph]
    builder = flatbuffers.Builder(1 << 12)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def run(content, x, kernels):
    try:
        interpreter = Interpreter(model_content=content, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    except RuntimeError as error:
        return str(error).partition("Node number")[0]


random = np.random.default_rng(0)
weight, more = (random.standard_normal(size).astype(np.float32) for size in ((5, 4), (4,)))
print("ai-edge-litert", version("ai-edge-litert"), flush=True)
refused, right = [], True
for dimensions in (6, 7):
    x = random.standard_normal((1, *[2] * (dimensions - 2), 4)).astype(np.float32)
    keep, dense, joint = tfl.ReducerOptionsT(), tfl.FullyConnectedOptionsT(), tfl.ConcatenationOptionsT()
    keep.keepDims, dense.keepNumDims, joint.axis = True, True, -1
    twin = np.broadcast_to(more, x.shape).copy()
    for name, options, others, wanted in (
        ("FULLY_CONNECTED", dense, [weight], x @ weight.T),
        ("MEAN", keep, [np.int32([1, 3])], x.mean((1, 3), keepdims=True)),
        ("CONCATENATION", joint, [twin], np.concatenate([x, twin], -1)),
    ):
        content = one_operator(name, options, [x.shape, *others], wanted.shape)
        default, builtin = (run(content, x, kind) for kind in (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES))
        right &= not isinstance(builtin, str) and np.allclose(builtin, wanted, atol=1e-5)
        if isinstance(default, str):
            refused.append((name, dimensions, "failed to delegate" in default))
        else:
            right &= np.allclose(default, wanted, atol=1e-5)
        print(f"{name}, {dimensions} dimensions: {default if isinstance(default, str) else 'right'}; without XNNPACK {'right' if not isinstance(builtin, str) else builtin}", flush=True)
holds = right and refused == [(name, 7, True) for name in ("FULLY_CONNECTED", "MEAN", "CONCATENATION")]
print("holds" if holds else "changed", flush=True)
raise SystemExit(not holds)
PY
