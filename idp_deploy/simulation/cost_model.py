"""How long an operator takes: the equation, its quantities, and the coefficients that the calibration found.

For one inference on one core at one runtime,

    latency = Σ over operators Σ over terms  quantity(operator, term) · unit(core, term) · exp(c(term))      [ms]

- quantity: multiply-accumulates of a kind of convolution, bytes moved, or 1 for every operator (its overhead);
- unit: the milliseconds that one of them takes at the core's peak (flops per cycle · GHz; 4 bytes a cycle);
- exp(c): how far the runtime on that core is from that peak; 1/exp(c) is the efficiency of the term.

c is a sum of effects, each shrunk to zero by the calibration: of the runtime family, the core type, both together,
the device, the publication (group), the precision, and log(threads) times a thread effect. What was never measured
simply has no effect of its own, and the interval is wider. Adding terms fits the published data better than taking
the larger of arithmetic and traffic (compared in `bench/latency.py`'s development: 14 % against 17 % on unseen models).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy.simulation.work import Workload, WorkOp

COMPUTE = ("pointwise", "winograd", "conv", "stem", "depthwise")
TRAFFIC = (
    "pointwise_out", "winograd_io", "depthwise_io", "conv_io", "linear_weights", "weights", "elementwise", "pooling",
    "memory",
)  # fmt: skip
TERMS = (*COMPUTE, *TRAFFIC, "overhead")
INDEX = {term: i for i, term in enumerate(TERMS)}
BYTES_PER_CYCLE = 4.0  # unit of traffic; the coefficients hold the distance from it
OVERHEAD_MS_GHZ = 0.01  # unit of overhead: ten thousand cycles an operator
FEW = 15  # held-out errors below which a quantile of them is not trusted by itself
ACCELERATOR_GHZ = 10.0  # stands in for the clock of GPUs and engines in the units of traffic and overhead

# runtimes with Winograd kernels for float 3×3 convolutions of stride 1
WINOGRAD = frozenset({"ncnn", "paddle-lite", "paddle-lite-armv7", "tnn", "mnn", "bolt", "coreml-cpu"})
CPU_FAMILIES = frozenset({*WINOGRAD, "xnnpack", "tflite-builtin", "onnxruntime"})
ACCELERATOR_FAMILIES = frozenset({"coreml-gpu", "coreml-ane", "qnn", "tflite-gpu"})
PORTABLE_FAMILIES = CPU_FAMILIES - {"coreml-cpu"}  # run on any CPU
FAMILIES = CPU_FAMILIES | ACCELERATOR_FAMILIES
SPARSE_FAMILIES = frozenset({"xnnpack", "paddle-lite", "paddle-lite-armv7"})


@dataclass(frozen=True)
class Core:
    """A CPU core type, a GPU or a neural engine, and what it can do at most."""

    name: str
    kind: str = "cpu"  # cpu | gpu | npu
    flops_per_cycle: float = 8.0
    tops: float = 0.0  # of gpu and npu, float16
    ghz: float = 1.0
    in_order: bool = False
    little: bool = False  # an efficiency core that issues out of order; those that issue in order are little anyway
    aarch32: bool = True  # runs 32-bit builds
    dot: bool = False
    i8mm: bool = False
    fp16: bool = False
    like: str = ""  # the core type whose measurements stand for it, where it has none of its own

    @property
    def calibrated_as(self) -> str:
        """The core type to look for in the coefficients."""
        return self.like or self.name

    @property
    def is_little(self) -> bool:
        """Whether it sits beside bigger cores, not among them: threads do not spread well over both."""
        return self.in_order or self.little

    @property
    def macs_per_ms(self) -> float:
        """Peak, float32 on a CPU core and float16 elsewhere."""
        return self.tops * 5e8 if self.kind != "cpu" else self.flops_per_cycle / 2 * self.ghz * 1e6

    @property
    def sparse_class(self) -> str:
        """Cores whose sparse kernels lose alike against dense ones: in-order | out-of-order | wide."""
        return "in-order" if self.in_order else "wide" if self.flops_per_cycle >= 16 else "out-of-order"


def precision_of(dtype: str, core: Core) -> str:
    """The arithmetic that a core can do for a dtype: float16 needs its instructions, int8 differs with them.

    >>> precision_of("int8", Core("a76", dot=True)), precision_of("float16", Core("a53"))
    ('int8-dot', 'float32')
    """
    if core.kind != "cpu":
        return "float32"  # accelerators are calibrated in float16 alone; that is their reference
    if dtype in ("int8", "uint8"):
        return "int8-i8mm" if core.i8mm else "int8-dot" if core.dot else "int8"
    return "float16" if dtype == "float16" and core.fp16 else "float32"


def unit_ms(core: Core) -> np.ndarray:
    """Milliseconds of one unit of every term at the core's peak.  → (terms,)"""
    ghz = core.ghz if core.kind == "cpu" else ACCELERATOR_GHZ
    units = np.full(len(TERMS), 1 / (ghz * 1e6 * BYTES_PER_CYCLE))
    units[: len(COMPUTE)] = 1 / core.macs_per_ms
    units[INDEX["pooling"]] /= 4  # a window's entries are compared four at a time
    units[INDEX["overhead"]] = OVERHEAD_MS_GHZ / ghz
    return units


