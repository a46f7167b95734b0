"""python -m bench.export_tflite — what export --to tflite costs beside litert_torch alone (see export_cost)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.export_cost import main


def convert(module: torch.nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    """litert_torch with images channel-last, as our files have them."""
    import litert_torch

    images = [i for i, x in enumerate(inputs) if x.dim() == 4]
    wrapped = litert_torch.to_channel_last_io(module.eval(), args=images) if images else module.eval()
    sample = tuple(x.permute(0, 2, 3, 1) if i in images else x for i, x in enumerate(inputs))
    litert_torch.convert(wrapped, sample).export(str(path))


if __name__ == "__main__":
    main("tflite", convert)
