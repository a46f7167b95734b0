"""The provenance that travels inside every exported file, as JSON under the key "idp_deploy": made and read here alone.

It says where a file comes from and in what order the model takes its inputs. No number is ever taken from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from idp_deploy import documents
from idp_deploy.flow import MANIFEST_KEY, CompressedModel, Provenance
from idp_deploy.formats.layer_names import untold
from idp_deploy.sealing import BLANK

KEY = MANIFEST_KEY
SCHEMA_VERSION = 1
UNSAID: Mapping[str, Any] = {
    "recipe": None,
    "scheme": None,
    "provenance": {},
    "layouts": {},
    "options": {},
    "names": {},
}
_LISTS, _MAPS = ("inputs", "outputs"), ("layouts", "names", "weights")  # of texts, to texts


def build(
    model: CompressedModel,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, str],
    layouts: Mapping[str, str] | None = None,
    options: Mapping[str, str | bool] | None = None,
    packages: Sequence[str] = ("torch",),
) -> dict[str, Any]:
    """The manifest as plain values.

    Args:
        inputs: the file's input names in the order of the flattened example inputs.
        outputs: the file's output names in the order of the flattened model outputs.
        weights: parameter name → tensor name in the file; of those without a mask, as many as must be said.
        layouts: input or output name → "NHWC" where the file's layout is not the model's.
        options: what the exporter was asked for beside what it does by itself.
        packages: whose versions to record.
    """
    pruned = {name: tensor for name, tensor in sorted(weights.items()) if name in model.masks}
    others = {name: tensor for name, tensor in sorted(weights.items()) if name not in model.masks}
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": asdict(model.recipe) if model.recipe else None,
        "scheme": model.quantization.scheme if model.quantization else None,
        "provenance": _said(model.provenance),
        "inputs": list(inputs),
        "outputs": list(outputs),
        "layouts": dict(layouts or {}),
        "options": dict(sorted((options or {}).items())),
        "weights": pruned,
        "names": untold(pruned, others),
        "zeros": {name: mask.numel() - int(mask.count_nonzero()) for name, mask in sorted(model.masks.items())},
        "seal": BLANK,  # the real ones take their places once the file is whole
        "origin": BLANK,
        "versions": {package: package_version(package) for package in ("idp-deploy", *packages)},
    }


def _said(provenance: Provenance) -> dict[str, Any]:
    """What is known of it, without fields that are as nobody filled them in.

    >>> _said(Provenance(task="tasks:digits"))
    {'task': 'tasks:digits'}
    """
    unsaid = asdict(Provenance())
    return {name: value for name, value in asdict(provenance).items() if value != unsaid[name]}


def dumps(manifest: Mapping[str, Any]) -> str:
    """Canonical JSON: sorted keys, no spaces, nothing that says nothing, so that equal manifests are equal bytes."""
    said = {key: value for key, value in manifest.items() if key not in UNSAID or value != UNSAID[key]}
    return json.dumps(said, sort_keys=True, separators=(",", ":"))


def parse(raw: str | bytes) -> tuple[dict[str, Any] | None, str]:
    """(the manifest, or None; a warning where it is not one). Whoever wrote the file may have written anything here.

    >>> parse('{"inputs": ["image"]}')
    ({'inputs': ['image']}, '')
    >>> parse('{"inputs": "image"}')
    (None, "the idp_deploy manifest in this file is ignored: 'inputs' is no list of names")
    """
    try:
        found = documents.parse_json(raw)
    except ValueError:
        return _ignored("it is not valid JSON")
    if not isinstance(found, dict):
        return _ignored("it is no mapping")
    for key in _LISTS:
        if not (isinstance(found.get(key, []), list) and all(isinstance(name, str) for name in found.get(key, []))):
            return _ignored(f"'{key}' is no list of names")
        if len(set(found.get(key, []))) < len(found.get(key, [])):
            return _ignored(f"'{key}' names something twice")
    for key in _MAPS:
        inner = found.get(key, {})
        if not (isinstance(inner, dict) and all(isinstance(text, str) for text in inner.values())):
            return _ignored(f"'{key}' is no mapping of names")
    for key in ("zeros", "versions", "provenance", "options"):
        if not isinstance(found.get(key, {}), dict):
            return _ignored(f"'{key}' is no mapping")
    return (deepcopy(dict(UNSAID)) | found if "schema_version" in found else found), ""


def stored_anew(raw: str | bytes, encoding: str) -> str | None:
    """The manifest of a file whose zeros are stored otherwise now; None where it says nothing of how they were.

    The digits of its seal stay and fit no more: who only stores weights anew vouches for nothing else in the file.

    >>> stored_anew('{"options":{"encoding":"dense","io":"int8"}}', "auto")
    '{"options":{"io":"int8"}}'
    """
    found, _ = parse(raw)
    options = (found or {}).get("options", {})
    if found is None or "encoding" not in options:
        return None
    kept = {name: value for name, value in options.items() if name != "encoding"}
    return dumps(found | {"options": kept if encoding == "auto" else {**kept, "encoding": encoding}})


def _ignored(why: str) -> tuple[None, str]:
    return None, f"the {KEY} manifest in this file is ignored: {why}"


def package_version(package: str) -> str:
    """Installed version, or "unknown"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
