"""Which channels of a file `prune --pattern channel` could take out, told from its graph, and the work without them.

The rules of `idp_deploy.channels`, on the careful side: channels go with those they are added to; what a norm over them
reads, what is reshaped among them, what attention or a recurrence reads, and what comes in or goes out stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from idp_deploy.flow import Contents, GraphOp
from idp_deploy.formats.operators import classes_of, is_channels_last
from idp_deploy.simulation.question import Loaded
from idp_deploy.simulation.work import WEIGHTED, Workload, WorkOp
from idp_deploy.simulation.workload import workload
from idp_deploy.widths import kept_channels

_OVER_CHANNELS = frozenset(
    ("LayerNormalization", "RMSNormalization", "GroupNormalization", "LpNormalization", "layer_norm", "l2_norm")
)
_LAYERS = ("convolution", "depthwise", "transposed", "product")
_THROUGH = ("fused", "elementwise", "piecewise", "transcendental", "pool", "pad", "quantizer", "dequantizer")
_JOINED = ("Concat", "CONCATENATION", "concat")
_RESIZED = frozenset(
    (
        "Resize", "Upsample", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "upsample_nearest_neighbor",
        "upsample_bilinear", "resize_bilinear", "resize_nearest_neighbor", "resize",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Removable:
    """The channels of one file that can go."""

    contents: Contents
    axes: Mapping[str, int]  # value → which of its axes they are
    readers: frozenset[str]  # operators whose first operand has some
    makers: frozenset[str]  # and whose result

    def without(self, loaded: Loaded, share: float) -> Loaded:
        """The file's work without this share of them."""
        left, values = 1 - share, dict(self.contents.values)
        for name, axis in self.axes.items():
            shape = list(values[name].shape)
            shape[axis] = kept_channels(shape[axis], left)
            values[name] = replace(values[name], shape=tuple(shape))
        thin = workload(replace(self.contents, values=values))
        ops = tuple(self._op(op, other, left) for op, other in zip(loaded.work.ops, thin.ops, strict=True))
        peak = min(thin.peak_activation_bytes, loaded.work.peak_activation_bytes)
        return replace(loaded, work=replace(loaded.work, ops=ops, peak_activation_bytes=peak))

    def _op(self, op: WorkOp, thin: WorkOp, left: float) -> WorkOp:
        inputs, outputs = (
            kept_channels(width, left) / width if op.name in names and width else 1.0
            for names, width in ((self.readers, op.in_channels), (self.makers, op.out_channels))
        )
        if op.weights:
            op = scaled(op, inputs=inputs, outputs=outputs, both=op.op_class != "depthwise")
        return replace(op, input_bytes=thin.input_bytes, output_bytes=thin.output_bytes)


def removable(contents: Contents, work: Workload) -> Removable:
    """Find them."""
    found = _Tracing(contents, work)
    axes = {name: axis for name, axis in found.axes.items() if found.root(name) not in found.fixed}
    readers = frozenset(op.name for op in contents.ops if op.inputs and op.inputs[0] in axes)
    makers = frozenset(op.name for op in contents.ops if not axes.keys().isdisjoint(op.outputs))
    return Removable(contents, axes, readers, makers)


