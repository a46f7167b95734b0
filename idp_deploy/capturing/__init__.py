"""capture: a model as one graph ready for any exporter — batch norm folded, subnormals flushed, the caller untouched.

Every exporter starts here, so that all three write the same numbers and can be compared bit for bit.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from keyword import iskeyword
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.nn.functional import hardshrink
from torch.utils import _pytree

from idp_deploy.capturing.apart import keep_apart
from idp_deploy.capturing.attempts import attempts_forgotten
from idp_deploy.capturing.folding import fold_batch_norm
from idp_deploy.capturing.functional import functional, source_of, written_operands
from idp_deploy.capturing.gradients import goes_back, write_out_gradients
from idp_deploy.capturing.lifting import attribute, lift
from idp_deploy.capturing.opening import sizes_left_open
from idp_deploy.capturing.recurrences import free_steps, whole_recurrences
from idp_deploy.capturing.refusing import explained, refuse_borrowed
from idp_deploy.capturing.regions import inline_regions
from idp_deploy.capturing.returning import know_structures, leave_out_constants, name_objects
from idp_deploy.capturing.settling import (
    casts_as_given,
    covariances_as_given,
    distributions_as_given,
    masks_as_given,
    settle,
)
from idp_deploy.capturing.single import holds_for_one
from idp_deploy.capturing.telling import exported
from idp_deploy.errors import ConversionError
from idp_deploy.flow import CompressedModel
from idp_deploy.masks import copied

T = TypeVar("T")
_FIXED_AT = "batch fixed at"


@dataclass(frozen=True, eq=False)
class Captured:
    """A model as a flat graph module in eval mode.

    `module` takes the original positional arguments and returns the original outputs, None left out; its parameters
    keep their dotted names (`module.get_parameter("features.0.weight")`). `masks` are numpy bools of the prunable
    weights (True = kept), valid for the folded weights: folding multiplies, so zeros stay zeros.
    """

    module: fx.GraphModule
    example_inputs: tuple[Any, ...]
    masks: Mapping[str, np.ndarray]
    dynamic_batch: bool
    folded: tuple[tuple[str, str], ...]  # (convolution weight, batch norm weight) by parameter name
    traced: ExportedProgram  # what torch.export made of the model, before folding
    original: nn.Module  # what was traced
    aliases: Mapping[str, str] = field(default_factory=dict)  # a tied weight's other names → the one in `module`
    notes: tuple[str, ...] = ()  # what the graph leaves out of what forward returns

    def weight(self, name: str) -> np.ndarray:
        """A parameter or buffer after folding, as float32 (or its own integer type)."""
        return attribute(self.module, self.aliases.get(name, name)).detach().cpu().numpy()

    @property
    def fixed_at(self) -> str:
        """The line, as "net.py:12", that makes a number of the batch; "" where it is free, or none is known."""
        return str(self.traced.graph_module.meta.get(_FIXED_AT, ""))

    @property
    def used(self) -> frozenset[str]:
        """The parameters and buffers that the graph reads."""
        names = {str(node.target) for node in self.module.graph.nodes if node.op == "get_attr"}
        return frozenset(name for name in names if isinstance(attribute(self.module, name), Tensor))

    def unread(self, model: CompressedModel) -> tuple[str, ...]:
        """The pruned weights that no output depends on, by none of their names: a teacher's, another task's head."""
        every = dict(model.module.named_parameters(remove_duplicate=False))
        read = {id(every[name]) for name in every.keys() & self.used}
        return tuple(name for name in model.masks if name in every and id(every[name]) not in read)

    def input_names(self) -> list[str]:
        """The names of forward's tensors, flattened, in order."""
        return [str(node.target) for node in self.module.graph.nodes if node.op == "placeholder"]

    def output_names(self) -> list[str]:
        """One name for each tensor of the returned structure, from its keys and positions: the same in every format.

        "logits" for a dict key, "output_1" for the second of a tuple, "output" for a single tensor. No two are the
        same, and none is an input's or a weight's.

        Raises:
            ConversionError: something returned is no tensor.
        """
        graph: Any = self.module.graph
        leaves = _pytree.tree_leaves(graph.output_node().args[0])
        structure = _pytree.tree_unflatten(leaves, graph._codegen.pytree_info.out_spec)
        taken = {*self.input_names(), *self.module.state_dict(), *self.aliases}
        names: list[str] = []
        for path, leaf in _pytree.tree_leaves_with_path(structure):
            if not isinstance(leaf, fx.Node):
                raise ConversionError(
                    f"output {_pytree.keystr(path) or 'of the model'} is {leaf!r}, not a tensor",
                    way_out="return tensors only, or wrap the model in a module that does",
                )
            parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
            name = re.sub(r"\W", "_", "_".join(parts), flags=re.ASCII)
            name = name if name[:1].isalpha() else f"output_{name}".rstrip("_")
            while name in taken:
                name += "_out"
            taken.add(name)
            names.append(name)
        return names

    def program(self) -> ExportedProgram:
        """`module` as converters take it."""
        lifted = lift(self.module, self.traced) if not self.notes else None
        if lifted is not None:
            return lifted
        return export_program(self.module, self.example_inputs, dynamic_batch=self.dynamic_batch)[0]


