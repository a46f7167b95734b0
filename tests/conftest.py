"""What every export of a test process would build anew is built once: two tables of torch's, which come out the same.

The ONNX functions, whose sources are parsed for half a second an export; and the operators that a decomposition may
keep, fetched one by one for each of some thirty namespaces, four or five times an export.
"""

from __future__ import annotations

import sys
from copy import copy
from functools import cache
from typing import Any

import torch

_ONNX, _EXPORT = "torch.onnx._internal.exporter._registration", "torch._export.utils"


def pytest_runtest_setup() -> None:
    """Put a cache in front of each once torch has loaded it; nothing is imported for it."""
    for place, name, cached in (
        (getattr(sys.modules.get(_ONNX), "ONNXRegistry", None), "from_torchlib", _copied),
        (sys.modules.get(_EXPORT), "_materialize_cpp_cia_ops", _while_as_many),
    ):
        plain = getattr(place, name, None)
        if plain is not None and not hasattr(plain, "built"):
            once = cached(plain)
            once.built = True
            setattr(place, name, staticmethod(once) if isinstance(place, type) else once)


def _copied(plain: Any) -> Any:
    """The table as it was built first, a copy for each export."""
    built = cache(plain)

    def from_torchlib(*args: Any, **kwargs: Any) -> Any:
        table = copy(built(*args, **kwargs))
        table.functions = {target: list(entries) for target, entries in table.functions.items()}
        return table

    return from_torchlib


def _while_as_many(plain: Any) -> Any:
    """Fetch the operators again once a library has registered more."""
    seen = [0]

    def materialize() -> None:
        known = len(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))
        if known != seen[0]:
            plain()
            seen[0] = known

    return materialize
