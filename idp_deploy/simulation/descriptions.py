"""Work written down by hand: a TOML or JSON file that lists operators, for a network that is not a file yet.

name = "my_net"                # a published architecture's name lets the interval use that it was calibrated on
architecture = "mobilenet_v2_1.0_224"   # either this: a published architecture, no operators needed
dtype = "float32"              # float32 | float16 | int8, of the arithmetic
format = "tflite"              # which of the target's runtimes; tflite by default

[[ops]]                        # or these, in execution order
class = "conv"                 # conv (1×1 and depthwise are recognized) | linear | elementwise | pool | memory
input = [224, 224, 3]          # height, width, channels
output = [112, 112, 32]
kernel = [3, 3]
stride = 2
groups = 1
zeros = 0.9                    # share of zero weights; `sparse = true` where the runtime skips them

[[ops]]                        # or in plain counts
class = "conv1x1"              # conv1x1 | conv | depthwise | linear | elementwise | memory
macs = 12845056
weights = 2048
input_bytes = 401408
output_bytes = 802816
in_channels = 32               # optional: kernel, stride, in_channels, out_channels, biases, name
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from idp_deploy import documents
from idp_deploy.errors import FileError
from idp_deploy.flow import FormatName
from idp_deploy.formats.validation import KnownFormat
from idp_deploy.simulation.architectures import architecture
from idp_deploy.simulation.work import Workload, WorkOp, as_dtype

SUFFIXES = (".toml", ".json")
Extent = Annotated[int, Field(ge=1, le=1 << 24)]
Count = Annotated[int, Field(ge=0, le=1 << 50)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OpDescription(_Strict):
    """One operator, by its shapes or by its counts."""

    op_class: Literal["conv1x1", "conv", "depthwise", "linear", "elementwise", "pool", "memory"] = Field(alias="class")
    name: str = ""
    input: tuple[Extent, ...] = ()
    output: tuple[Extent, ...] = ()
    kernel: tuple[Extent, Extent] = (1, 1)
    stride: Extent = 1
    groups: Extent = 1
    bias: bool = True
    zeros: float = Field(default=0.0, ge=0, le=1)
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

    def work(self, index: int) -> WorkOp:
        """Float32; shapes fill in what is not counted."""
        read, written = self.input or self.output, self.output
        inputs = self.in_channels if self.in_channels is not None else (read[-1] if read else 0)
        outputs = self.out_channels if self.out_channels is not None else (written[-1] if written else 0)
        op_class: str = self.op_class
        weighted = op_class in ("conv1x1", "conv", "depthwise", "linear")
        kernel = self.kernel if op_class != "linear" else (1, 1)
        weights = self.weights
        if weights is None:
            weights = prod(kernel) * max(1, inputs // self.groups) * outputs if weighted else 0
        if op_class == "depthwise" and self.weights is None:
            weights = prod(kernel) * outputs
        if op_class == "conv":
            op_class = "depthwise" if self.groups == inputs > 1 else "conv1x1" if kernel == (1, 1) else "conv"
        positions = prod(written[:-1]) if written else 0
        macs = self.macs if self.macs is not None else weights * positions
        biases = self.biases if self.biases is not None else (outputs if weighted and self.bias else 0)
        return WorkOp(
            name=self.name or f"{index:03d}_{self.op_class}",
            op_class="elementwise" if op_class == "pool" else op_class,
            macs=macs, weights=weights, nonzero=weights - round(weights * self.zeros), biases=biases,
            stored_bytes=4 * (weights + biases), resident_bytes=4 * (weights + biases),
            input_bytes=4 * prod(read) if self.input_bytes is None else self.input_bytes,
            output_bytes=4 * prod(written) if self.output_bytes is None else self.output_bytes,
            kernel=kernel, stride=self.stride, in_channels=inputs, out_channels=outputs,
            sparse=self.sparse and weighted,
        )  # fmt: skip


class Description(_Strict):
    """A network."""

    name: str = ""
    architecture: str = ""
    dtype: Literal["float32", "float16", "int8"] = "float32"
    format: KnownFormat = "tflite"
    ops: tuple[OpDescription, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> Description:
        if bool(self.architecture) == bool(self.ops):
            raise ValueError("give either an architecture or a list of ops")
        return self


def read_description(path: Path) -> tuple[Workload, FormatName]:
    """The work a file describes, and the format whose runtime is meant.

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
        work = architecture(found.architecture)
    else:
        ops = tuple(op.work(index) for index, op in enumerate(found.ops))
        peak = max((op.activation_bytes for op in ops), default=0)
        work = Workload(found.name or path.stem, ops, peak)
    return (work if found.dtype == "float32" else as_dtype(work, found.dtype)), found.format