def capture(
    model: CompressedModel, example_inputs: tuple[Any, ...], *, dynamic_batch: bool = False, fold: bool = True
) -> Captured:
    """Capture `model` once with torch.export.

    Args:
        example_inputs: positional arguments of forward; batch 1 is fine.
        dynamic_batch: leave the first extent of every tensor input free. Falls back to a static batch where the
            model fixes it, and says so through `Captured.dynamic_batch`.
        fold: fold batch norm into the convolution or linear layer before it.

    Raises:
        ConversionError: torch.export cannot trace the model; the message names the operator or line it stopped at.
    """
    trace = partial(_traced, model.module, example_inputs, dynamic_batch)
    try:
        module, program, dynamic = once(f"trace, batch free: {dynamic_batch}", model, example_inputs, trace)
        graph_module = program.module(check_guards=False)
    except SyntaxError as error:  # a graph is written as Python, and read again
        named = (word for name, _ in model.module.named_modules() for word in name.split(".") if iskeyword(word))
        if (word := next(named, None)) is None:
            raise
        raise ConversionError(f"torch.export cannot hold a module called {word!r}", way_out="rename it") from error
    except KeyError as error:  # a parameter called "code", "graph" or like another attribute of graph modules
        raise ConversionError(
            f"torch.export cannot hold a parameter of this name: {error.args[0]}", way_out="rename that parameter"
        ) from error
    inline_regions(graph_module)
    notes = leave_out_constants(graph_module)
    settle(graph_module)
    folded = fold_batch_norm(graph_module) if fold else ()
    _flush_subnormals(graph_module)
    masks = {name: mask.cpu().numpy().astype(bool, copy=False) for name, mask in model.masks.items()}
    aliases = _aliases(module, graph_module)
    return Captured(graph_module, example_inputs, masks, dynamic, folded, program, module, aliases, notes)


_scope: ContextVar[dict[tuple[Any, ...], tuple[Any, Any]] | None] = ContextVar("traces", default=None)


@contextmanager
def traced_once() -> Iterator[None]:
    """Inside, a model is traced once for each kind of batch and answers each call once, whatever the formats.

    Whoever opens this promises that the model's weights stay as they are until it ends.
    """
    known = _scope.get()
    token = _scope.set({} if known is None else known)
    try:
        yield
    finally:
        _scope.reset(token)


def once(what: str, model: CompressedModel, inputs: Any, make: Callable[[], T]) -> T:
    """What `make` gives; inside `traced_once` it is made once for this model and these very tensors."""
    known, leaves = _scope.get(), _pytree.tree_leaves(inputs)
    key = (what, id(model), *map(id, leaves))
    if known is not None and key not in known:
        known[key] = make(), (model, leaves)  # kept alive: no other object may get their identity
    return make() if known is None else known[key][0]


def _traced(module: nn.Module, inputs: tuple[Any, ...], free: bool) -> tuple[nn.Module, ExportedProgram, bool]:
    """(the module as it is traced, its program, whether the batch is free)."""
    module = copied(module).cpu().eval()
    know_structures(inputs)
    keep_apart(module, inputs)
    program, dynamic = export_program(module, inputs, dynamic_batch=free)
    refuse_borrowed(module, program)
    return module, program, dynamic


def refuse_returned_inputs(captured: Captured, format: str) -> None:
    """ConversionError where an output is an input as it came: only ONNX has a way to say that."""
    graph: Any = captured.module.graph
    written = {source_of(operand) for node in graph.nodes for operand in written_operands(node)}
    for node in graph.output_node().all_input_nodes:
        if node.op == "placeholder":
            if node in written:
                raise ConversionError(
                    f"forward writes into its input '{node.target}' and returns it, which {format} cannot hold",
                    way_out=f"write into a copy ({node.target} = {node.target}.clone() first), and return that",
                )
            raise ConversionError(
                f"{format} cannot hold a model that returns its input '{node.target}' unchanged",
                way_out="leave it out of the outputs, since the caller has it already, or export to ONNX",
            )


