"""python -m bench.export_tflite — what our TFLite export costs on top of litert_torch alone: CPU time and memory.

Each runs in a fresh process on one thread, imports outside of the timing. Wanted: CPU time within 1.25×, peak memory
within 2.5×. Results go to bench/results/export_tflite-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.sizes.models import MODELS, pruned

RESULTS = Path(__file__).parent / "results"
SIDES = ("converter", "ours")


def run(side: str, name: str) -> dict[str, float]:
    """CPU seconds and peak bytes of one export in this process."""
    import ai_edge_litert.interpreter  # noqa: F401 — loading it is not what is measured
    import litert_torch

    from idp_deploy.exporting.tflite import export_tflite

    model, inputs = pruned(MODELS[name])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        start = time.process_time()
        if side == "converter":
            images = [i for i, x in enumerate(inputs) if x.dim() == 4]
            wrapped = litert_torch.to_channel_last_io(model.module.eval(), args=images) if images else model.module
            sample = tuple(x.permute(0, 2, 3, 1) if i in images else x for i, x in enumerate(inputs))
            litert_torch.convert(wrapped, sample).export(str(path))
        else:
            export_tflite(model, inputs, path)
        seconds = time.process_time() - start
        size = path.stat().st_size
    return {"cpu_s": seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "bytes": size}


def main() -> None:
    """Measure both sides, print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.export_tflite", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "resnet18", "bert"], choices=MODELS)
    parser.add_argument("--only", choices=SIDES, help="one side in this process, as JSON")
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(run(arguments.only, arguments.models[0])))
        return
    rows = []
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "LITERT_TORCH_SHOW_PROGRESS": "n"}
    for name in arguments.models:
        row: dict[str, object] = {"model": name}
        measured = {}
        for side in SIDES:
            command = [sys.executable, "-m", "bench.export_tflite", "--only", side, "--models", name]
            answer = subprocess.run(command, check=True, capture_output=True, text=True, env=one_thread).stdout
            measured[side] = json.loads(answer.strip().splitlines()[-1])
            row |= {f"{side}_{key}": value for key, value in measured[side].items()}
        row["cpu_ratio"] = measured["ours"]["cpu_s"] / measured["converter"]["cpu_s"]
        row["peak_ratio"] = measured["ours"]["peak_bytes"] / measured["converter"]["peak_bytes"]
        print(f"{name:14s} CPU {row['cpu_ratio']:.2f}×  peak memory {row['peak_ratio']:.2f}×  {measured}")
        rows.append(row)
    when = datetime.now(UTC).date().isoformat()
    output = arguments.output or RESULTS / f"export_tflite-{when}.json"
    output.parent.mkdir(exist_ok=True)
    command_line = shlex.join(["python", "-m", "bench.export_tflite", *sys.argv[1:]])
    output.write_text(json.dumps({"command": command_line, "date": when, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
