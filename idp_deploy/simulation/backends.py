"""Who `simulate` asks about a file on a device: one row each, and what they say never mixes.

    estimates     the cost model: a latency with an interval, for any device; or the software of the device's vendor,
                  where a target names it (`simulation.vendor`), shown in a table of its own
    measurements  a runtime of this host, which says nothing of a device
    counts        the stock arm64 runtime under an emulator: what executes there, no time

A row answers a `Question` with a noun of `flow` for each file and device it can speak of; rendering has a table for
every kind of answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from idp_deploy.simulation.question import Question

Answer = Callable[[Question], Sequence[Any]]


@dataclass(frozen=True)
class Backend:
    """One row. Functions are named as "module:function", loaded when they are asked."""

    name: str  # of its answers in a document
    answer: str  # (question) → its noun for every file and device that it can speak of
    flag: str = ""  # the option of `simulate` that asks it; without one it is asked always
    missing: str = ""  # () → what it lacks on this machine, in words, for `doctor`

    def ask(self, question: Question) -> Sequence[Any]:
        """Its answers. MissingDependencyError: what it needs is not installed."""
        found: Answer = _function(self.answer)
        return found(question)

    def lacks(self) -> tuple[str, ...]:
        """What keeps it from answering here, in words."""
        return tuple(_function(self.missing)()) if self.missing else ()


BACKENDS: dict[str, Backend] = {
    row.name: row
    for row in (
        Backend("estimates", "idp_deploy.simulation.estimating:estimates"),
        Backend("measurements", "idp_deploy.simulation.measurement:measurements", flag="measure"),
        Backend(
            "counts",
            "idp_deploy.simulation.emulator:counts",
            flag="emulate",
            missing="idp_deploy.simulation.emulator:emulator_missing",
        ),
    )
}


def ask(question: Question, flags: Collection[str] = ()) -> dict[str, Sequence[Any]]:
    """Backend → its answers, of all that are asked always and those whose flag is among `flags`."""
    return {name: row.ask(question) for name, row in BACKENDS.items() if not row.flag or row.flag in flags}


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
