"""A format that writes JSON, for tests: what a new folder under formats/ would hold, and its one row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from idp_deploy import files
from idp_deploy.capturing import Captured
from idp_deploy.errors import ConversionError, FileError
from idp_deploy.flow import Contents, GraphOp, Quantization, StoredTensor, Value
from idp_deploy.formats import Format, manifest
from idp_deploy.formats.notes import Placement
from idp_deploy.formats.sessions import Arrays, Session
from idp_deploy.formats.writing import Converted, Written, pruned

WORDS = {"product": "times"}
CHANNELS_LAST = False
TOY = Format(
    "toy",
    ".toy",
    "Toy",
    convert="tests.toy_format:convert",
    store="tests.toy_format:store",
    read="tests.toy_format:read",
    open="tests.toy_format:open_toy",
    words="tests.toy_format",
)


def convert(captured: Captured, quantization: Quantization | None, encoding: str) -> Converted:
    """A single linear layer without bias."""
    if list(captured.module.state_dict()) != ["weight"]:
        raise ConversionError("a toy holds a linear layer alone", way_out="export to ONNX")
    source = captured.weight("weight"), len(captured.example_inputs[0])
    return Converted(source, inputs=("x",), outputs=("output",), tensors={"weight": "w"})


def store(converted: Converted, masks: Mapping[str, np.ndarray], record: str) -> Written:
    """Kept entries by position."""
    weight, batch = converted.source
    kept = {str(i): float(v) for i, v in enumerate(pruned(weight, masks["weight"]).reshape(-1)) if v}
    content = {"shape": weight.shape, "batch": batch, "kept": kept, "about": record}

    def save(path: Path) -> int:
        files.write_bytes(path, json.dumps(content).encode())
        return files.size_bytes(path)

    return Written(save, {"weight": Placement("w", True, True)})


def read(path: Path) -> Contents:
    """As the row says."""
    try:
        content = json.loads(path.read_text())
        rows, columns = content["shape"]
        weight = np.zeros(rows * columns, np.float32)
        for place, value in content["kept"].items():
            weight[int(place)] = value
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FileError(f"{path} is no toy: {error!r}") from error
    found, _ = manifest.parse(content["about"])
    tensor = StoredTensor(
        "w", (rows, columns), "float32", "sparse", 8 * len(content["kept"]), int((weight == 0).sum()),
        lambda: weight.reshape(rows, columns),
    )  # fmt: skip
    values = {
        "x": Value("x", (content["batch"], columns), "float32"),
        "output": Value("output", (content["batch"], rows), "float32"),
    }
    op = GraphOp("times_0", "times", ("x",), ("output",), weights={"weight": "w"})
    return Contents(
        path, "toy", files.size_bytes(path), (tensor,), (op,), values, ("x",), ("output",),
        {manifest.KEY: found} if found else {}, parsed=weight.reshape(rows, columns),
    )  # fmt: skip


def open_toy(contents: Contents, *, threads: int = 1) -> dict[str, Session]:
    """numpy runs it."""

    def run(call: Arrays) -> Arrays:
        return (call[0] @ contents.parsed.T,)

    return {"numpy": run}
