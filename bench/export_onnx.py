"""python -m bench.export_onnx — what export --to onnx costs beside torch.onnx alone (see export_cost)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.export_cost import main


def convert(module: torch.nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    """torch.onnx with the exporter that ours starts from, opset and all."""
    torch.onnx.export(module, inputs, path, dynamo=True, opset_version=18, external_data=False, verbose=False)


if __name__ == "__main__":
    main("onnx", convert)
