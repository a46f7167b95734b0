#!/usr/bin/env bash
# LiteRT 2.3.0's CompiledModel computes from uninitialized memory where an output of the model is one of its inputs: both
# that output and what is computed from the input are other numbers, without an error. The interpreter is right, with and
# without XNNPACK. litert-torch 0.10.0 writes such a file for `return self.linear(x), x`; here y = x + x is written by
# hand, beside x itself. Seen on x86-64 Linux, CPU. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ai-edge-litert==2.3.0 flatbuffers==25.12.19 numpy==2.4.6
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def doubling(outputs):
    """A file with the tensors x (0) and y = x + x (1), of which it gives those asked for."""
    model, graph, op, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    op.inputs, op.outputs = [0, 0], [1]
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.tensors = [schema.TensorT(), schema.TensorT()]
    for tensor, name in zip(graph.tensors, "xy"):
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, 8], schema.TensorType.FLOAT32, 0
    graph.inputs, graph.outputs, graph.operators = [0], outputs, [op]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


x = np.arange(1, 9, dtype=np.float32).reshape(1, 8)


def interpreted(content, kernels):
    runtime = Interpreter(model_content=content, experimental_op_resolver_type=kernels)
    runtime.allocate_tensors()
    runtime.set_tensor(runtime.get_input_details()[0]["index"], x)
    runtime.invoke()
    return [runtime.get_tensor(detail["index"]).ravel() for detail in runtime.get_output_details()]


def compiled(content, count):
    model = CompiledModel.from_buffer(content)
    given, made = model.create_input_buffers(0), model.create_output_buffers(0)
    given[0].write(x)
    model.run_by_index(0, given, made)
    return [buffer.read(8, np.float32) for buffer in made[:count]]


both, alone = doubling([1, 0]), doubling([1])
wanted = [2 * x.ravel(), x.ravel()]
found = {
    "XNNPACK": interpreted(both, OpResolverType.AUTO),
    "builtin": interpreted(both, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES),
    "CompiledModel, y alone": compiled(alone, 1),
    "CompiledModel": compiled(both, 2),
}
right = {}
for name, results in found.items():
    right[name] = [bool(np.array_equal(a, b)) for a, b in zip(results, wanted)]
    print(f"{name:22}", [result.tolist() for result in results], right[name], flush=True)
wrong = right.pop("CompiledModel")
raise SystemExit(not (all(map(all, right.values())) and not any(wrong)))
PY
