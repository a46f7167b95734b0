"""Contents built by hand: what a reader would find, without a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy.flow import Contents, Estimate, GraphOp, Interval, StoredTensor, Value

V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def tensor(name: str, shape: tuple[int, ...], zeros: float = 0.0, dtype: str = "float32") -> StoredTensor:
    """A weight with a share of zeros; its values are never looked at."""
    size = int(np.prod(shape))
    width = {"float32": 4, "float16": 2, "int8": 1}[dtype]
    count = round(size * zeros)
    return StoredTensor(name, shape, dtype, "csr" if zeros else "dense", (size - count) * width, count,
                        lambda: np.zeros(shape, dtype), 8 * width)  # fmt: skip


class TFLite:
    """A sequential float32 graph in NHWC, one operator at a time."""

    def __init__(self, size: int = 224, channels: int = 3, path: Path = Path("net.tflite")) -> None:
        self.path = path
        self.values = {"input": Value("input", (1, size, size, channels), "float32")}
        self.tensors: list[StoredTensor] = []
        self.ops: list[GraphOp] = []
        self.current = "input"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values[self.current].shape

    def op(self, kind: str, shape: tuple[int, ...], *more: str, attributes: dict[str, Any] | None = None,
           weight: StoredTensor | None = None) -> TFLite:  # fmt: skip
        name = f"{len(self.ops):02d}_{kind.lower()}"
        weights = {}
        if weight is not None:
            self.tensors += [weight, tensor(f"{weight.name}.bias", (shape[-1],))]
            weights = {"weight": weight.name, "bias": f"{weight.name}.bias"}
        self.values[name] = Value(name, shape, "float32")
        self.ops.append(GraphOp(name, kind, (self.current, *more), (name,), attributes or {}, weights))
        self.current = name
        return self

    def pad(self, pixels: int = 1) -> TFLite:
        n, h, w, c = self.shape
        paddings = [[0, 0], [pixels, pixels], [pixels, pixels], [0, 0]]
        return self.op("PAD", (n, h + 2 * pixels, w + 2 * pixels, c), attributes={"paddings": paddings})

    def conv(self, out: int, kernel: int = 1, stride: int = 1, zeros: float = 0.0, padding: str = "VALID") -> TFLite:
        n, h, _, c = self.shape
        side = (h - kernel) // stride + 1 if padding == "VALID" else -(-h // stride)
        weight = tensor(f"w{len(self.ops)}", (out, kernel, kernel, c), zeros)
        return self.op("CONV_2D", (n, side, side, out), weight=weight,
                       attributes={"padding": padding, "stride_h": stride, "stride_w": stride})  # fmt: skip

    def depthwise(self, stride: int = 1, kernel: int = 3, padding: str = "explicit", multiplier: int = 1) -> TFLite:
        if padding == "explicit":
            self.pad(kernel // 2)
        n, h, _, c = self.shape
        side = (h - kernel) // stride + 1 if padding == "explicit" else -(-h // stride)
        attributes = {"padding": "SAME" if padding == "SAME" else "VALID", "stride_h": stride, "stride_w": stride,
                      "depth_multiplier": multiplier}  # fmt: skip
        weight = tensor(f"w{len(self.ops)}", (1, kernel, kernel, c * multiplier))
        return self.op("DEPTHWISE_CONV_2D", (n, side, side, c * multiplier), attributes=attributes, weight=weight)

    def mean(self, axes: tuple[int, ...] = (1, 2)) -> TFLite:
        return self.op("MEAN", (self.shape[0], self.shape[-1]), attributes={"axes": list(axes), "keep_dims": False})

    def linear(self, out: int, zeros: float = 0.0) -> TFLite:
        n, c = self.shape
        return self.op("FULLY_CONNECTED", (n, out), weight=tensor(f"w{len(self.ops)}", (out, c), zeros))

    def contents(self, **changes: Any) -> Contents:
        size = sum(t.size_bytes for t in self.tensors)
        found = Contents(self.path, "tflite", size, tuple(self.tensors), tuple(self.ops), self.values, ("input",),
                         (self.current,))  # fmt: skip
        return replace(found, **changes)


def mobilenet_v1(width: float = 1.0, zeros: float = 0.9, classifier: float = 0.0, size: int = 224) -> TFLite:
    """MobileNet-v1 with zeros in the 1×1 convolutions and in the classifier."""
    net = TFLite(size).pad(1).conv(round(32 * width), 3, 2)
    for channels, stride in V1:
        net.depthwise(stride).conv(round(channels * width), zeros=zeros)
    return net.mean().linear(1000, classifier)


def on_disk(net: TFLite, folder: Path) -> Contents:
    """Contents whose path exists, as simulate looks at its size."""
    path = folder / "net.tflite"
    path.write_bytes(b"\0" * 100)
    return net.contents(path=path)


def latency(estimate: Estimate) -> Interval:
    """The interval, where there has to be one."""
    assert estimate.latency_ms is not None, estimate.reason
    return estimate.latency_ms
