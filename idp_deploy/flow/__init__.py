"""Every noun of the pipeline, in the order it occurs. Read this room first.

    Model ─prune→ MaskedModel ─harden→ CompressedModel ─quantize→ CompressedModel ─export→ Artifact ─verify→ Parity
                                                                                      ├─read→ Contents
                                                                                      └─simulate→ Estimate ─gate→ Report

Each verb returns a new thing and leaves its argument alone. `MaskedModel` trains and cannot be exported;
`CompressedModel` has exact zeros and cannot be trained. Whatever is said about an artifact — its size, its zeros,
its latency — is read from the file (`Contents`), never remembered from the object that wrote it.

This room imports neither torch nor numpy: `idp-deploy --help` and `check` stay instant.
"""

from __future__ import annotations

from idp_deploy.flow.answers import (
    Basis,
    CpuOperator,
    EmulationCounts,
    Estimate,
    Interval,
    Measurement,
    OpEstimate,
    OutputParity,
    Parity,
    Shown,
    VendorEstimate,
    WeightProof,
)
from idp_deploy.flow.file import (
    INSIDE,
    MANIFEST_KEY,
    Artifact,
    Contents,
    FileFacts,
    FormatName,
    GraphOp,
    Interface,
    Layer,
    StoredTensor,
    Value,
)
from idp_deploy.flow.gate import REPORT_VERSION, Budget, Check, Remedy, Report, Verdict
from idp_deploy.flow.model import (
    CompressedModel,
    Levels,
    MaskedModel,
    Model,
    Provenance,
    Quantization,
    Recipe,
    SoftMask,
)

__all__ = [
    "INSIDE",
    "MANIFEST_KEY",
    "REPORT_VERSION",
    "Artifact",
    "Basis",
    "Budget",
    "Check",
    "CompressedModel",
    "Contents",
    "CpuOperator",
    "EmulationCounts",
    "Estimate",
    "FileFacts",
    "FormatName",
    "GraphOp",
    "Interface",
    "Interval",
    "Layer",
    "Levels",
    "MaskedModel",
    "Measurement",
    "Model",
    "OpEstimate",
    "OutputParity",
    "Parity",
    "Provenance",
    "Quantization",
    "Recipe",
    "Remedy",
    "Report",
    "Shown",
    "SoftMask",
    "StoredTensor",
    "Value",
    "VendorEstimate",
    "Verdict",
    "WeightProof",
]
