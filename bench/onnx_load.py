"""python -m bench.onnx_load FILE — CPU milliseconds that onnxruntime takes to create a session, first in this process.

Nothing else is imported: what a larger process has already in memory would hide what loading a file allocates.
"""

from __future__ import annotations

import sys
import time

import onnxruntime

if __name__ == "__main__":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    start = time.process_time()
    onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    print(1e3 * (time.process_time() - start))
