"""The contents of a file → the work of one inference, after the fusions that every runtime of these formats does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod

from idp_deploy.flow import Contents, GraphOp, StoredTensor, Value
from idp_deploy.formats.layer_names import LayerNames
from idp_deploy.formats.operators import classes_of, is_channels_last
from idp_deploy.simulation.work import WEIGHTED, WIDTHS, Workload, WorkOp


def workload(contents: Contents) -> Workload:
    """One `WorkOp` for every operator that costs something, in execution order, batch 1.

    Views, ReLU-like activations behind an operator, explicit padding in front of a convolution and quantize pairs cost
    nothing of their own. An operator whose kind is in no table is counted as traffic alone, as "unknown", and listed.
    """
    return _Reading(contents).workload()


class _Reading:
    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.classes = classes_of(contents.format)
        self.tensors = {tensor.name: tensor for tensor in contents.tensors}
        self.makers = {name: op for op in contents.ops for name in op.outputs}
        self.readers: dict[str, list[GraphOp]] = {}
        for op in contents.ops:
            for name in op.inputs:
                self.readers.setdefault(name, []).append(op)
        self.layers = LayerNames(contents)
        self.integers = self._integers()
        self.unknown_extents = False

    def workload(self) -> Workload:
        ops, unknown = [], []
        for op in self.contents.ops:
            work = self._work(op)
            if work is not None:
                ops.append(work)
                if work.op_class == "unknown":
                    unknown.append(op.kind)
        notes = [f"{count} × {kind}: cost unknown" for kind, count in sorted(Counter(unknown).items())]
        if self.unknown_extents:
            notes.append("extents the file leaves open are taken as 1")
        return Workload(self.contents.path.stem, tuple(ops), self._peak(), tuple(unknown), tuple(notes))

    # ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _shape(self, name: str) -> tuple[int, ...]:
        value: Value | None = self.contents.values.get(name)
        shape = value.shape if value else ()
        if any(extent < 0 for extent in shape[1:]):
            self.unknown_extents = True
        return tuple(max(extent, 1) for extent in shape)

    def _width(self, name: str) -> int:
        value = self.contents.values.get(name)
        if self._quantized(name):
            return 1
        return WIDTHS.get(value.dtype, 4) if value else 4

    def _quantized(self, name: str) -> bool:
        """A float value that only exists between a dequantize and a quantize: the runtime keeps it in int8."""
        return name in self.integers

    def _integers(self) -> set[str]:
        """All of them: what is dequantized, and what an operator makes of such and quantizers alone read."""
        dequantized: set[str] = set()
        made: set[str] = set()  # by an operator on integers, with the cheap activations behind it
        for op in self.contents.ops:
            first = op.inputs[0] if op.inputs else ""
            if self._class(op) == "dequantizer" and first:
                dequantized.update(op.outputs)
            elif first in dequantized or (self._class(op) == "fused" and first in made):
                made.update(op.outputs)
        quantized: set[str] = set()  # by all that read them
        for op in reversed(self.contents.ops):
            for name in op.outputs:
                readers = self.readers.get(name, ())
                if readers and name not in self.contents.outputs and all(self._passes(r, quantized) for r in readers):
                    quantized.add(name)
        return dequantized | (made & quantized)

    def _passes(self, op: GraphOp, quantized: set[str]) -> bool:
        kind = self._class(op)
        return kind == "quantizer" or (kind == "fused" and all(name in quantized for name in op.outputs))

    def _bytes(self, names: tuple[str, ...]) -> int:
        return sum(prod(self._shape(name)) * self._width(name) for name in names)

    def _dtype(self, op: GraphOp, weight: StoredTensor | None) -> str:
        """Of the arithmetic: that of the activations; int8 between quantize pairs only with integer weights."""
        if not op.inputs:
            return "float32"
        if self._quantized(op.inputs[0]):
            return "int8" if weight is None or weight.dtype in ("int8", "uint8") else "float32"
        value = self.contents.values.get(op.inputs[0])
        dtype = value.dtype if value else "float32"
        return dtype if dtype in WIDTHS else "float32"

    # ── operators ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _weights(self, op: GraphOp) -> tuple[StoredTensor | None, int]:
        """The large constant of an operator and how many entries its other constants have."""
        tensors = [self.tensors[name] for name in op.weights.values() if name in self.tensors]
        named = op.weights.get("weight")
        main = self.tensors.get(named) if named else max(tensors, key=lambda t: t.size, default=None)
        return main, sum(t.size for t in tensors if t is not main)

    def _class(self, op: GraphOp) -> str:
        return self.classes.get(op.kind, "")

    def _fused(self, op: GraphOp) -> bool:
        found = self._class(op)
        if found in ("view", "quantizer", "dequantizer"):
            return True
        if found == "fused":
            maker = self.makers.get(op.inputs[0]) if op.inputs else None
            return maker is not None and len(self.readers.get(op.inputs[0], ())) == 1
        if found == "pad":
            after = [self._class(reader) for name in op.outputs for reader in self.readers.get(name, ())]
            return bool(after) and all(reader in ("convolution", "depthwise", "pool") for reader in after)
        return False

    def _work(self, op: GraphOp) -> WorkOp | None:
        if self._fused(op):
            return None
        weight, biases = self._weights(op)
        bits = weight.value_bits if weight else 0.0
        shape = self._shape(op.outputs[0]) if op.outputs else ()
        first = self._shape(op.inputs[0]) if op.inputs else ()
        try:
            op_class, macs, kernel, stride, channels = self._arithmetic(op, weight, first, shape)
        except (
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
        ):  # shapes and attributes that contradict each other
            op_class, macs, kernel, stride, channels = "unknown", 0, (1, 1), 1, (0, 0)
        if op_class not in WEIGHTED and weight is not None:
            biases, weight = biases + weight.size, None
        dtype = self._dtype(op, weight)
        width = WIDTHS.get(dtype, 4)
        tensors = [self.tensors[name] for name in op.weights.values() if name in self.tensors]
        weights = weight.size if weight else 0
        return WorkOp(
            name=op.name, op_class=op_class, macs=macs, weights=weights,
            nonzero=weight.size - weight.zeros if weight else 0, biases=biases,
            stored_bytes=sum(t.size_bytes for t in tensors), stored_bits=bits,
            resident_bytes=(weights + biases) * width,
            input_bytes=self._bytes(op.inputs), output_bytes=self._bytes(op.outputs), dtype=dtype, kernel=kernel,
            stride=stride, in_channels=channels[0], out_channels=channels[1],
            groups=_groups(op_class, weights, kernel, channels), layer=self.layers.of(op),
        )  # fmt: skip

    def _arithmetic(
        self, op: GraphOp, weight: StoredTensor | None, first: tuple[int, ...], shape: tuple[int, ...]
    ) -> tuple[str, int, tuple[int, int], int, tuple[int, int]]:
        found, attributes = self._class(op), op.attributes
        none = (1, 1), 1, (0, 0)
        if found in ("convolution", "depthwise", "transposed") and weight is not None and len(first) >= 3:
            return self._convolution(op, weight, first, shape)
        if found == "product" and first and shape:
            if weight is not None:
                outputs = shape[-1] if weight.size % shape[-1] == 0 else 1
                return "linear", weight.size // outputs * prod(shape), (1, 1), 1, (weight.size // outputs, outputs)
            flipped = attributes.get("transpose_x") or attributes.get("adj_x") or attributes.get("transA")
            inner = first[-2] if flipped and len(first) > 1 else first[-1]
            return "linear", inner * prod(shape), (1, 1), 1, (inner, shape[-1])
        if found == "attention" and first and len(op.inputs) > 1:
            keys = self._shape(op.inputs[1])
            return "linear", 2 * prod(first) * keys[-2], (1, 1), 1, (first[-1], shape[-1] if shape else 0)
        if found == "recurrence" and first:
            return "unknown", prod(first[:-1]) * self._recurrent(op), *none
        if found == "pool":
            return ("elementwise", 0, *_window(attributes), (0, 0))
        if found in ("transcendental", "normalizing", "piecewise"):
            return (found, 0, *none)
        if found in ("reduction", "elementwise", "fused"):
            return ("elementwise", 0, *none)
        if found in ("memory", "table", "pad"):
            return ("memory", 0, *none)
        return ("unknown", 0, *none)

    def _recurrent(self, op: GraphOp) -> int:
        """Weights that one step multiplies: all matrices but the first state."""
        matrices = [
            t
            for key, name in op.weights.items()
            if (t := self.tensors.get(name)) and not key.startswith(("bias", "initial"))
        ]
        return sum(tensor.size for tensor in matrices if len(tensor.shape) > 1)

    def _convolution(
        self, op: GraphOp, weight: StoredTensor, first: tuple[int, ...], shape: tuple[int, ...]
    ) -> tuple[str, int, tuple[int, int], int, tuple[int, int]]:
        last = is_channels_last(self.contents.format)
        inputs, outputs = (first[-1], shape[-1]) if last else (first[1], shape[1] if len(shape) > 1 else 1)
        sides = weight.shape[1:3] if last else weight.shape[2:4]
        kernel = (sides[0], sides[1]) if len(sides) > 1 else (1, sides[0] if sides else 1)
        _, stride = _window(op.attributes)
        across = first if self._class(op) == "transposed" else shape
        positions = prod(across) // max(1, across[-1] if last else across[1])
        macs = weight.size * positions
        a_channel = weight.size // max(1, kernel[0] * kernel[1] * outputs)  # input channels a filter sees
        found = self._class(op)
        if found == "depthwise" or (a_channel == 1 and inputs > 1 and found != "transposed"):
            return "depthwise", macs, kernel, stride, (inputs, outputs)
        return "conv1x1" if kernel == (1, 1) else "conv", macs, kernel, stride, (inputs, outputs)

    # ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _peak(self) -> int:
        """The most bytes of activations alive at once, a value living from its maker to its last reader."""
        root: dict[str, str] = {}
        for op in self.contents.ops:
            if self._fused(op) and op.inputs and self._class(op) != "pad":
                for name in op.outputs:
                    root[name] = root.get(op.inputs[0], op.inputs[0])
        last: dict[str, int] = {}
        for index, op in enumerate(self.contents.ops):
            for name in op.inputs:
                last[root.get(name, name)] = index
        end = len(self.contents.ops)
        for name in self.contents.outputs:
            last[root.get(name, name)] = end
        alive = {name: self._bytes((name,)) for name in self.contents.inputs}
        peak = sum(alive.values())
        for index, op in enumerate(self.contents.ops):
            for name in op.outputs:
                if name not in root:
                    alive[name] = self._bytes((name,))
            peak = max(peak, sum(alive.values()))
            alive = {name: size for name, size in alive.items() if last.get(name, -1) > index}
        return peak


def _groups(op_class: str, weights: int, kernel: tuple[int, int], channels: tuple[int, int]) -> int:
    """Of a convolution: its input channels over those that one filter sees."""
    if op_class not in ("conv", "conv1x1") or not weights:
        return 1
    a_filter = weights // max(1, kernel[0] * kernel[1] * channels[1])
    return max(1, channels[0] // max(1, a_filter))


def _window(attributes: Mapping[str, object]) -> tuple[tuple[int, int], int]:
    """Kernel sides and stride, whichever words the format uses."""
    sides = attributes.get("kernel_shape") or attributes.get("kernel_sizes")
    if isinstance(sides, (list, tuple)) and sides:
        kernel = (int(sides[0]), int(sides[-1]))
    else:
        kernel = (_number(attributes.get("filter_height")), _number(attributes.get("filter_width")))
    strides = attributes.get("strides")
    stride = strides[0] if isinstance(strides, (list, tuple)) and strides else attributes.get("stride_h")
    return kernel, _number(stride)


def _number(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) and value >= 1 else 1
