"""python -m bench.sizes — bytes of each network in each format and scheme, dense and encoded, against bound and peer.

The bound of a file is Σ over its tensors of min(dense, nnz · bits + n · H(s)): no encoding of independent zeros can
be smaller. Everything is read back from the written files. Results go to bench/results/sizes-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.sizes.models import MODELS, pruned
from bench.sizes.peers import PEERS
from idp_deploy.encodings import bound_bytes
from idp_deploy.errors import IdpDeployError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Contents, FormatName
from idp_deploy.formats import FORMATS, usual
from idp_deploy.quantization import quantize
from idp_deploy.reading import read

RESULTS = Path(__file__).parents[1] / "results"
SCHEMES: dict[FormatName, tuple[str, ...]] = {
    "onnx": ("float32", "fp16", "int8-weights", "int8", "lut4"),
    "coreml": ("float32", "int8-weights", "lut4"),
    "tflite": ("float32", "fp16", "int8-weights", "int8"),
}
Row = dict[str, Any]


def bound(contents: Contents) -> float:
    """Bytes that the tensors of a file need at least."""
    return sum(
        min(
            tensor.size * tensor.value_bits / 8, bound_bytes(tensor.size, tensor.size - tensor.zeros, tensor.value_bits)
        )
        for tensor in contents.tensors
    )


def measure(
    name: str, model: CompressedModel, inputs: tuple[Any, ...], format: FormatName, folder: Path
) -> Iterator[Row]:
    """One row for each scheme of a format."""
    suffix = FORMATS[format].suffix
    for scheme in SCHEMES[format]:
        row: Row = {"model": name, "format": format, "scheme": scheme}
        try:
            ready = model if scheme == "float32" else quantize(model, scheme, example_inputs=inputs)
            dense = export(ready, format, inputs, folder / f"{name}-{scheme}-dense{suffix}", encoding="dense")
            sparse = export(ready, format, inputs, folder / f"{name}-{scheme}{suffix}")
            least = bound(read(sparse.path))
            row |= {"dense_bytes": dense.size_bytes, "bytes": sparse.size_bytes, "bound_bytes": round(least)}
            row |= {"of_dense": sparse.size_bytes / dense.size_bytes, "of_bound": sparse.size_bytes / least}
        except IdpDeployError as error:
            row["refused"] = str(error)
        yield row


def peer(model: CompressedModel, inputs: tuple[Any, ...], format: FormatName, folder: Path) -> Row:
    """The other tool's bytes, or why it has none."""
    label, function = PEERS[format]
    try:
        return {"peer": label, "peer_bytes": function(model, inputs, folder)}
    except Exception as error:  # another tool's failure, of whatever type, is its result
        return {"peer": label, "peer_failed": f"{type(error).__name__}: {error}"[:200]}


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizes", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--formats", nargs="+", default=list(usual()), choices=FORMATS)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    rows: list[Row] = []
    print(f"{'model':14}{'format':8}{'scheme':14}{'dense':>12}{'bytes':>12}{'/dense':>8}{'/bound':>8}{'peer':>12}")
    for name in arguments.models:
        model, inputs = pruned(MODELS[name], arguments.sparsity)
        with tempfile.TemporaryDirectory() as folder:
            for format in arguments.formats:
                other = peer(model, inputs, format, Path(folder))
                for row in measure(name, model, inputs, format, Path(folder)):
                    rows.append(row | (other if row["scheme"] == "float32" else {}))
                    print(_line(rows[-1]), flush=True)
    date = datetime.now(UTC).date().isoformat()
    output = arguments.output or RESULTS / f"sizes-{date}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "coremltools", "litert-torch")
    record = {
        "command": shlex.join(["python", "-m", "bench.sizes", *sys.argv[1:]]),
        "date": date,
        "sparsity": arguments.sparsity,
        "versions": {package: _version(package) for package in packages},
        "rows": rows,
    }
    output.write_text(json.dumps(record, indent=1) + "\n")


def _line(row: Row) -> str:
    head = f"{row['model']:14}{row['format']:8}{row['scheme']:14}"
    if "refused" in row:
        return f"{head} refused: {row['refused']}"
    other = f"{row['peer_bytes']:12,}" if "peer_bytes" in row else ""
    return f"{head}{row['dense_bytes']:12,}{row['bytes']:12,}{row['of_dense']:8.3f}{row['of_bound']:8.3f}{other}"


def _version(package: str) -> str:
    try:
        return version(package)
    except Exception:
        return "not installed"


if __name__ == "__main__":
    main()
