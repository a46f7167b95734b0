"""Layers that an int8 file needs in floats: what is named is tried, and typed as printed it ends well."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import onnx
import pytest
import torch

from idp_deploy.cli.app import _run
from idp_deploy.flow import CompressedModel
from idp_deploy.quantization import quantize
from idp_deploy.relieving import layers_to_spare

NETS = """\
import torch
from torch import nn


class Wide(nn.Module):
    \"\"\"One channel is thousands of times the others, and the layer behind weighs it even less.\"\"\"

    def __init__(self, layer):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(layer(8, 16), nn.ReLU(), layer(16, 16), nn.ReLU())
        self.mix = nn.Sequential(layer(16, 16))
        self.body = nn.Sequential(layer(16, 16), nn.ReLU(), layer(16, 16), nn.ReLU())
        self.head = layer(16, 4)
        with torch.no_grad():
            for parameter in self.mix.parameters():
                parameter[0] *= 3000
            self.body[0].weight[:, 0] /= 100000
            for layer in (self.body[0], self.body[2], self.head):
                layer.bias.zero_()

    def forward(self, x):
        return self.head(self.body(self.mix(self.stem(x))))


class Chaos(nn.Module):
    \"\"\"The smallest noise becomes another answer, whichever layer it comes from.\"\"\"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(16))
        with torch.no_grad():
            for layer in self.layers:
                layer.weight *= 12

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(layer(x))
        return x


def linear():
    return Wide(nn.Linear)


def convolutional():
    return Wide(lambda i, o: nn.Conv2d(i, o, 1))


def chaos():
    return Chaos()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets_of_relief.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def made(name: str, shape: str) -> list[str]:
    """The flags of a net, with its weights in net.pt and quantized in net.int8.pt."""
    import nets_of_relief

    torch.save(getattr(nets_of_relief, name)().state_dict(), "net.pt")
    flags = ["--model", f"nets_of_relief:{name}", "--inputs", shape]
    assert _run(["quantize", "net.pt", "--scheme", "int8", *flags], debug=False) == 0
    return flags


@pytest.mark.wide
@pytest.mark.parametrize(
    ("name", "shape", "formats"),
    [("linear", "1x8", ["tflite"]), ("convolutional", "1x8x6x6", ["onnx", "tflite"])],
)
def test_what_is_suggested_ends_well_as_printed(
    name: str, shape: str, formats: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = made(name, shape)
    export = ["export", "net.int8.pt", *(word for format in formats for word in ("--to", format)), *flags]
    assert _run(export, debug=False) == 3
    found = re.search(
        r"with these layers float the file agrees: '(idp-deploy quantize [^']+)'", capsys.readouterr().err
    )
    assert found is not None
    assert "--float mix" in found[1]
    suffix = formats[0]
    rejected = Path(f"rejected/net.int8.{suffix}")
    if rejected.exists():  # else the exporter itself has refused it
        assert _run(["verify", str(rejected), "net.int8.pt", *flags], debug=False) == 1
        assert found[1].split(" -o")[0] in " ".join(capsys.readouterr().out.split())
    assert _run(shlex.split(found[1])[1:], debug=False) == 0
    assert _run(export, debug=False) == 0
    assert _run(["verify", f"net.int8.{suffix}", "net.int8.pt", *flags], debug=False) == 0


def test_where_no_layer_stands_out_none_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = made("chaos", "1x16x4x4")
    assert _run(["export", "net.int8.pt", "--to", "onnx", *flags], debug=False) == 3
    errors = capsys.readouterr().err
    assert "no few layers stand out that would make it agree if they stayed float" in errors
    assert "--float" not in errors


@pytest.mark.wide
@pytest.mark.parametrize("formats", [["tflite"], ["onnx", "tflite"]])
def test_a_run_says_what_to_configure(formats: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made("convolutional", "1x8x6x6")
    text = f"""\
model = "nets_of_relief:convolutional"
weights = "net.pt"
output = "out"
inputs = ["1x8x6x6"]
prune = {{ one-shot = true, target = 0.1, skip = ["stem.*", "mix.*", "body.*"] }}
quantize = {{ scheme = "int8" }}
export = {{ to = {str(formats).replace("'", '"')} }}
"""
    Path("idp-deploy.toml").write_text(text)
    assert _run(["run"], debug=False) in (1, 3)  # rejected, or refused by the exporter itself
    said = capsys.readouterr()
    shown = " ".join((said.out + said.err).split())
    assert 'with these layers float the file agrees: float = ["mix"] under [quantize]' in shown
    Path("idp-deploy.toml").write_text(text.replace('"int8" }', '"int8", float = ["mix"] }'))
    assert _run(["run"], debug=False) == 0


def test_other_schemes_have_no_layers_to_spare(folder: Path) -> None:
    import nets_of_relief

    model = CompressedModel(nets_of_relief.linear().eval(), {})
    inputs = (torch.zeros(1, 8),)
    assert layers_to_spare(model, {"onnx": {}}, inputs) == ()
    assert layers_to_spare(quantize(model, "fp16", example_inputs=inputs), {"onnx": {}}, inputs) == ()


def test_of_a_file_that_somebody_changed_no_layers_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = made("convolutional", "1x8x6x6")
    assert _run(["export", "net.int8.pt", "--to", "onnx", *flags], debug=False) == 3
    changed = onnx.load("rejected/net.int8.onnx")
    changed.doc_string = "by another hand"
    onnx.save(changed, "changed.onnx")
    capsys.readouterr()
    assert _run(["verify", "changed.onnx", "net.int8.pt", *flags], debug=False) == 1
    assert "float the file agrees" not in "".join(capsys.readouterr())
