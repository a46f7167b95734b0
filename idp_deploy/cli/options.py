"""Options that several commands share, spelled once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from idp_deploy.configuration import listed
from idp_deploy.errors import UsageError
from idp_deploy.units import parse


def apart(values: list[str] | None) -> list[str] | None:
    """Values of an option that is repeatable: `--to onnx,tflite` names two. A file whose name has a comma is one.

    >>> apart(["onnx,tflite", "coreml"])
    ['onnx', 'tflite', 'coreml']
    >>> apart(["onnx,,tflite,", "", "x," * 5000])[:4]
    ['onnx', 'tflite', '', 'x']
    """
    return values and [part for value in values for part in ([value] if _is_there(value) else listed(value) or [value])]


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # longer than any name
        return False


Start = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL.pt",
        help="Weights (.pt or .safetensors). Default: 'weights' of configuration.",
        show_default=False,
    ),
]
Made = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL.pt",
        help="A checkpoint of ours, or any state dict. Default: the newest made in this folder.",
        show_default=False,
    ),
]
ModelFactory = Annotated[
    str | None,
    typer.Option("--model", metavar="PKG.MOD:FACTORY", help="Callable that builds the module.", show_default=False),
]
TaskFactory = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="PKG.MOD:TASK", help="Callable that returns data, loss and metric.", show_default=False
    ),
]
Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="GLOB=PATTERN",
        help="Another pattern, or skip, for some weights, by name or kind; repeatable.",
        show_default=False,
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="A setting of method, schedule or training (docs/pruning.md), repeatable.",
        show_default=False,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--inputs",
        metavar="SHAPE[:DTYPE]",
        help="One an input: 1x3x224x224, 1,64, 1x32:int64, or pkg.mod:callable. Not needed with a task.",
        show_default=False,
    ),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        metavar="NAME",
        help="Which weights, where the file holds several that fit: state_dict_ema, student, …",
        show_default=False,
    ),
]
Trust = Annotated[bool, typer.Option("--trust", help="Read a .pt2 program: doing so can run code that it holds.")]
ReportFormat = Annotated[
    str, typer.Option("--format", metavar="text|json|markdown|junit|github|html|png", help="How the result is written.")
]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
ReportFile = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the report here.", show_default=False)
]
NewCheckpoint = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="OUT.pt", help="Checkpoint to write.", show_default=False)
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration to read instead of searching.", show_default=False),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="DEVICE",
        help="Device name, repeatable; 'idp-deploy targets' lists them.",
        show_default=False,
        callback=apart,
    ),
]


def anchors_of(texts: Sequence[str]) -> dict[str, float]:
    """`MODEL=LATENCY` each → {model: ms}; a bare number is milliseconds.

    >>> anchors_of(["mobilenet_v1=42.5", "net.tflite@int8 = 900 us"])
    {'mobilenet_v1': 42.5, 'net.tflite@int8': 0.9}

    Raises:
        UsageError: not of that form, or two latencies of one model.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.rpartition("="))
        try:
            milliseconds = parse(f"{value} ms" if re.fullmatch(r"[0-9.]+(e[+-]?\d+)?", value, re.I) else value, "ms")
        except UsageError:
            milliseconds = 0.0
        if not name or not milliseconds:
            way_out = 'write it like --anchor mobilenet_v1_1.0_224=42.5, or with its unit: "42.5 ms"'
            raise UsageError(f"cannot read the anchor {text!r}", way_out=way_out)
        if found.setdefault(name, milliseconds) != milliseconds:
            said = f"the anchor {name} has two latencies, {found[name]:g} and {milliseconds:g} ms"
            raise UsageError(said, way_out="give one, such as their median")
    return found
