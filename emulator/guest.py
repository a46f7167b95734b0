"""Runs inside the emulator: load a model, run it once, then once per window between two marks.

Usage: guest.py MODEL SEED REPEATS, with a .tflite or an .onnx file. Inputs are seeded noise; indices are zero.
"""

import ctypes
import sys

import numpy as np

OPENED, CLOSED = 0x5EED0001, 0x5EED0002


def noise(shape, dtype, random):
    extents = [extent if isinstance(extent, int) and extent > 0 else 1 for extent in shape]
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(extents).astype(dtype)
    return np.zeros(extents, dtype)


def litert(path, random):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    for item in interpreter.get_input_details():
        interpreter.set_tensor(item["index"], noise(item["shape"].tolist(), np.dtype(item["dtype"]), random))
    return interpreter.invoke


def onnxruntime(path, random):
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(path, options, ["CPUExecutionProvider"])
    names = {"float": "float32", "double": "float64"}
    feeds = {}
    for item in session.get_inputs():
        plain = item.type.removeprefix("tensor(").removesuffix(")")
        feeds[item.name] = noise(item.shape, np.dtype(names.get(plain, plain)), random)
    return lambda: session.run(None, feeds)


def main():
    path, seed, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    run = (litert if path.endswith(".tflite") else onnxruntime)(path, np.random.default_rng(seed))
    close = ctypes.CDLL(None).close
    run()
    for _ in range(repeats):
        close(OPENED)
        run()
        close(CLOSED)


main()
