"""The files that bench.compat_onnx shows to other tools: the zoo and one network a consumer, by scheme and encoding.

The networks of the zoo are small, and so are their weights: most of them share decode nodes. Those here have one weight
large enough that each encoding pays for itself, read by one kind of operator each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.errors import IdpDeployError
from idp_deploy.exporting import Conversion, convert, store
from idp_deploy.formats.onnx.run import AS_WRITTEN
from idp_deploy.quantization import quantize
from tests.zoo import ZOO, Entry, floats, pruned, tokens

SCHEMES = ("float32", "fp16", "int8-weights", "lut4", "int8")
ENCODINGS = ("dense", "auto", "portable", "bitmask", "gaps8", "gaps5", "gaps4", "sparse-initializer")
USUAL = ENCODINGS[:3]
# the zoo in what users take; one network a consumer in every encoding
OF_ZOO = dict.fromkeys(("float32", "fp16", "int8"), USUAL)
OF_CONSUMERS = dict.fromkeys(SCHEMES, USUAL) | dict.fromkeys(("float32", "int8"), ENCODINGS)
Case = dict[str, Any]


class Classified(nn.Module):
    """One large layer and a small one that reads what it gives, so that outputs depend on all of it."""

    def __init__(self, layer: nn.Module, width: int, *, last: bool = False) -> None:
        super().__init__()
        self.layer, self.out, self.last = layer, nn.Linear(width, 7), last

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y = y[0] if isinstance(y, tuple) else y
        if not self.last:  # channels come second
            y = y.flatten(2).mean(2) if y.dim() > 2 else y
        return self.out(torch.relu(y))


class Products(nn.Module):
    """A matrix on the left, and one matrix for each of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.batch = nn.Parameter(torch.randn(96, 64)), nn.Parameter(torch.randn(4, 24, 96))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.batch, torch.matmul(self.left, x).relu().unsqueeze(1)).flatten(1)


class Tables(nn.Module):
    """Rows of a table by words, and positions that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(400, 48), nn.Parameter(torch.randn(1, 12, 48))
        self.out = nn.Linear(48, 6)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.words(ids) + self.positions)


class InWindows(nn.Module):
    """Attention within windows of a map, whose queries are made in the windows' six dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.out = nn.Linear(24, 72), nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unflatten(1, (2, 4)).unflatten(3, (2, 4)).transpose(2, 3)
        q, k, v = self.queries(windows).reshape(-1, 4, 16, 3, 2, 12).permute(3, 0, 1, 4, 2, 5).unbind(0)
        seen = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(2, 3)
        return self.out(seen.reshape(-1, 2, 2, 4, 4, 24).transpose(2, 3).reshape(x.shape))


class Resized(nn.Module):
    """A map that grows by a factor, by a size, and by the nearest, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((8, 24), (24, 24), (24, 24), (24, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(torch.relu(self.layers[0](x)), scale_factor=2.0, mode="bilinear")
        x = F.interpolate(torch.relu(self.layers[1](x)), size=(15, 17), mode="bilinear", align_corners=True)
        x = F.interpolate(torch.relu(self.layers[2](x)), scale_factor=2, mode="nearest")
        out: Tensor = self.layers[3](x)
        return out


class Repeated(nn.Module):
    """One tensor under two names, and one that is an output and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.first(x))
        scores = self.second(hidden)
        return {"hidden": hidden, "scores": scores, "again": scores}


