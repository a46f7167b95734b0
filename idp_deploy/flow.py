"""Every noun of the pipeline, in the order it occurs. Read this file first.

    Model ─prune→ MaskedModel ─harden→ CompressedModel ─quantize→ CompressedModel ─export→ Artifact ─verify→ Parity
                                                                                      ├─read→ Contents
                                                                                      └─simulate→ Estimate ─gate→ Report

Each verb returns a new thing and leaves its argument alone. `MaskedModel` trains and cannot be exported;
`CompressedModel` has exact zeros and cannot be trained. Whatever is said about an artifact — its size, its zeros,
its latency — is read from the file (`Contents`), never remembered from the object that wrote it.

This module imports neither torch nor numpy: `idp-deploy --help` and `check` stay instant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


class Shown:
    """A result that a notebook shows as a page. The front door says how, so that this file imports nothing."""

    page: ClassVar[Callable[[Any], str] | None] = None

    def _repr_html_(self) -> str | None:
        return Shown.page(self) if Shown.page is not None else None


FormatName = str  # a row of `formats.FORMATS`: onnx, coreml, tflite
INSIDE = "inside."  # before the role of a weight that an operator's body reads, where its operators are not listed
MANIFEST_KEY = "idp_deploy"  # of our provenance in a file's metadata

# ── steering ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Recipe:
    """How a model was, or is to be, pruned. Plain values only: it is stored in checkpoints and artifacts."""

    sparsity: float = 0.9  # share of zeros over the prunable weights, 0 ≤ s < 1
    method: str = "idp"  # a row of METHODS
    pattern: str = "unstructured"  # unstructured | 2:4 | 1:4 | block:1x4 | channel
    mode: str = "auto"  # auto | paper (how IDP chooses temperature, allocation and ramp)
    allocation: str = "auto"  # erk | global | lamp | uniform | sensitivity; auto: `usual_allocation`
    epochs: int = 0
    seed: int = 0
    skip: tuple[str, ...] = ()  # glob patterns over weight names that stay dense
    options: Mapping[str, Any] = field(default_factory=dict)  # method-specific, plain values


@dataclass(frozen=True)
class Provenance:
    """Where a checkpoint or an artifact comes from. No dates: the same input, seed and versions give the same bytes."""

    factory: str = ""  # "pkg.mod:callable" that builds the module; informative, never called from a file
    task: str = ""
    input_sha256: str = ""
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[str, ...] = ()  # ("prune --target 0.9 --method idp", "quantize int8", …)
    threads: int = 0  # of torch as it trained, on which the last bits of every sum depend; 0: not known, or no training


# ── the model on its way ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model as the user gave it: a module with its state loaded."""

    module: nn.Module
    provenance: Provenance = Provenance()


@dataclass(frozen=True, eq=False)
class SoftMask:
    """One weight's soft mask m(w) = sigmoid((w² − t²)/τ); the weight itself stays dense and trainable."""

    threshold: float  # t, in the weight's own unit
    temperature: float  # τ, in the weight's unit squared
    zeros: int  # how many entries harden will set to zero
    pattern: str = "unstructured"  # which of them go together


@dataclass(frozen=True, eq=False)
class MaskedModel:
    """Dense trainable weights beside their soft masks. It can train on; it cannot be exported."""

    module: nn.Module
    soft_masks: Mapping[str, SoftMask]  # by parameter name
    recipe: Recipe
    provenance: Provenance = Provenance()


