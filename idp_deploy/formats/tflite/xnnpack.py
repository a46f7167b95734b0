"""Which weights XNNPACK runs with sparse kernels, and which rule the others break.

The rules are those of `xnn_subgraph_optimize` in XNNPACK's src/subgraph.c and of the LiteRT delegate: a cluster that
begins with a 3×3 stride-2 convolution of an RGB image, goes on with 1×1 convolutions, depthwise convolutions,
additions and multiplications, ends in a mean over space, and holds more than two thirds zeros in the weights of its
1×1 convolutions and fully connected layers together. The delegate asks for it only where a weight comes through
DENSIFY, that is, is stored sparse. It is off on x86 with AVX.
"""

from __future__ import annotations

from collections.abc import Iterator

from idp_deploy.flow import Contents, GraphOp, StoredTensor
from idp_deploy.formats.sparse_kernels import Finding, SparseLint
from idp_deploy.formats.tflite.words import WORDS

THRESHOLD = 2 / 3
MICRO = "tflm"
MOVABLE = ("elementwise", "piecewise", "transcendental", "normalizing", "fused", "memory", "table")  # classes
ADDING = frozenset({"ADD", "MUL"})
POINTWISE = frozenset(
    (
        "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "HARD_SWISH", "LOGISTIC", "LEAKY_RELU", "ELU", "ABS", "NEG",
        "SQUARE", "ROUND", "FLOOR", "CEIL", "SUB",
    )
)  # fmt: skip


def lint(contents: Contents) -> SparseLint:
    """Apply every rule."""
    if any(tensor.encoding == MICRO for tensor in contents.tensors):
        message = "its weights lie behind TFLM_DECODE, which TensorFlow Lite Micro alone unpacks"
        finding = Finding("registered", contents.path.name, message, "export without --encoding tflm for phones")
        return SparseLint(False, (), 0.0, (finding,))
    graph = _Graph(contents)
    cluster, findings = graph.cluster()
    counted = [t for op in cluster if (t := graph.weight(op)) is not None and graph.counts(op)]
    total, zeros = sum(t.size for t in counted), sum(t.zeros for t in counted)
    share = zeros / total if total else 0.0
    candidates = tuple(op.name for op in cluster if graph.is_1x1(op))
    if not findings and not candidates:
        findings = [
            Finding(
                "no 1×1 convolution",
                contents.path.name,
                "nothing here has sparse kernels",
                "use 1×1 convolutions, as MobileNets do",
            )
        ]
    if not findings and share <= THRESHOLD:
        findings = [graph.too_dense(counted, share, total, zeros, cluster)]
    if not findings and not any(tensor.is_sparse for tensor in counted):
        findings = [
            Finding(
                "stored sparse",
                candidates[0],
                "the zeros are stored dense: no weight comes through DENSIFY",
                "export with sparse encodings (--encoding auto)",
            )
        ]
    runs = not findings
    return SparseLint(runs, candidates if runs else (), share, tuple(findings))


