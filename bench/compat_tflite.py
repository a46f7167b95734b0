"""python -m bench.compat_tflite — our TFLite files in tflite-runtime 2.14, the last release before LiteRT.

It needs numpy below 2 and therefore an environment of its own, which is made on the first run. Float32, float16 and
int8-weights files must load there and agree with the model, through XNNPACK and through the builtin kernels; full
int8 files are tried as well. Exit code 1 if one of the first three fails. Results go to bench/results.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.sizes.models import MODELS, pruned
from idp_deploy.exporting import export
from idp_deploy.quantization import quantize

HERE = Path(__file__).parent
REQUIREMENTS = ("tflite-runtime==2.14.0", "numpy<2")
TOLERANCES = {"float32": 1e-4, "fp16": 2e-2, "int8-weights": 1e-4, "int8": 0.5}
MUST_PASS = ("float32", "fp16", "int8-weights")


def environment(folder: Path) -> Path:
    """The Python of the separate environment, made where it is missing."""
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        (folder / ".installed").touch()
    return python


def main() -> int:
    """Export, run, print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.compat_tflite", description=__doc__)
    parser.add_argument("--environment", type=Path, default=Path("build/compat-tflite"))
    parser.add_argument("--models", nargs="+", default=["mobilenet_v2", "bert"], choices=MODELS)
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    python = environment(arguments.environment.resolve())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        arrays: dict[str, np.ndarray] = {}
        for name in arguments.models:
            model, inputs = pruned(MODELS[name])
            for scheme in TOLERANCES:
                ready = model if scheme == "float32" else quantize(model, scheme, example_inputs=inputs)
                artifact = export(ready, "tflite", inputs, Path(folder) / f"{name}-{scheme}.tflite")
                i = len(rows)
                arrays |= _call(i, ready.module, inputs, artifact.manifest["layouts"])
                rows.append({"model": name, "scheme": scheme, "bytes": artifact.size_bytes, "path": artifact.path})
        np.savez(Path(folder) / "calls.npz", allow_pickle=False, **arrays)
        for i, row in enumerate(rows):
            row |= _run(python, Path(folder) / "calls.npz", i, row.pop("path"))
    failed = False
    for row in rows:
        for resolver in ("xnnpack", "builtin"):
            result = row[resolver]
            passed = isinstance(result, float) and result <= TOLERANCES[row["scheme"]]
            failed |= not passed and row["scheme"] in MUST_PASS
            print(f"{row['model']:14s} {row['scheme']:13s} {resolver:8s}", result, "ok" if passed else "FAILED")
    when = datetime.now(UTC).date().isoformat()
    output = arguments.output or HERE / "results" / f"compat_tflite-{when}.json"
    output.parent.mkdir(exist_ok=True)
    record: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "bench.compat_tflite", *sys.argv[1:]]),
        "date": when,
    }
    record |= {"requirements": REQUIREMENTS, "rows": rows}
    output.write_text(json.dumps(record, indent=1) + "\n")
    return int(failed)


def _run(python: Path, calls: Path, i: int, file: Path) -> dict[str, Any]:
    """Resolver → error or message, from a process of its own, since an old runtime may abort on a newer operator."""
    command = [str(part) for part in (python, HERE / "tflite_runtime_runner.py", calls, i, file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        return dict.fromkeys(("xnnpack", "builtin"), f"the runtime ended with {done.returncode}")
    return {r["resolver"]: r.get("error", r.get("failure")) for r in json.loads(done.stdout)["rows"]}


@torch.no_grad()
def _call(i: int, module: torch.nn.Module, inputs: tuple[Any, ...], layouts: dict[str, str]) -> dict[str, np.ndarray]:
    """Inputs in the file's layout and the model's outputs, by name."""
    arrays: dict[str, np.ndarray] = {}
    for k, x in enumerate(inputs):
        array = x.numpy().astype(np.int32) if x.dtype == torch.int64 else x.numpy()
        arrays[f"{i}_in_args_{k}"] = np.moveaxis(array, 1, -1) if f"args_{k}" in layouts else array
    outputs = torch.utils._pytree.tree_leaves(module.eval()(*inputs))
    return arrays | {f"{i}_out_output_{k}": y.numpy() for k, y in enumerate(outputs)}


if __name__ == "__main__":
    raise SystemExit(main())