@dataclass(frozen=True)
class Quantization:
    """Filled in by `quantize`. The module then holds the dequantized float values of the integer weights."""

    scheme: str  # fp16 | int8 | int8-weights | lut4
    signal_to_noise_db: Mapping[str, float] = field(default_factory=dict)  # by weight name
    kept_float: Mapping[str, str] = field(default_factory=dict)  # weight name → the reason it stays float
    calibration: tuple[Any, ...] = ()  # example inputs (tuples of tensors) that fix activation ranges
    activation_db: Mapping[str, float] = field(default_factory=dict)  # in the layer's output, where inputs were given
    notes: tuple[str, ...] = ()

    @property
    def covered(self) -> frozenset[str]:
        """Weights that are stored in fewer bits; every other tensor stays float."""
        return frozenset(self.signal_to_noise_db) - frozenset(self.kept_float)


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """Exact zeros. `masks` says where: True = kept; where it is False the module's weight is 0.0.

    Should somebody write to the weights afterwards, `zeros` says what is left, and no stage takes the model.
    """

    module: nn.Module
    masks: Mapping[str, torch.Tensor]  # bool, same shape as the weight; only prunable weights have one
    recipe: Recipe | None = None
    quantization: Quantization | None = None
    provenance: Provenance = Provenance()

    @property
    def prunable(self) -> int:
        """How many weights the masks cover."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def zeros(self) -> int:
        """How many of them the masks prune and are zero: counted in the weights, not in the masks."""
        return sum(mask.numel() - int(mask.sum()) for mask in self.masks.values()) - sum(self.filled.values())

    @property
    def filled(self) -> Mapping[str, int]:
        """Weight name → entries that its mask prunes and that are not zero: somebody has written to it since."""
        weights = dict(self.module.named_parameters(remove_duplicate=False))
        found = {
            name: int((weights[name].detach()[~mask.to(weights[name].device)] != 0).sum())
            for name, mask in self.masks.items()
        }
        return {name: count for name, count in found.items() if count}

    @property
    def sparsity(self) -> float:
        """Share of zeros of prunable, in [0, 1]; 0.0 where nothing is prunable."""
        return self.zeros / self.prunable if self.prunable else 0.0


# ── the file, and what is read back from it ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Artifact:
    """A file on disk that a stage wrote or was given. `manifest` is provenance carried inside the file, or {}."""

    path: Path
    format: FormatName
    size_bytes: int
    manifest: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was not done: layers left float, tensors left dense and why


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One weight as it lies in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # of the decoded values: float32, float16, int8, uint8, int64, …
    encoding: str  # dense | bitmask | gaps8 | gaps4 | csr | block | sparse_initializer | sparse | lut4 | sparse+lut4 …
    size_bytes: int  # everything stored for it: values, positions, scales
    zeros: int  # exact zeros after decoding (for integers: entries equal to the zero point)
    values: Callable[[], np.ndarray]  # decodes on demand, in `dtype`, logical shape
    value_bits: float = 32.0  # bits a stored value takes (palette: index bits)
    dequantize: Callable[[], np.ndarray] | None = None  # float32 view of an integer or palette tensor

    @property
    def size(self) -> int:
        """Entries."""
        n = 1
        for extent in self.shape:
            n *= extent
        return n

    @property
    def is_sparse(self) -> bool:
        """Whether the zeros are left out of the file."""
        return self.encoding != "dense" and not self.encoding.startswith("lut")


@dataclass(frozen=True)
class Value:
    """An activation, input or output of the graph. An unknown extent is -1."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class GraphOp:
    """One operator in execution order, after decode operators of weights have been folded away.

    `weights` maps the role of a constant input ("weight", "bias", or its position) to a `StoredTensor` name.
    """

    name: str
    kind: str  # the format's own word: Conv, CONV_2D, conv, …
    inputs: tuple[str, ...]  # value names (activations only)
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Interface:
    """A file's inputs and outputs in the order of the model's flattened call and result.

    `layouts` says "NHWC" of those that lie otherwise in the file than in the model. An input of the model that its
    outputs do not depend on may be none of the file's.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layouts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Contents:
    """What a reader found in a file of any of the three formats, ours or another tool's."""

    path: Path
    format: FormatName
    size_bytes: int
    tensors: tuple[StoredTensor, ...]
    ops: tuple[GraphOp, ...]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)  # our manifest, checked, under "idp_deploy" where present
    warnings: tuple[str, ...] = ()
    parsed: Any = None  # what the format's own code goes on with, so that no file is parsed twice

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Where the file comes from, by its own account; empty where another tool wrote it."""
        found = self.metadata.get(MANIFEST_KEY)
        return found if isinstance(found, Mapping) else {}

    @property
    def interface(self) -> Interface:
        """How the model takes and returns tensors: in the manifest's order where that fits, else in the file's."""
        inputs, outputs = (tuple(self.manifest.get(side, ())) for side in ("inputs", "outputs"))
        return Interface(
            inputs if set(self.inputs) <= set(inputs) else self.inputs,  # ours may name some that no output depends on
            outputs if set(self.outputs) == set(outputs) else self.outputs,
            self.manifest.get("layouts", {}),
        )

    @property
    def dense_bytes(self) -> int:
        """What this file would take with every sparse weight stored densely at the same precision."""
        saved = (tensor.size * tensor.value_bits / 8 - tensor.size_bytes for tensor in self.tensors if tensor.is_sparse)
        return self.size_bytes + round(sum(saved))

    def tensor(self, name: str) -> StoredTensor:
        """The stored tensor called `name`; KeyError where there is none."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)


