"""What forward reads and writes apart from autograd, `x.data`, and weights that it keeps within bounds that way.

A trace has tensors of its own kind, whose `data` is another tensor that it knows nothing of: it stops there. `detach()`
gives the same. What forward writes into its weights, as EEG networks do (`self.weight.data = torch.renorm(…)`), a trace
goes on without. Where a second call finds the weights as the first one left them, they are traced as that left them,
and the writing is left out.
"""

from __future__ import annotations

from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from idp_deploy.capturing.telling import writes_in_place
from idp_deploy.errors import ConversionError
from idp_deploy.masks import copied

_ROUNDING = 1e-5  # of a norm that is taken once more of what it was divided by
_GET: Any = Tensor.data.__get__  # type: ignore[attr-defined]
_SET: Any = Tensor.data.__set__  # type: ignore[attr-defined]
_WAY_OUT = "compute with a tensor of its own, `weight = self.weight * factor`, or change it while self.training alone"


@torch.no_grad()
def keep_apart(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Let forward read `data` as a trace can, and give `module` the weights that its forward leaves; in place.

    Raises:
        ConversionError: each call leaves other weights than the one before, or computes with others than it leaves.
    """
    again = copied(module)
    watch = _Watched(again)
    left: list[dict[str, Tensor]] = []
    try:
        for _ in range(2):
            with watch:
                wanted = again(*_given(inputs))
            if not (watch.reads or watch.writes):
                return
            left.append({name: weight.detach().clone() for name, weight in again.named_parameters()})
    except Exception:  # it does not run on these inputs, which is told where it is refused
        return
    if watch.writes:
        _take(module, *left)
    _read_apart(module)
    if watch.writes and not _alike(wanted, module(*_given(inputs))):
        raise ConversionError(
            "forward changes its weights, computes with them and changes them back, and a file has them as they are "
            "before and after",
            way_out=_WAY_OUT,
        )


def _given(inputs: tuple[Any, ...]) -> Any:
    return _pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, inputs)


def _take(module: nn.Module, once: dict[str, Tensor], twice: dict[str, Tensor]) -> None:
    for name, weight in module.named_parameters():
        if not _alike(once[name], twice[name]):
            raise ConversionError(
                f"forward changes its weight '{name}' with every call, and a file keeps nothing between two calls",
                way_out=_WAY_OUT,
            )
        weight.data = once[name]


def _alike(found: Any, wanted: Any) -> bool:
    pairs = zip(_pytree.tree_leaves(found), _pytree.tree_leaves(wanted), strict=True)
    return all(
        x.shape == y.shape and torch.allclose(x.to(y.dtype), y, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True)
        for x, y in pairs
        if isinstance(x, Tensor) and isinstance(y, Tensor)
    )


def _read_apart(module: nn.Module) -> None:
    run = getattr(vars(module).get("forward"), "__func__", type(module).forward)

    @wraps(run)
    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        with _Apart():
            return run(self, *inputs, **named)

    module.forward = MethodType(forward, module)


class _Watched(TorchFunctionMode):
    """Sees whether any `data` is read, and whether something is written into a module's weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module, self.reads, self.writes = module, False, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads |= func == _GET
        into = args[0] if args and _writes(func) else None
        if isinstance(into, Tensor) and not self.writes:
            memory = into.untyped_storage().data_ptr()
            self.writes = any(weight.untyped_storage().data_ptr() == memory for weight in self._module.parameters())
        return func(*args, **(kwargs or {}))


class _Apart(TorchFunctionMode):
    """Gives `data` as a trace can follow it, and leaves weights as they are."""

    def __init__(self) -> None:
        super().__init__()
        self._lent: dict[int, Tensor] = {}  # weights apart from autograd by identity, kept alive

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        weight = bool(args) and (isinstance(args[0], nn.Parameter) or id(args[0]) in self._lent)
        if weight and _writes(func):
            return None if func == _SET else args[0]
        if func == _GET or (weight and func in (Tensor.detach, torch.detach)):
            found = args[0].detach()
            if weight:
                self._lent[id(found)] = found
            return found
        return func(*args, **(kwargs or {}))


def _writes(func: Any) -> bool:
    return bool(func == _SET) or writes_in_place(getattr(func, "__name__", ""))
