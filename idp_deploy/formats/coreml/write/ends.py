"""ends: an output of its own for each that a model gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from idp_deploy.formats.coreml.write.compacting import names_in, operations, rename


def part_outputs(spec: Any, names: Sequence[str]) -> None:
    """Rewrite a Model message in place: what is given more than once has one name to coremltools, that of the last.

    Truths, which leave as numbers, are cast anew for each output, and then it gives all of them names of its own.

    Args:
        names: of the outputs, in order.
    """
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            if list(block.outputs) == list(names):
                continue
            often, inside = Counter(block.outputs), names_in(block) - set(block.outputs)
            own = {given: name for given, name in zip(block.outputs, names, strict=True) if often[given] == 1}
            rename(block, {name: f"{name}_inside" for name in names if name in inside} | own)
            made = {output.name: (op, output.type) for op in operations(block) for output in op.outputs}
            for at, (given, name) in enumerate(zip(list(block.outputs), names, strict=True)):
                spec.description.output[at].name = name
                if given != name:
                    copy = block.operations.add(type="identity")
                    copy.inputs["x"].arguments.add(name=given)
                    maker, kind = made[given]
                    copy.outputs.add(name=name).type.CopyFrom(kind)
                    copy.attributes["name"].CopyFrom(maker.attributes["name"])
                    copy.attributes["name"].immediateValue.tensor.strings.values[0] = name
                    block.outputs[at] = name