class _Tracing:
    """Values joined where they hold the same channels, in the order of execution."""

    def __init__(self, contents: Contents, work: Workload) -> None:
        self.values, self.classes = contents.values, classes_of(contents.format)
        self.last = is_channels_last(contents.format)
        self.work = {op.name: op for op in work.ops}
        self.readers = Counter(op.weights.get("weight") for op in contents.ops)
        self.axes: dict[str, int] = {}  # of what layers make, and of what is made of that
        self._made: list[str] = []
        self._stays: set[str] = {*contents.inputs, *contents.outputs}
        self._parent: dict[str, str] = {}
        for op in contents.ops:
            found, work_op = self.classes.get(op.kind, "unknown"), self.work.get(op.name)
            if found in _LAYERS and op.weights and work_op and work_op.op_class in WEIGHTED:
                self._layer(op, found, work_op)
            elif any(name in self.axes for name in op.inputs):
                self._between(op, found)
        self._stays.update(
            name for op in contents.ops if op.kind in _JOINED for name in op.outputs if self._whole(name)
        )
        self.fixed = {self.root(name) for name in self._stays}

    def root(self, name: str) -> str:
        while name in self._parent:
            name = self._parent[name]
        return name

    def _layer(self, op: GraphOp, found: str, work: WorkOp) -> None:
        read, *others = op.inputs
        self._stays.update(others)
        if self.axes.get(read) != self._place(read, found):
            self._stays.add(read)
        for name in op.outputs:
            self.axes[name] = self._place(name, found)
        if work.op_class == "depthwise" and work.in_channels > 1:
            self._join(read, op.outputs[0])
            return
        self._made += op.outputs
        if work.groups > 1 or self.readers[op.weights.get("weight")] > 1:
            self._stays.update((*op.inputs, *op.outputs))

    def _whole(self, joined: str) -> bool:
        """Whether what was put together is flattened, or added to the whole that another layer makes."""
        axis = self.axes.get(joined, -1)
        alike = [name for name in self._made if axis >= 0 and self.root(name) == self.root(joined)]
        return any(self.values[name].shape[self.axes[name]] >= self.values[joined].shape[axis] for name in alike)

    def _between(self, op: GraphOp, found: str) -> None:
        """Of an operator without channels of its own."""
        read = [name for name in op.inputs if self._floats(name)]
        known = [name for name in read if name in self.axes]
        axis = self.axes[known[0]]
        after = {name: self._after(op, found, known[0], name) for name in op.outputs}
        if len(known) < len(read) or any(self.axes[name] != axis for name in known) or min(after.values()) < 0:
            self._stays.update((*known, *op.outputs))  # such as what a table's rows are added to
        for name, place in after.items():
            if place >= 0:
                self.axes[name] = place
                if self.values[name].shape[place] != self.values[known[0]].shape[axis] and found == "view":
                    self._made.append(name)
                for other in known:
                    self._join(other, name)

    def _after(self, op: GraphOp, found: str, before: str, name: str) -> int:
        """The axis of the channels of `before` in `name`; −1 where they do not go on one by one."""
        axis, turned = self.axes[before], op.attributes.get("perm")
        if not self._floats(name) or op.kind in _OVER_CHANNELS or self._sums(op, before):
            return -1
        if found in _THROUGH or op.kind in _JOINED or op.kind in _RESIZED:
            return axis if axis < len(self.values[name].shape) else -1
        if found == "memory" and isinstance(turned, (list, tuple)) and axis in turned:
            return list(turned).index(axis)
        return self._kept(before, name) if found in ("view", "reduction") else -1

    def _kept(self, before: str, after: str) -> int:
        """Where the channels still are when axes are gone, or those behind them have become one with them."""
        axis, old, new = self.axes[before], self.values[before].shape, self.values[after].shape
        if len(old) == len(new) and old[axis] == new[axis]:
            return axis
        front = [extent for extent in old[:axis] if extent not in (1, -1)]
        for place, extent in enumerate(new):
            ahead = [other for other in new[:place] if other not in (1, -1)]
            behind = prod(new[place + 1 :])
            if ahead in (front, []) and extent in (old[axis], prod(old[axis:])) and behind == 1:
                return place
        return -1

    def _sums(self, op: GraphOp, name: str) -> bool:
        """Whether it adds up the channels."""
        axes, rank = op.attributes.get("axes"), len(self.values[name].shape)
        return isinstance(axes, (list, tuple)) and self.axes[name] in {a % rank for a in axes if isinstance(a, int)}

    def _join(self, one: str, other: str) -> None:
        one, other = self.root(one), self.root(other)
        if one != other:
            self._parent[other] = one

    def _place(self, name: str, found: str) -> int:
        rank = len(self.values[name].shape) if name in self.values else 0
        return rank - 1 if self.last or found == "product" else 1

    def _floats(self, name: str) -> bool:
        return name in self.values and not self.values[name].dtype.startswith(("int32", "int64", "bool"))


def scaled(op: WorkOp, *, inputs: float = 1.0, outputs: float = 1.0, both: bool = True) -> WorkOp:
    """An operator with these shares of its channels left; without `both` its weights have one channel dimension."""
    share = inputs * outputs if both else outputs  # a depthwise weight has one channel, not two
    return replace(
        op,
        macs=round(op.macs * share),
        weights=round(op.weights * share),
        nonzero=round(op.nonzero * share),
        resident_bytes=round(op.resident_bytes * share),
        stored_bytes=round(op.stored_bytes * share),
        biases=round(op.biases * outputs),
        input_bytes=round(op.input_bytes * inputs),
        output_bytes=round(op.output_bytes * outputs),
        in_channels=round(op.in_channels * inputs),
        out_channels=round(op.out_channels * outputs),
    )
