"""What export costs beside the bare converter of its format: CPU time and peak memory, measured the same way for all.

Each run is a process of its own on one thread, after its imports and one small conversion (which fills the
converter's caches); the two ways alternate, so that what else the machine does falls on both. Wanted: CPU time at
most 1.25×, peak memory at most 2.5×. The scripts export_onnx, export_coreml and export_tflite bring the converters.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench.sizes.models import MODELS, pruned
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS

RESULTS = Path(__file__).parent / "results"
WAYS = ("converter", "export")
Converter = Callable[[torch.nn.Module, tuple[Any, ...], Path], None]  # (module, inputs, path): writes the file


def once(way: str, name: str, format: FormatName, converter: Converter) -> dict[str, float]:
    """CPU seconds and peak memory of one conversion in this process."""

    def convert(model: CompressedModel, inputs: tuple[Any, ...], stem: str) -> None:
        path = Path(folder) / f"{stem}{FORMATS[format].suffix}"
        if way == "export":
            export(model, format, inputs, path)
        else:
            converter(model.module, inputs, path)

    model, inputs = pruned(MODELS[name])
    with tempfile.TemporaryDirectory() as folder:
        convert(CompressedModel(torch.nn.Linear(4, 4).eval(), {}), (torch.randn(1, 4),), "small")
        start = time.process_time()
        convert(model, inputs, "model")
        spent = time.process_time() - start
    return {"cpu_s": spent, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def compare(script: str, name: str, repeats: int) -> dict[str, Any]:
    """One network's medians of both ways, and their ratios export / converter."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "LITERT_TORCH_SHOW_PROGRESS": "n"}
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for i in range(repeats):
        for way in WAYS if i % 2 else reversed(WAYS):
            command = [sys.executable, "-m", script, "--once", way, name]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread)
            runs[way].append(json.loads(done.stdout.splitlines()[-1]))
    row: dict[str, Any] = {"model": name, "runs": runs}
    for key in ("cpu_s", "peak_mb"):
        for way in WAYS:
            row[f"{way}_{key}"] = statistics.median(run[key] for run in runs[way])
        row[f"{key}_ratio"] = row[f"export_{key}"] / row[f"converter_{key}"]
    return row


def main(format: FormatName, converter: Converter) -> None:
    """Measure, print a table, write the results to bench/results/export_FORMAT-DATE.json."""
    script = f"bench.export_{format}"
    parser = argparse.ArgumentParser(prog=f"python -m {script}", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "resnet18", "bert"], choices=MODELS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--once", nargs=2, metavar=("WAY", "MODEL"), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.once:
        warnings.simplefilter("ignore")
        print(json.dumps(once(*arguments.once, format, converter)))
        return
    rows = []
    for name in arguments.models:
        row = compare(script, name, arguments.repeats)
        rows.append(row)
        print(
            f"{name:14} CPU {row['converter_cpu_s']:6.2f} → {row['export_cpu_s']:6.2f} s ({row['cpu_s_ratio']:.2f}×)   "
            f"peak {row['converter_peak_mb']:6.0f} → {row['export_peak_mb']:6.0f} MB ({row['peak_mb_ratio']:.2f}×)",
            flush=True,
        )
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    output = arguments.output or RESULTS / f"export_{format}-{day}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    typed = shlex.join(["python", "-m", script, *sys.argv[1:]])
    output.write_text(json.dumps({"command": typed, "date": day, "rows": rows}, indent=1) + "\n")