@dataclass(frozen=True)
class Layer:
    """What a file holds of one module: its prunable weights, or where it has none all of its constants."""

    name: str  # the module, or the operator where the file does not tell
    entries: int
    zeros: int
    size_bytes: int
    dense_bytes: int  # with the zeros stored, at the same precision
    bound_bytes: float  # no lossless code of random positions is smaller on average
    encoding: str
    tensors: tuple[str, ...] = ()  # whose zeros and bytes these are


@dataclass(frozen=True)
class FileFacts:
    """What a file holds, counted in the file."""

    path: Path
    format: FormatName
    size_bytes: int
    dense_bytes: int
    bound_bytes: float  # every tensor at its bound, beside what the file holds besides them
    zeros: int  # of the prunable weights
    prunable: int
    layers: tuple[Layer, ...] = ()

    @property
    def sparsity(self) -> float:
        """Share of zeros of prunable, in [0, 1]; 0.0 where nothing is prunable."""
        return self.zeros / self.prunable if self.prunable else 0.0


# ── verification ────────────────────────────────────────────────────────────────────────────────────────────────────


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

    @property
    def passed(self) -> bool:
        """Every output within tolerance, every weight proved."""
        return all(o.passed for o in self.outputs) and all(w.passed for w in self.weights)


# ── simulation ──────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── the gate ────────────────────────────────────────────────────────────────────────────────────────────────────────

Verdict = Literal["pass", "fail", "not estimable"]


@dataclass(frozen=True)
class Budget:
    """One limit. `limit` is in the metric's base unit: bytes, ms, share, relative error."""

    target: str
    format: FormatName
    metric: str  # a row of `units.METRICS`
    limit: float
    source: str  # where it was written, e.g. "pyproject.toml [tool.idp-deploy.budgets.pixel-4.tflite]"


@dataclass(frozen=True)
class Remedy:
    """One change that would mend a broken budget, and the value it would leave by prediction."""

    change: str
    command: str  # the words to add to `idp-deploy`
    value: float  # in the metric's base unit
    meets: bool  # the limit


@dataclass(frozen=True)
class Check:
    """One budget against one artifact."""

    budget: Budget
    artifact: Path
    value: float | None
    verdict: Verdict
    detail: str = ""  # the interval, the layer most responsible
    fix: str = ""  # one suggestion, where it failed
    marginal: bool = False  # the limit lies within the interval of the value
    layer: str = ""  # the one most responsible, where it failed
    remedy: Remedy | None = None  # what `fix` says, in parts

    @property
    def over(self) -> float:
        """Share of the limit by which a failed check misses it; infinite where there is no value."""
        if self.verdict == "pass":
            return 0.0
        missed = abs(self.value - self.budget.limit) if self.value is not None else float("inf")
        return missed / abs(self.budget.limit) if self.budget.limit else float("inf")


@dataclass(frozen=True)
class Report(Shown):
    """What `check` and `run` hand to a renderer."""

    checks: Sequence[Check] = ()
    estimates: Sequence[Estimate] = ()
    parities: Sequence[Parity] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # of a run: metric, accuracy, zeros, prunable, dense_bytes
    files: Sequence[FileFacts] = ()

    @property
    def passed(self) -> bool:
        """A metric that could not be estimated fails its budget."""
        return all(check.verdict == "pass" for check in self.checks)
