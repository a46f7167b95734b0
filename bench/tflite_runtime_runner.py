"""Runs .tflite files in another environment's runtime: python tflite_runtime_runner.py CALLS.npz I FILE → JSON.

Imports nothing of this project and no newer numpy than tflite-runtime 2.14 was built for. CALLS.npz holds for
file I the arrays `I_in_NAME` and `I_out_NAME`; the answer lists for each resolver the largest error relative to the
largest output, or the runtime's message.
"""

import json
import sys

import numpy as np
import tflite_runtime
from tflite_runtime.interpreter import Interpreter, OpResolverType

RESOLVERS = {"xnnpack": OpResolverType.AUTO, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}


def error_of(path, resolver, inputs, outputs):
    """Largest |file − expected| over the largest |expected|."""
    interpreter = Interpreter(model_path=path, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    indices = {d["name"]: d["index"] for d in interpreter.get_input_details() + interpreter.get_output_details()}
    for name, array in inputs.items():
        interpreter.set_tensor(indices[name], array)
    interpreter.invoke()
    return max(
        float(np.abs(interpreter.get_tensor(indices[name]) - wanted).max() / np.abs(wanted).max())
        for name, wanted in outputs.items()
    )


def main(calls, i, path):
    """One row a resolver."""
    arrays, rows = np.load(calls), []
    groups = [
        {key[len(prefix) :]: arrays[key] for key in arrays.files if key.startswith(prefix)}
        for prefix in (f"{i}_in_", f"{i}_out_")
    ]
    for name, resolver in RESOLVERS.items():
        try:
            rows.append({"resolver": name, "error": error_of(path, resolver, *groups)})
        except (RuntimeError, ValueError) as failure:
            rows.append({"resolver": name, "failure": str(failure).strip()[:300]})
    json.dump({"runtime": tflite_runtime.__version__, "numpy": np.__version__, "rows": rows}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
