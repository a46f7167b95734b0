"""What goes in and what becomes of it: recipes, models under masks, models with exact zeros."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


@dataclass(frozen=True)
class Recipe:
    """How a model was, or is to be, pruned. Plain values only: it is stored in checkpoints and artifacts."""

    sparsity: float = 0.9  # share of zeros over the prunable weights, 0 ≤ s < 1
    method: str = "idp"  # a row of METHODS
    pattern: str = "unstructured"  # unstructured | free | 2:4 | 1:4 | block:1x4 | channel
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


@dataclass(frozen=True, eq=False)
class Levels:
    """A weight in few bits: q · scale, or palette[q]; q has the weight's own shape."""

    q: np.ndarray  # int8 beside a scale, uint8 beside a palette, float16 beside neither
    scale: np.ndarray | None = None  # float32 of q's rank: an entry for each output channel, extents of 1 elsewhere
    palette: np.ndarray | None = None  # float32 (entries,), the first of them 0.0

    @property
    def values(self) -> np.ndarray:
        """What it means, in float32."""
        whole: np.ndarray = self.q.astype("float32") if self.palette is None else self.palette[self.q]
        return whole if self.scale is None else whole * self.scale


@dataclass(frozen=True)
class Quantization:
    """Filled in by `quantize`. The module then holds the dequantized float values of the integer weights."""

    scheme: str  # fp16 | int8 | int8-weights | lut4
    signal_to_noise_db: Mapping[str, float] = field(default_factory=dict)  # by weight name
    kept_float: Mapping[str, str] = field(default_factory=dict)  # weight name → the reason it stays float
    calibration: tuple[Any, ...] = ()  # example inputs (tuples of tensors) that fix activation ranges
    activation_db: Mapping[str, float] = field(default_factory=dict)  # in the layer's output, where inputs were given
    notes: tuple[str, ...] = ()
    levels: Mapping[str, Levels] = field(default_factory=dict)  # of covered weights; none where others quantized them

    @property
    def covered(self) -> frozenset[str]:
        """Weights that are stored in fewer bits; every other tensor stays float."""
        return frozenset(self.signal_to_noise_db) - frozenset(self.kept_float)


def gathered(weight: torch.Tensor) -> torch.Tensor:
    """All of a weight of which every process holds a part (a `DTensor`); any other as it is."""
    whole = getattr(weight, "full_tensor", None)
    return weight if whole is None else whole()


def kept_otherwise(weight: torch.Tensor) -> str:
    """The class (torchao's) or layout that a weight is kept in by another tool; "" of a plain dense tensor."""
    kind, layout = type(weight), str(weight.layout).removeprefix("torch.")
    if hasattr(kind, "__tensor_flatten__") and not hasattr(kind, "full_tensor"):
        return kind.__name__
    return "" if layout == "strided" else layout


def _values(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.detach()
    if not kept_otherwise(weight):
        return gathered(weight)
    return weight.to_dense() if str(weight.layout) != "torch.strided" else weight.dequantize()


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
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of all parameters as hardened; none: as now

    def __post_init__(self) -> None:
        if not self.shapes:
            shapes = {name: tuple(parameter.shape) for name, parameter in self.module.named_parameters()}
            object.__setattr__(self, "shapes", shapes)

    @property
    def prunable(self) -> int:
        """How many weights the masks cover."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def zeros(self) -> int:
        """How many of them the masks prune and are zero: counted in the weights, not in the masks."""
        return sum(mask.numel() - int(mask.count_nonzero()) for mask in self.masks.values()) - sum(self.filled.values())

    @property
    def filled(self) -> Mapping[str, int]:
        """Weight name → entries that its mask prunes and that are not zero: somebody has written to it since.

        Of a weight that is gone, or of another shape, all that was pruned is. Where processes hold parts of the weights
        every one of them has to ask.
        """
        weights = dict(self.module.named_parameters(remove_duplicate=False))
        found = {  # of two truths the first is greater where it alone is true: a ninth of what picking entries takes
            name: int(((_values(weights[name]) != 0) > mask.to(weights[name].device)).count_nonzero())
            if name in weights and weights[name].shape == mask.shape
            else mask.numel() - int(mask.count_nonzero())
            for name, mask in self.masks.items()
        }
        return {name: count for name, count in found.items() if count}

    @property
    def late(self) -> Mapping[str, int]:
        """Weight name → entries of what came into the model after hardening, or took the place of another shape."""
        came = {name: p for name, p in self.module.named_parameters() if self.shapes.get(name) != tuple(p.shape)}
        return {name: parameter.numel() for name, parameter in came.items() if parameter.dim() > 1}

    @property
    def sparsity(self) -> float:
        """Share of zeros of prunable, in [0, 1]; 0.0 where nothing is prunable."""
        return self.zeros / self.prunable if self.prunable else 0.0

    def without(self, names: Collection[str]) -> CompressedModel:
        """The same model, of which these weights do not count as pruned: they are in no file."""
        return replace(self, masks={name: mask for name, mask in self.masks.items() if name not in names})
