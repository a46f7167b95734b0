"""python -m bench.export_coreml — what export --to coreml costs beside the bare converter: CPU time and peak memory.

The converter alone is torch.export, run_decompositions and coremltools.convert with the package saved. Each run is a
process of its own, after its imports and one small conversion (which fills coremltools' caches); the two alternate, so
that what else the machine does falls on both. Wanted: time at most 1.25×, peak memory at most 2.5×.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.sizes.models import MODELS, pruned
from idp_deploy.flow import CompressedModel

RESULTS = Path(__file__).parent / "results"
WAYS = ("converter", "export")


def convert(way: str, model: CompressedModel, inputs: tuple[Any, ...], path: Path) -> None:
    """One conversion of a model to a package on disk."""
    import coremltools as ct
    import torch

    from idp_deploy.exporting.coreml import export_coreml

    if way == "export":
        export_coreml(model, inputs, path)
        return
    program = torch.export.export(model.module, inputs).run_decompositions({})
    target = ct.target.iOS16
    ct.convert(program, convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True).save(str(path))


def once(way: str, name: str) -> dict[str, float]:
    """CPU seconds and peak memory of one conversion in this process."""
    import torch

    model, inputs = pruned(MODELS[name])
    with tempfile.TemporaryDirectory() as folder:
        small = CompressedModel(torch.nn.Linear(4, 4).eval(), {})
        convert(way, small, (torch.randn(1, 4),), Path(folder) / "small.mlpackage")
        start = time.process_time()
        convert(way, model, inputs, Path(folder) / "model.mlpackage")
        spent = time.process_time() - start
    return {"cpu_s": spent, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.export_coreml", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "bert"], choices=MODELS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--once", nargs=2, metavar=("WAY", "MODEL"), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.once:
        warnings.simplefilter("ignore")
        print(json.dumps(once(*arguments.once)))
        return
    rows = []
    for name in arguments.models:
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.repeats):
            for way in WAYS:
                command = [sys.executable, "-m", "bench.export_coreml", "--once", way, name]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[way].append(json.loads(done.stdout.splitlines()[-1]))
        row: dict[str, Any] = {"model": name, "runs": runs}
        for key in ("cpu_s", "peak_mb"):
            for way in WAYS:
                row[f"{way}_{key}"] = statistics.median(run[key] for run in runs[way])
            row[f"{key}_ratio"] = row[f"export_{key}"] / row[f"converter_{key}"]
        rows.append(row)
        print(
            f"{name:14} CPU {row['converter_cpu_s']:6.2f} → {row['export_cpu_s']:6.2f} s ({row['cpu_s_ratio']:.2f}×)   "
            f"peak {row['converter_peak_mb']:6.0f} → {row['export_peak_mb']:6.0f} MB ({row['peak_mb_ratio']:.2f}×)"
        )
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    output = arguments.output or RESULTS / f"export_coreml-{day}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    typed = shlex.join(["python", "-m", "bench.export_coreml", *sys.argv[1:]])
    output.write_text(json.dumps({"command": typed, "date": day, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
