"""conversion: a captured model → Core AI's program, by Apple's converter."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from random import Random
from typing import Any
from unittest.mock import patch

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram

from idp_deploy.capturing import Captured, module_of
from idp_deploy.errors import ConversionError
from idp_deploy.formats.coreai.write.half import in_half
from idp_deploy.formats.coreai.write.package import bytecode_of

_OPERATOR = re.compile(r"(?:aten[.:]+|ATen op: |op: )([\w.]+)")


def convert(captured: Captured, precision: str) -> bytes:
    """The program's bytecode, weights dense.

    Raises:
        ConversionError: an operator that the converter does not know, named with its module; or what float16 cannot.
    """
    with quiet(), _named_in_order():
        from coreai_torch import TorchConverter, get_decomp_table

        program = in_half(captured) if precision == "float16" else captured.program()
        names = {"input_names": captured.input_names(), "output_names": captured.output_names()}
        try:
            program = _decomposed(program, get_decomp_table())
            converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
            return bytecode_of(converter.add_exported_program(program, **names).to_coreai())
        except Exception as error:  # the converter raises every kind; what failed is in its text
            raise _explained(error, captured) from error


@contextlib.contextmanager
def _named_in_order() -> Iterator[None]:
    """The library ends the names of its functions (log_softmax_…) in eight letters that it draws: here the same ones
    every time, so that the same model gives the same bytes."""
    from coreai.authoring import func, graph_builder

    choice = Random(0).choice
    with patch.object(func, "choice", choice), patch.object(graph_builder, "choice", choice):
        yield


def _decomposed(program: ExportedProgram, table: dict[Any, Any]) -> ExportedProgram:
    """In the converter's own operators, and where it lacks one (ELU), in those that torch makes of that."""
    from coreai_torch._aten_to_core import _aten_to_core_resolver
    from torch._decomp import get_decompositions

    program = program.run_decompositions(table)
    calls = {node.target for node in program.graph.nodes if node.op == "call_function"}
    missing = [op for op in calls if isinstance(op, OpOverload) and _leaf(op) not in _aten_to_core_resolver]
    known = get_decompositions(missing)
    return program.run_decompositions(table | known) if known else program


def _leaf(operator: OpOverload) -> str:
    return str(operator).removeprefix("aten.")


def _explained(error: Exception, captured: Captured) -> ConversionError:
    said = str(error.__cause__ or error)
    text = " ".join(said.split("The above")[0].split())[:300] or type(error).__name__
    found = _OPERATOR.search(text)
    where = module_of(f"aten.{found[1].partition('.')[0]}", captured) if found else ""
    return ConversionError(
        f"Core AI's converter cannot take this model{where}: {text}",
        way_out="use another operator, or export to another format",
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The libraries report progress and versions on both streams; the command line speaks for itself."""
    sink = io.StringIO()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=()):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield
