"""Numbers that forward asks for and no input has a part in: a trace forgets them, here they are told.

`int(self.stride)` of a buffer, `assert steps.all()` of a range made in forward: torch.export traces with tensors that
hold no numbers. Beside each that comes of buffers and constants alone its numbers are carried, and what Python asks
for is answered with them. Weights are not among these: their values may change where the same graph is stored again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import _disable_current_modes

from idp_deploy.masks import copied

_ASKING = {
    "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "is_nonzero", "equal",
    "allclose",
}  # fmt: skip
_BY_CHANCE = (
    "rand", "normal", "bernoulli", "multinomial", "dropout", "poisson", "exponential", "geometric", "cauchy", "uniform",
    "gumbel", "empty",
)  # fmt: skip
_SIZED = {
    "nonzero",
    "argwhere",
    "masked_select",
    "unique",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
    "combinations",
}
_CHOOSING = {"__getitem__", "__setitem__", "masked_select", "repeat_interleave"}
_BY_SIZES = {
    "permute", "view", "reshape", "expand", "repeat", "tile", "narrow", "unflatten", "transpose", "movedim", "roll",
    "flip", "zeros", "ones", "full", "arange", "linspace", "new_zeros", "new_ones", "new_full", "pad", "split", "chunk",
    "interpolate",
}  # fmt: skip
_WRITING = {"__setitem__", "__set__", "__delitem__"}
_LARGEST = 1 << 20  # entries of what is computed beside the trace


def exported(module: nn.Module, inputs: tuple[Any, ...], **options: Any) -> ExportedProgram:
    """torch.export; where that stops at a number of a tensor, or leaves a size open that one tells, once more with the
    numbers of constants told.

    Raises:
        Exception: whatever torch.export raises, of the second time where that stopped at another number.
    """
    try:
        program = torch.export.export(module, inputs, **options)
        if not (left := _sizes_left(program)):
            return program
        with _told(module, inputs), suppress(Exception):
            again = torch.export.export(module, inputs, **options)
            return again if _sizes_left(again) < left else program
        return program
    except Exception as error:
        if not asks_for_values(error):
            raise
        with _told(module, inputs):
            try:
                return torch.export.export(module, inputs, **options)
            except Exception as stopped:
                raise (stopped if asks_for_values(stopped) else error) from None


def _sizes_left(program: ExportedProgram) -> int:
    """How many sizes in a graph values tell, as of the entries that a mask keeps."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    return len({symbol for value in values if value is not None for symbol in free_unbacked_symbols(value)})


def asks_for_values(error: BaseException) -> bool:
    """Whether tracing stopped at a number, a truth or a size that the values of a tensor tell."""
    said = str(error)
    return any(word in said for word in ("data-dependent", "unbacked", "GuardOnDataDependent"))


@contextmanager
def _told(module: nn.Module, inputs: tuple[Any, ...]) -> Iterator[None]:
    numbers = {name: module.get_buffer(name).detach().clone() for name in _kept(module, inputs)}
    running: list[_Beside] = []

    def begin(root: nn.Module, _: Any) -> None:  # here, and not around the trace, which asks tensors much itself
        running.append(_Beside())
        with _disable_current_modes():
            for name, kept in numbers.items():
                running[-1].know(root.get_buffer(name), kept.clone())
        running[-1].__enter__()

    def end(root: nn.Module, _: Any, result: Any) -> None:
        running.pop().__exit__(None, None, None)

    hooks = module.register_forward_pre_hook(begin), module.register_forward_hook(end, always_call=True)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        while running:  # a forward that was left by an error, where torch.export has no part for its hooks
            running.pop().__exit__(None, None, None)


@torch.no_grad()
def _kept(module: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """The buffers that a call leaves as they are: only of these the numbers hold for the next call."""
    again = copied(module)
    before = {name: (buffer, buffer._version) for name, buffer in again.named_buffers()}
    try:
        again(*_pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, inputs))
    except Exception:  # it does not run on these inputs, which is told where it is refused
        return []
    after = dict(again.named_buffers())
    return [
        name
        for name, (buffer, version) in before.items()
        if after.get(name) is buffer and buffer._version == version and buffer.numel() <= _LARGEST
    ]


class _Beside(TorchFunctionMode):
    """Computes with numbers beside the trace what no input has a part in, and answers with them."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # by identity: the traced one, kept alive, and its numbers

    def know(self, traced: Tensor, numbers: Tensor) -> None:
        self._known[id(traced)] = traced, numbers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", str(func))
        found = self._computed(func, name, args, kwargs)
        if found is not None and (name in _ASKING or _sized_by_values(name, args)):
            return found[0]
        if name == "repeat_interleave" and "repeats" in kwargs:
            args = (*args, kwargs.pop("repeats"))
        if name in _CHOOSING and len(args) > 1:
            func, args, kwargs = self._by_places(func, name, args, kwargs)
        if name in _BY_SIZES:
            args = _pytree.tree_map(self._as_size, args)
        result = func(*args, **kwargs)
        if found is None:
            if "out" in kwargs or writes_in_place(name):
                self._forget((*args[:1], kwargs.get("out")))
            return result
        traced, numbers = _pytree.tree_leaves(result), _pytree.tree_leaves(found[0])
        if len(traced) == len(numbers):
            for one, its in zip(traced, numbers, strict=True):
                if isinstance(one, Tensor) and isinstance(its, Tensor) and all(isinstance(n, int) for n in one.shape):
                    self.know(one, its)
        return result

    def _computed(self, func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any] | None:
        """What the call gives, in a tuple of one; None where an input has a part in it, or chance."""
        leaves, structure = _pytree.tree_flatten((args, kwargs))
        if any(word in name for word in _BY_CHANCE) or any(
            isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool | nn.Parameter) for leaf in leaves
        ):
            return None
        with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
            numbers = [self._numbers(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            if any(number is None and isinstance(leaf, Tensor) for number, leaf in zip(numbers, leaves, strict=True)):
                return None
            try:
                given, named = _pytree.tree_unflatten(numbers, structure)
                found = func(*given, **named)
            except Exception:  # what the trace makes of it counts
                return None
        large = any(isinstance(leaf, Tensor) and leaf.numel() > _LARGEST for leaf in _pytree.tree_leaves(found))
        return None if large else (found,)

    def _numbers(self, traced: Tensor) -> Tensor | None:
        known = self._known.get(id(traced))
        if known is None and type(traced) is Tensor and not isinstance(traced, FakeTensor) and not _wrapped(traced):
            self.know(traced, traced.detach().clone())  # a constant that a module holds as an attribute
            known = self._known[id(traced)]
        return None if known is None else known[1]

    def _by_places(self, func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """The same by constant places, where a known mask or known counts choose entries of what is not known."""
        x, chosen, *rest = args
        if name == "repeat_interleave":
            known = self._known_as(chosen, torch.int32, torch.int64)
            dim = rest[0] if rest else kwargs.get("dim")
            if known is None:
                return func, args, kwargs
            if known.numel() == 1:
                return func, (x, int(known), *rest), kwargs
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                places = torch.repeat_interleave(known)
            return torch.index_select, (x.flatten() if dim is None else x, dim or 0, places), {}
        if name == "masked_select":
            alike = self._known_as(chosen, torch.bool) is not None and x.shape == chosen.shape
            return (torch.Tensor.__getitem__, (x, self._places(chosen)), {}) if alike else (func, args, kwargs)
        chosen = chosen if isinstance(chosen, tuple) else (chosen,)
        return func, (x, tuple(place for one in chosen for place in self._places(one)), *rest), kwargs

    def _places(self, chosen: Any) -> tuple[Any, ...]:
        """A known mask as the places of what it keeps, one tensor an axis; anything else as it is."""
        known = self._known_as(chosen, torch.bool)
        if known is None or not known.dim():
            return (chosen,)
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return known.nonzero(as_tuple=True)

    def _known_as(self, given: Any, *kinds: torch.dtype) -> Tensor | None:
        return self._numbers(given) if isinstance(given, Tensor) and given.dtype in kinds else None

    def _as_size(self, given: Any) -> Any:
        """A known whole number in a tensor as Python's: `x.permute(*order)` of a tensor `order`."""
        known = self._known.get(id(given)) if isinstance(given, Tensor) else None
        alone = known is not None and not known[1].dim() and not known[1].is_floating_point()
        return known[1].item() if known is not None and alone else given

    def _forget(self, written: Any) -> None:
        """No longer answer for what an input was written into, and for what shares its memory."""
        for one in _pytree.tree_leaves(written):
            if isinstance(one, Tensor) and id(one) in self._known:
                memory = self._known[id(one)][1].untyped_storage().data_ptr()
                for key, (_, numbers) in list(self._known.items()):
                    if numbers.untyped_storage().data_ptr() == memory:
                        del self._known[key]


def _wrapped(tensor: Tensor) -> bool:
    return bool(torch._is_functional_tensor(tensor)) or torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _sized_by_values(name: str, args: Any) -> bool:
    """Whether a result's size is told by values: it stands as a constant, since a trace knows no such size."""
    chosen = args[1] if name == "__getitem__" else None
    by_mask = any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in _pytree.tree_leaves(chosen))
    return by_mask or name in _SIZED or (name == "where" and len(args) == 1)


def writes_in_place(name: str) -> bool:
    """Whether a function of this name writes into its first argument.

    >>> [writes_in_place(name) for name in ("add_", "__imul__", "__setitem__", "__init__", "mul", "__invert__")]
    [True, True, True, True, False, True]
    """
    inner = name.strip("_")
    made = (name.endswith("_") and not name.endswith("__")) or (name == f"__{inner}__" and inner.startswith("i"))
    return made or name in _WRITING
