"""One report that has a bit of everything: two formats on two targets, a broken limit, a proof that failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from idp_deploy.flow import (
    Artifact,
    Basis,
    Budget,
    Check,
    Estimate,
    FileFacts,
    Interval,
    Layer,
    OpEstimate,
    OutputParity,
    Parity,
    Report,
    WeightProof,
)  # fmt: skip

LAYERS = (
    Layer("features.0", 864, 0, 3456, 3456, 3456.0, "dense", ("features.0.weight",)),
    Layer("features.1", 8192, 6144, 11_000, 32_768, 9800.0, "bitmask", ("features.1.weight",)),
    Layer("head <b>", 10_240, 9728, 3100, 40_960, 2900.0, "gaps8", ("head.weight",)),
)
ONNX, TFLITE = Path("build/net.onnx"), Path("build/net.tflite")


def estimate(path: Path, target: str, factor: float, *, sparse: bool) -> Estimate:
    times = (0.005, 0.0104, 0.0021)
    ops = tuple(
        OpEstimate(f"n{i}", "conv1x1", 1000 * (i + 1), 500 if sparse else 1000 * (i + 1), layer.size_bytes, 4000,
                   time * factor, sparse and layer.zeros > 0, layer.name, time * factor * (2 if sparse else 1))
        for i, (layer, time) in enumerate(zip(LAYERS, times, strict=True))
    )  # fmt: skip
    mean = OpEstimate("mean", "elementwise", 0, 0, 0, 500, 0.001 * factor, False, "mean", 0.001 * factor)
    total = sum(op.latency_ms or 0.0 for op in (*ops, mean))
    return Estimate(
        path, path.suffix[1:], target, "litert-xnnpack" if sparse else "onnxruntime",
        Interval(total * 0.7, total, total * 1.4), "", 21_000, 18_000, 17_000, 77_000, 40_000, 6000,
        2500 if sparse else 6000, (*ops, mean), ("calibrated on published measurements",),
        Basis("calibrated", 21, 5, 0.19), dense_latency_ms=sum(op.dense_latency_ms or 0.0 for op in (*ops, mean)),
    )  # fmt: skip


def report() -> Report:
    """Everything a run hands to a renderer."""
    facts = FileFacts(ONNX, "onnx", 21_000, 80_600, 19_500.0, 15_872, 19_296, LAYERS)
    estimates = [
        estimate(ONNX, "pixel-4", 10, sparse=False),
        estimate(TFLITE, "pixel-4", 8, sparse=True),
        estimate(TFLITE, "raspberry-pi-4", 40, sparse=True),
    ]
    estimates.append(replace(estimates[0], target="edge-tpu", latency_ms=None, reason="runs no onnx files", basis=None))
    source = "pyproject.toml [tool.idp-deploy.budgets.pixel-4.tflite]"
    checks = [
        Check(Budget("pixel-4", "tflite", "size", 25_000, source), TFLITE, 21_000, "pass"),
        Check(Budget("pixel-4", "tflite", "sparsity", 0.8, source), TFLITE, 0.8225, "pass"),
        Check(
            Budget("pixel-4", "tflite", "latency", 0.1, source), TFLITE, 0.148, "fail",
            "slowest layer features.1: 0.0832 ms", "prune further: this target runs the zeros as sparse kernels",
        ),
        Check(Budget("pixel-4", "onnx", "error", 1e-3, source), ONNX, None, "not estimable", "no model was given"),
    ]  # fmt: skip
    weights = tuple(
        WeightProof(f"{layer.name}.weight", layer.tensors[0], layer.encoding, layer.size_bytes, layer.zeros,
                    layer.zeros, 0.0, True)
        for layer in LAYERS
    )  # fmt: skip
    parities = [
        Parity(Artifact(ONNX, "onnx", 21_000), (OutputParity("onnxruntime", "logits", 3e-7, 1e-4),), weights),
        Parity(
            Artifact(TFLITE, "tflite", 21_000),
            (OutputParity("litert-xnnpack", "logits", 3e-7, 1e-4),),
            (*weights[:2], replace(weights[2], zeros=9000, passed=False)),
        ),
    ]
    of_the_run = {
        "metric": "accuracy", "accuracy": {"dense": 0.978, "hardened": 0.972}, "zeros": 15_872, "prunable": 19_296,
        "parameters": 19_400, "dense_bytes": {str(ONNX): 80_600, str(TFLITE): 80_600},
    }  # fmt: skip
    files = [facts, replace(facts, path=TFLITE, format="tflite", size_bytes=22_400)]
    return Report(checks, estimates, parities, of_the_run, files)
