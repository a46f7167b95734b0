"""What is said of a file: by verification, by simulation, by a vendor's software, by a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from idp_deploy.flow.file import Artifact, FormatName


class Shown:
    """A result that a notebook shows as a page. The front door says how, so that this file imports nothing."""

    page: ClassVar[Callable[[Any], str] | None] = None

    def _repr_html_(self) -> str | None:
        return Shown.page(self) if Shown.page is not None else None


@dataclass(frozen=True)
class OutputParity:
    """One output of one runtime against the model: max |file − model| / max |model| over every seeded input."""

    runtime: str  # onnxruntime, litert-xnnpack, litert-builtin, litert-compiled, coreml-interpreter-float16, …
    output: str
    max_relative_error: float
    tolerance: float
    measure: str = "max"  # rms where activations are integers: √(Σ (file − model)² / Σ model²)

    @property
    def passed(self) -> bool:
        """False also where the error is not a number."""
        return self.max_relative_error <= self.tolerance


@dataclass(frozen=True)
class WeightProof:
    """One prunable weight of the model, found in the file and compared entry by entry."""

    parameter: str
    tensor: str  # name in the file
    encoding: str
    size_bytes: int
    expected_zeros: int
    zeros: int
    max_relative_error: float  # stored value against the model's, over max |w|
    passed: bool


@dataclass(frozen=True)
class Parity(Shown):
    """The result of `verify`. `notes` says what could not be checked."""

    artifact: Artifact
    outputs: tuple[OutputParity, ...]
    weights: tuple[WeightProof, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)  # accuracy of the file on the task, per runtime
    notes: tuple[str, ...] = ()
    held: bool = True  # against a model; else its runtimes against each other

    @property
    def passed(self) -> bool:
        """Every output within tolerance, every weight proved."""
        return all(o.passed for o in self.outputs) and all(w.passed for w in self.weights)


@dataclass(frozen=True)
class Interval:
    """A quantity with its uncertainty: the true value lies in [low, high] with probability `coverage`."""

    low: float
    middle: float
    high: float
    coverage: float = 0.9


@dataclass(frozen=True)
class OpEstimate:
    """One operator on one target."""

    name: str
    op_class: str  # a row of simulation.work.OP_CLASSES
    macs: int
    executed_macs: int  # what runs after zeros are skipped, where the runtime skips them
    weight_bytes: int
    activation_bytes: int
    latency_ms: float | None
    runs_sparse: bool = False
    layer: str = ""  # the module it was, or its own name where the file does not tell
    dense_latency_ms: float | None = None  # with every weight counted


@dataclass(frozen=True)
class Basis:
    """The published rows behind a latency, and how far such a prediction was off on rows it had not seen.

    `origin` is "measured" where the same device ran the same runtime, arithmetic and kind of threads; "calibrated"
    where other devices did; "specification" where only other runtimes were measured; "anchored" where the user's own
    measurement on the device speaks beside them.
    """

    origin: Literal["measured", "calibrated", "specification", "anchored"]
    rows: int
    devices: int
    expected_error: float | None = None  # mean of |predicted / measured − 1|, held out


@dataclass(frozen=True)
class CpuOperator:
    """An operator that a neural processing unit leaves to the processor beside it."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class VendorEstimate:
    """What the vendor's own software says of a file: neither simulated by us nor measured on the device.

    None where it does not say. `flash_bytes` is what the program keeps of the model: the compiled file, or the file.
    """

    software: str  # "Vela 5.2.0"
    setting: str  # what it was asked about
    flash_bytes: int
    original_weight_bytes: int | None = None
    encoded_weight_bytes: int | None = None
    sram_bytes: int | None = None
    dram_bytes: int | None = None
    arena_bytes: int | None = None  # the smallest with which the runtime allocates and runs
    flash_traffic_bytes: int | None = None  # of one inference, read and written
    dram_traffic_bytes: int | None = None
    sram_traffic_bytes: int | None = None
    cycles: Mapping[str, int] = field(default_factory=dict)  # npu, sram, dram, flash: the largest binds; total
    latency_ms: float | None = None
    npu_operators: int | None = None
    cpu_operators: tuple[CpuOperator, ...] | None = None


@dataclass(frozen=True)
class Estimate(Shown):
    """Simulated, never measured. `latency_ms` is None where the data allow no number; `reason` says why.

    Where a vendor's software answers, what it says stands in `vendor` and `latency_ms` is None.
    """

    artifact: Path
    format: FormatName
    target: str
    runtime: str
    latency_ms: Interval | None
    reason: str
    size_bytes: int
    gzip_bytes: int
    brotli_bytes: int
    resident_weight_bytes: int
    peak_activation_bytes: int
    macs: int
    executed_macs: int
    ops: tuple[OpEstimate, ...] = ()
    notes: tuple[str, ...] = ()
    basis: Basis | None = None  # where there is a latency
    vendor: VendorEstimate | None = None
    dense_latency_ms: float | None = None  # the middle, had the file no zeros
    unfit: str = ""  # what keeps the runtime from running this file as it is meant: refused, or wrong without an error
    way_out: str = ""  # of that


@dataclass(frozen=True)
class Measurement:
    """Timed by a runtime that really ran, on this host: CPU time of one inference, median and quartiles."""

    artifact: Path
    runtime: str
    host: str
    threads: int
    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int


@dataclass(frozen=True)
class EmulationCounts:
    """What one inference executes on a device's core type: counted in an emulator, exact and repeatable, not a time."""

    artifact: Path
    target: str
    core: str  # the row of cores.toml that the runtime believed to run on
    runtime: str  # "ai-edge-litert 2.3.0"
    instructions: int
    executed_macs: int
    bytes_loaded: int
    bytes_stored: int
    dense_macs: int  # multiply-accumulates of the file with every weight counted
    runs_sparse: bool
    predicted_sparse: bool  # by the rules of `formats/tflite/xnnpack`
    repeats: int = 1
    spread: float = 0.0  # (most − least) / least instructions over the repeats
    notes: tuple[str, ...] = ()

    @property
    def as_predicted(self) -> bool:
        """The runtime took the path that the rules say."""
        return self.runs_sparse == self.predicted_sparse
