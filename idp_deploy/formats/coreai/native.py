"""Apple's Core AI libraries behind the pipe: a program taken apart, and run. Only the child imports them.

They parse MLIR bytecode and compile it in C++ and Swift, which end the process where a program is not what it says.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from idp_deploy.errors import FileError, require
from idp_deploy.isolation import ForeignError, Session, open_isolated

RUNTIME = "coreai"
EXTRA = "coreai"
_METADATA = '{"assetVersion": "2.0"}'  # what a package without provenance says
_FLOATS = {"f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16"}


class CoreAI:
    """One program in a child process.

    Raises:
        FileError: the libraries cannot read it, or end over it.
        MissingDependencyError: they are not installed.
    """

    def __init__(self, bytecode: bytes, about: str) -> None:
        require("coreai", EXTRA)
        self._folder = TemporaryDirectory(prefix="idp-deploy-")  # ours, since the child may end before it cleans up
        self.about = about
        try:
            self._session: Session = open_isolated(
                f"{__name__}:Native", runtime="Core AI", about=about, content=bytecode, folder=self._folder.name
            )
        except ForeignError as error:
            raise FileError(f"Core AI cannot read {about}: {one_line(error)}") from error

    def program(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """(graphs as plain values, the bytes of constants by number), as `Native.program` gives them."""
        try:
            graphs, constants = self._session.call("program")
        except ForeignError as error:
            raise FileError(f"Core AI cannot read {self.about}: {one_line(error)}") from error
        return list(graphs), constants

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; compiled at the first call. ForeignError: the runtime refused it."""
        _, results = self._session.call("run", arrays)
        return results


class Native:
    """The child's object. Methods take and return what goes through the pipe."""

    def __init__(self, content: bytes, *, folder: str) -> None:
        import asyncio
        import tempfile

        from coreai.authoring import AIModelAsset

        package = Path(folder) / "model.aimodel"
        package.mkdir()
        (package / "main.mlirb").write_bytes(content)
        (package / "metadata.json").write_text(_METADATA)
        tempfile.tempdir = folder  # where the compiled program goes
        self.asset = AIModelAsset.load(package)
        self.parsed = self.asset.program
        self.loop = asyncio.new_event_loop()
        self.function: Any = None

    @staticmethod
    def prepare() -> None:
        """Import the libraries."""
        import coreai.authoring
        import coreai.runtime  # noqa: F401

    def program(self, _: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """Every graph: {"name", "inputs", "outputs", "ops"}.

        An op is {"kind", "label", "operands", "results", "attributes", "inside"}; values go by number, each described
        where it is made as {"id", "shape", "dtype"}, a free extent as −1. A constant's bytes are an array under its
        number; where all its entries are one, the op has "splat" instead.
        """
        walk = _Walk()
        graphs = [
            walk.graph(op.operation)
            for op in self.parsed._module._mlir_module.body.operations
            if op.operation.name == "coreai.graph"
        ]
        return graphs, walk.constants

    def run(self, arrays: Mapping[str, np.ndarray]) -> tuple[None, dict[str, np.ndarray]]:
        """One inference of the function "main"."""
        from coreai.runtime import NDArray

        if self.function is None:
            self.context = self.asset.executable()
            model = self._await(self.context.__aenter__())
            self.function = model.load_function("main")
        given = {name: NDArray(np.ascontiguousarray(array)) for name, array in arrays.items()}
        results = self._await(self.function(given))
        return None, {name: np.array(value.numpy()) for name, value in results.items()}

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)


