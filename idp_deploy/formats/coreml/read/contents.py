"""read: .mlpackage → Contents. Needs numpy alone: neither coremltools nor torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from idp_deploy import files, packages
from idp_deploy.errors import FileError
from idp_deploy.flow import Contents, GraphOp, StoredTensor
from idp_deploy.formats import manifest
from idp_deploy.formats.coreml.read.constexpr import Weights, is_constexpr
from idp_deploy.formats.coreml.read.program import Block, Constant, Operation, load, walk
from idp_deploy.formats.decoded import stored_tensor

_APART = "runs by itself: its weights are counted, its time is not"


def read_coreml(path: Path) -> Contents:
    """Parse an .mlpackage of any maker.

    A sparse tensor's zeros are those its mask leaves out; a dense one's are counted in its numbers.

    Raises:
        FileError: a part is missing or broken, it is not an ML program, or its weights do not decode.
    """
    beside = packages.strays(path)
    program = load(path)
    operations = list(walk(program.block))
    constants = Weights(operations)
    tensors: dict[str, StoredTensor] = {}
    shared: dict[frozenset[tuple[int, int]], str] = {}
    try:
        ops = _function(program.block, tensors, shared)
        further = [op for name, block in program.others.items() for op in _function(block, tensors, shared, f"{name}/")]
    except FileError as error:
        raise FileError(f"{path}: {error.message}", way_out=error.way_out or "export the package again") from error
    values = {v.name: v for op in operations for v in op.outputs if v.name not in constants}
    values |= {v.name: v for v in program.inputs}
    metadata, warnings = _metadata(program.metadata)
    return Contents(
        path,
        "coreml",
        files.size_bytes(path),
        tuple(tensors.values()),
        ops,
        values,
        tuple(v.name for v in program.inputs),
        tuple(v.name for v in program.outputs),
        metadata | {"opset": program.opset},
        (*beside, *(f"function '{name}' {_APART}" for name in program.others), *warnings),
        program,
        beside=tuple(further),
    )


def _function(
    block: Block,
    tensors: dict[str, StoredTensor],
    shared: dict[frozenset[tuple[int, int]], str],
    prefix: str = "",
) -> tuple[GraphOp, ...]:
    """The operators of one function; its weights are added to `tensors`, but for those that lie where others do.

    Args:
        shared: where they lie → the name of the tensor.
        prefix: of the names of the function's own weights.
    """
    operations = list(walk(block))
    constants = Weights(operations)
    used = {a for op in operations if not is_constexpr(op) for args in op.inputs.values() for a in args}
    names: dict[str, str] = {}
    for op in operations:
        for value in op.outputs:
            if (op.kind == "const" and _is_weight(op)) or (is_constexpr(op) and value.name in used):
                places = constants.places(value.name)
                known = shared.get(places) if prefix and places else None
                names[value.name] = known or f"{prefix}{value.name}"
                if known is None:
                    shared[places] = names[value.name]
                    tensors[names[value.name]] = stored_tensor(names[value.name], partial(constants.decode, value.name))
    return tuple(_graph_op(op, constants, names) for op in operations if op.kind != "const" and not is_constexpr(op))


def _is_weight(op: Operation) -> bool:
    """A tensor of numbers, as opposed to strides, axes and flags."""
    value = op.attributes.get("val")
    return isinstance(value, Constant) and (
        value.blob is not None or (value.dtype.startswith("float") and len(value.shape) > 0)
    )


def _graph_op(op: Operation, constants: Weights, tensors: Mapping[str, str]) -> GraphOp:
    inputs: list[str] = []
    weights: dict[str, str] = {}
    attributes: dict[str, Any] = {}
    for role, arguments in op.inputs.items():
        plain = []
        for at, argument in enumerate(arguments):
            if isinstance(argument, Constant):
                plain.append(_plain(argument))
            elif argument in tensors:
                weights[role if len(arguments) == 1 else f"{role}.{at}"] = tensors[argument]
            elif argument in constants:
                maker = constants.maker(argument)
                plain.append(_plain(maker.attributes["val"]) if "val" in maker.attributes else None)
            else:
                inputs.append(argument)
        if plain:
            attributes[role] = plain[0] if len(plain) == 1 else plain
    return GraphOp(op.name, op.kind, tuple(inputs), tuple(v.name for v in op.outputs), attributes, weights)


def _plain(constant: Constant) -> Any:
    return constant.item if not constant.shape else constant.values.tolist()


def _metadata(user: Mapping[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the file's own entries, ours parsed; warnings)."""
    metadata: dict[str, Any] = dict(user)
    if manifest.KEY not in metadata:
        return metadata, ()
    found, warning = manifest.parse(metadata.pop(manifest.KEY))
    return (metadata, (warning,)) if found is None else (metadata | {manifest.KEY: found}, ())