def quantities(op: WorkOp, family: str, penalty: float = 1.0) -> np.ndarray:
    """How much of every term an operator takes.  → (terms,)

    Args:
        penalty: cost of a non-zero weight in a sparse kernel over that of a weight in a dense one.
    """
    amounts = np.zeros(len(TERMS))

    def put(term: str, amount: float) -> None:
        amounts[INDEX[term]] += amount

    put("overhead", 1)
    kept = op.nonzero / op.weights if op.sparse and op.weights else 1.0
    macs = op.macs * kept * penalty if op.sparse else op.macs
    width = op.resident_bytes / (op.weights + op.biases) if op.weights else 0.0
    weight_bytes = op.weights * kept * width
    if op.op_class in ("conv1x1", "conv", "depthwise"):
        put("weights", weight_bytes)
    if op.op_class == "conv1x1" or (op.op_class == "linear" and (op.rows > 4 or not op.weights)):
        put("pointwise", macs)
        put("conv_io", op.activation_bytes)
        if op.op_class == "conv1x1":
            put("pointwise_out", op.output_bytes)
    elif op.op_class == "linear":
        put("linear_weights", weight_bytes)
    elif op.op_class == "depthwise":
        put("depthwise", macs)
        put("depthwise_io", op.activation_bytes)
    elif op.op_class == "conv":
        if op.in_channels <= 4:
            put("stem", macs)
        elif family in WINOGRAD and op.kernel == (3, 3) and op.stride == 1:
            put("winograd", macs)
            put("winograd_io", op.activation_bytes)
            return amounts
        else:
            put("conv", macs)
        put("conv_io", op.activation_bytes)
    elif op.op_class == "memory":
        put("memory", op.activation_bytes)
    elif op.kernel != (1, 1):
        put("pooling", op.output_bytes * op.kernel[0] * op.kernel[1])
    else:
        put("elementwise", op.activation_bytes)
    return amounts


def at_peak(workload: Workload, family: str, core: Core, penalty: float = 1.0) -> np.ndarray:
    """Milliseconds at peak of every operator and term.  → (operators, terms)"""
    if not workload.ops:
        return np.zeros((0, len(TERMS)))
    return np.array([quantities(op, family, penalty) for op in workload.ops]) * unit_ms(core)


Effect = tuple[str, str, float]  # level, identity, multiplicity


def kind_of(family: str, precision: str, threads: int) -> str:
    """Which fit speaks: one for what the data know best (float32 on one core) and three for the rest.

    >>> kind_of("xnnpack", "float32", 1), kind_of("xnnpack", "int8-dot", 4), kind_of("coreml-ane", "float32", 1)
    ('single', 'cpu', 'accelerator')
    """
    if family in ACCELERATOR_FAMILIES:
        return "accelerator"
    if family == "coreml-cpu":  # matrix units and threads of its own
        return "coreml-cpu"
    return "single" if precision == "float32" and threads == 1 else "cpu"


