"""docs/manifest.md says what is built: its schema holds for every manifest, its seal for every file."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Provenance, Recipe
from idp_deploy.formats import manifest
from idp_deploy.quantization import SCHEMES, quantize
from idp_deploy.reading import read
from idp_deploy.sealing import key_of

PAGE = (Path(__file__).parents[1] / "docs" / "manifest.md").read_text()
SCHEMA: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", PAGE, flags=re.S)[0])
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
WORDS: dict[str, Callable[[Any, Any], bool]] = {  # of JSON Schema, as far as the page uses them: (value, what is said)
    "type": lambda value, kinds: any(isinstance(value, TYPES[kind]) for kind in np.atleast_1d(kinds)),
    "const": lambda value, one: value == one,
    "enum": lambda value, some: value in some,
    "pattern": lambda value, expression: re.search(expression, value) is not None,
    "minimum": lambda value, least: value >= least,
    "exclusiveMaximum": lambda value, limit: value < limit,
    "uniqueItems": lambda value, _: len(set(value)) == len(value),
    "required": lambda value, keys: value is None or set(keys) <= set(value),
}
EXAMPLE = (torch.zeros(2, 4),)


def faults(value: Any, schema: dict[str, Any], at: str = "") -> list[str]:
    """Where `value` is not as the schema says."""
    deeper = {"$schema", "properties", "additionalProperties", "items"}
    found = [f"{at}: {word}" for word, of in schema.items() if word not in deeper and not WORDS[word](value, of)]
    if isinstance(value, dict):
        rules, more = schema.get("properties", {}), schema.get("additionalProperties", {})
        for key, inner in value.items():
            rule = rules.get(key, more)
            found += [f"{at}.{key}: unknown"] if rule is False else faults(inner, rule, f"{at}.{key}")
    if isinstance(value, list):
        found += [fault for inner in value for fault in faults(inner, schema.get("items", {}), f"{at}[]")]
    return found


def model(scheme: str | None = None, recipe: Recipe | None = None) -> CompressedModel:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    mask = torch.rand(6, 4) > 0.5
    module[0].weight.data *= mask
    found = CompressedModel(
        module, {"0.weight": mask}, recipe=recipe, provenance=Provenance("net:build", seed=1, versions={"torch": "2"})
    )
    return quantize(found, scheme, example_inputs=EXAMPLE) if scheme else found


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
@pytest.mark.parametrize("recipe", [None, Recipe(skip=("a.*",), options={"kappa": 4.0}, epochs=3)])
def test_what_is_built_is_what_the_schema_says(scheme: str | None, recipe: Recipe | None) -> None:
    built = manifest.build(
        model(scheme, recipe), inputs=["x"], outputs=["output"], weights={"0.weight": "w", "2.weight": "v"},
        layouts={"x": "NHWC"},
    )  # fmt: skip
    found = json.loads(manifest.dumps(built))
    assert faults(found, SCHEMA) == []
    assert set(built) == set(SCHEMA["properties"]) == set(SCHEMA["required"]) | set(manifest.UNSAID)
    assert set(found) == {key for key in built if key not in manifest.UNSAID or built[key] != manifest.UNSAID[key]}
    assert set(found["weights"]) == set(found["zeros"]) == {"0.weight"}
    assert manifest.parse(manifest.dumps(built)) == (json.loads(json.dumps(built)), "")


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("schema_version", 2, ".schema_version: const"), ("inputs", ["x", "x"], ".inputs: uniqueItems"),
        ("scheme", "int3", ".scheme: enum"), ("zeros", {"w": -1}, ".zeros.w: minimum"), ("day", "", ".day: unknown"),
        ("weights", {"w": 1}, ".weights.w: type"), ("seal", "0", ".seal: pattern"), ("recipe", {}, ".recipe: required"),
    ],
)  # fmt: skip
def test_the_schema_refuses_what_is_not_built(key: str, value: Any, fault: str) -> None:
    built = manifest.build(model(), inputs=["x"], outputs=["y"], weights={})
    assert faults(json.loads(json.dumps({**built, key: value})), SCHEMA) == [fault]


def test_every_key_and_every_scheme_is_on_the_page() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE, flags=re.M)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(SCHEMA["properties"])
    assert SCHEMA["properties"]["scheme"]["enum"] == [None, *sorted(SCHEMES)]
    assert SCHEMA["properties"]["schema_version"]["const"] == manifest.SCHEMA_VERSION


def test_the_seal_is_what_the_page_says(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(model(), "onnx", EXAMPLE, path)
    found, data = str(read(path).manifest["seal"]), path.read_bytes()
    assert faults(found, SCHEMA["properties"]["seal"]) == []
    assert data.count(found.encode()) == 1
    origin = str(read(path).manifest["origin"])
    blank = data.replace(found.encode(), b"0" * 32).replace(origin.encode(), b"0" * 32)
    digest = hashlib.sha256(len(data).to_bytes(8, "little") + blank).digest()
    assert found == digest.hex()[:32] != "0" * 32
    assert origin == hmac.new(key_of(model()), digest, "sha256").hexdigest()[:32] != "0" * 32


def test_what_nobody_said_takes_no_bytes(tmp_path: Path) -> None:
    model = CompressedModel(nn.Linear(4, 4).eval(), {}, provenance=Provenance(task="tasks:digits"))
    usual, asked = (
        export(model, "onnx", EXAMPLE, tmp_path / f"{encoding}.onnx", encoding=encoding)
        for encoding in ("auto", "dense")
    )
    assert usual.manifest["options"] == {}
    assert asked.manifest["options"] == {"encoding": "dense"}
    assert read(asked.path).manifest["provenance"] == {"task": "tasks:digits"}
