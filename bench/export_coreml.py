"""python -m bench.export_coreml — what export --to coreml costs beside coremltools alone (see export_cost)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.export_cost import main


def convert(module: torch.nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    """torch.export, run_decompositions and coremltools.convert, and the package saved."""
    import coremltools as ct

    program = torch.export.export(module, inputs).run_decompositions({})
    target = ct.target.iOS16
    ct.convert(program, convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True).save(str(path))


if __name__ == "__main__":
    main("coreml", convert)
