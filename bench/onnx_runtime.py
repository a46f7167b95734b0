"""python -m bench.onnx_runtime — what sparse storage costs in onnxruntime: inference and load against the dense file.

The files take turns on one thread, timed in CPU time, so that what else the machine does falls on all alike. A load
is the first session of a fresh process that imports onnxruntime alone, as an application loads a model, and its memory
is that process's; beside it are loaded ONNX's own sparse initializers, and a dense file whose weights lie in one
dimension, given their shape by a `Reshape` each, without which nothing decodes flat positions. A reload is one more
session in this process, where the allocator already holds the memory of the dense file. Wanted: inference within 3 %,
load within 1.15× (int8 1.25×), resident memory within 1.02×, at the highest 1.3×. Much of what is resident after a load
is free, and the C library only keeps it for the next (in MobileNetV2 16 MB of the dense file's 84): what is held is
what stays when that is given back. Results go to bench/results/onnx_runtime-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from bench.sizes.models import MODELS, pruned
from idp_deploy.exporting import export
from idp_deploy.formats.onnx.write.storing import SHARED_ENTRIES
from idp_deploy.quantization import quantize

RESULTS = Path(__file__).parent / "results"
Timed = Callable[[], Any]


def interleaved(first: Timed, second: Timed, repeats: int) -> tuple[list[float], list[float]]:
    """CPU milliseconds of both, run in turn with the order swapped every time."""
    spent: tuple[list[float], list[float]] = ([], [])
    for i in range(repeats):
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.process_time()
            (first, second)[which]()
            spent[which].append(1e3 * (time.process_time() - start))
    return spent


def session(path: Path) -> onnxruntime.InferenceSession:
    """One thread, all optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def first_loads(paths: Sequence[Path], repeats: int) -> np.ndarray:
    """(files, repeats, 4): CPU milliseconds, resident bytes, their highest and those that are held, of each file's
    session, each in a process of its own, in turn with the order swapped every time."""
    found = np.zeros((len(paths), repeats, 4))
    for i in range(repeats):
        for which in range(len(paths))[:: 1 if i % 2 else -1]:
            command = [sys.executable, "-m", "bench.onnx_load", str(paths[which])]
            found[which, i] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return found


def flattened(dense: Path, path: Path) -> Path:
    """The dense file with its weights in one dimension, given their shape by an operator each."""
    model = onnx.load(dense)
    reshapes = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim < 2 or values.size < SHARED_ENTRIES:
            continue
        name, shape = tensor.name, numpy_helper.from_array(np.array(values.shape, np.int64), f"{tensor.name}.shape")
        tensor.CopyFrom(numpy_helper.from_array(values.reshape(-1), f"{name}.flat"))
        reshapes.append((helper.make_node("Reshape", [tensor.name, shape.name], [name]), shape))
    nodes = [node for node, _ in reshapes] + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(shape for _, shape in reshapes)
    onnx.save(model, path)
    return path


def compare(dense: Path, sparse: Path, peer: Path, inputs: tuple[Any, ...], repeats: int) -> dict[str, float]:
    """Medians in CPU milliseconds, and the median of the paired ratios sparse / dense; of `peer` and the
    flattened file the load alone."""
    sessions = [session(path) for path in (dense, sparse)]
    names = [value.name for value in sessions[0].get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    for each in sessions:
        each.run(None, feed)
    runs = interleaved(lambda: sessions[0].run(None, feed), lambda: sessions[1].run(None, feed), repeats)
    few = max(repeats // 4, 5)
    reloads = interleaved(lambda: session(dense), lambda: session(sparse), few)
    loads = first_loads((dense, sparse, peer, flattened(dense, dense.with_name("flat.onnx"))), few)
    row = {}
    for what, (a, b) in {"inference": runs, "load": loads[:2, :, 0], "reload": reloads}.items():
        row[f"{what}_dense_ms"], row[f"{what}_sparse_ms"] = statistics.median(a), statistics.median(b)
        row[f"{what}_ratio"] = statistics.median(y / x for x, y in zip(a, b, strict=True))
    row["load_peer_ratio"] = float(np.median(loads[2, :, 0] / loads[0, :, 0]))
    row["load_flat_ratio"] = float(np.median(loads[3, :, 0] / loads[0, :, 0]))
    for column, what in ((1, "resident"), (2, "peak"), (3, "held")):
        dense_bytes, sparse_bytes, peer_bytes, _ = np.median(loads[:, :, column], axis=1)
        row[f"{what}_ratio"], row[f"{what}_peer_ratio"] = sparse_bytes / dense_bytes, peer_bytes / dense_bytes
    return row


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.onnx_runtime", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "mobilenet_v1", "bert"], choices=MODELS)
    parser.add_argument("--schemes", nargs="+", default=["float32", "int8"])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        model, inputs = pruned(MODELS[name])
        for scheme in arguments.schemes:
            ready = model if scheme == "float32" else quantize(model, scheme, example_inputs=inputs)
            with tempfile.TemporaryDirectory() as folder:
                dense = export(ready, "onnx", inputs, Path(folder) / "dense.onnx", encoding="dense").path
                sparse = export(ready, "onnx", inputs, Path(folder) / "sparse.onnx").path
                peer = export(ready, "onnx", inputs, Path(folder) / "peer.onnx", encoding="sparse-initializer").path
                found = compare(dense, sparse, peer, inputs, arguments.repeats)
                sizes = {"dense_bytes": dense.stat().st_size, "sparse_bytes": sparse.stat().st_size}
                row = {"model": name, "scheme": scheme, **sizes, **found}
            rows.append(row)
            print(
                f"{name:14}{scheme:14}inference {row['inference_dense_ms']:7.2f} → {row['inference_sparse_ms']:7.2f} ms"
                f" ×{row['inference_ratio']:.3f}   load {row['load_dense_ms']:7.1f} → {row['load_sparse_ms']:7.1f} ms"
                f" ×{row['load_ratio']:.2f} (sparse initializers ×{row['load_peer_ratio']:.2f}, flat"
                f" ×{row['load_flat_ratio']:.2f})   reload"
                f" ×{row['reload_ratio']:.2f}   resident ×{row['resident_ratio']:.2f} (held ×{row['held_ratio']:.2f})"
                f" peak ×{row['peak_ratio']:.2f}",
                flush=True,
            )
    date = datetime.now(UTC).date().isoformat()
    output = arguments.output or RESULTS / f"onnx_runtime-{date}.json"
    command = shlex.join(["python", "-m", "bench.onnx_runtime", *sys.argv[1:]])
    record = {"command": command, "date": date, "onnxruntime": onnxruntime.__version__, "rows": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