def effects_of(
    kind: str, family: str, core: str, device: str, group: str, precision: str, threads: int
) -> list[Effect]:
    """Which effects speak in a situation. `device` and `group` may be "" where unknown."""
    log_threads = math.log(threads)
    found: list[Effect] = [
        ("all", "", 1.0), ("family", family, 1.0), ("core", core, 1.0), ("family-core", f"{family}|{core}", 1.0),
        ("device", device, 1.0), ("group", f"{family}|{device}|{core}|{group}", 1.0),
    ]  # fmt: skip
    if precision != "float32":
        found += [
            ("precision", precision, 1.0),
            ("family-precision", f"{family}|{precision}", 1.0),
            ("core-precision", f"{core}|{precision}", 1.0),
        ]
    if threads > 1 and kind == "cpu":  # the others bring threads of their own, or have none
        found += [
            ("threads", "", log_threads),
            ("device-threads", f"{device}|{core}", log_threads),
            ("family-threads", family, log_threads),
        ]
    return [(level, f"{kind}/{identity}", times) for level, identity, times in found]


def half_width(own: float, count: int, everyone: float) -> float:
    """Of a runtime family's interval, in log, from the quantile of its `count` errors; of few, or everyone's.

    >>> half_width(0.1, 20, 0.3), half_width(0.1, 4, 0.3), half_width(0.5, 4, 0.3)
    (0.1, 0.3, 0.5)
    """
    return own if count >= FEW else max(own, everyone)


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What `make calibrate` wrote: prior means, effects, how far effects may stray, errors met on held-out groups."""

    prior: np.ndarray  # (terms,) with thread and precision shifts apart
    effects: Mapping[tuple[str, str], np.ndarray]  # (level, identity) → (terms,)
    levels: Mapping[str, Mapping[str, tuple[float, float]]]  # kind → level → deviation in common, and of each term
    noise: float  # of one measurement, in log
    # kind|precision|cell[|family, |known core, |new core] → 90 % quantile of |log(predicted / measured)|, held out
    error: Mapping[str, float]
    held_out: Mapping[str, int]  # by the same names: errors behind each
    models: Mapping[str, int]  # calibrated architectures → MACs
    clocks: Mapping[str, float]  # family|device|core|publication → GHz it was measured at
    rows: Mapping[str, int]  # calibrated rows by `evidence.situation`
    typical: Mapping[str, float]  # by the names of `error`: mean of |predicted / measured - 1|, held out
    sparse_penalty: Mapping[str, float]  # class of core → cost of a non-zero weight run sparse over one run dense

    def log_cost(self, effects: Sequence[Effect]) -> np.ndarray:
        """c of every term; threads never raise one (in no published series do more of them take longer).  → (terms,)"""
        total, by_threads = self.prior.copy(), np.zeros(len(TERMS))
        for level, identity, times in effects:
            change = times * (PRIOR_SHIFT.get(level, 0.0) + self.effects.get((level, identity), 0.0))
            if level in THREAD_LEVELS:
                by_threads += change
            else:
                total += change
        return total + np.minimum(by_threads, 0.0)

    def expected_error(self, kind: str, precision: str, cell: str, family: str, core: str) -> float:
        """Half-width in log of the 90 % interval: of the runtime family where enough of its errors are known.

        From specifications alone it also matters whether any device with that type of core was ever measured. An
        arithmetic that nobody measured there has the widest error of the others, half as much again.
        """
        name = f"{kind}|{precision}|{cell}"
        everyone = self.error.get(name, 0.0)
        if not everyone:
            others = [e for key, e in self.error.items() if key.startswith(f"{kind}|") and key.split("|")[2] == cell]
            return 1.5 * max(others)
        own, count = self.error.get(f"{name}|{family}", 0.0), self.held_out.get(f"{name}|{family}", 0)
        if cell in ("device", "both"):
            seen = ("core", f"{kind}/{core}") in self.effects
            everyone = self.error.get(f"{name}|{'known' if seen else 'new'} core", everyone)
            if not seen:
                return max(everyone, own)
        return half_width(own, count, everyone)

    def few_errors(self, kind: str, precision: str, cell: str, family: str) -> int | None:
        """How many errors of its own a family's interval rests on, where they are too few to stand alone."""
        count = self.held_out.get(f"{kind}|{precision}|{cell}|{family}", 0)
        return count if count < FEW else None

    def uncertainty(self, effects: Sequence[Effect]) -> np.ndarray:
        """Covariance of c from the effects that nothing is known about; the first effect (all) names the kind.

        → (terms, terms)
        """
        common, each = 0.03**2, 0.03**2
        freedom = np.array([TERM_FREEDOM[term] for term in TERMS])
        levels = self.levels[effects[0][1].rstrip("/")]
        for level, identity, times in effects:
            if (level, identity) not in self.effects:
                a, b = levels[level]
                common, each = common + (times * a) ** 2, each + (times * b) ** 2
        n = len(TERMS)
        return common * np.ones((n, n)) + each * np.diag(freedom**2)


