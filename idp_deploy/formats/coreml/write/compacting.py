"""A smaller program around the same operators: constants written once, names without what the types already say.

coremltools writes strides, padding and flags of every layer as constants of their own, some 120 bytes each. A MIL
constant may have any number of users, so equal ones become one. In a network of small layers this is a third of the
program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

_PRECISION = re.compile(r"_cast_fp(16|32)$")


def compact(spec: Any) -> None:
    """Rewrite every function of a Model message in place. Inputs, outputs and weights keep their names."""
    for function in spec.mlProgram.functions.values():
        public = {value.name for value in function.inputs}
        for block in function.block_specializations.values():
            _share_constants(block, public)
            _shortennames_in(block, public | set(block.outputs))


def _share_constants(block: Any, public: set[str]) -> None:
    """Constants written into the program: the first of equal ones stays and is renamed c0, c1, … where that is free."""
    taken = names_in(block) | public
    free = (short for short in map("c{}".format, count()) if short not in taken)
    kept: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    kept_operations = []
    for op in block.operations:
        if op.type != "const" or op.attributes["val"].WhichOneof("value") != "immediateValue":
            kept_operations.append(op)
            continue
        name = op.outputs[0].name
        if name in block.outputs or _has_weights(op):
            kept_operations.append(op)
            continue
        key = op.attributes["val"].SerializeToString(deterministic=True)
        if key not in kept:
            kept[key] = next(free)
            kept_operations.append(op)
        renamed[name] = kept[key]
    survivors = [type(op).FromString(op.SerializeToString()) for op in kept_operations]
    del block.operations[:]
    block.operations.extend(survivors)
    rename(block, renamed)


def _has_weights(op: Any) -> bool:
    """Float vectors are parameters, such as a short bias: their names mean something."""
    value = op.attributes["val"]
    return bool(value.type.tensorType.rank) and value.type.tensorType.dataType in (10, 11)


def _shortennames_in(block: Any, fixed: set[str]) -> None:
    taken = names_in(block) | fixed
    renamed: dict[str, str] = {}
    for op in operations(block):
        for value in op.outputs:
            short = _PRECISION.sub("", value.name)
            if short != value.name and short not in taken and value.name not in fixed:
                taken.add(short)
                renamed[value.name] = short
    rename(block, renamed)


def names_in(block: Any) -> set[str]:
    """The names of all values in a block and the blocks inside."""
    return {value.name for op in operations(block) for value in op.outputs} | {
        value.name for op in operations(block) for inner in op.blocks for value in inner.inputs
    }


def operations(block: Any) -> Iterator[Any]:
    """Those of a block and of the blocks inside, in order."""
    for op in block.operations:
        yield op
        for inner in op.blocks:
            yield from operations(inner)


def rename(block: Any, renamed: Mapping[str, str]) -> None:
    """Give values of a block other names, in place, where they are made and where they are read."""
    for op in operations(block):
        for value in op.outputs:
            old = value.name
            value.name = renamed.get(old, old)
        label = op.attributes["name"].immediateValue.tensor.strings
        label.values[0] = renamed.get(label.values[0], _PRECISION.sub("", label.values[0]))
        for argument in op.inputs.values():
            for binding in argument.arguments:
                if binding.name in renamed:
                    binding.name = renamed[binding.name]
        for inner in op.blocks:
            inner.outputs[:] = [renamed.get(name, name) for name in inner.outputs]
    block.outputs[:] = [renamed.get(name, name) for name in block.outputs]
