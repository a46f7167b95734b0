"""Modules that a forward tries to call one way and, where that raises, calls another way.

`try: x = layer(x, lengths) except TypeError: x = layer(x)`, as SpeechBrain's containers do: torch.fx keeps the path of
the modules it is in, and takes off the one it leaves only where the call returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx


@contextmanager
def attempts_forgotten() -> Iterator[None]:
    """Inside, a call of a module that raises leaves a trace where it was before the call."""
    plain = fx.Tracer.call_module

    def call_module(self: fx.Tracer, *call: Any) -> Any:
        before = list(self.module_stack.items())
        try:
            return plain(self, *call)
        except BaseException:
            self.module_stack.clear()
            self.module_stack.update(before)
            raise

    fx.Tracer.call_module = call_module  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        fx.Tracer.call_module = plain  # type: ignore[method-assign]
