"""spelling: operators that a converter lacks or gets wrong, said in other operators, in place in a captured graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from idp_deploy.capturing.lifting import attribute, inline
from idp_deploy.errors import ConversionError

Row = Callable[..., Any]  # takes the operator's arguments; None where this call can stay as it is


def spell_out(module: fx.GraphModule, rows: Mapping[Any, Row]) -> None:
    """Replace every call of an operator in `rows`, itself or its name, by what its row computes."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and (row := rows.get(node.target) or rows.get(str(node.target))):
            replace(module, node, row)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def replace(module: fx.GraphModule, node: fx.Node, row: Row) -> Any:
    """Put what `row` computes in the place of one call, in place; the nodes that give it, None where it stays."""
    sources = node.all_input_nodes
    fake = next((v.fake_mode for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, FakeTensor)), None)
    said = True

    def body(*tensors: Tensor) -> Any:
        nonlocal said
        given = dict(zip(sources, tensors, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
        result = row(*args, **kwargs)
        said = result is not None
        return result if said else ()

    try:
        traced = make_fx(body, pre_dispatch=True)(*(_value(module, source, fake) for source in sources))
    except ConversionError:
        raise
    except Exception as error:  # a kind of call that the row was not written for, such as one of a free batch
        if isinstance(error, GuardOnDataDependentSymNode):
            raise ConversionError(
                f"how large the result of {node.target} is the numbers in an input tell, and a file has fixed shapes",
                way_out="take that size from a shape, or write it as a number in forward",
            ) from error
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConversionError(
            f"{node.target} cannot be said in plainer operators as it is called here: {first}",
            way_out="write it with plain operators or keep that part outside the model",
        ) from error
    if not said:
        return None
    if asked := _asked_of_sizes(fake):
        raise ConversionError(
            f"{node.target} is said in plainer operators for some sizes of a free extent alone ({asked})",
            way_out="export with a fixed batch",
        )
    place: dict[str, Any] = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
    results, made = inline(module, node, traced, sources, node.name, module.register_buffer)
    for step in made:
        step.meta.update(place)
        value = step.meta.get("val")
        if fake is not None and isinstance(value, FakeTensor) and value.fake_mode is not fake:  # a row's own constant
            with fake:
                step.meta["val"] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    if isinstance(results, fx.Node):
        results.meta = {**node.meta, **{k: v for k, v in results.meta.items() if k == "val"}}
        node.replace_all_uses_with(results)
    else:
        for user in list(node.users):  # getitem: the operator returns a tuple
            assert user.target is operator.getitem
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            module.graph.erase_node(user)
    module.graph.erase_node(node)
    return results


def _asked_of_sizes(fake: FakeTensorMode | None) -> str:
    """A condition on free extents that is true of the example alone, as a loop over them asks one each time; ""."""
    env: Any = fake.shape_env if fake is not None else None
    known = env.backed_var_to_val if hasattr(env, "backed_var_to_val") else getattr(env, "var_to_val", {})
    for guard in env.guards if env is not None else ():
        symbols = guard.expr.free_symbols
        hints = [known.get(symbol) for symbol in symbols]
        if None in hints or not symbols or getattr(guard.expr, "rel_op", "") == "!=":
            continue
        for size in (2, 3, 2 * max(int(hint) for hint in hints if hint is not None) + 1):
            if guard.expr.subs(dict.fromkeys(symbols, size)) == False:  # noqa: E712  (of sympy, no bool)
                return str(guard.expr)
    return ""


def _value(module: fx.GraphModule, node: fx.Node, fake: FakeTensorMode | None) -> Any:
    if node.op == "get_attr" and fake is not None:
        return fake.from_tensor(attribute(module, str(node.target)), static_shapes=True)
    return node.meta["val"]
