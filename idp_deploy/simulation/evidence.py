"""Which published rows a latency rests on, and where there are none: no rows, no number.

A row speaks for a situation when it has the same arithmetic and the same kind of threads (one, or more). On a CPU the
core type may be another and, as a last resort, the runtime too: instructions and clocks are alike there, and what
remains was met on held-out devices and runtimes. A GPU or a neural engine is a machine of its own: only rows of the
same runtime on the same chip speak for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from idp_deploy.flow import Basis
from idp_deploy.simulation import uncertainty
from idp_deploy.simulation.cost_model import ACCELERATOR_FAMILIES, Coefficients, Core, kind_of

if TYPE_CHECKING:
    from idp_deploy.simulation.fitting import Row
    from idp_deploy.simulation.targets import Runtime, Target

PUBLISHED_ISA = "arm64"
OWN_FAMILIES = frozenset({*ACCELERATOR_FAMILIES, "coreml-cpu"})  # what other runtimes need says nothing about them


def situation(family: str, core: str, precision: str, threads: int, device: str) -> str:
    """The name under which rows are counted.

    >>> situation("ncnn", "a53", "float32", 4, "Raspberry Pi 3B+")
    'ncnn|a53|float32|threads|Raspberry Pi 3B+'
    """
    return "|".join((family, core, precision, "threads" if threads > 1 else "one thread", device))


def counted(rows: Iterable[Row]) -> dict[str, int]:
    """Rows by situation, for `coefficients.json`."""
    found = Counter(
        situation(row.family, row.core.calibrated_as, row.precision, row.threads, row.device) for row in rows
    )
    return dict(sorted(found.items()))


def behind(
    counts: Mapping[str, int], family: str, core: Core, device: str, precision: str, threads: int
) -> Basis | None:
    """The nearest rows that speak for a situation; None where nothing does.

    Args:
        counts: rows by `situation`. device: its name in the publications, "" where it has none.
    """
    if core.isa != PUBLISHED_ISA:
        return None
    kind = kind_of(family, precision, threads)
    if kind in ("accelerator", "coreml-cpu"):
        threads = 1  # they bring their own
    wanted = situation(family, core.calibrated_as, precision, threads, device).split("|")
    alike = {
        tuple(name.split("|")): count for name, count in counts.items() if name.split("|")[2:4] == wanted[2:4]
    }  # the same arithmetic and kind of threads
    here = {key: n for key, n in alike.items() if list(key) == wanted}
    runtime = {key: n for key, n in alike.items() if key[0] == family}
    if kind == "accelerator":
        runtime = {key: n for key, n in runtime.items() if key[1] == wanted[1]}
    others = {} if family in OWN_FAMILIES else {k: n for k, n in alike.items() if k[0] not in OWN_FAMILIES}
    for origin, found in (("measured", here), ("calibrated", runtime), ("specification", others)):
        if found:
            return Basis(origin, sum(found.values()), len({key[4] for key in found}))  # type: ignore[arg-type]
    return None


def rows_of(counts: Mapping[str, int], target: Target) -> int:
    """Published measurements of the very device."""
    return sum(n for name, n in counts.items() if target.measured_as and name.endswith(f"|{target.measured_as}"))


def bases_of(model: Coefficients, target: Target) -> list[Basis | None]:
    """What an estimate of a float file on one core rests on, for each runtime of the device; nothing for a tool."""
    return [None if target.is_tool or not one.core else _basis(model, target, one) for one in target.runtimes]


def _basis(model: Coefficients, target: Target, runtime: Runtime) -> Basis | None:
    """With the mean error that networks as new as one's own met there."""
    core = target.core(runtime)
    found = behind(model.rows, runtime.family, core, target.measured_as, "float32", 1)
    if found is None:
        return None
    cell = "model" if found.origin == "measured" else "both"
    where = uncertainty.situation(runtime.family, "float32", 1)
    expected = model.of_cell(model.typical, kind_of(runtime.family, "float32", 1), cell, where)
    return replace(found, expected_error=expected)


def reason_for_none(counts: Mapping[str, int], family: str, core: Core, precision: str) -> str:
    """What is missing, and what would bring a number."""
    if core.isa != PUBLISHED_ISA:
        return (
            f"{family} was never measured on {core.name} in what is published; measure this host: "
            "idp-deploy targets new NAME --like x86-64-host --measure FILE"
        )
    if core.kind == "cpu":
        return (
            f"{family} was never measured in {precision} arithmetic; one measurement on the device would do: "
            "--anchor MODEL=MS"
        )
    measured = sorted({name.split("|")[1] for name in counts if name.startswith(f"{family}|")})
    return (
        f"{family} was never measured on {core.name} (only on {', '.join(measured)}), and engines of other "
        "generations do not tell; one measurement on the device would do: --anchor MODEL=MS"
    )