class Stacked(nn.Module):
    """Two recurrent layers in both directions, whose last states are an output."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.layers, self.out = kind(20, 24, 2, batch_first=True, bidirectional=True), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.layers(x)
        return self.out(y), state if isinstance(state, Tensor) else state[0]


def _classified(width: int, layer: Callable[[], nn.Module], *, last: bool = False) -> Callable[[], nn.Module]:
    return lambda: Classified(layer(), width, last=last)


CONSUMERS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("conv", _classified(96, lambda: nn.Conv2d(24, 96, 3)), floats(24, 8, 8)),
        Entry("conv_grouped", _classified(96, lambda: nn.Conv2d(64, 96, 3, groups=4)), floats(64, 6, 6)),
        Entry("conv_depthwise", _classified(256, lambda: nn.Conv2d(256, 256, 7, groups=256)), floats(256, 9, 9)),
        Entry("conv_1d", _classified(96, lambda: nn.Conv1d(40, 96, 5)), floats(40, 20)),
        Entry("conv_3d", _classified(48, lambda: nn.Conv3d(16, 48, 3)), floats(16, 5, 5, 5)),
        Entry("conv_transposed", _classified(64, lambda: nn.ConvTranspose2d(32, 64, 3, 2)), floats(32, 5, 5)),
        Entry("gemm", _classified(200, lambda: nn.Linear(96, 200)), floats(96)),
        Entry("matmul", _classified(200, lambda: nn.Linear(96, 200, bias=False), last=True), floats(5, 96)),
        Entry("matmul_batched", Products, floats(64, 5)),
        Entry("gather", Tables, tokens(12, 400)),
        Entry("rnn", _classified(80, lambda: nn.RNN(60, 80, batch_first=True), last=True), floats(6, 60)),
        Entry("gru_one", _classified(64, lambda: nn.GRU(48, 64, batch_first=True), last=True), floats(6, 48)),
        Entry("lstm_one", _classified(48, lambda: nn.LSTM(48, 48, batch_first=True), last=True), floats(6, 48)),
    )
}
# what converters and tools write in several ways
COMPOSED: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("in_windows", InWindows, floats(8, 8, 24)),
        Entry("resized", Resized, floats(8, 6, 7)),
        Entry("repeated_output", Repeated, floats(48)),
        Entry("stacked_gru", lambda: Stacked(nn.GRU), floats(6, 20)),
        Entry("stacked_lstm", lambda: Stacked(nn.LSTM), floats(6, 20)),
    )
}
NETWORKS = ZOO | CONSUMERS | COMPOSED


def write_cases(networks: Iterable[str], folder: Path, schemes: Collection[str] = SCHEMES) -> dict[str, Case]:
    """Every network × scheme × encoding, beside its input and what onnxruntime makes of the scheme's dense file.

    A case whose graph is that of an earlier encoding, byte for byte, has no file: `same` names that one.
    """
    cases: dict[str, Case] = {}
    for network in networks:
        entry = NETWORKS[network]
        model, inputs = pruned(entry), entry.example_inputs()
        for scheme, encodings in (OF_CONSUMERS if network in CONSUMERS else OF_ZOO).items():
            if scheme not in schemes:
                continue
            try:
                ready = model if scheme == "float32" else quantize(model, scheme, example_inputs=inputs)
                conversion = convert(ready, "onnx", inputs)
            except IdpDeployError as error:
                print(f"{network} {scheme} is not exported: {error}", flush=True)
                continue
            wanted: dict[str, np.ndarray] = {}
            seen: dict[bytes, str] = {}
            for encoding in encodings:
                name = f"{network}-{scheme}-{encoding}"
                artifact = store(encoded(conversion, encoding), folder / f"{name}.onnx")
                described = {key: artifact.manifest[key] for key in ("inputs", "outputs")}
                arrays = {f"input_{i}": x.numpy() for i, x in enumerate(inputs)}
                if encoding == "dense":
                    wanted = answers(
                        artifact.path,
                        described["outputs"],
                        dict(zip(described["inputs"], arrays.values(), strict=True)),
                    )
                cases[name] = {"network": network, "scheme": scheme, "encoding": encoding, "bytes": artifact.size_bytes}
                digest = blake2b(onnx.load(artifact.path).graph.SerializeToString(deterministic=True)).digest()
                if digest in seen:
                    cases[name]["same"] = seen[digest]
                    continue
                seen[digest] = name
                (folder / f"{name}.json").write_text(json.dumps(described))
                np.savez(folder / f"{name}.npz", **arrays, **wanted)  # type: ignore[arg-type]
    return cases


def answers(path: Path, outputs: list[str], feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime makes of a file: `exact_I` as it is written, `usual_I` with products of 8 bits as this CPU adds
    them, which without VNNI cuts sums off at 16."""
    found: dict[str, np.ndarray] = {}
    for word, entry in {"exact": AS_WRITTEN, "usual": ("", "")}.items():
        options = onnxruntime.SessionOptions()
        if all(entry):
            options.add_session_config_entry(*entry)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found |= {f"{word}_{i}": x for i, x in enumerate(session.run(outputs, feed))}
    return found


def encoded(conversion: Conversion, encoding: str) -> Conversion:
    """The same conversion, stored in another encoding."""
    source = replace(conversion.converted.source, encoding=encoding)
    options = {**conversion.options, "encoding": encoding}
    return replace(conversion, options=options, converted=replace(conversion.converted, source=source))


def distinct(cases: dict[str, Case]) -> Iterator[str]:
    """The cases that have a file of their own."""
    return (name for name, case in cases.items() if "same" not in case)
