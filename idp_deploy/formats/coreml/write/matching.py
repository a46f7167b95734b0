"""Which constant of a converted program holds which parameter: its numbers decide, for the converter forgets names.

A constant may be rounded to float16, have its axes in another order, or hold some of the gates that PyTorch stacks in
one matrix. It takes its parameter's name, where that is free.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any

import numpy as np

from idp_deploy.formats.coreml.write.blob import FLOATS, value_of
from idp_deploy.formats.coreml.write.compacting import names_in, operations, rename
from idp_deploy.formats.writing import nonzero

_FEWEST = 10  # entries below which nothing can be saved
_MOST_AXES = 4  # of a weight whose axes are tried in every order
_FIRST = 256  # entries that decide for nearly every pair that does not agree
_AT_ONCE = 1 << 14  # entries compared at once: what they are rounded to stays in a cache


@dataclass(frozen=True)
class Match:
    """What one constant is."""

    names: tuple[str, ...] = ()  # parameters that hold these numbers, the likeliest first
    order: tuple[int, ...] = ()  # of the parameter's axes, where it is another; neighbours may be merged
    gates: tuple[int, ...] = ()  # of a recurrent weight, those that are here, in this order
    of: int = 1  # gates it has
    axis: int = 0  # of the first reader's output channels, along which int8 scales run

    def kept(self, masks: Mapping[str, np.ndarray], values: np.ndarray) -> np.ndarray:
        """What is stored: by the parameter's mask, where it has one; also a kept entry that float16 rounds to zero."""
        name = next((n for n in self.names if n in masks), None)
        if name is None:
            return nonzero(values)
        return self.lay_out(masks[name], values.shape)

    def lay_out(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """An array of the parameter's shape, its mask say, as the constant lies."""
        chosen = _gates(array, self.of, self.gates) if self.gates else array
        return (chosen.transpose(self.order) if self.order else chosen).reshape(shape)


def match(
    spec: Any, blob: bytes, weights: Mapping[str, np.ndarray], gates: Mapping[str, int]
) -> tuple[dict[str, Match], dict[str, str]]:
    """Find and rename, in place, the float constants of a Model message.

    Args:
        weights: parameters and buffers by name, float32.
        gates: matrices stacked in a recurrent weight.

    Returns:
        (constant, by its new name → what it is; parameter → constant)
    """
    matches: dict[str, Match] = {}
    placed: dict[str, str] = {}
    inputs = {feature.name for feature in spec.description.input}
    for block in blocks(spec):
        readers = _readers(block)
        taken = names_in(block) | inputs
        renamed: dict[str, str] = {}
        for op in constants(block):
            old = op.outputs[0].name
            found = _find(
                value_of(op, blob), old, weights, gates, placed, _output_axis(block, *readers.get(old, (None, "")))
            )
            tensor = old
            if found.names:
                part = f"_{found.gates[0]}" if len(found.gates) == 1 < found.of else ""
                tensor = _free(found.names[0] + part, taken) or old
                placed.setdefault(found.names[0], tensor)
            renamed[old], matches[tensor] = tensor, found
        rename(block, renamed)
    for tensor, found in matches.items():  # tied weights: stored once, found under every name
        for name in found.names:
            placed.setdefault(name, tensor)
    return matches, placed


def blocks(spec: Any) -> Iterator[Any]:
    """The outermost block of every function."""
    for function in spec.mlProgram.functions.values():
        yield from function.block_specializations.values()


def constants(block: Any) -> Iterator[Any]:
    """Float constants of a block and the blocks inside that are worth a look; an output of the block is none."""
    waiting = [block]
    while waiting:
        inner = waiting.pop()
        for op in inner.operations:
            waiting.extend(op.blocks)
            if op.type != "const" or op.outputs[0].name in inner.outputs:
                continue
            kind = op.attributes["val"].type.tensorType
            if kind.dataType in FLOATS and np.prod([d.constant.size for d in kind.dimensions]) >= _FEWEST:
                yield op


def _free(parameter: str, taken: set[str]) -> str:
    """The name of a parameter's constant; "" where something else has it."""
    name = re.sub(r"\W", "_", parameter)
    name = f"w{name}" if name[0].isdigit() else name  # MIL names begin with a letter
    if name in taken:
        return ""
    taken.add(name)
    return name


def _find(
    values: np.ndarray,
    tensor: str,
    weights: Mapping[str, np.ndarray],
    gates: Mapping[str, int],
    placed: Mapping[str, str],
    axis: int,
) -> Match:
    """The parameters whose numbers these are, rounded to the constant's type and perhaps in another order."""
    same = {name: weight for name, weight in weights.items() if weight.size == values.size}
    names = [name for name, weight in same.items() if _agree(weight.reshape(-1), values.reshape(-1))]
    order: tuple[int, ...] = ()
    if not names:
        order = next((o for weight in same.values() for o in _turns(weight, values)), ())
        names = [n for n, w in same.items() if order in _turns(w, values)] if order else []
    if names:
        names.sort(key=lambda name: (name.replace(".", "_") not in tensor, name in placed))
        return Match(tuple(names), order, axis=axis)
    for name, count in gates.items():
        for order in _orders(count, values.size, weights[name].size):
            found = _gates(weights[name], count, order)
            if found.shape == values.shape and _agree(found.reshape(-1), values.reshape(-1)):
                return Match((name,), (), order, count, axis)
    return Match(axis=axis)


def _turns(weight: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Orders of a weight's axes, not its own, in which its numbers are those of a constant of as many entries.

    Of a matrix that has the shape turned around; of a stack of matrices, as a product over experts makes it, any.
    """
    flat = values.reshape(-1)
    for order in list(permutations(range(weight.ndim)))[1:] if 1 < weight.ndim <= _MOST_AXES else ():
        turned = weight.transpose(order)
        if weight.ndim == 2 and turned.shape != values.shape:
            continue
        if _agree(turned.flat[:_FIRST], flat[:_FIRST]) and _agree(turned.reshape(-1), flat):
            yield order


def _orders(count: int, size: int, whole: int) -> Iterator[tuple[int, ...]]:
    """Gates that may make up a constant of `size` entries: all in another order, as `lstm` has them, or one by one."""
    if size == whole:
        yield from permutations(range(count))
    elif size * count == whole:
        yield from ((gate,) for gate in range(count))


def _gates(weight: np.ndarray, count: int, gates: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.split(weight, count)[gate] for gate in gates])


def _agree(weight: np.ndarray, values: np.ndarray) -> bool:
    """Equal up to rounding."""
    rtol, atol = (2.0**-10, 2.0**-24) if values.dtype == np.float16 else (1e-6, 0.0)
    for start, end in pairwise((0, *range(_FIRST, values.size, _AT_ONCE), values.size)):
        part, wanted = values[start:end], weight[start:end]
        with np.errstate(over="ignore"):
            rounded = wanted.astype(values.dtype)
        if not np.array_equal(part, rounded) and not np.allclose(part, wanted, rtol=rtol, atol=atol):
            return False
    return True


def _readers(block: Any) -> dict[str, tuple[Any, str]]:
    """Value → the first operator that reads it, and as which of its inputs."""
    found: dict[str, tuple[Any, str]] = {}
    for op in operations(block):
        for role in sorted(op.inputs):
            for argument in op.inputs[role].arguments:
                if argument.name:
                    found.setdefault(argument.name, (op, role))
    return found


def _output_axis(block: Any, user: Any, role: str) -> int:
    """The axis of the first reader's output channels."""
    if user.type == "conv_transpose":
        return 1
    if user.type == "matmul" and role == "y":
        made = {op.outputs[0].name: op for op in operations(block) if op.type == "const"}
        weight, flag = (made.get(user.inputs[key].arguments[0].name) for key in ("y", "transpose_y"))
        turned = flag is not None and flag.attributes["val"].immediateValue.tensor.bools.values[0]
        return weight.outputs[0].type.tensorType.rank - (2 if turned else 1) if weight is not None else 0
    return 0
