"""A file as work: one `WorkOp` an operator that really runs, with its arithmetic and its traffic.

An operator here is what remains after the fusions every mobile runtime does: batch norm and the cheap activations
(ReLU, ReLU6, clamp) belong to the operator before them; add, pooling and concatenation stand alone. So do activations
of a few multiplications (piecewise: hard-swish, hard-sigmoid) and those that need an exponential or a power
(transcendental: swish, sigmoid, tanh, GELU), which cost more than an addition, and those that sum over neighbours
besides (normalizing: softmax, local response normalization), which cost more than those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

OP_CLASSES = (
    "conv1x1", "conv", "depthwise", "linear", "elementwise", "piecewise", "transcendental", "normalizing", "memory",
    "unknown",
)  # fmt: skip
WEIGHTED = OP_CLASSES[:4]
# activation → class of the operator it is by itself; "" where every runtime does it on the way out of another
ACTIVATIONS = {
    "linear": "", "relu": "", "relu6": "", "leaky_relu": "", "hard_swish": "piecewise", "hard_sigmoid": "piecewise",
    **dict.fromkeys(("swish", "sigmoid", "tanh", "gelu", "mish", "elu", "exp"), "transcendental"),
    "softmax": "normalizing", "lrn": "normalizing",
}  # fmt: skip
WIDTHS = {
    "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1,
    "int16": 2, "int32": 4, "int64": 8, "float64": 8, "int4": 1, "uint4": 1,
}  # fmt: skip


@dataclass(frozen=True)
class WorkOp:
    """One operator of one inference.

    `macs` counts multiply-accumulates of the dense operator; `weights` its dense weight entries without bias and
    `nonzero` how many of them are not zero. Bytes of activations are those read and written once each.
    """

    name: str
    op_class: str
    macs: int = 0
    weights: int = 0
    nonzero: int = 0
    biases: int = 0
    stored_bytes: int = 0  # in the file
    stored_bits: float = 0.0  # of a weight in the file; 0 where it is as wide as the arithmetic
    resident_bytes: int = 0  # after loading: decoded, biases included
    input_bytes: int = 0
    output_bytes: int = 0
    dtype: str = "float32"  # of the arithmetic
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    in_channels: int = 0
    out_channels: int = 0
    groups: int = 1  # of a convolution that is not depthwise
    sparse: bool = False  # the runtime skips its zeros
    layer: str = ""  # the module it was

    @property
    def activation_bytes(self) -> int:
        """Read plus written."""
        return self.input_bytes + self.output_bytes

    @property
    def executed_macs(self) -> int:
        """MACs left when zeros are skipped, where they are: macs · nonzero / weights."""
        return round(self.macs * self.nonzero / self.weights) if self.sparse and self.weights else self.macs

    @property
    def rows(self) -> int:
        """How often each weight is used: output positions of a convolution, tokens of a linear layer."""
        return self.macs // self.weights if self.weights else 0


@dataclass(frozen=True)
class Workload:
    """All operators of one inference, in execution order."""

    name: str
    ops: tuple[WorkOp, ...]
    peak_activation_bytes: int = 0
    unknown: tuple[str, ...] = ()  # operator kinds whose cost nothing is known about
    notes: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates."""
        return sum(op.macs for op in self.ops)

    @property
    def executed_macs(self) -> int:
        """Multiply-accumulates after skipping zeros where the runtime does."""
        return sum(op.executed_macs for op in self.ops)

    @property
    def parameters(self) -> int:
        """Dense weights and biases."""
        return sum(op.weights + op.biases for op in self.ops)

    @property
    def resident_bytes(self) -> int:
        """Weights in memory after loading."""
        return sum(op.resident_bytes for op in self.ops)

    @property
    def dtype(self) -> str:
        """The arithmetic of most MACs."""
        totals: dict[str, int] = {}
        for op in self.ops:
            totals[op.dtype] = totals.get(op.dtype, 0) + op.macs
        return max(totals, key=lambda name: (totals[name], name)) if totals else "float32"


def as_dtype(workload: Workload, dtype: str) -> Workload:
    """The same work in another arithmetic: every byte count scaled by the width of an entry.

    Weights that are stored in fewer bits than the arithmetic before, such as integers under floats, stay as they are.

    >>> op = WorkOp("fc", "linear", macs=10, weights=10, input_bytes=40, output_bytes=4)
    >>> as_dtype(Workload("m", (op,)), "int8").ops[0].input_bytes
    10
    """

    def scaled(op: WorkOp) -> WorkOp:
        ratio = WIDTHS[dtype] / WIDTHS[op.dtype]
        narrow = 0 < op.stored_bits < 8 * WIDTHS[op.dtype]
        stored = min(1.0, 8 * WIDTHS[dtype] / op.stored_bits) if narrow else ratio
        return replace(
            op,
            dtype=dtype,
            stored_bytes=round(op.stored_bytes * stored),
            resident_bytes=round(op.resident_bytes * ratio),
            input_bytes=round(op.input_bytes * ratio),
            output_bytes=round(op.output_bytes * ratio),
        )

    ops = tuple(scaled(op) for op in workload.ops)
    ratio = WIDTHS[dtype] / WIDTHS[workload.dtype]
    return replace(workload, ops=ops, peak_activation_bytes=round(workload.peak_activation_bytes * ratio))


def with_zeros(workload: Workload, share: float, classes: tuple[str, ...] = ("conv1x1",)) -> Workload:
    """The same work with `share` of the weights of `classes` zero and skipped by the runtime."""
    ops = tuple(
        replace(op, nonzero=op.weights - round(op.weights * share), sparse=True) if op.op_class in classes else op
        for op in workload.ops
    )
    return replace(workload, ops=ops)


def with_sparse(workload: Workload, names: Mapping[str, bool] | frozenset[str]) -> Workload:
    """Mark the operators in `names` as run by sparse kernels."""
    ops = tuple(replace(op, sparse=op.name in names) for op in workload.ops)
    return replace(workload, ops=ops)
