"""python -m bench.real --nets — networks of other libraries through every format and scheme: right, or refused by name.

Each network runs in a child process with a time limit; a child writes a row as soon as it has it, so that a run which
was cut off goes on where it stopped. `right`: the file was written, agrees with the model in every runtime and its
weights were proved. `refused`: an error that names what cannot be held. `rejected`: a file was made and failed, in the
check of export or in `verify`. `unexpected`: anything else.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.real.families import FAMILIES
from bench.real.newcomers import NEWCOMERS
from bench.real.strangers import STRANGERS, alive
from idp_deploy.capturing import traced_once
from idp_deploy.errors import ConversionError, IdpDeployError
from idp_deploy.exporting import export
from idp_deploy.formats import FORMATS
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify

SPARSITY = 0.8
NETS = STRANGERS | NEWCOMERS | FAMILIES
# weights as their library draws them are exported once; scaled ones in every scheme
VARIANTS = (("drawn", ""), ("scaled", ""), ("scaled", "fp16"), ("scaled", "int8-weights"), ("scaled", "int8"))
_WALL = 10  # seconds that may pass for one of CPU, where a machine is shared
_DISAGREES = ("differs", "disagree", "not a number", "off by")  # how an exporter's own check speaks
Row = dict[str, Any]


def fill(cache: Path, names: Collection[str], seconds: float, formats: Collection[str] = tuple(FORMATS)) -> list[Row]:
    """The rows of `names`, those that `cache` lacks measured in child processes of at most `seconds` of CPU a row."""
    for name in names:
        missing = [key for key in _keys(name, formats) if key not in _known(cache)]
        if not missing:
            continue
        cases = ["/".join(key[1:]) for key in missing]
        command = [sys.executable, "-m", "bench.real.nets", name, str(cache), f"{seconds * len(cases):.0f}", *cases]
        start = time.monotonic()
        try:
            ended = subprocess.run(command, timeout=_WALL * seconds * len(cases), capture_output=True, text=True)
            reason = f"the child ended with {ended.returncode}: {ended.stderr.strip()[-300:]}"
        except subprocess.TimeoutExpired as error:
            reason = f"not done after {error.timeout:g} s"
        left = [key for key in missing if key not in _known(cache)]
        for weights, scheme, format in (key[1:] for key in left[:1]):  # the one it stopped at; the others stay missing
            row = {"network": name, "weights": weights, "scheme": scheme, "format": format}
            _append(
                cache, row | {"verdict": "unexpected", "said": reason, "wall_s": round(time.monotonic() - start, 1)}
            )
        rows = [row for key, row in _known(cache).items() if key[0] == name]
        print(name, dict(Counter(row["verdict"] for row in rows)), flush=True)
    return [row for key, row in _known(cache).items() if key[0] in names and key[3] in formats]


def _keys(name: str, formats: Collection[str]) -> Iterator[tuple[str, ...]]:
    return ((name, weights, scheme, format) for weights, scheme in VARIANTS for format in formats)


def _known(cache: Path) -> dict[tuple[str, ...], Row]:
    rows = [json.loads(line) for line in cache.read_text().splitlines()] if cache.is_file() else []
    return {(row["network"], row["weights"], row["scheme"], row["format"]): row for row in rows}


def _append(cache: Path, row: Row) -> None:
    with cache.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def measure(name: str, cases: Collection[tuple[str, str, str]]) -> Iterator[Row]:
    """One network in some (weights, scheme, format), in this process."""
    stranger = NETS[name]
    models: dict[Any, Any] = {}
    torch.manual_seed(1)
    inputs = stranger.inputs(1)
    with traced_once(), tempfile.TemporaryDirectory() as folder:
        for weights, scheme, format in cases:
            row: Row = {"network": name, "library": stranger.library, "weights": weights, "scheme": scheme}
            row["format"] = format
            start, cpu = time.monotonic(), time.process_time()
            try:
                if weights not in models:
                    models[weights] = alive(stranger, SPARSITY, scaled=weights == "scaled")
                if (weights, scheme) not in models:
                    plain = models[weights]
                    models[weights, scheme] = quantize(plain, scheme, example_inputs=inputs) if scheme else plain
                model = models[weights, scheme]
                path = export(model, format, inputs, Path(folder) / f"m{FORMATS[format].suffix}").path  # type: ignore[arg-type]
                parity = verify(path, model, inputs)
                row["bytes"], row["verdict"] = parity.artifact.size_bytes, "right" if parity.passed else "rejected"
                row["error"] = max(output.max_relative_error for output in parity.outputs)
                row["notes"] = [note for note in parity.notes if "hardly" in note or "signal ends" in note]
                if not parity.passed:
                    failed = [str(part) for part in (*parity.outputs, *parity.weights) if not part.passed]
                    row["said"] = " ".join([*failed[:4], *parity.notes])
            except IdpDeployError as error:
                wrong = not isinstance(error, ConversionError) or any(word in str(error) for word in _DISAGREES)
                row |= {"verdict": "rejected" if wrong else "refused", "said": str(error)}
            except Exception as error:  # what a user would see as a traceback
                row |= {"verdict": "unexpected", "said": f"{type(error).__name__}: {error}"[:600]}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            spent = {"cpu_s": round(time.process_time() - cpu, 1), "wall_s": round(time.monotonic() - start, 1)}
            yield row | spent | {"peak_mb": round(peak)}


def summary(rows: Collection[Row]) -> dict[str, Any]:
    """What a report says at its end."""
    libraries = ("torch", "timm", "torchvision", "transformers", "onnxruntime", "coremltools", "litert-torch")
    verdicts = dict(Counter(row["verdict"] for row in rows))
    return {"networks": len({row["network"] for row in rows}), "verdicts": verdicts} | {
        "versions": {library: version(library) for library in libraries}
    }


def main() -> None:
    """The child: NAME CACHE SECONDS weights/scheme/format…"""
    torch.set_num_threads(1)
    name, cache, seconds, *cases = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    for row in measure(name, [tuple(case.split("/")) for case in cases]):  # type: ignore[misc]
        _append(Path(cache), row)


if __name__ == "__main__":
    main()
