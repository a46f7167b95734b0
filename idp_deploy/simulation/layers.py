"""A pencil for networks: follow one tensor through layers and write down the work of each.

>>> net = Net("tiny", 8)
>>> net.conv(16, 3, 2).conv(32).mean().linear(10).workload().parameters
1322
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from idp_deploy.simulation.work import ACTIVATIONS, Workload, WorkOp

Shape = tuple[int, int, int]  # height, width, channels


class Net:
    """Float32, batch 1; `shape` is the current activation and may be set to go back to a fork.

    Padding follows the convolution: "same" gives ceil(extent / stride), "valid" drops the border, "ceil" keeps a
    last partial window (the pooling of SqueezeNet).
    """

    def __init__(self, name: str, height: int, channels: int = 3, width: int | None = None) -> None:
        self.name = name
        self.shape: Shape = (height, width or height, channels)
        self.ops: list[WorkOp] = []
        self.peak = 0

    def _elements(self) -> int:
        h, w, c = self.shape
        return h * w * c

    def _add(
        self,
        op_class: str,
        out: Shape,
        *,
        read: int | None = None,
        macs: int = 0,
        weights: int = 0,
        biases: int = 0,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        groups: int = 1,
        dtype: str = "float32",
    ) -> Net:
        read = self._elements() if read is None else read
        written = out[0] * out[1] * out[2]
        self.ops.append(
            WorkOp(
                name=f"{len(self.ops):03d}_{op_class}", op_class=op_class, macs=macs, weights=weights, nonzero=weights,
                biases=biases, stored_bytes=4 * (weights + biases), resident_bytes=4 * (weights + biases),
                input_bytes=4 * read, output_bytes=4 * written, dtype=dtype, kernel=kernel, stride=stride,
                in_channels=self.shape[2], out_channels=out[2], groups=groups,
            )
        )  # fmt: skip
        self.peak = max(self.peak, 4 * (read + written))
        self.shape = out
        return self

    def _window(self, kernel: tuple[int, int], stride: int, padding: str) -> tuple[int, int]:
        h, w, _ = self.shape
        if padding == "same":
            return -(-h // stride), -(-w // stride)
        if padding == "ceil":
            return -((kernel[0] - h) // stride) + 1, -((kernel[1] - w) // stride) + 1
        return (h - kernel[0]) // stride + 1, (w - kernel[1]) // stride + 1

    def conv(
        self,
        out: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        padding: str = "same",
        bias: bool = True,
        act: str = "relu",
    ) -> Net:
        """A convolution with its folded batch norm; `act` other than relu/linear is an operator of its own."""
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        h, w = self._window(kernel, stride, padding)
        c = self.shape[2]
        weights = kernel[0] * kernel[1] * (c // groups) * out
        op_class = "depthwise" if groups == c and groups > 1 else "conv1x1" if kernel == (1, 1) else "conv"
        self._add(
            op_class,
            (h, w, out),
            macs=h * w * weights,
            weights=weights,
            biases=out * bias,
            kernel=kernel,
            stride=stride,
            groups=1 if op_class == "depthwise" else groups,
        )
        return self.activation(act)

    def depthwise(self, kernel: int = 3, stride: int = 1, *, act: str = "relu", multiplier: int = 1) -> Net:
        """One filter a channel."""
        c = self.shape[2]
        return self.conv(c * multiplier, kernel, stride, groups=c, act=act)

    def linear(self, out: int, *, bias: bool = True) -> Net:
        """Fully connected over the channels of every position; flatten first where that is meant."""
        h, w, c = self.shape
        return self._add("linear", (h, w, out), macs=h * w * c * out, weights=c * out, biases=out * bias)

    def flatten(self) -> Net:
        """Free: a view."""
        self.shape = (1, 1, self._elements())
        return self

    def pointwise(self, operands: int = 1) -> Net:
        """Add, multiply, normalization: element by element over `operands` tensors."""
        return self._add("elementwise", self.shape, read=operands * self._elements())

    def activation(self, kind: str) -> Net:
        """A row of ACTIVATIONS: an operator of its own, or nothing where it belongs to the one before."""
        op_class = ACTIVATIONS[kind]
        return self._add(op_class, self.shape) if op_class else self

    def norm(self) -> Net:
        """A batch normalization that no convolution before it can take in: a scale and a shift a channel."""
        return self._add("elementwise", self.shape, read=self._elements(), biases=2 * self.shape[2])

    def pool(self, kernel: int = 2, stride: int = 2, *, padding: str = "same") -> Net:
        """Maximum or average."""
        h, w = self._window((kernel, kernel), stride, padding)
        return self._add("elementwise", (h, w, self.shape[2]), kernel=(kernel, kernel), stride=stride)

    def mean(self) -> Net:
        """Global average pooling."""
        return self._add("elementwise", (1, 1, self.shape[2]))

    def move(self, shape: Shape | None = None) -> Net:
        """Concatenate, shuffle, resize, transpose: no arithmetic, the result is `shape`."""
        out = shape or self.shape
        return self._add("memory", out, read=out[0] * out[1] * out[2])

    def matmul(self, out: int, inner: int, rows: int, repeats: int = 1) -> Net:
        """Activations times activations: `repeats` products of (rows, inner) by (inner, out)."""
        read = repeats * (rows * inner + inner * out)
        shape = (rows, 1, out * repeats)
        return self._add("linear", shape, read=read, macs=repeats * rows * inner * out)

    def branches(self, *paths: Callable[[Net], object]) -> Net:
        """Run each path from here and concatenate their channels."""
        start, channels = self.shape, 0
        for path in paths:
            self.shape = start
            path(self)
            channels += self.shape[2]
        return self.move((self.shape[0], self.shape[1], channels))

    def squeeze_excite(self, inner: int, *, gates: int = 2, act: str = "hard_sigmoid") -> Net:
        """Mean, two 1×1 convolutions, a gate, and the product with the input; `gates` extra activations."""
        start = self.shape
        self.mean().conv(inner).conv(start[2])
        for _ in range(gates - 1):
            self.activation(act)
        self.shape = start
        return self.pointwise(2)

    def residual(self, path: Callable[[Net], object], shortcut: Callable[[Net], object] | None = None) -> Net:
        """path(x) + shortcut(x), the shortcut being the identity by default."""
        start = self.shape
        path(self)
        if shortcut:
            self.shape, end = start, self.shape
            shortcut(self)
            self.shape = end
        return self.pointwise(2)

    def workload(self) -> Workload:
        """What was written down; peak activations are the largest input plus output of an operator."""
        return Workload(self.name, tuple(self.ops), peak_activation_bytes=self.peak)


def divisible(value: float, divisor: int = 8) -> int:
    """The MobileNet rounding of channel counts: nearest multiple, never losing more than a tenth.

    >>> divisible(32 * 0.35), divisible(24 * 0.75)
    (16, 24)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def each(net: Net, layers: Sequence[Callable[[Net], object]]) -> Net:
    """Apply layers in order."""
    for layer in layers:
        layer(net)
    return net
