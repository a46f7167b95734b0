"""python -m bench.widths — what a network takes by how many channels it has, in two runtimes.

A runtime computes several channels at once, so that widths between two whole vectors save nothing, and in onnxruntime
widths that do not divide by four cost more than wider ones. Two nets with fresh weights, of one width throughout: a
stem and three depthwise-separable blocks, and three plain convolutions. Dense float32 files, all of a runtime's in
turns in this process on one thread, CPU time, median. Results go to bench/results/widths-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.suite.nets import convolutions, separable
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.simulation.measurement import measure_all

RESULTS = Path(__file__).parent / "results"
NETS: dict[str, Callable[[int], nn.Module]] = {
    "separable": lambda width: separable(3, (width,) * 4, (1, 1, 1), 10),
    "plain": lambda width: convolutions(3, (width,) * 3, 10),
}
WIDTHS = (40, 42, 44, 46, 48, 49, 50, 52, 54, 56, 58, 60, 62, 64)
RUNTIMES: tuple[FormatName, ...] = ("onnx", "tflite")


def by_width(format: FormatName, size: int, repeats: int) -> list[dict[str, Any]]:
    """A row a net and width."""
    inputs = (torch.randn(1, 3, size, size),)
    cases = [(name, width) for name in NETS for width in WIDTHS]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}{width}{FORMATS[format].suffix}" for name, width in cases]
        for (name, width), path in zip(cases, paths, strict=True):
            torch.manual_seed(0)
            export(CompressedModel(NETS[name](width).eval(), {}), format, inputs, path, encoding="dense")
        seen = measure_all(paths, repeats=repeats)
    return [
        {"net": name, "width": width, "runtime": one.runtime, "size": size, "ms": round(one.median_ms, 4)}
        for (name, width), one in zip(cases, seen, strict=True)
    ]


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.widths", description=__doc__)
    parser.add_argument("--size", type=int, default=96, help="pixels along a side")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    rows = [row for format in RUNTIMES for row in by_width(format, arguments.size, arguments.repeats)]
    columns = list(dict.fromkeys((row["runtime"], row["net"]) for row in rows))
    taken = {(row["runtime"], row["net"], row["width"]): row["ms"] for row in rows}
    print("| width | " + " | ".join(f"{runtime}, {net}" for runtime, net in columns) + " |")
    print("| ---: |" + " ---: |" * len(columns))
    for width in WIDTHS:
        print(f"| {width} | " + " | ".join(f"{taken[(*column, width)]:.3f}" for column in columns) + " |")
    date = datetime.now(UTC).date().isoformat()
    output = arguments.output or RESULTS / f"widths-{date}.json"
    command = shlex.join(["python", "-m", "bench.widths", *sys.argv[1:]])
    versions = {package: version(package) for package in ("torch", "onnxruntime", "ai-edge-litert")}
    record = {"command": command, "date": date, "versions": versions, "rows": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
