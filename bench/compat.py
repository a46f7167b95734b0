"""python -m bench.compat — every written file loads and agrees in older runtimes, each in an environment of its own.

Files are exported once and run with the model here; then each environment (build/compat/<name>, made with pip on
first use) runs them and reports its error. Exit 1 if one refuses a file or disagrees. Results go to
bench/results/compat-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch.utils import _pytree

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.quantization import quantize
from tests.zoo import ZOO, pruned

RESULTS = Path(__file__).parent / "results"
RUNNER = Path(__file__).with_name("compat_runner.py")
TOLERANCES = {"float32": 1e-4, "fp16": 2e-2, "int8-weights": 1e-4, "lut4": 1e-4, "int8": 0.25}


@dataclass(frozen=True)
class Environment:
    """One older runtime. `formats` maps a format to the schemes it is held to."""

    requirements: tuple[str, ...]
    format: FormatName
    schemes: tuple[str, ...]


_ONNX_SCHEMES = ("float32", "fp16", "int8-weights", "int8", "lut4")
ENVIRONMENTS = {
    "onnxruntime-1.17.3": Environment(("onnxruntime==1.17.3", "numpy<2"), "onnx", _ONNX_SCHEMES),
    "onnxruntime-1.20.1": Environment(("onnxruntime==1.20.1", "numpy<2"), "onnx", _ONNX_SCHEMES),
    "tflite-runtime-2.14.0": Environment(
        ("tflite-runtime==2.14.0", "numpy<2"), "tflite", ("float32", "fp16", "int8-weights")
    ),
}
NETWORKS = ("mobilenet_v2", "mobilenet_v3", "shufflenet_v2", "unet", "vit", "bert", "tied_language_model", "lstm")


def write_case(network: str, format: FormatName, scheme: str, folder: Path) -> None:
    """One exported file, its inputs and what the model makes of them."""
    entry = ZOO[network]
    model, inputs = pruned(entry), entry.example_inputs()
    if scheme != "float32":
        model = quantize(model, scheme, example_inputs=inputs)
    name = f"{network}-{scheme}"
    artifact = export(model, format, inputs, folder / f"{name}{FORMATS[format].suffix}")
    with torch.no_grad():
        outputs = [x.numpy() for x in _pytree.tree_leaves(model.module(*inputs))]
    arrays = {f"input_{i}": x.numpy() for i, x in enumerate(_pytree.tree_leaves(inputs))}
    arrays |= {f"output_{i}": x for i, x in enumerate(outputs)}
    np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    case = {key: artifact.manifest[key] for key in ("inputs", "outputs", "layouts")}
    case |= {"name": name, "format": format, "file": artifact.path.name}
    (folder / f"{name}.json").write_text(json.dumps(case))


def results(environment: str, build: Path, cases: Path) -> Iterator[dict[str, object]]:
    """What the runner prints inside `environment`, which is made if it is not there."""
    place = build / environment
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        requirements = ENVIRONMENTS[environment].requirements
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
    run = subprocess.run([str(python), str(RUNNER), str(cases)], check=True, capture_output=True, text=True)
    yield from (json.loads(line) for line in run.stdout.splitlines())


def main() -> int:
    """Export, run everywhere, print one line a file and environment."""
    parser = argparse.ArgumentParser(prog="python -m bench.compat", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=ZOO)
    parser.add_argument("--environments", nargs="+", default=list(ENVIRONMENTS), choices=ENVIRONMENTS)
    parser.add_argument("--build", type=Path, default=Path("build/compat"))
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    chosen = {name: ENVIRONMENTS[name] for name in arguments.environments}
    for format, schemes in {(each.format, each.schemes) for each in chosen.values()}:
        folder = arguments.build / "cases" / format
        folder.mkdir(parents=True, exist_ok=True)
        for network in arguments.networks:
            for scheme in schemes:
                write_case(network, format, scheme, folder)
    for name, environment in chosen.items():
        for result in results(name, arguments.build, arguments.build / "cases" / environment.format):
            scheme = str(result["case"]).split("-", 1)[1]
            error = float(str(result.get("error", "nan")))
            passed = error <= TOLERANCES[scheme]
            rows.append({"environment": name, **result, "tolerance": TOLERANCES[scheme], "passed": passed})
            detail = result.get("failed") or f"error {error:.1e} of {TOLERANCES[scheme]:g}"
            print(f"{'ok  ' if passed else 'FAIL'} {name:24}{result['case']:36}{detail}", flush=True)
    date = datetime.now(UTC).date().isoformat()
    output = arguments.output or RESULTS / f"compat-{date}.json"
    record = {"command": shlex.join(["python", "-m", "bench.compat", *sys.argv[1:]]), "date": date, "rows": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")
    return int(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
