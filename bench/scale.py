"""What a large model takes: CPU and memory of prune --one-shot, export, inspect and verify at 100 million parameters.

python -m bench.scale [MILLIONS] [--allocations lamp,erk] [--formats onnx,coreml,tflite]

Every stage is a process of its own on one thread. Its CPU counts from after the imports; its memory is how far the peak
of resident memory rises above what stood before the model was made, in bytes a parameter, weights (4) included. Export
stands beside the bare converter of its format (the scripts export_onnx, export_coreml and export_tflite).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from idp_deploy import loading
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.inspection import inspect
from idp_deploy.pruning import one_shot
from idp_deploy.verification import verify

RESULT = Path(__file__).parent / "results" / "scale.json"
_LAYERS = 6


def net(millions: float) -> nn.Module:
    """Square layers of about so many parameters in all."""
    side = int((millions * 1e6 / _LAYERS) ** 0.5)
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(_LAYERS) for layer in (nn.Linear(side, side), nn.ReLU()))).eval()


def inputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
    """One call."""
    return (torch.randn(1, next(module.parameters()).shape[1]),)


def _prune(allocation: str, millions: float, folder: Path) -> None:
    sparse = one_shot(Model(net(millions)), Recipe(sparsity=0.9, allocation=allocation))
    loading.save_checkpoint(sparse, folder / "net.pt")


def _pruned(millions: float, folder: Path) -> CompressedModel:
    model = loading.load_checkpoint(folder / "net.pt", lambda: net(millions))
    assert isinstance(model, CompressedModel)
    return model


def _convert(format: FormatName, millions: float, folder: Path) -> None:
    model = _pruned(millions, folder)
    converter = import_module(f"bench.export_{format}").convert
    converter(model.module, inputs(model.module), folder / f"bare{FORMATS[format].suffix}")


def _export(format: FormatName, millions: float, folder: Path) -> None:
    model = _pruned(millions, folder)
    export(model, format, inputs(model.module), folder / f"net{FORMATS[format].suffix}")


def _inspect(format: FormatName, millions: float, folder: Path) -> None:
    inspect(folder / f"net{FORMATS[format].suffix}")


def _verify(format: FormatName, millions: float, folder: Path) -> None:
    model = _pruned(millions, folder)
    assert verify(folder / f"net{FORMATS[format].suffix}", model, inputs(model.module)).passed


# Values are functions of (allocation or format, millions, folder)
STAGES: dict[str, Callable[..., None]] = {
    "prune": _prune,
    "converter": _convert,
    "export": _export,
    "inspect": _inspect,
    "verify": _verify,
}
_LIBRARIES = {"onnx": ("onnxscript", "onnxruntime"), "coreml": ("coremltools",), "tflite": ("litert_torch",)}


def once(stage: str, what: str, millions: float, folder: Path) -> dict[str, float]:
    """One stage in this process."""
    for name in _LIBRARIES.get(what, ()):
        import_module(name)
    before, start = _peak(), time.process_time()
    STAGES[stage](what, millions, folder)
    spent, grown = time.process_time() - start, _peak() - before
    with torch.device("meta"):
        entries = sum(p.numel() for p in net(millions).parameters())
    return {"cpu_s": round(spent, 2), "bytes_a_parameter": round(grown / entries, 1)}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("millions", nargs="?", type=float, default=100.0)
    parser.add_argument("--allocations", default="lamp,erk")
    parser.add_argument("--formats", default="onnx,coreml,tflite")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once:
        warnings.simplefilter("ignore")
        stage, what, folder = options.once
        print(json.dumps(once(stage, what, options.millions, Path(folder))))
        return
    asked = [("prune", one) for one in options.allocations.split(",")]
    asked += [(s, one) for one in options.formats.split(",") for s in ("converter", "export", "inspect", "verify")]
    command_line = f"python -m bench.scale {options.millions:g}"
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    rows: dict[str, dict[str, float]] = found["rows"] if found.get("command") == command_line else {}
    with tempfile.TemporaryDirectory() as folder:
        for stage, what in asked:
            command = [sys.executable, "-m", "bench.scale", str(options.millions), "--once", stage, what, folder]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "LITERT_TORCH_SHOW_PROGRESS": "n"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                print(f"{stage} {what}: {done.stderr.strip().splitlines()[-1:]}", flush=True)
                continue
            rows[f"{stage} {what}"] = row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{stage:10} {what:8} {row['cpu_s']:8.1f} s  {row['bytes_a_parameter']:6.1f} B a parameter", flush=True
            )
            RESULT.write_text(json.dumps({"command": command_line, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
