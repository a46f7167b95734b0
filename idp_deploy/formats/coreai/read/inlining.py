"""A program as one list of operators: graphs that others invoke are put in the place of the call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count

from idp_deploy.errors import FileError
from idp_deploy.formats.coreai.read.program import Graph, Op, Typed

ENTRY = "main"
_DEEPEST = 16
_MOST_OPERATORS = 1 << 20


def entry(graphs: tuple[Graph, ...]) -> Graph:
    """The function that a package is run by, with everything that it invokes inside of it.

    Raises:
        FileError: there is none, or the calls have no end.
    """
    named = {graph.name: graph for graph in graphs}
    if ENTRY not in named:
        raise FileError(
            f"it has no function '{ENTRY}'; there is {', '.join(named) or 'none'}", way_out="export the package again"
        )
    graph = named[ENTRY]
    fresh = count(1 + max((value.id for one in graphs for op in one.ops for value in _made(op)), default=0))
    inlining = _Inlining(named, fresh)
    ops = tuple(inlining.ops(graph.ops, {}, 0))
    outputs = tuple((name, inlining.renamed.get(number, number)) for name, number in graph.outputs)
    return replace(graph, ops=ops, outputs=outputs)


class _Inlining:
    def __init__(self, graphs: Mapping[str, Graph], fresh: Iterator[int]) -> None:
        self.graphs, self.fresh, self.emitted = graphs, fresh, 0
        self.renamed: dict[int, int] = {}  # results of calls → what the invoked graph returned

    def ops(self, ops: tuple[Op, ...], names: dict[int, int], depth: int) -> Iterator[Op]:
        """`names`: numbers within an invoked graph → numbers of this call; empty at the top, where none change."""
        for op in ops:
            self.emitted += 1
            if depth > _DEEPEST or self.emitted > _MOST_OPERATORS:
                raise FileError("its functions invoke each other without end")
            operands = tuple(self.renamed.get(n, n) for n in (names.get(n, n) for n in op.operands))
            called = self.graphs.get(_called(op)) if op.kind == "invoke" else None
            if called is None:
                results = tuple(self._fresh(value, names, depth) for value in op.results)
                yield replace(op, operands=operands, results=results, inside=tuple(self._inside(op.inside, names)))
                continue
            inner = {value.id: number for (_, value), number in zip(called.inputs, operands, strict=False)}
            yield from self.ops(called.ops, inner, depth + 1)
            for value, (_, number) in zip(op.results, called.outputs, strict=False):
                made = inner.get(number, number)
                self.renamed[self._fresh(value, names, depth).id] = self.renamed.get(made, made)

    def _fresh(self, value: Typed, names: dict[int, int], depth: int) -> Typed:
        if depth == 0:
            return value
        names[value.id] = next(self.fresh)
        return replace(value, id=names[value.id])

    def _inside(self, ops: tuple[Op, ...], names: dict[int, int]) -> Iterator[Op]:
        for op in ops:
            operands = tuple(self.renamed.get(n, n) for n in (names.get(n, n) for n in op.operands))
            yield replace(op, operands=operands, inside=tuple(self._inside(op.inside, names)))


def _made(op: Op) -> Iterator[Typed]:
    yield from op.results
    for inner in op.inside:
        yield from _made(inner)


def _called(op: Op) -> str:
    """The graph that an operator invokes: `@name`, or a constant that holds it, `#param.constant<@name>`."""
    found = re.search(r"@([^\s>]+)", op.attributes.get("callee", ""))
    return found[1] if found else ""
