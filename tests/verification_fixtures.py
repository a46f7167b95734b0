"""Contents of files built by hand, and a pruned network to hold them against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from idp_deploy.flow import CompressedModel, Contents, StoredTensor
from idp_deploy.quantizers import dequantize_int8


def stored(name: str, values: np.ndarray, encoding: str = "gaps8", scale: np.ndarray | None = None) -> StoredTensor:
    def dequantize() -> np.ndarray:
        assert scale is not None
        return dequantize_int8(values, scale)

    zeros = int((values == 0).sum())
    decode = None if scale is None else dequantize
    return StoredTensor(name, values.shape, str(values.dtype), encoding, 10, zeros, lambda: values, 32, decode)


def contents(*tensors: StoredTensor, weights: dict[str, str] | None = None, **more: Any) -> Contents:
    metadata = {} if weights is None else {"idp_deploy": {"weights": weights}}
    defaults: dict[str, Any] = {"ops": (), "values": {}, "inputs": (), "outputs": ("y",)}
    return Contents(Path("net.onnx"), "onnx", 100, tensors, metadata=metadata, **(defaults | more))


def pruned(module: nn.Module, share: float = 0.7, seed: int = 0, **more: Any) -> CompressedModel:
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            masks[name] = torch.rand(parameter.shape, generator=generator) >= share
            parameter.data *= masks[name]
    return CompressedModel(module, masks, **more)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    nn.init.normal_(layers[1].running_mean)
    nn.init.uniform_(layers[1].running_var, 0.5, 2.0)
    return layers.eval()


EXAMPLE = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3)),)
