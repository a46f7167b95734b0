"""Anchors: latencies that were measured on a device, and how each speaks for a situation that may be another.

A measurement in int8 on four threads says something of float32 on one: both share the effects of the core, the device
and the runtime, and doubt in a shared effect is one doubt (`uncertainty.together`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from idp_deploy.errors import UsageError
from idp_deploy.formats import suffixes
from idp_deploy.simulation import descriptions
from idp_deploy.simulation.architectures import architecture, known
from idp_deploy.simulation.cost_model import (
    SPARSE_FAMILIES,
    Coefficients,
    Effect,
    at_peak,
    effects_of,
    kind_of,
    precision_of,
)
from idp_deploy.simulation.evidence import OWN_FAMILIES
from idp_deploy.simulation.question import load
from idp_deploy.simulation.targets import Runtime, Target
from idp_deploy.simulation.uncertainty import Observation, adapted, together
from idp_deploy.simulation.work import Workload, as_dtype, with_sparse

ANCHOR_DTYPES = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Anchor:
    """One latency that was measured on the device."""

    model: str  # a published architecture, or the path of a file or description
    latency_ms: float
    runtime: Runtime
    threads: int
    precision: str = ""  # of an architecture; that of the work which is asked about by default

    def __str__(self) -> str:
        precision = f"@{self.precision}" if self.precision else ""
        return self.model + precision + (f"@{self.threads}" if self.threads > 1 else "")

    def work(self, dtype: str) -> Workload:
        """What ran. UsageError: neither a file nor a published architecture."""
        if known(self.model) or not Path(self.model).exists():
            if Path(self.model).suffix.lower() in (*suffixes(), *descriptions.SUFFIXES):
                way_out = "check the path, or name a published network"
                raise UsageError(f"the anchor {self.model} is no file", way_out=way_out)
            return as_dtype(architecture(self.model), self.precision or dtype)
        return _in_file(Path(self.model), self.runtime.sparse and self.runtime.family in SPARSE_FAMILIES)

    def says_of(self, runtime: Runtime, threads: int, dtype: str) -> bool:
        """Whether it was measured in this very situation."""
        alike = (self.runtime.family, self.threads) == (runtime.family, threads)
        return alike and self.work(dtype).dtype == dtype


@cache
def _in_file(path: Path, skips_zeros: bool) -> Workload:
    loaded = load(path)
    if loaded.lint is not None and skips_zeros and loaded.lint.runs_sparse:
        return with_sparse(loaded.work, frozenset(loaded.lint.sparse_ops))
    return loaded.work


def parse_model(text: str) -> tuple[str, str, int]:
    """`MODEL[@PRECISION][@THREADS]` → (model, precision or "", threads or 0).

    >>> parse_model("resnet50@int8@4"), parse_model("net.tflite")
    (('resnet50', 'int8', 4), ('net.tflite', '', 0))

    Raises:
        UsageError: no such arithmetic.
    """
    if Path(text).exists():
        return text, "", 0
    model, *parts = text.split("@")
    precision, threads = "", 0
    for part in parts:
        if part.isdecimal() and int(part):
            threads = int(part)
        elif part in ANCHOR_DTYPES:
            precision = part
        else:
            raise UsageError(f"the anchor {text} has no arithmetic {part!r}", way_out=f"{', '.join(ANCHOR_DTYPES)}")
    return model, precision, threads


def anchors_on(target: Target, runtime: Runtime, threads: int, given: Mapping[str, float]) -> tuple[Anchor, ...]:
    """Those written in the target that say something of this runtime, and those that are given for it.

    Engines and GPUs are spoken for by themselves alone; the CPU runtimes by each other.
    """
    most = 1 if runtime.family in OWN_FAMILIES else max(1, target.alike(target.core(runtime)))
    found: dict[tuple[str, str, int, str], Anchor] = {}
    by_name = {one.name: one for one in target.runtimes}
    for m in target.measurements:
        its = by_name.get(m.runtime)
        if its is None or (its.name != runtime.name and {its.family, runtime.family} & OWN_FAMILIES):
            continue
        its_threads = min(m.threads, most)
        precision: str = m.precision if known(m.model) else ""  # a file says its own
        found[m.model, precision, its_threads, its.name] = Anchor(m.model, m.latency_ms, its, its_threads, precision)
    for text, latency_ms in given.items():
        if not (math.isfinite(latency_ms) and latency_ms > 0):
            raise UsageError(f"the anchor {text} = {latency_ms} ms cannot be", way_out="give milliseconds above 0")
        model, precision, its_threads = parse_model(text)
        its = ran_in(target, runtime, model)
        if its.name != runtime.name and {its.family, runtime.family} & OWN_FAMILIES:
            continue
        its_threads = min(its_threads or threads, most)
        found[model, precision, its_threads, its.name] = Anchor(model, latency_ms, its, its_threads, precision)
    return tuple(found.values())


def ran_in(target: Target, runtime: Runtime, model: str) -> Runtime:
    """The runtime that a measured file ran in: the one that is meant, else the target's first for files of its format.

    Raises:
        UsageError: the target has none.
    """
    suffix = Path(model).suffix.lower()
    format = suffixes().get(suffix) if Path(model).exists() else None
    if format in (None, runtime.format):
        return runtime
    for one in target.runtimes:
        if one.format == format:
            return one
    raise UsageError(
        f"target '{target.name}' runs no {suffix} files, and the anchor {model} is one",
        way_out=f"name the file of it that was measured, or one of {', '.join(one.name for one in target.runtimes)}",
    )


def anchored(
    effects: Sequence[Effect],
    anchors: Sequence[Anchor],
    target: Target,
    dtype: str,
    model: Coefficients,
) -> tuple[np.ndarray, np.ndarray]:
    """c of a situation after what was measured, and the covariance that is left.  → (terms,), (terms, terms)"""
    situations: list[list[Effect]] = [list(effects)]
    seen = []
    for anchor in anchors:
        work = anchor.work(dtype)
        core = target.using(target.core(anchor.runtime), anchor.threads)
        precision, family = precision_of(work.dtype, core), anchor.runtime.family
        its = effects_of(
            kind_of(family, precision, anchor.threads), family, core, target.measured_as, "", precision, anchor.threads
        )
        if its not in situations:
            situations.append(its)
        penalty = model.sparse_penalty_of(family, core)[0]
        peak_ms = at_peak(work, family, core, penalty).sum(0)
        seen.append(Observation(peak_ms, anchor.latency_ms, situations.index(its)))
    terms = len(model.prior)
    start = np.concatenate([model.log_cost(one) for one in situations])
    cost, left = adapted(start, together(situations, model.levels, model.known), seen, model.noise)
    return cost[:terms], left[:terms, :terms]
