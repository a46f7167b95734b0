"""A format that writes JSON, for tests: what a new folder under formats/ would hold, and its one row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from idp_deploy import files
from idp_deploy.errors import ConversionError, FileError
from idp_deploy.flow import Artifact, CompressedModel, Contents, GraphOp, StoredTensor, Value
from idp_deploy.formats import Format, manifest
from idp_deploy.formats.notes import Placement, storage_notes
from idp_deploy.formats.sessions import Arrays, Session

WORDS = {"product": "times"}
CHANNELS_LAST = False
TOY = Format(
    "toy",
    ".toy",
    write="tests.toy_format:write",
    read="tests.toy_format:read",
    open="tests.toy_format:open_toy",
    words="tests.toy_format",
)


def write(
    model: CompressedModel, example_inputs: tuple[Any, ...], path: Path, *, encoding: str = "auto", **options: Any
) -> Artifact:
    """A single linear layer without bias; kept entries by position."""
    if not isinstance(model.module, nn.Linear):
        raise ConversionError("a toy holds a linear layer alone", way_out="export to ONNX")
    weight = model.module.weight.detach().numpy()
    entry = manifest.build(model, inputs=["x"], outputs=["output"], weights={"weight": "w"})
    kept = {str(i): float(v) for i, v in enumerate(weight.reshape(-1)) if v}
    content = {"shape": weight.shape, "batch": len(example_inputs[0]), "kept": kept, "about": manifest.dumps(entry)}
    files.write_bytes(path, json.dumps(content).encode())
    notes = storage_notes(model, {"weight": Placement("w", True, True)}, encoding)
    return Artifact(path, "toy", files.size_bytes(path), entry, notes)


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
