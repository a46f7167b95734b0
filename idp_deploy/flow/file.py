"""A file on disk, and what is read back from it. Names of formats and of what files carry stand here as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


FormatName = str  # a row of `formats.FORMATS`: onnx, coreml, tflite
INSIDE = "inside."  # before the role of a weight that an operator's body reads, where its operators are not listed
MANIFEST_KEY = "idp_deploy"  # of our provenance in a file's metadata


@dataclass(frozen=True)
class Artifact:
    """A file on disk that a stage wrote or was given. `manifest` is provenance carried inside the file, or {}."""

    path: Path
    format: FormatName
    size_bytes: int
    manifest: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was not done: layers left float, tensors left dense and why
    unread: tuple[str, ...] = ()  # pruned weights that no output depends on (a teacher, a head): in no file

    def __fspath__(self) -> str:
        """Its path, so that it can be given wherever a path can."""
        return str(self.path)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One weight as it lies in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # of the decoded values: float32, float16, int8, uint8, int64, …
    encoding: str  # dense | bitmask | gaps8 | gaps5 | gaps4 | csr | sparse_initializer | sparse+lut4 …
    size_bytes: int  # everything stored for it: values, positions, scales
    zeros: int  # exact zeros after decoding (for integers: entries equal to the zero point)
    values: Callable[[], np.ndarray]  # decodes on demand, in `dtype`, logical shape
    value_bits: float = 32.0  # bits a stored value takes (palette: index bits)
    dequantize: Callable[[], np.ndarray] | None = None  # float32 view of an integer or palette tensor

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.shape)

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
    has_rank: bool = True  # False where the file does not say how many axes there are; the shape is then ()


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
    beside: tuple[GraphOp, ...] = ()  # of further functions in the same file, which a call of the first does not run
    signature: str | None = None  # of the function that a session calls where it is not the first

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
    def unsized(self) -> str:
        """Why nothing that depends on the size of inputs can be told; empty where that is given, the batch left out."""
        given = (self.values[name] for name in self.inputs if name in self.values)
        names = ", ".join(f"'{value.name}'" for value in given if any(extent < 0 for extent in value.shape[1:]))
        return f"the file leaves open how large {names} is: export it with the sizes it will run at" if names else ""

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