def refuse_branches(captured: Captured, format: str) -> None:
    """ConversionError where the graph calls other graphs: torch.cond, torch.while_loop and their like."""
    for node in captured.module.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise ConversionError(
                f"{format} files hold no branches or loops: torch.{node.target}{module_of(str(node.target), captured)}",
                way_out="compute both sides and choose by torch.where, or keep that part outside the model",
            )


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


def _aliases(module: nn.Module, graph_module: fx.GraphModule) -> dict[str, str]:
    """A captured graph knows a tied weight by one of its names only."""
    present = dict(graph_module.state_dict(keep_vars=True))
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    aliases = {}
    for names in groups.values():
        known = next((name for name in names if name in present), None)
        if known is not None:
            aliases.update({name: known for name in names if name not in present})
    return aliases


def export_program(
    module: nn.Module, example_inputs: tuple[Any, ...], *, dynamic_batch: bool = False
) -> tuple[ExportedProgram, bool]:
    """torch.export with the random state untouched; (program, whether the batch is free).

    A free batch needs an example of at least 2, since torch.export specialises on 0 and 1: inputs are repeated.
    """
    example_inputs = _each_its_own(example_inputs)
    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        whole_recurrences(),
        masks_as_given(),
        casts_as_given(),
        covariances_as_given(),
        distributions_as_given(),
        attempts_forgotten(),
        _unsaid(),
        warnings.catch_warnings(),
    ):
        # recurrent layers keep their weights in a list, old weight norms one: it holds traced ones for a moment
        warnings.filterwarnings("ignore", message=r"The tensor attributes? self\..* assigned during export")
        lines: list[str] = []
        if dynamic_batch:
            batch = Dim("batch", min=1)
            doubled = _pytree.tree_map(
                lambda x: torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x, example_inputs
            )
            shapes: Any = ShapesCollection()  # which knows how forward takes them, *inputs as well
            for leaf in _pytree.tree_leaves(doubled):
                if isinstance(leaf, Tensor) and leaf.dim():
                    shapes[leaf] = {0: batch}
            try:
                with sizes_left_open() as lines:
                    traced = exported(module, doubled, dynamic_shapes=shapes)
                program = functional(traced, free=True)
                whole = not goes_back(program) and not free_steps(program.graph)
                if whole and holds_for_one(module, program, example_inputs):
                    return program, True
            except Exception as error:  # the model fixes its batch; a static graph is still right
                if _now_known(error, module, example_inputs):
                    return export_program(module, example_inputs, dynamic_batch=True)
        try:
            program = exported(module, example_inputs)
            if goes_back(program) and write_out_gradients(module, example_inputs):
                program = exported(module, example_inputs)
            program = functional(program)
            program.graph_module.meta[_FIXED_AT] = lines[0] if lines else ""
            return program, False
        except Exception as error:
            if _now_known(error, module, example_inputs):
                return export_program(module, example_inputs)
            raise explained(error, module, example_inputs) from error


@contextmanager
def _unsaid() -> Iterator[None]:
    """PyTorch tells on stderr, with a traceback, of what it cannot trace, be it only with a free batch."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()):  # where it prints the graph that it has come to
            yield
    finally:
        logger.setLevel(level)


def _each_its_own(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """`inputs` with a copy of each tensor that is given once more: torch.export takes the same one for one input."""
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or id(leaf) not in seen:
            seen.add(id(leaf))
            return leaf
        return leaf.clone()

    return _pytree.tree_map(own, inputs)


def _now_known(error: Exception, module: nn.Module, example_inputs: tuple[Any, ...]) -> bool:
    """Whether export stopped at something that torch can take apart from now on: a result, or a way back."""
    if "not a known type" not in str(error):
        return write_out_gradients(module, example_inputs)
    returned = module(*example_inputs)
    return know_structures(returned) or name_objects(module, returned)


@torch.no_grad()
def _flush_subnormals(module: nn.Module) -> None:
    """Folding dead channels writes subnormals, which run several times slower on x86 than zero does; −0.0 goes too."""
    for tensor in module.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            kind = torch.finfo(tensor.dtype)
            tensor.data = hardshrink(tensor, kind.tiny - kind.tiny * kind.eps)  # what is no larger than the largest