THREAD_LEVELS = frozenset({"threads", "device-threads", "family-threads"})
# Where the thread and precision effects start from before any measurement: four threads about 2.3 times faster.
PRIOR_SHIFT = {"threads": -0.6}
# Start of c for every term: a published-kernel guess of its efficiency, e.g. pointwise at exp(-0.2) = 82 % of peak.
PRIOR_MEAN = {
    "pointwise": 0.2, "winograd": -0.5, "conv": 0.4, "stem": 0.7, "depthwise": 1.0, "pointwise_out": -0.5,
    "winograd_io": 1.7, "depthwise_io": 0.9, "conv_io": -0.5, "linear_weights": 0.6, "weights": 0.0,
    "elementwise": -0.2, "pooling": 0.0, "memory": 0.4, "overhead": 0.0,
}  # fmt: skip


# How much of the levels' freedom a term has: little where kernels are known to come close to the machine.
TERM_FREEDOM = {
    "pointwise": 0.3, "winograd": 0.7, "conv": 1.0, "stem": 1.0, "depthwise": 1.0, "pointwise_out": 1.0,
    "winograd_io": 1.5, "depthwise_io": 0.5, "conv_io": 1.0, "linear_weights": 1.0, "weights": 1.0,
    "elementwise": 0.5, "pooling": 0.5, "memory": 0.5, "overhead": 1.0,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Observation:
    """A measured latency of some work: milliseconds at peak by term, and the milliseconds met."""

    peak_ms: np.ndarray  # (terms,)
    latency_ms: float


def adapted(log_cost: np.ndarray, covariance: np.ndarray, seen: Sequence[Observation], noise: float) -> np.ndarray:
    """Move c to agree with measurements on the device itself, as far as its uncertainty allows.

    Gauss-Newton on  Σ (log predicted − log measured)² / noise² + (c − c₀)ᵀ covariance⁻¹ (c − c₀).  → (terms,)
    """
    start, current = log_cost, log_cost.copy()
    for _ in range(12):
        times = np.array([o.peak_ms for o in seen]) * np.exp(current)
        totals = times.sum(1)
        shares = times / totals[:, None]
        target = np.log([o.latency_ms for o in seen]) - np.log(totals) + shares @ (current - start)
        spread = shares @ covariance @ shares.T + noise**2 * np.eye(len(seen))
        current = start + covariance @ shares.T @ np.linalg.solve(spread, target)
    return current


@cache
def load_coefficients(path: Path) -> Coefficients:
    """Read the committed coefficients."""
    raw: dict[str, Any] = json.loads(path.read_text())
    order = [raw["terms"].index(term) for term in TERMS]
    return Coefficients(
        prior=np.array([PRIOR_MEAN[term] for term in TERMS]),
        effects={tuple(key.split(":", 1)): np.array(row)[order] for key, row in raw["effects"].items()},  # type: ignore[misc]
        levels=raw["levels"],
        noise=raw["noise"],
        error=raw["error"],
        held_out=raw["held_out"],
        models=raw["models"],
        clocks=raw["clocks"],
        rows=raw["rows"],
        typical=raw["typical"],
        sparse_penalty=raw["sparse_penalty"],
    )
