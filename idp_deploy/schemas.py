"""JSON Schemas of what programs read and editors complete: made from the types that write and read these documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from idp_deploy.configuration import Configuration
from idp_deploy.flow import REPORT_VERSION, Estimate, FileFacts, OutputParity, WeightProof
from idp_deploy.formats import COMPILED_FROM, FORMATS, written
from idp_deploy.formats.manifest import SCHEMA_VERSION as MANIFEST_VERSION
from idp_deploy.formats.manifest import UNSAID
from idp_deploy.units import METRICS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class CheckRow(TypedDict):
    """One budget against one file; values in the base of `unit`."""

    target: str
    format: str
    metric: str
    unit: str
    artifact: str
    value: float | None
    limit: float
    source: str
    verdict: str
    detail: str
    fix: str
    over: float | None  # share of the limit, where it is broken
    marginal: bool  # the interval of a latency straddles the limit
    layer: str  # the one most responsible
    remedy: dict[str, Any] | None  # one change, with what it would leave of the metric


class ParityRow(TypedDict):
    """What `verify` found of one file."""

    path: str
    format: str
    passed: bool
    outputs: list[OutputParity]
    weights: list[WeightProof]
    metrics: dict[str, float]
    notes: list[str]


class ReportJson(TypedDict):
    """`check --json` and `run --json`."""

    schema_version: int
    title: str
    passed: bool
    checks: list[CheckRow]
    estimates: list[Estimate]
    parities: list[ParityRow]
    facts: dict[str, Any]
    files: list[FileFacts]
    refused: NotRequired[dict[str, str]]
    notes: list[str]
    summary: NotRequired[str]


class BaselineRow(TypedDict):
    """What a baseline is read for."""

    target: str
    format: str
    metric: str
    value: float | None


class Baseline(TypedDict):
    """What `check --baseline` and `diff` read: any report of `check --json`."""

    checks: list[BaselineRow]


CHOICES: Mapping[tuple[str, ...], tuple[str, ...]] = {  # of the configuration: key → what it takes
    ("prune", "mode"): ("auto", "paper"),
    ("quantize", "scheme"): ("fp16", "int8", "int8-weights", "lut4"),
    ("export", "precision"): ("float16", "float32"),
    ("export", "io"): ("int8", "float"),
    ("export", "layout"): ("nchw", "nhwc", "auto"),
}
WHAT: Mapping[tuple[str, ...], str] = {  # of the configuration: key → what an editor shows
    ("model",): 'Callable that builds the nn.Module, as "pkg.mod:build" or "pkg.mod:Net(wide=3, sizes=Sizes())".',
    ("task",): 'Callable that returns data, loss and metric, as "pkg.mod:task".',
    ("weights",): "State dict (.pt, .safetensors) or checkpoint to begin with, relative to this file.",
    ("weights-key",): "Which weights, where the file holds several that fit.",
    ("output",): "Folder that results go to; beside the weights by default.",
    ("inputs",): 'One an input: "1x3x224x224", "1x32:int64", or "pkg.mod:callable". Not needed with a task.',
    ("targets",): "Devices to estimate on; `idp-deploy targets` lists them.",
    ("prune",): "How `prune` and `run` prune.",
    (
        "prune",
        "target",
    ): "Share of zeros over the prunable weights, between 0 and 1, or a device whose budgets to meet.",
    ("prune", "method"): "Pruning method.",
    ("prune", "pattern"): "unstructured, free (rows may lose all), N:M such as 2:4, block:1x4, or channel.",
    ("prune", "mode"): "How IDP chooses temperature, allocation and ramp.",
    ("prune", "allocation"): "How zeros are shared out over the layers.",
    ("prune", "one-shot"): "Prune by magnitude, without data and without training.",
    ("prune", "epochs"): "Training epochs while pruning.",
    ("prune", "learning-rate"): "Of the training while pruning.",
    ("prune", "seed"): "Same seed, input and versions give the same bytes.",
    ("prune", "skip"): 'Glob patterns over weight names that stay dense, such as "stem.*".',
    ("prune", "rules"): 'Pattern, or "skip", for weights by glob or kind: "layers.*" = "2:4".',
    ("prune", "options"): "Of the method, the schedule and the training; docs/pruning.md lists them.",
    ("quantize",): "Fewer bits a weight, after pruning.",
    ("quantize", "scheme"): "Left out: weights stay float32.",
    ("quantize", "values"): "Distinct integers that an int8 weight may have: 16 is stored smaller for the Ethos-U.",
    ("quantize", "float"): 'Glob patterns over weights and modules that stay float, such as "head.*".',
    ("export",): "Which files are written, and how.",
    ("export", "to"): "Formats to write.",
    ("export", "encoding"): "How zeros are stored: auto takes the fewest bytes for each weight, dense stores them.",
    ("export", "precision"): "What Core ML computes in.",
    ("export", "io"): "What an int8 TFLite file takes and gives: int8 or float.",
    (
        "export",
        "layout",
    ): "Of images in a TFLite file: nhwc at both ends, nchw as the model, auto nhwc for inputs alone.",
    ("baseline",): "How `check --baseline` judges.",
    ("baseline", "tolerances"): 'By how much a metric may get worse than the baseline: latency = "2 %".',
    ("budgets",): 'Limits: [budgets.<device>.<format>] with quantities such as size = "600 kB", latency = "4 ms".',
}


def report() -> dict[str, Any]:
    """Of `check --json` and `run --json`. A number that is not finite is written as null."""
    schema = _described(ReportJson, "A report of idp-deploy check or run")
    schema["properties"]["schema_version"] = {"const": REPORT_VERSION}
    _nullable(schema)
    return schema


def baseline() -> dict[str, Any]:
    """Of what a baseline is read for."""
    schema = _described(Baseline, "A baseline of idp-deploy check: any report of check --json")
    schema["$defs"]["BaselineRow"]["properties"]["metric"] = {"enum": list(METRICS)}
    return schema


def configuration() -> dict[str, Any]:
    """Of idp-deploy.toml, and of `[tool.idp-deploy]` in pyproject.toml."""
    schema = Configuration.model_json_schema(by_alias=True)
    schema = {"$schema": DIALECT, **schema, "title": "idp-deploy.toml"}
    schema["properties"].pop("source")
    for keys in _keys(schema):
        node = _node(schema, keys)
        if keys in WHAT:
            node["description"] = WHAT[keys]
    for keys, words in {**CHOICES, **_registered()}.items():
        node = _node(schema, keys)
        null = any(one.get("type") == "null" for one in node.pop("anyOf", []))
        node.pop("type", None)
        node["enum"] = [*words, *([None] if null else [])]
    _node(schema, ("export", "to"))["items"] = {"enum": [*written(), *COMPILED_FROM, "all"]}
    limits = {name: {"type": ["string", "number"], "description": _metric(name)} for name in METRICS}
    of_a_format = {"type": "object", "properties": limits, "additionalProperties": False}
    schema["properties"]["budgets"] |= {
        "additionalProperties": {
            "type": "object",
            "properties": dict.fromkeys(FORMATS, of_a_format),
            "additionalProperties": False,
        }
    }
    return schema


def manifest() -> dict[str, Any]:
    """Of the provenance inside an exported file, as docs/manifest.md explains it."""
    text, texts = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}
    names = {"type": "array", "items": text, "uniqueItems": True}
    count = {"type": "integer", "minimum": 0}
    recipe = {
        "sparsity": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        **dict.fromkeys(("method", "pattern", "mode", "allocation"), text),
        "epochs": count,
        "seed": {"type": "integer"},
        "skip": {"type": "array", "items": text},
        "options": {"type": "object"},
    }
    provenance = {
        **dict.fromkeys(("factory", "task", "input_sha256"), text),
        "seed": {"type": "integer"},
        "versions": texts,
        "threads": count,
        "steps": {"type": "array", "items": text},
    }
    properties: dict[str, Any] = {
        "schema_version": {"const": MANIFEST_VERSION},
        "inputs": names,
        "outputs": names,
        "layouts": {"type": "object", "additionalProperties": {"const": "NHWC"}},
        "options": {"type": "object", "additionalProperties": {"type": ["string", "boolean"]}},
        "weights": texts,
        "names": texts,
        "zeros": {"type": "object", "additionalProperties": count},
        "scheme": {"enum": [None, *CHOICES["quantize", "scheme"]]},
        "recipe": {**_closed(recipe), "type": ["object", "null"]},
        "provenance": {**_closed(provenance), "required": []},
        **{name: {"type": "string", "pattern": "^[0-9a-f]{32}$"} for name in ("seal", "origin")},
        "versions": texts,
    }
    required = sorted(properties.keys() - UNSAID)
    return {"$schema": DIALECT, **_closed(properties), "required": required}


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "configuration": configuration,
    "report": report,
    "baseline": baseline,
    "manifest": manifest,
}


def _described(kind: Any, title: str) -> dict[str, Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return {"$schema": DIALECT, **adapter.json_schema(), "title": title}


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with these properties, all of them and no other."""
    return {
        "type": "object",
        "required": sorted(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def _nullable(schema: Any) -> None:
    """Let every number be null: JSON has no NaN."""
    if isinstance(schema, dict):
        if schema.get("type") == "number":
            schema["type"] = ["number", "null"]
        for inner in schema.values():
            _nullable(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _nullable(inner)


def _keys(schema: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Every key of the configuration, those of its tables too."""
    found: list[tuple[str, ...]] = []
    for name, node in schema["properties"].items():
        found.append((name,))
        if "$ref" in node:
            inner = schema["$defs"][node["$ref"].rpartition("/")[2]]["properties"]
            found += [(name, key) for key in inner]
    return found


def _node(schema: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    node: dict[str, Any] = schema["properties"][keys[0]]
    for key in keys[1:]:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]["properties"][key]
    return node


def _registered() -> dict[tuple[str, ...], tuple[str, ...]]:
    from idp_deploy.pruning import ALLOCATIONS, METHODS

    return {("prune", "method"): tuple(METHODS), ("prune", "allocation"): ("auto", *ALLOCATIONS)}


def _metric(name: str) -> str:
    example = {"bytes": "600 kB", "ms": "4 ms", "share": "90 %", "error": "1e-3", "count": "0"}[METRICS[name].unit]
    return f'{"At least" if METRICS[name].at_least else "At most"}, such as "{example}".'
