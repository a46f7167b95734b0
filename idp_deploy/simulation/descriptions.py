"""Work written down by hand: a TOML or JSON file that lists operators, for a network that is not a file yet.

name = "my_net"                # a published architecture's name lets the interval use that it was calibrated on
architecture = "mobilenet_v2_1.0_224"   # either this: a published architecture, no operators needed
dtype = "float32"              # float32 | float16 | int8, of the arithmetic
weight_bits = 4                # of a weight in the file, where palettized or quantized apart from the arithmetic
zeros = 0.9                    # share of zero weights in every layer; `sparse = true` where 1×1 convolutions skip them
format = "tflite"              # which of the target's runtimes; tflite by default

[[ops]]                        # or these, in execution order
class = "conv"                 # conv (1×1 and depthwise are recognized) | transposed | linear | elementwise | pool |
                               # memory
input = [224, 224, 3]          # height, width, channels
output = [112, 112, 32]
kernel = [3, 3]
stride = 2
groups = 1
activation = "swish"           # relu, relu6, leaky_relu cost nothing; others are work of their own; an elementwise
                               # operator with one is that activation
operands = 2                   # of an elementwise operator: tensors of the input's shape that it reads
zeros = 0.9                    # as above, of this operator
weight_bits = 8

[[ops]]                        # or in plain counts
class = "conv1x1"              # any of the above and conv1x1 | depthwise | piecewise | transcendental |
                               # normalizing
macs = 12845056
weights = 2048
input_bytes = 401408
output_bytes = 802816
in_channels = 32               # optional: kernel, stride, in_channels, out_channels, biases, name
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from idp_deploy import documents
from idp_deploy.errors import FileError
from idp_deploy.flow import FormatName
from idp_deploy.formats.validation import KnownFormat
from idp_deploy.simulation.work import ACTIVATIONS, WEIGHTED, Workload, WorkOp, as_dtype

SUFFIXES = (".toml", ".json")
Extent = Annotated[int, Field(ge=1, le=1 << 24)]
Count = Annotated[int, Field(ge=0, le=1 << 50)]
Share = Annotated[float, Field(ge=0, le=1)]
Bits = Annotated[int, Field(ge=1, le=32)]
OpClass = Literal[
    "conv1x1", "conv", "transposed", "depthwise", "linear", "elementwise", "piecewise", "transcendental",
    "normalizing", "pool", "memory",
]  # fmt: skip
Activation = Literal[
    "linear", "relu", "relu6", "leaky_relu", "hard_swish", "hard_sigmoid", "swish", "sigmoid", "tanh", "gelu", "mish",
    "elu", "exp", "softmax", "lrn",
]  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OpDescription(_Strict):
    """One operator, by its shapes or by its counts."""

    op_class: OpClass = Field(alias="class")
    name: str = ""
    input: tuple[Extent, ...] = ()
    output: tuple[Extent, ...] = ()
    kernel: tuple[Extent, Extent] = (1, 1)
    stride: Extent = 1
    groups: Extent = 1
    activation: Activation = "linear"
    operands: Annotated[int, Field(ge=1, le=64)] = 1
    bias: bool = True
    zeros: Share = 0.0
    weight_bits: Bits | None = None
    sparse: bool = False
    macs: Count | None = None
    weights: Count | None = None
    biases: Count | None = None
    input_bytes: Count | None = None
    output_bytes: Count | None = None
    in_channels: Count | None = None
    out_channels: Count | None = None

    @model_validator(mode="after")
    def _enough(self) -> OpDescription:
        by_shape = bool(self.output)
        by_count = self.input_bytes is not None and self.output_bytes is not None
        if not by_shape and not by_count:
            raise ValueError("give input and output shapes, or macs, weights, input_bytes and output_bytes")
        return self

    def works(self, index: int) -> Iterator[WorkOp]:
        """Float32; shapes fill in what is not counted. An activation that costs something follows as its own work."""
        read, written = self.input or self.output, self.output
        inputs = self.in_channels if self.in_channels is not None else (read[-1] if read else 0)
        outputs = self.out_channels if self.out_channels is not None else (written[-1] if written else 0)
        op_class = self._class(inputs)
        kernel = self.kernel if op_class != "linear" else (1, 1)
        weights = self.weights
        if weights is None:
            a_filter = 1 if op_class == "depthwise" else max(1, inputs // self.groups)
            weights = prod(kernel) * a_filter * outputs if op_class in WEIGHTED else 0
        positions = prod((read if self.op_class == "transposed" else written)[:-1]) if written else 0
        biases = self.biases if self.biases is not None else (outputs if op_class in WEIGHTED and self.bias else 0)
        work = WorkOp(
            name=self.name or f"{index:03d}_{self.op_class}", op_class=op_class,
            macs=self.macs if self.macs is not None else weights * positions,
            weights=weights, nonzero=weights - round(weights * self.zeros), biases=biases,
            stored_bytes=4 * (weights + biases), resident_bytes=4 * (weights + biases),
            input_bytes=4 * self.operands * prod(read) if self.input_bytes is None else self.input_bytes,
            output_bytes=4 * prod(written) if self.output_bytes is None else self.output_bytes,
            kernel=kernel, stride=self.stride, in_channels=inputs, out_channels=outputs,
            groups=self.groups if op_class in ("conv", "conv1x1") else 1, sparse=self.sparse and op_class in WEIGHTED,
        )  # fmt: skip
        yield work
        follows = ACTIVATIONS[self.activation]
        if follows and op_class != follows:
            both = 2 * work.output_bytes
            yield WorkOp(f"{work.name}_{self.activation}", follows, input_bytes=both // 2, output_bytes=both // 2)

    def _class(self, inputs: int) -> str:
        if self.op_class in ("conv", "transposed"):
            alone = self.groups == inputs > 1
            return "depthwise" if alone else "conv1x1" if self.kernel == (1, 1) else "conv"
        if self.op_class == "elementwise":
            return ACTIVATIONS[self.activation] or "elementwise"
        return "elementwise" if self.op_class == "pool" else self.op_class


def stored_in(op: WorkOp, bits: int) -> WorkOp:
    """The same work from a file that holds `bits` a weight: palettized, or quantized apart from the arithmetic."""
    return replace(op, stored_bytes=op.weights * bits // 8 + 4 * op.biases) if op.weights else op


class Description(_Strict):
    """A network."""

    name: str = ""
    architecture: str = ""
    dtype: Literal["float32", "float16", "int8"] = "float32"
    weight_bits: Bits | None = None
    zeros: Share = 0.0
    sparse: bool = False
    format: KnownFormat = "tflite"
    ops: tuple[OpDescription, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> Description:
        if bool(self.architecture) == bool(self.ops):
            raise ValueError("give either an architecture or a list of ops")
        if self.ops and (self.zeros or self.sparse or self.weight_bits):
            raise ValueError("zeros, sparse and weight_bits belong to each of the ops where those are listed")
        return self

    def changed(self, work: Workload) -> Workload:
        """A published architecture with the zeros that are described."""
        ops = tuple(
            replace(
                op,
                nonzero=op.weights - round(op.weights * self.zeros),
                sparse=self.sparse and op.op_class == "conv1x1",
            )
            for op in work.ops
        )
        return replace(work, ops=ops)


def read_description(path: Path, architecture: Callable[[str], Workload]) -> tuple[Workload, FormatName]:
    """The work a file describes, and the format whose runtime is meant.

    Args:
        architecture: the work of a published network that a description may start from, by name.

    Raises:
        FileError: not TOML or JSON, or a key that is unknown, missing or out of range; the message names it.
    """
    try:
        text = documents.read_text(path)
        raw: Any = documents.parse_json(text) if path.suffix.lower() == ".json" else documents.parse_toml(text)
        found = Description.model_validate(raw)
    except (OSError, ValueError) as error:
        detail = str(error).splitlines()[0]
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            detail = f"'{'.'.join(str(part) for part in first['loc'])}': {first['msg']}"
        raise FileError(
            f"{path} is not a workload description: {detail}",
            way_out="docs/simulation.md lists its keys",
        ) from error
    if found.architecture:
        work = found.changed(architecture(found.architecture))
        bits = [found.weight_bits] * len(work.ops)
    else:
        made = [(work, op.weight_bits) for index, op in enumerate(found.ops) for work in op.works(index)]
        peak = max((work.activation_bytes for work, _ in made), default=0)
        work = Workload(found.name or path.stem, tuple(op for op, _ in made), peak)
        bits = [of for _, of in made]
    work = work if found.dtype == "float32" else as_dtype(work, found.dtype)
    ops = (op if of is None else stored_in(op, of) for op, of in zip(work.ops, bits, strict=True))
    return replace(work, ops=tuple(ops)), found.format
