"""Runs .tflite files in another environment's runtime: python tflite_runtime_runner.py CALLS.npz FILE… → JSON.

Imports nothing of this project and no newer numpy than tflite-runtime 2.14 was built for. CALLS.npz holds for each
file i the arrays `i_in_NAME` and `i_out_NAME`; the answer lists the largest error of each file relative to its largest
output, or the runtime's message.
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


def main(calls, files):
    """One row a file and resolver."""
    arrays, rows = np.load(calls), []
    for i, path in enumerate(files):
        groups = [
            {key[len(prefix) :]: arrays[key] for key in arrays.files if key.startswith(prefix)}
            for prefix in (f"{i}_in_", f"{i}_out_")
        ]
        for name, resolver in RESOLVERS.items():
            try:
                rows.append({"file": path, "resolver": name, "error": error_of(path, resolver, *groups)})
            except (RuntimeError, ValueError) as failure:
                rows.append({"file": path, "resolver": name, "failure": str(failure).strip()[:300]})
    json.dump({"runtime": tflite_runtime.__version__, "numpy": np.__version__, "rows": rows}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
