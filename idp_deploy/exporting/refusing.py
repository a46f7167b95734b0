"""Refusals that formats share, and what one may promise: ONNX is a way out only where it takes the same model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from idp_deploy.capturing import Captured
from idp_deploy.errors import ConversionError


@contextmanager
def naming_onnx(captured: Captured) -> Iterator[None]:
    """Add "or export to ONNX" to the way out of a ConversionError raised inside, if torch.onnx converts `captured`.

    That takes seconds, spent only where the export has failed already.
    """
    try:
        yield
    except ConversionError as error:
        if not _onnx_holds(captured):
            raise
        way_out = f"{error.way_out}, or export to ONNX" if error.way_out else "export to ONNX"
        raise ConversionError(error.message, way_out=way_out) from error


def _onnx_holds(captured: Captured) -> bool:
    from idp_deploy.formats.onnx.write.conversion import convert

    try:
        convert(captured)
    except Exception:  # whatever stops it, ONNX is no way out
        return False
    return True


def refuse_random(captured: Captured) -> None:
    """ConversionError where forward draws random numbers in eval mode: no file can be compared with such a model."""
    for node in captured.module.graph.nodes:
        if node.op == "call_function" and node.users and _draws(node):
            leaf = str(node.target).removeprefix("aten.").partition(".")[0]
            raise ConversionError(
                f"the model gives two answers for one input: its forward draws random numbers by {leaf!r}"
                f"{module_of(str(node.target), captured)} in eval mode",
                way_out="give dropout training=self.training, and take other random numbers as an input",
            )


def _draws(node: fx.Node) -> bool:
    """Whether the result is random: dropout is not where it is off."""
    target: Any = node.target
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    declared = target._schema.arguments
    given = {a.name: a.default_value for a in declared} | dict(zip((a.name for a in declared), node.args, strict=False))
    given |= node.kwargs
    switches = [given[name] for name in ("train", "training") if name in given]
    shares = [given[name] for name in ("dropout", "dropout_p", "p") if isinstance(given.get(name), int | float)]
    return False not in switches and 0 not in shares


def refuse_projections(captured: Captured, format: str) -> None:
    """ConversionError where an LSTM has proj_size: torch.onnx writes it as one without, which no runtime opens."""
    for node in captured.module.graph.nodes:
        if node.target is not torch.ops.aten.lstm.input:
            continue
        parameters, biased, layers, both = (node.args[i] for i in (2, 3, 4, 7))
        if len(parameters) != layers * (2 if both else 1) * (4 if biased else 2):
            raise ConversionError(
                f"{format} has no LSTM with projections (proj_size){module_of('aten.lstm', captured)}",
                way_out="leave proj_size out and put a linear layer behind the LSTM, or export to TFLite",
            )


def module_of(operator: str, captured: Captured) -> str:
    """Where `operator` is first called, as " in module 'a.b' (Kind)"; "" where only a later pass brought it."""
    leaf = operator.split(".")[1] if "." in operator else operator
    for node in captured.module.graph.nodes:
        if node.op == "call_function" and leaf.strip("_") in str(node.target):
            stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
            if stack:
                path, kind = list(stack.values())[-1]
                name = kind if isinstance(kind, str) else kind.__name__
                return f" in module '{path or '(root)'}' ({name.rpartition('.')[2]})"
    return ""
