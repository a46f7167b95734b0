"""The provenance that travels inside every exported file, as JSON under the key "idp_deploy"."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from idp_deploy.flow import CompressedModel
from idp_deploy.sealing import BLANK

KEY = "idp_deploy"
SCHEMA_VERSION = 1


def build(
    model: CompressedModel,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, str],
    layouts: Mapping[str, str] | None = None,
    packages: Sequence[str] = ("torch",),
) -> dict[str, Any]:
    """The manifest as plain values.

    Args:
        inputs: the file's input names in the order of the flattened example inputs.
        outputs: the file's output names in the order of the flattened model outputs.
        weights: parameter name → tensor name in the file.
        layouts: input or output name → "NHWC" where the file's layout is not the model's.
        packages: whose versions to record.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": asdict(model.recipe) if model.recipe else None,
        "scheme": model.quantization.scheme if model.quantization else None,
        "provenance": asdict(model.provenance),
        "inputs": list(inputs),
        "outputs": list(outputs),
        "layouts": dict(layouts or {}),
        "weights": dict(sorted(weights.items())),
        "zeros": {name: int(mask.numel() - int(mask.sum())) for name, mask in sorted(model.masks.items())},
        "seal": BLANK,  # `exporting.export` puts the real one in its place
        "versions": {package: package_version(package) for package in ("idp-deploy", *packages)},
    }


def dumps(manifest: Mapping[str, Any]) -> str:
    """Canonical JSON: sorted keys, no spaces, so that equal manifests are equal bytes."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"))


def package_version(package: str) -> str:
    """Installed version, or "unknown"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
