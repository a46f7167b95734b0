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

COMPUTE = ("pointwise", "matmul", "ragged", "winograd", "conv", "stem", "depthwise", "depthwise5")
TRAFFIC = (
    "pointwise_out", "winograd_io", "depthwise_io", "conv_io", "linear_weights", "weights", "elementwise", "pooling",
    "memory", "piecewise", "transcendental", "normalizing",
)  # fmt: skip
TERMS = (*COMPUTE, *TRAFFIC, "overhead")
INDEX = {term: i for i, term in enumerate(TERMS)}
BYTES_PER_CYCLE = 4.0  # unit of traffic; the coefficients hold the distance from it
OVERHEAD_MS_GHZ = 0.01  # unit of overhead: ten thousand cycles an operator
USUAL_DRAM = 15.0  # GB/s, where a device's memory is not known
LOOP = 2.0  # cost of a depthwise entry beyond 5×5, where kernels are a loop and no longer written out
HALVINGS = {"float16": 1.0, "int8": 2.0}  # of an entry's bytes: threads starve less
ACCELERATOR_GHZ = 10.0  # stands in for the clock of GPUs and engines in the units of traffic and overhead

# runtimes with Winograd kernels for float 3×3 convolutions of stride 1
WINOGRAD = frozenset({"ncnn", "paddle-lite", "paddle-lite-armv7", "tnn", "mnn", "bolt", "coreml-cpu"})
# runtimes that run a grouped convolution as one convolution a group
GROUP_BY_GROUP = frozenset({"ncnn"})
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
    dram_gb_per_s: float = 0.0  # of the device it is in; 0: unknown
    in_order: bool = False
    little: bool = False  # an efficiency core that issues out of order; those that issue in order are little anyway
    aarch32: bool = True  # runs 32-bit builds
    dot: bool = False
    i8mm: bool = False
    fp16: bool = False
    isa: str = "arm64"  # published rows speak of no other
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
    if core.kind == "cpu":  # weights used once come from memory, on their way past the core
        units[INDEX["linear_weights"]] += 1e-6 / (core.dram_gb_per_s or USUAL_DRAM)
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

    put("overhead", op.groups if family in GROUP_BY_GROUP else 1)
    kept = op.nonzero / op.weights if op.sparse and op.weights else 1.0
    macs = op.macs * kept * penalty if op.sparse else op.macs
    width = op.resident_bytes / (op.weights + op.biases) if op.weights else 0.0
    weight_bytes = op.weights * kept * width
    if op.op_class in ("conv1x1", "conv", "depthwise"):
        put("weights", weight_bytes)
    winograd = op.op_class == "conv" and family in WINOGRAD and op.kernel == (3, 3) and op.stride == 1
    in_tiles = winograd and op.dtype not in ("int8", "uint8")
    if op.op_class in ("conv1x1", "conv") and (op.out_channels % 4 or (op.in_channels % 4 and op.in_channels > 4)):
        put(
            "ragged", macs if in_tiles or not winograd else macs / 4
        )  # beside what whole vectors of channels would take
    if op.op_class == "conv1x1":
        put("pointwise", macs)
        put("conv_io", op.activation_bytes)
        put("pointwise_out", op.output_bytes)
    elif op.op_class == "linear" and (op.rows > 4 or not op.weights):
        put("matmul", macs)
        put("conv_io", op.activation_bytes)
    elif op.op_class == "linear":
        put("linear_weights", weight_bytes)
    elif op.op_class == "depthwise":
        in_loop = op.kernel[0] * op.kernel[1] > 25
        put("depthwise5" if max(op.kernel) >= 5 else "depthwise", macs * LOOP if in_loop else macs)
        put("depthwise_io", op.activation_bytes)
    elif op.op_class == "conv":
        if op.in_channels <= 4:
            put("stem", macs)
        elif winograd:
            put("winograd", macs * _tiled(op.rows) if in_tiles else macs)
            put("winograd_io", op.activation_bytes)
            put("weights", 3 * weight_bytes)  # a transformed kernel has four times the entries
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
    if op.op_class in ("piecewise", "transcendental", "normalizing"):
        put(op.op_class, op.output_bytes)  # beside what an addition would take
    return amounts


def _tiled(positions: int) -> float:
    """Work done over work asked for where outputs come in tiles of 4×4.

    >>> _tiled(56 * 56), round(_tiled(7 * 7), 6)
    (1.0, 1.306122)
    """
    side = math.sqrt(positions)
    return (4 * math.ceil(side / 4)) ** 2 / positions if positions else 1.0


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


def hunger(core: Core) -> float:
    """How much arithmetic a core can do for a byte of the memory it shares: log of flops a byte."""
    flops = core.flops_per_cycle * core.ghz
    return math.log(flops / (core.dram_gb_per_s or USUAL_DRAM))


