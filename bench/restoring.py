"""python -m bench.restoring — files that other tools wrote densely, stored sparse again by `restore`.

A pruned MobileNetV2 goes through tools that fold constants (onnxslim, onnxsim, onnxruntime's own optimizer), and one
that torch's own pruning made goes through converters that know no sparsity (torch.onnx, litert-torch). Wanted: within
1 % of the bytes of our own export of the same weights. Results go to bench/results/restoring-DATE.json; exit 1 where
one is larger.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime
import torch
from torch.nn.utils import prune

from bench.compat_onnx import TOOLS, environment
from bench.sizes.models import MODELS, pruned
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.inspection import inspect
from idp_deploy.quantization import quantize
from idp_deploy.restoring import restore

RESULTS = Path(__file__).parent / "results"
ALLOWED = 1.01


def folded(ours: Path, folder: Path, python: Path) -> Iterator[tuple[str, Path]]:
    """What tools that fold constants make of one of our sparse files."""
    for tool in ("onnxslim", "onnxsim"):
        path = folder / f"{ours.stem}.{tool}.onnx"
        subprocess.run([python.with_name(tool), ours, path], check=True, capture_output=True)
        yield tool, path
    path = folder / f"{ours.stem}.onnxruntime.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    onnxruntime.InferenceSession(ours, options, providers=["CPUExecutionProvider"])
    yield "onnxruntime, optimized model", path


def another_pruner() -> CompressedModel:
    """MobileNetV2, pruned by torch alone."""
    torch.manual_seed(0)
    module = MODELS["mobilenet_v2"].build().eval()
    masks = {}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) and getattr(layer, "groups", 1) == 1:
            prune.l1_unstructured(layer, "weight", 0.9)
            masks[f"{name}.weight"] = layer.weight_mask.bool()
            prune.remove(layer, "weight")
    return CompressedModel(module, masks)


def cases(folder: Path, python: Path) -> Iterator[tuple[str, str, Path, int]]:
    """(tool, scheme, its dense file, bytes of our own export)."""
    model, inputs = pruned(MODELS["mobilenet_v2"])
    for scheme in ("float32", "int8"):
        ready = model if scheme == "float32" else quantize(model, scheme, example_inputs=inputs)
        ours = export(ready, "onnx", inputs, folder / f"{scheme}.onnx")
        for tool, path in folded(ours.path, folder, python):
            yield tool, scheme, path, ours.size_bytes
    foreign = another_pruner()
    path = folder / "torch.onnx"
    torch.onnx.export(foreign.module, inputs, path, dynamo=True, external_data=False)
    yield "torch prune and torch.onnx", "float32", path, export(foreign, "onnx", inputs, folder / "a.onnx").size_bytes
    import litert_torch

    path = folder / "torch.tflite"
    litert_torch.convert(foreign.module, inputs).export(str(path))
    ours = export(foreign, "tflite", inputs, folder / "a.tflite")
    yield "torch prune and litert-torch", "float32", path, ours.size_bytes
    for scheme in ("fp16", "int8-weights", "int8"):
        ready = quantize(model, scheme, example_inputs=inputs)
        dense = export(ready, "tflite", inputs, folder / f"{scheme}.dense.tflite", encoding="dense")
        ours = export(ready, "tflite", inputs, folder / f"{scheme}.tflite")
        yield "our own --encoding dense", scheme, dense.path, ours.size_bytes


def main() -> int:
    """Restore each, print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.restoring", description=__doc__)
    parser.add_argument("--environments", type=Path, default=Path("build/compat-onnx"), help="where they are or go")
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    python = environment(TOOLS["onnxslim 0.1.98"], arguments.environments.absolute())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for tool, scheme, dense, ours in cases(Path(folder), python):
            said = inspect(dense).sparse_bytes
            after = restore(dense, dense.with_suffix(f".again{dense.suffix}")).after_bytes
            row = {"tool": tool, "format": dense.suffix[1:], "scheme": scheme, "dense": dense.stat().st_size}
            rows.append(row | {"said": said, "restored": after, "ours": ours, "ratio": after / ours})
            print(
                f"{tool:32}{scheme:14}{row['dense']:>12,} → {after:>11,}   ours {ours:>11,}   {after / ours:.4f}",
                flush=True,
            )
    when = datetime.now(UTC).date().isoformat()
    command = shlex.join(["python", "-m", "bench.restoring", *sys.argv[1:]])
    record = {"command": command, "date": when, "onnxruntime": onnxruntime.__version__, "rows": rows}
    (arguments.output or RESULTS / f"restoring-{when}.json").write_text(json.dumps(record, indent=1) + "\n")
    return int(any(row["ratio"] > ALLOWED for row in rows))


if __name__ == "__main__":
    sys.exit(main())
