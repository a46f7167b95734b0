"""What every ONNX export of a test process would build anew is built once: torch's table of ONNX functions.

It parses the source of each of them, half a second an export, and comes out the same. Each export gets a copy, and
the first one of a process the table as torch builds it.
"""

from __future__ import annotations

import sys
from copy import copy
from functools import cache
from typing import Any

_MODULE = "torch.onnx._internal.exporter._registration"


def pytest_runtest_setup() -> None:
    """Put the cache in front of the table once torch has loaded it; nothing is imported for it."""
    registry = getattr(sys.modules.get(_MODULE), "ONNXRegistry", None)
    plain = getattr(registry, "from_torchlib", None)
    if registry is None or plain is None or hasattr(plain, "built"):
        return
    built = cache(plain)

    def from_torchlib(*args: Any, **kwargs: Any) -> Any:
        table = copy(built(*args, **kwargs))
        table.functions = {target: list(entries) for target, entries in table.functions.items()}
        return table

    from_torchlib.built = built  # type: ignore[attr-defined]
    registry.from_torchlib = staticmethod(from_torchlib)