def effects_of(
    kind: str, family: str, core: Core, device: str, group: str, precision: str, threads: int
) -> list[Effect]:
    """Which effects speak in a situation. `device` and `group` may be "" where unknown."""
    log_threads, starved = math.log(threads), hunger(core)
    name = core.calibrated_as
    found: list[Effect] = [
        ("all", "", 1.0), ("family", family, 1.0), ("core", name, 1.0), ("family-core", f"{family}|{name}", 1.0),
        ("device", device, 1.0), ("group", f"{family}|{device}|{name}|{group}", 1.0),
    ]  # fmt: skip
    if precision != "float32":
        found += [
            ("precision", precision, 1.0),
            ("family-precision", f"{family}|{precision}", 1.0),
            ("core-precision", f"{name}|{precision}", 1.0),
            ("device-precision", f"{family}|{device}|{name}|{precision}", 1.0),
        ]
    if threads > 1 and kind == "cpu":  # the others bring threads of their own, or have none
        found += [
            ("threads", "", log_threads),
            ("threads-memory", "", log_threads * starved),
            ("threads-width", "", log_threads * HALVINGS.get(precision.partition("-")[0], 0.0)),
            ("device-threads", f"{device}|{name}", log_threads),
            ("family-threads", family, log_threads),
        ]
    return [(level, f"{kind}/{identity}", times) for level, identity, times in found]


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What `make calibrate` wrote: prior means, effects, how far effects may stray, errors met on held-out groups."""

    prior: np.ndarray  # (terms,) with thread and precision shifts apart
    effects: Mapping[tuple[str, str], np.ndarray]  # (level, identity) → (terms,)
    levels: Mapping[str, Mapping[str, tuple[float, float]]]  # kind → level → deviation in common, and of each term
    noise: float  # of one measurement, in log
    known: Mapping[tuple[str, str], np.ndarray]  # by the same names: groups behind each (`uncertainty.seen`)
    error: Mapping[str, float]  # kind|cell[|situation] → half-width of the 90 % interval in spreads, held out
    models: Mapping[str, int]  # calibrated architectures → MACs
    clocks: Mapping[str, float]  # family|device|core|publication → GHz it was measured at
    rows: Mapping[str, int]  # calibrated rows by `evidence.situation`
    typical: Mapping[str, float]  # by the names of `error`: mean of |predicted / measured - 1|, held out
    # class of core → cost of a non-zero weight run sparse over one run dense, and in log how far speed-ups lie from it
    sparse_penalty: Mapping[str, tuple[float, float]]
    little_too: float  # |log| of runs over big and little cores together over runs on the big ones: nine in ten

    def log_cost(self, effects: Sequence[Effect]) -> np.ndarray:
        """c of every term; threads raise none by more than CONTENTION.  → (terms,)"""
        total, by_threads = self.prior.copy(), np.zeros(len(TERMS))
        for level, identity, times in effects:
            change = times * (PRIOR_SHIFT.get(level, 0.0) + self.effects.get((level, identity), 0.0))
            if level in THREAD_LEVELS:
                by_threads += change
            else:
                total += change
        return total + np.minimum(by_threads, CONTENTION)

    def sparse_penalty_of(self, family: str, core: Core) -> tuple[float, float]:
        """Of the runtime on this class of core, or of all runtimes there."""
        found = self.sparse_penalty
        return found.get(f"{core.sparse_class}|{family}", found[core.sparse_class])

    def of_cell(self, table: Mapping[str, float], kind: str, cell: str, situation: str) -> float:
        """Of `error` or `typical`: the situation's entry, or everyone's in the cell, or else the largest."""
        everyone = [value for name, value in table.items() if name.startswith(f"{kind}|")]
        return table.get(f"{kind}|{cell}|{situation}", table.get(f"{kind}|{cell}", max(everyone)))


THREAD_LEVELS = frozenset({"threads", "threads-width", "threads-memory", "device-threads", "family-threads"})
CONTENTION = 0.3  # in log: the most that threads make a term dearer by waiting for each other and for memory
# Where the thread and precision effects start from before any measurement: four threads about 2.3 times faster.
PRIOR_SHIFT = {"threads": -0.6}
# Start of c for every term: a published-kernel guess of its efficiency, e.g. pointwise at exp(-0.2) = 82 % of peak.
PRIOR_MEAN = {
    "pointwise": 0.2, "matmul": 0.4, "ragged": -1.0, "winograd": -0.5, "conv": 0.4, "stem": 0.7, "depthwise": 1.0,
    "depthwise5": 0.8, "pointwise_out": -0.5, "winograd_io": 1.7, "depthwise_io": 0.9, "conv_io": -0.5,
    "linear_weights": 0.6, "weights": 0.0, "elementwise": -0.2, "pooling": 0.0, "memory": 0.4, "piecewise": 0.0,
    "transcendental": 2.5, "normalizing": 3.5, "overhead": 0.0,
}  # fmt: skip
# How much of the levels' freedom a term has; found with them, on groups left out.
TERM_FREEDOM = {
    "pointwise": 0.48, "matmul": 0.3, "ragged": 0.4, "winograd": 0.7, "conv": 1.6, "stem": 0.3, "depthwise": 0.51,
    "depthwise5": 1.3, "pointwise_out": 1.0, "winograd_io": 1.15, "depthwise_io": 1.66, "conv_io": 2.08,
    "linear_weights": 0.62, "weights": 2.5, "elementwise": 2.05, "pooling": 0.5, "memory": 0.3, "piecewise": 0.62,
    "transcendental": 1.5, "normalizing": 1.5, "overhead": 0.51,
}  # fmt: skip


@cache
def load_coefficients(path: Path) -> Coefficients:
    """Read the committed coefficients."""
    raw: dict[str, Any] = json.loads(path.read_text())
    order = [raw["terms"].index(term) for term in TERMS]
    return Coefficients(
        prior=np.array([PRIOR_MEAN[term] for term in TERMS]),
        effects={tuple(key.split(":", 1)): np.array(row)[order] for key, row in raw["effects"].items()},  # type: ignore[misc]
        known={tuple(key.split(":", 1)): np.array(row) for key, row in raw["known"].items()},  # type: ignore[misc]
        levels=raw["levels"],
        noise=raw["noise"],
        error=raw["error"],
        models=raw["models"],
        clocks=raw["clocks"],
        rows=raw["rows"],
        typical=raw["typical"],
        sparse_penalty={name: (penalty, spread) for name, (penalty, spread) in raw["sparse_penalty"].items()},
        little_too=raw["little_too"],
    )
