"""python -m bench.export_onnx — what export --to onnx costs beside torch.onnx alone (see export_cost)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.export_cost import main


def convert(module: torch.nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    """torch.onnx with the exporter that ours starts from, and like ours with the batch left free.

    A free batch is traced with two samples, since torch.export takes one for a constant.
    """
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        module,
        tuple(torch.cat([x, x]) for x in inputs),
        path,
        dynamo=True,
        opset_version=18,
        external_data=False,
        verbose=False,
        dynamic_shapes=tuple({0: batch} for _ in inputs),
    )


if __name__ == "__main__":
    main("onnx", convert)
