"""python -m bench.onnx_load FILE — what onnxruntime takes to create a session, first in this process.

Prints CPU milliseconds, and in bytes the process's memory after it, at its highest, and once the C library has given
back what is free. Nothing else is imported: what a larger process has already in memory would hide what loading a file
allocates.
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

import onnxruntime


def memory(word: str) -> int:
    """A line of this process's status in bytes: VmRSS is resident now, VmHWM at the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(word)).split()[1])


if __name__ == "__main__":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    start = time.process_time()
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    spent, resident, highest = time.process_time() - start, memory("VmRSS"), memory("VmHWM")
    ctypes.CDLL(None).malloc_trim(0)
    print(1e3 * spent, resident, highest, memory("VmRSS"))
