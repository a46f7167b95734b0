"""python -m bench.shrink — half the channels taken out: how much faster a network runs, in two runtimes.

Channels go one-shot by their L1 norm (Li et al. 2017, arXiv 1608.08710); the weights are fresh, because only time is
measured. The unpruned model and the shrunk one are exported as dense float32 files and run in turns in this process on
one thread, in CPU time, so that what else the machine does falls on both alike. Wanted: at least 1.5 times as fast.
Results go to bench/results/shrink-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.masks import prunable_weights
from idp_deploy.pruning import Pruner
from idp_deploy.shrinking import shrink
from idp_deploy.simulation import simulate
from idp_deploy.simulation.measurement import measure_all
from idp_deploy.simulation.targets import load_target
from sample_models import mobilenet_v1, resnet18

RESULTS = Path(__file__).parent / "results"
WANTED = 1.5
MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: resnet18.build(classes=1000, small_images=False),
    "mobilenet_v1": lambda: mobilenet_v1.build(classes=1000),
}
RUNTIMES: tuple[FormatName, ...] = ("onnx", "tflite")


def halved(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[CompressedModel, CompressedModel]:
    """The model as it is, and without half of its channels."""
    pruner = Pruner(
        deepcopy(module), sparsity=0.5, epochs=1, method="l1-channel", pattern="channel", example_inputs=inputs
    )
    masks = {name: module.get_parameter(name) != 0 for name in prunable_weights(module)}
    return CompressedModel(module, masks), shrink(pruner.finalize(), inputs)


def compare(name: str, format: FormatName, size: int, repeats: int) -> dict[str, Any]:
    """CPU time, arithmetic and bytes of both files."""
    torch.manual_seed(0)
    inputs = (torch.randn(1, 3, size, size),)
    models = dict(zip(("whole", "shrunk"), halved(MODELS[name]().eval(), inputs), strict=True))
    row: dict[str, Any] = {"model": name, "format": format, "size": size, "repeats": repeats}
    with tempfile.TemporaryDirectory() as folder:
        paths = {what: Path(folder) / f"{what}{FORMATS[format].suffix}" for what in models}
        for what, model in models.items():
            export(model, format, inputs, paths[what], encoding="dense")
            estimate = simulate(paths[what], load_target("pixel-4"))
            row[f"{what}_bytes"], row[f"{what}_macs"] = estimate.size_bytes, estimate.macs
        for what, seen in zip(models, measure_all(list(paths.values()), repeats=repeats), strict=True):
            row["runtime"] = seen.runtime
            row[f"{what}_ms"] = round(seen.median_ms, 3)
            row[f"{what}_quartiles_ms"] = [round(seen.low_ms, 3), round(seen.high_ms, 3)]
    row["times_as_fast"] = round(row["whole_ms"] / row["shrunk_ms"], 3)
    return row


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.shrink", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--size", type=int, default=224, help="pixels along a side")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        for format in RUNTIMES:
            row = compare(name, format, arguments.size, arguments.repeats)
            rows.append(row)
            verdict = "reached" if row["times_as_fast"] >= WANTED else "missed"
            times = f"{row['whole_ms']:8.2f} → {row['shrunk_ms']:7.2f} ms  {row['times_as_fast']:.2f}×"
            macs, size = (row[f"whole_{what}"] / row[f"shrunk_{what}"] for what in ("macs", "bytes"))
            print(
                f"{name:14}{row['runtime']:16}{times} ({verdict}: {WANTED}×)  MACs {macs:.2f}×  bytes {size:.2f}×",
                flush=True,
            )
    date = datetime.now(UTC).date().isoformat()
    output = arguments.output or RESULTS / f"shrink-{date}.json"
    command = shlex.join(["python", "-m", "bench.shrink", *sys.argv[1:]])
    versions = {package: version(package) for package in ("torch", "onnxruntime", "ai-edge-litert")}
    record = {"command": command, "date": date, "wanted": WANTED, "versions": versions, "rows": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
