"""What every layer takes on a device as it loses channels or weights: tables, so that choosing asks no simulator.

A layer's time depends on its own shape and zeros alone, so one simulation with all layers narrowed to the same share
fills a cell of every table at once. What no table knows (additions along a residual stream) counts as it is; the
files that `costs` prices have the last word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from idp_deploy.flow import Estimate
from idp_deploy.simulation import simulate
from idp_deploy.simulation.advice import scaled
from idp_deploy.simulation.question import Loaded
from idp_deploy.simulation.targets import Target
from idp_deploy.simulation.work import Workload, WorkOp
from idp_deploy.widths import kept_channels

KEPT = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # shares of the channels
ZEROS = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98)  # shares of the weights


@dataclass(frozen=True, eq=False)
class Times:
    """Milliseconds by the name of the module."""

    narrow: Mapping[str, np.ndarray]  # (inputs kept, outputs kept)
    sparse: Mapping[str, np.ndarray]  # (zeros,), of layers that sparse kernels run once any of them does
    rest: float  # of operators without weights

    def of(self, layer: str, inputs: int, outputs: int, zeros: int | None) -> float:
        """One layer, by places in KEPT and ZEROS; `zeros` None: dense kernels."""
        table = self.narrow[layer]
        if zeros is None or layer not in self.sparse:
            return float(table[inputs, outputs])
        return float(self.sparse[layer][zeros] * table[inputs, outputs] / table[0, 0])


def times(loaded: Loaded, target: Target, runtime: str, sparse: Collection[str]) -> Times:
    """Fill the tables of a dense file.

    Args:
        sparse: names of the operators that sparse kernels run where zeros are plenty.
    """
    blank = {op.layer or op.name: np.zeros((len(KEPT), len(KEPT))) for op in loaded.work.ops if op.weights}
    zeros = {op.layer or op.name: np.zeros(len(ZEROS)) for op in loaded.work.ops if op.name in sparse}
    rest = 0.0
    for i, inputs in enumerate(KEPT):
        for j, outputs in enumerate(KEPT):
            found = simulate(loaded, target, runtime=runtime, change=partial(_narrow, inputs, outputs), transfer=False)
            for op in found.ops:
                if (op.layer or op.name) in blank:
                    blank[op.layer or op.name][i, j] += op.latency_ms or 0.0
                elif not i and not j:
                    rest += op.latency_ms or 0.0
    for i, share in enumerate(ZEROS if sparse else ()):
        found = simulate(loaded, target, runtime=runtime, change=partial(_thin, share, sparse), transfer=False)
        for op in found.ops:
            if op.name in sparse:
                zeros[op.layer or op.name][i] += op.latency_ms or 0.0
    return Times(blank, zeros, rest)


def runs_sparse(estimate: Estimate) -> frozenset[str]:
    """Names of the operators of a pruned file whose zeros are skipped."""
    return frozenset(op.name for op in estimate.ops if op.runs_sparse)


def _narrow(inputs: float, outputs: float, work: Workload) -> Workload:
    return replace(work, ops=tuple(_narrowed(op, inputs, outputs) for op in work.ops))


def _narrowed(op: WorkOp, inputs: float, outputs: float) -> WorkOp:
    if not op.weights:
        return op
    if op.op_class == "depthwise":
        left = kept_channels(op.out_channels, outputs) / max(op.out_channels, 1)
        return scaled(op, inputs=left, outputs=left, both=False)
    read = kept_channels(op.in_channels, inputs) / op.in_channels if op.in_channels else inputs
    made = kept_channels(op.out_channels, outputs) / op.out_channels if op.out_channels else outputs
    return scaled(op, inputs=read, outputs=made)


def _thin(share: float, sparse: Collection[str], work: Workload) -> Workload:
    ops = (
        replace(op, nonzero=op.weights - round(op.weights * share), sparse=True) if op.name in sparse else op
        for op in work.ops
    )
    return replace(work, ops=tuple(ops))
