"""What other tools make of the same pruned network, measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from idp_deploy import files
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName

Peer = Callable[[CompressedModel, tuple[Any, ...], Path], int]  # → bytes on disk


def sparse_initializer(model: CompressedModel, example_inputs: tuple[Any, ...], folder: Path) -> int:
    """ONNX's own sparse constants for every weight where they are smaller than dense."""
    return export(model, "onnx", example_inputs, folder / "peer.onnx", encoding="sparse-initializer").size_bytes


def coremltools_pruned(model: CompressedModel, example_inputs: tuple[Any, ...], folder: Path) -> int:
    """coremltools' conversion to float16 and its prune_weights with a threshold that keeps our zeros."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto
    import torch

    program = torch.export.export(model.module, example_inputs).run_decompositions({})
    package = ct.convert(program, minimum_deployment_target=ct.target.iOS16, skip_model_load=True)
    rule = cto.OpThresholdPrunerConfig(threshold=1e-12)
    path = folder / "peer.mlpackage"
    cto.prune_weights(package, cto.OptimizationConfig(global_config=rule)).save(str(path))
    return files.size_bytes(path)


def litert_torch_dense(model: CompressedModel, example_inputs: tuple[Any, ...], folder: Path) -> int:
    """litert-torch's conversion, which knows no sparse encoding."""
    import litert_torch

    path = folder / "peer.tflite"
    litert_torch.convert(model.module.eval(), example_inputs).export(str(path))
    return files.size_bytes(path)


# format → (name, measurement of the float32 model); a peer that cannot convert a network is reported as such
PEERS: dict[FormatName, tuple[str, Peer]] = {
    "onnx": ("sparse_initializer", sparse_initializer),
    "coreml": ("coremltools prune_weights, float16", coremltools_pruned),
    "tflite": ("litert-torch", litert_torch_dense),
}
