"""Good files to damage: a small network through every format and scheme, and the texts the command line reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.loading import load_any, save_checkpoint
from idp_deploy.quantization import quantize

SCHEMES: dict[FormatName, tuple[str, ...]] = {
    "onnx": ("", "fp16", "int8-weights", "int8", "lut4"),
    "tflite": ("", "fp16", "int8-weights", "int8"),
    "coreml": ("", "fp16", "int8-weights", "int8", "lut4"),
}
FACTORY = "tests.fuzzing.seeds:net"
INPUTS = (torch.linspace(-1, 1, 2 * 8 * 8).reshape(1, 2, 8, 8).sin(),)
ZEROS = 0.8
MANIFESTS = "int8-weights"  # the scheme of the files whose manifests are damaged: all formats have it

CONFIGURATION = """\
# comments stay
model = "tests.fuzzing.seeds:net"
targets = ["pixel-4", "raspberry-pi-4"]
output = "build"

[prune]
target = 0.9
epochs = 8
rules = { "head.*" = "2:4" }

[budgets.pixel-4.onnx]
size = "2.5 MB"
latency = "4 ms"
sparsity = "10 %"

[budgets.raspberry-pi-4.tflite]
size = "2 MB"
"""


class Net(nn.Module):
    """A convolution with batch norm, a depthwise one, a product in the graph and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 24, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, groups=24)
        self.wide = nn.Conv2d(24, 32, 1)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.wide(torch.relu(self.depthwise(x))))
        return self.head(x.mean((2, 3)) * 1.5 + 0.25)


def net() -> Net:
    """The network with weights that answer to their inputs."""
    torch.manual_seed(5)
    module = Net().eval()
    with torch.no_grad():
        module.norm.running_mean.normal_()
        module.norm.running_var.uniform_(0.5, 2)
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    return module


@dataclass(frozen=True)
class Seed:
    """A good file: `kind` is its suffix, or what the command line takes it for; `checkpoint` proves it."""

    kind: str
    path: Path
    checkpoint: Path | None = None
    scheme: str = ""

    def model(self) -> CompressedModel:
        """The checkpoint it was exported from."""
        assert self.checkpoint is not None
        return load_any(self.checkpoint, FACTORY)


def make(folder: Path, kinds: frozenset[str], schemes: tuple[str, ...] = SCHEMES["onnx"]) -> list[Seed]:
    """Write the seeds of these kinds and schemes into `folder`, or find them there from before."""
    seeds = []
    for scheme in schemes:
        checkpoint = folder / f"net{'-' * bool(scheme)}{scheme}.pt"
        model: CompressedModel | None = None
        if kinds.isdisjoint({*SCHEMES, "manifest", "pt"}):
            continue
        if not checkpoint.exists():
            model = _compressed(scheme)
            save_checkpoint(model, checkpoint)
        for format, known in SCHEMES.items():
            wanted = {format} | ({"manifest"} if scheme == MANIFESTS else set())
            if scheme not in known or not wanted & kinds:
                continue
            path = checkpoint.with_suffix(FORMATS[format].suffix)
            if not path.exists():
                export(model or load_any(checkpoint, FACTORY), format, INPUTS, path)
            seeds += [Seed(kind, path, checkpoint, scheme) for kind in sorted(wanted & kinds)]
        if "pt" in kinds:
            seeds.append(Seed("pt", checkpoint))
    plain = net().state_dict()
    if "pt" in kinds:
        torch.save({"state_dict": plain, "epoch": 3}, folder / "plain.pt")
        seeds.append(Seed("pt", folder / "plain.pt"))
    if "safetensors" in kinds:
        save_file(plain, folder / "plain.safetensors", metadata={"format": "pt", "note": "{}"})
        seeds.append(Seed("safetensors", folder / "plain.safetensors"))
    texts = {"toml": CONFIGURATION, "baseline": json.dumps(_baseline())}
    for kind, text in texts.items():
        if kind in kinds:
            path = folder / f"{kind}.{'toml' if kind == 'toml' else 'json'}"
            path.write_text(text)
            seeds.append(Seed(kind, path))
    return seeds


def _compressed(scheme: str) -> CompressedModel:
    module = net()
    masks = {}
    with torch.no_grad():
        for name in ("stem.weight", "wide.weight", "head.weight"):
            parameter = module.get_parameter(name)
            masks[name] = parameter.abs() > parameter.abs().flatten().kthvalue(int(ZEROS * parameter.numel())).values
            parameter *= masks[name] * 2
    model = CompressedModel(module, masks)
    return quantize(model, scheme, example_inputs=INPUTS) if scheme else model


def _baseline() -> dict[str, object]:
    """What `check --json` prints, as far as `--baseline` reads it."""
    row = {"target": "pixel-4", "format": "onnx", "limit": None, "passed": True, "source": ""}
    values = {"size": 5000.0, "latency": 2.0, "sparsity": 0.5}
    return {"passed": True, "checks": [{**row, "metric": metric, "value": value} for metric, value in values.items()]}