class _Walk:
    """Numbers values in the order in which they are made."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}
        self.constants: dict[str, np.ndarray] = {}

    def graph(self, op: Any) -> dict[str, Any]:
        block = op.regions[0].blocks[0]
        inputs = [self._value(argument) for argument in block.arguments]
        ops = list(self._ops(block))
        names = {role: _names(op.attributes[role]) for role in ("arg_attrs", "res_attrs") if role in op.attributes}
        last = ops.pop() if ops and ops[-1]["kind"] == "output" else {"operands": []}
        return {
            "name": _text(op.attributes["sym_name"]),
            "inputs": [value | {"name": name} for value, name in _named(inputs, names.get("arg_attrs", []), "input")],
            "outputs": [
                {"id": number, "name": name}
                for number, name in _named(last["operands"], names.get("res_attrs", []), "output")
            ],
            "ops": ops,
        }

    def _ops(self, block: Any) -> Iterator[dict[str, Any]]:
        for view in block.operations:
            op = view.operation
            operands = [self.numbers.get(operand, -1) for operand in op.operands]
            inside = [list(self._ops(inner)) for inner in self._blocks(op)]
            results = [self._value(result) for result in op.results]
            found = {
                "kind": op.name.removeprefix("coreai.").removeprefix("decomposable."),
                "label": _label(op.location),
                "operands": operands,
                "results": results,
                "attributes": {named.name: str(named.attr)[:200] for named in op.attributes if named.name != "value"},
                "inside": [entry for entries in inside for entry in entries],
            }
            if op.name == "coreai.constant" and results[0]["shape"] is not None:
                found |= self._constant(op, results[0])
            yield found

    def _blocks(self, op: Any) -> Iterator[Any]:
        for region in op.regions:
            for block in region.blocks:
                for argument in block.arguments:
                    self._value(argument)
                yield block

    def _value(self, value: Any) -> dict[str, Any]:
        self.numbers[value] = len(self.numbers)
        shape, dtype = _type(value.type)
        return {"id": self.numbers[value], "shape": shape, "dtype": dtype}

    def _constant(self, op: Any, result: dict[str, Any]) -> dict[str, Any]:
        from coreai._compiler._mlir_libs._coreaiIR import _bindings

        value = op.attributes["value"]
        if getattr(value, "is_splat", False):
            return {"splat": value.get_splat_value().value}
        bits = _bits(op.results[0].type.element_type)
        data = np.zeros(math.ceil(math.prod(result["shape"]) * bits / 8), np.uint8)
        if data.size:
            _bindings.compiler.copy_constant_value_to_array(constant_op=op, destination=data)
        self.constants[str(result["id"])] = data
        return {}


def _type(mlir: Any) -> tuple[list[int] | None, str]:
    """(extents, entries' type) of a tensor; (None, its text) of anything else."""
    element = getattr(mlir, "element_type", None)
    if element is None or not getattr(mlir, "has_rank", False):
        return None, str(mlir)[:100]
    extents = [-1 if mlir.is_dynamic_dim(axis) else int(mlir.get_dim_size(axis)) for axis in range(mlir.rank)]
    return extents, _dtype(str(element))


def _dtype(text: str) -> str:
    """MLIR's word as numpy's: f32 → float32, si8 → int8, ui4 → uint4, i1 → bool; any other as it is."""
    if text in _FLOATS:
        return _FLOATS[text]
    sign, width = text.rstrip("0123456789"), text.lstrip("uis")
    if sign not in ("i", "si", "ui") or not width.isdigit():
        return text[:100]
    return "bool" if text == "i1" else f"{'uint' if sign == 'ui' else 'int'}{width}"


def _bits(element: Any) -> int:
    """Of a stored entry; booleans take a byte."""
    return 8 if str(element) == "i1" else int(element.width)


def _names(attribute: Any) -> list[str]:
    """`coreai.name` of each argument or result."""
    return [_text(entry["coreai.name"]) if "coreai.name" in entry else "" for entry in attribute]


def _named(things: list[Any], names: list[str], role: str) -> Iterator[tuple[Any, str]]:
    for position, thing in enumerate(things):
        yield thing, (names[position] if position < len(names) else "") or f"{role}_{position}"


def _text(attribute: Any) -> str:
    return str(attribute.value) if hasattr(attribute, "value") else str(attribute).strip('"')


def _label(location: Any) -> str:
    """The debugging entry by which our writer names a weight; empty where there is none."""
    text = str(location)
    _, found, rest = text.partition('"weight:')
    return rest.partition('"')[0] if found else ""


def one_line(error: BaseException) -> str:
    """What the libraries complain of, without the program that they print after it."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)
