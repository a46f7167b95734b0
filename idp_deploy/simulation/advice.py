"""advise: what would make a file faster on a device, by asking the cost model about the same work changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from idp_deploy.flow import Contents, Estimate
from idp_deploy.simulation.estimating import simulate
from idp_deploy.simulation.narrowing import in_int8
from idp_deploy.simulation.question import Loaded, load
from idp_deploy.simulation.removing import scaled
from idp_deploy.simulation.targets import Target
from idp_deploy.simulation.work import Workload

MOST_LAYERS = 4  # of the slowest layers, how many are tried
WORTH = 0.02  # share of the latency below which a change is not worth a line


@dataclass(frozen=True)
class Advice:
    """One change and the latency it would leave, an estimate like any other."""

    change: str
    latency_ms: float
    saved: float  # share of the latency, in [0, 1]


def advise(
    artifact: Path | Contents | Loaded, target: Target, estimate: Estimate, **situation: Any
) -> tuple[Advice, ...]:
    """The changes that would pay, the most first.

    Tried: half the channels of each of the slowest layers, int8 where `quantize` makes it, and skipping the zeros of
    every 1×1 convolution where the runtime could. What the change does to accuracy is for training to tell.

    Args:
        estimate: of the file as it is. situation: runtime, threads and anchor as given to `simulate`.
    """
    if estimate.latency_ms is None:
        return ()
    now = estimate.latency_ms.middle
    loaded = artifact if isinstance(artifact, Loaded) else load(artifact)
    found = []
    for label, asked, change in _candidates(loaded, estimate, target):
        then = simulate(asked, target, change=change, transfer=False, **situation).latency_ms
        if then is not None and then.middle < now * (1 - WORTH):
            found.append(Advice(label, then.middle, 1 - then.middle / now))
    return tuple(sorted(found, key=lambda advice: advice.latency_ms))


def _candidates(
    loaded: Loaded, estimate: Estimate, target: Target
) -> Iterator[tuple[str, Loaded, Callable[[Workload], Workload] | None]]:
    layers = [op for op in estimate.ops if op.op_class in ("conv", "conv1x1", "linear") and op.weight_bytes]
    for op in sorted(layers, key=lambda op: -(op.latency_ms or 0.0))[:MOST_LAYERS]:
        yield f"half the channels of {op.layer} (--pattern channel)", loaded, partial(halved, name=op.name)
    yield "int8 (--scheme int8)", in_int8(loaded), None
    runtime = next((r for r in target.runtimes if r.name == estimate.runtime), None)
    if runtime is not None and runtime.sparse and not any(op.runs_sparse for op in estimate.ops):
        yield "zeros run sparse (see 'inspect --runtime xnnpack')", loaded, _all_sparse


def halved(work: Workload, name: str) -> Workload:
    """Half the output channels of one operator, and half the inputs of the operators behind it that read them.

    A depthwise convolution behind it halves with it and passes the change on.
    """
    ops = list(work.ops)
    start = next(i for i, op in enumerate(ops) if op.name == name)
    channels = ops[start].out_channels
    ops[start] = scaled(ops[start], outputs=0.5)
    for i in range(start + 1, len(ops)):
        if not channels or ops[i].in_channels != channels:
            break
        depthwise = ops[i].op_class == "depthwise"
        ops[i] = scaled(ops[i], inputs=0.5, outputs=0.5 if depthwise else 1.0, both=not depthwise)
        if not depthwise:
            break
    return replace(work, ops=tuple(ops))


def _all_sparse(work: Workload) -> Workload:
    return replace(work, ops=tuple(replace(op, sparse=op.op_class == "conv1x1") for op in work.ops))