class _Graph:
    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.tensors = {tensor.name: tensor for tensor in contents.tensors}
        self.readers: dict[str, list[GraphOp]] = {}
        for op in contents.ops:
            for name in op.inputs:
                self.readers.setdefault(name, []).append(op)

    def weight(self, op: GraphOp) -> StoredTensor | None:
        return self.tensors.get(op.weights.get("weight", ""))

    def is_1x1(self, op: GraphOp) -> bool:
        weight = self.weight(op)
        return op.kind == "CONV_2D" and weight is not None and weight.shape[1:3] == (1, 1)

    def counts(self, op: GraphOp) -> bool:
        """Fully connected weights count in the two thirds as 1×1 convolutions do."""
        return self.is_1x1(op) or op.kind == "FULLY_CONNECTED"

    def too_dense(
        self, counted: list[StoredTensor], share: float, total: int, zeros: int, cluster: list[GraphOp]
    ) -> Finding:
        worst = max(counted, key=lambda t: t.size - t.zeros, default=None)
        dense = next((op for op in cluster if self.weight(op) is worst), None) if worst else None
        name = dense.name if dense else self.contents.path.name
        message = (
            f"{zeros:,} of the {total:,} weights of the 1×1 convolutions and fully connected layers are zero "
            f"({share:.3f}); XNNPACK goes sparse above {THRESHOLD:.3f}"
        )
        fix = (
            f"prune further, first '{worst.name}' ({worst.zeros / max(1, worst.size):.2f} zeros)" if worst else "prune"
        )
        return Finding("two thirds of the cluster", name, message, fix)

    # ── the cluster ─────────────────────────────────────────────────────────────────────────────────────────────────

    def cluster(self) -> tuple[list[GraphOp], list[Finding]]:
        """The operators from the stem to the mean with the layers after it, and what keeps them from it."""
        ops = [op for op in self.contents.ops if op.kind not in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")]
        stem = next((i for i, op in enumerate(ops) if op.kind == "CONV_2D"), None)
        if stem is None:
            missing = "it has no CONV_2D"
            return [], [
                Finding("stem", self.contents.path.name, missing, "sparse kernels need a convolutional network")
            ]
        findings = list(self._stem(ops[stem], ops[:stem]))
        cluster, inside, ended = [ops[stem]], set(ops[stem].outputs), False
        end_values: tuple[str, ...] = ()
        for op in ops[stem + 1 :]:
            if ended:
                if late := [name for name in op.inputs if name in inside - set(end_values)]:
                    findings.append(
                        Finding(
                            "outside use",
                            op.name,
                            f"reads '{late[0]}' of the cluster after its mean",
                            "read the mean alone",
                        )
                    )
                if op.kind == "FULLY_CONNECTED" or self.is_1x1(op):
                    cluster.append(op)
                continue
            findings += self._inside(op, inside)
            cluster.append(op)
            inside |= set(op.outputs)
            ended = op.kind == "MEAN"
            end_values = op.outputs
        if not ended:
            findings.append(
                Finding(
                    "end",
                    ops[-1].name,
                    "the cluster does not end in a mean over space",
                    "end in AdaptiveAvgPool2d(1) and flatten",
                )
            )
        outputs = inside & set(self.contents.outputs)
        findings += [
            Finding(
                "graph output", name, f"'{name}' leaves the graph from inside the cluster", "flatten or project first"
            )
            for name in sorted(outputs)
        ]
        findings += list(self._types(cluster))
        return cluster, findings

    def _shape(self, name: str) -> tuple[int, ...]:
        value = self.contents.values.get(name)
        return value.shape if value else ()

    def _padding(self, op: GraphOp, before: list[GraphOp]) -> int | None:
        """Pixels added on every side by the PAD in front; 0 for VALID without one; None for SAME or uneven."""
        attributes = op.attributes
        if attributes.get("padding") == "SAME":
            return None
        for other in before:
            if other.kind == "PAD" and op.inputs and op.inputs[0] in other.outputs:
                pads = other.attributes.get("paddings")
                rows = [tuple(row) for row in pads] if isinstance(pads, (list, tuple)) else []
                same = len(rows) == 4 and rows[1] == rows[2] and rows[1][0] == rows[1][1]
                return int(rows[1][0]) if same else None
        return 0

    def _stem(self, op: GraphOp, before: list[GraphOp]) -> Iterator[Finding]:
        weight, attributes = self.weight(op), op.attributes
        shape = weight.shape if weight else ()
        strides = (attributes.get("stride_h"), attributes.get("stride_w"))
        sides = "×".join(map(str, shape[1:3]))
        if 1 in shape[1:3] and max(shape[1:3]) > 1:
            yield Finding(
                "stem",
                op.name,
                f"the first convolution ({sides}) reads a sequence; sparse kernels are for images alone",
                "zeros save bytes here; for time remove channels: prune --pattern channel",
            )
        elif len(shape) != 4 or shape[1:3] != (3, 3) or strides != (2, 2):
            yield Finding(
                "stem",
                op.name,
                f"the first convolution is {sides} with stride {strides[0]}, not 3×3 with stride 2",
                "begin with Conv2d(3, n, 3, stride=2, padding=1)",
            )
        elif shape[3] != 3:
            yield Finding(
                "stem", op.name, f"the first convolution reads {shape[3]} channels, not 3", "repeat a grey image to RGB"
            )
        elif self._padding(op, before) != 1:
            yield Finding(
                "stem",
                op.name,
                "the first convolution is not padded by 1 on every side",
                "padding=1 in torch, written as PAD and VALID",
            )

    def _inside(self, op: GraphOp, inside: set[str]) -> Iterator[Finding]:
        known = [name for name in op.inputs if name in self.contents.values]
        outside = [name for name in known if name not in inside]
        kind, attributes = op.kind, op.attributes
        if kind == "PAD":
            after = [reader for name in op.outputs for reader in self.readers.get(name, ())]
            larger = any(reader.kind == "CONV_2D" and not self.is_1x1(reader) for reader in after)  # told of itself
            if not larger and {reader.kind for reader in after} != {"DEPTHWISE_CONV_2D"}:
                yield Finding(
                    "operator",
                    op.name,
                    "PAD in front of something else than a depthwise convolution",
                    "pad depthwise convolutions alone",
                )
        elif kind == "CONV_2D":
            if not self.is_1x1(op):
                sides = "×".join(map(str, (self.weight(op) or StoredShape).shape[1:3]))
                yield Finding("1×1", op.name, f"a {sides} convolution inside the cluster", "use 1×1 or depthwise ones")
            elif (attributes.get("stride_h", 1), attributes.get("stride_w", 1)) != (1, 1):
                yield Finding("1×1", op.name, "a 1×1 convolution with a stride", "move the stride to a depthwise one")
            elif (weight := self.weight(op)) is not None and weight.shape[3:] != self._shape(op.inputs[0])[-1:]:
                yield Finding("1×1", op.name, "a grouped 1×1 convolution", "use groups=1")
        elif kind == "DEPTHWISE_CONV_2D":
            yield from self._depthwise(op)
        elif kind == "MEAN":
            axes = attributes.get("axes")
            if isinstance(axes, (list, tuple)) and {a % 4 for a in axes} != {1, 2}:
                yield Finding("end", op.name, f"a mean over axes {list(axes)}", "average over height and width alone")
        elif kind in ADDING:
            if any(len(self._shape(name)) != 4 for name in (*known, *op.outputs)) or op.weights:
                yield Finding("operator", op.name, f"{kind} of something else than two 4-D activations", "keep 4-D")
        elif kind not in POINTWISE:
            known_word = any(kind in WORDS.get(name, "").split() for name in MOVABLE)
            fix = "replace it, or move it after the mean" if known_word else "XNNPACK does not know it"
            yield Finding("operator", op.name, f"{kind} is not allowed inside the cluster", fix)
        if outside and kind != "PAD":
            yield Finding("outside input", op.name, f"reads '{outside[0]}', made outside the cluster", "keep one input")

    def _depthwise(self, op: GraphOp) -> Iterator[Finding]:
        weight, attributes = self.weight(op), op.attributes
        sides = weight.shape[1:3] if weight else ()
        strides = (attributes.get("stride_h", 1), attributes.get("stride_w", 1))
        before = [other for other in self.contents.ops if other.kind == "PAD"]
        if sides not in ((3, 3), (5, 5)):
            yield Finding("depthwise", op.name, f"a depthwise kernel of {'×'.join(map(str, sides))}", "use 3×3 or 5×5")
        elif attributes.get("depth_multiplier", 1) not in (0, 1):
            yield Finding("depthwise", op.name, "a depth multiplier above 1", "one filter a channel")
        elif strides not in ((1, 1), (2, 2)):
            yield Finding("depthwise", op.name, f"strides {strides}", "equal strides of 1 or 2")
        elif self._padding(op, before) != sides[0] // 2 and not (
            strides == (1, 1) and attributes.get("padding") == "SAME"
        ):
            yield Finding(
                "depthwise",
                op.name,
                f"not padded by {sides[0] // 2} on every side (SAME with a stride pads unevenly)",
                f"padding={sides[0] // 2} in torch",
            )

    def _types(self, cluster: list[GraphOp]) -> Iterator[Finding]:
        for op in cluster:
            value = self.contents.values.get(op.inputs[0]) if op.inputs else None
            if value is not None and value.dtype not in ("float32", "float16"):
                yield Finding(
                    "float",
                    op.name,
                    f"{value.dtype} arithmetic has no sparse kernels",
                    "quantize weights only (int8-weights) to keep the speed",
                )
                return


class StoredShape:
    """Stands in for a weight that the file does not name."""

    shape = ("?", "?", "?", "?")
