"""Refusals: each names what cannot be held, and its way out is true."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.errors import ConversionError, ExitCode, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.verification import verify


class Call(nn.Module):
    """Any function of a layer and an input as a module."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module) -> None:
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer, x)


def chosen(m: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (m(x),))
    return found


def slope_upwards(m: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        height = m(at).tanh().sum()
        return torch.autograd.grad(height if height > 0 else -height, at)[0]


def slope_without_leave(m: nn.Module, x: Tensor) -> Tensor:
    return torch.autograd.grad(m(x.requires_grad_()).sum(), x)[0]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (slope_upwards, "forward takes gradients itself"),
        (slope_without_leave, r"inference is run without — .*torch\.enable_grad"),
    ],
)
def test_gradients_in_forward_are_told_as_such(
    function: Callable[[nn.Module, Tensor], Tensor], said: str, tmp_path: Path
) -> None:
    model = CompressedModel(Call(function, nn.Linear(4, 4)).eval(), {})
    with pytest.raises(ConversionError, match=said):
        export(model, "onnx", (MATRIX,), tmp_path / "m.onnx")


def drawn(m: nn.Module, x: Tensor) -> Tensor:
    return m(x) + torch.randn(4, generator=torch.Generator().manual_seed(0))


def otherwise_in_a_trace(m: nn.Module, x: Tensor) -> Tensor:
    return m(x).view(3, 5) if torch.compiler.is_exporting() else m(x)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (drawn, r"random numbers from a torch\.Generator, and a file holds none — .*register_buffer"),
        (
            otherwise_in_a_trace,
            r"where torch\.export traces it at test_refusing\.py:\d+ \(`return m.*is_compiling",
        ),
    ],
)
def test_what_stops_a_trace_alone_is_told_with_its_line(
    function: Callable[[nn.Module, Tensor], Tensor], said: str, tmp_path: Path
) -> None:
    model = CompressedModel(Call(function, nn.Linear(4, 4)).eval(), {})
    with pytest.raises(ConversionError, match=said):
        export(model, "onnx", (MATRIX,), tmp_path / "m.onnx")


class Sharded:
    """Refuses to be copied as a module behind `fully_shard` does."""

    def __deepcopy__(self, memo: object) -> object:
        raise AssertionError("FSDP does not support deepcopy. Please use state dict for serialization.")


@pytest.mark.parametrize(
    ("attribute", "way_out"),
    [
        (threading.Lock(), "keep such objects out of the module"),
        ((i for i in range(3)), "keep such objects out of the module"),
        (Sharded(), "save_checkpoint"),
    ],
)
def test_what_cannot_be_copied_is_told(attribute: object, way_out: str, tmp_path: Path) -> None:
    net = nn.Linear(4, 4).eval()
    net.held = attribute  # type: ignore[assignment]
    with pytest.raises(UsageError, match=f"the model cannot be copied: .*{way_out}"):
        export(CompressedModel(net, {}), "onnx", (MATRIX,), tmp_path / "m.onnx")


def projected(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)[0]


MATRIX = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
STEPS = MATRIX.expand(300, 4, 4).contiguous()
IMAGE = MATRIX[None].expand(1, 4, 4, 4).contiguous()
REFUSED: dict[tuple[FormatName, str], tuple[nn.Module, Tensor, str]] = {
    ("coreml", "svd"): (Call(lambda m, x: torch.linalg.svd(m(x))[1], nn.Identity()), MATRIX, ""),
    ("coreml", "proj_size"): (Call(projected, nn.LSTM(4, 6, proj_size=2)), STEPS, "TFLite"),
    ("onnx", "proj_size"): (Call(projected, nn.LSTM(4, 6, proj_size=2)), STEPS, "TFLite"),
    ("coreml", "bfloat16"): (Call(lambda m, x: m(x).bfloat16().float(), nn.Linear(4, 4)), MATRIX, "ONNX"),
    ("tflite", "cond"): (Call(chosen, nn.Linear(4, 4)), MATRIX, "ONNX"),
}


@pytest.mark.wide
@pytest.mark.parametrize(("format", "what"), REFUSED)
def test_the_way_out_is_true(format: FormatName, what: str, tmp_path: Path) -> None:
    module, x, other = REFUSED[format, what]
    model = CompressedModel(module.eval(), {})
    with pytest.raises(ConversionError, match=what) as caught:
        export(model, format, (x,), tmp_path / f"m{FORMATS[format].suffix}")
    assert caught.value.exit_code == ExitCode.FILE
    assert list(tmp_path.iterdir()) == []
    assert caught.value.way_out
    named = [name for name in ("ONNX", "TFLite", "Core ML") if f"export to {name}" in caught.value.way_out]
    assert named == [other] * bool(other)
    if other:
        format = "onnx" if other == "ONNX" else "tflite"
        path = export(model, format, (x,), tmp_path / f"m{FORMATS[format].suffix}").path
        assert verify(path, model, (x,)).passed
    else:
        with pytest.raises(ConversionError):
            export(model, "onnx", (x,), tmp_path / "m.onnx")


def test_an_operator_that_onnx_has_not_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free batch is given up where a fixed one may help, and only there."""
    asked = []
    written = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: asked.append(1) or written(*args, **kwargs))
    model = CompressedModel(Call(lambda m, x: torch.special.bessel_j0(m(x)), nn.Linear(4, 4)).eval(), {})
    with pytest.raises(ConversionError, match=r"no counterpart for the operator prims\.bessel_j0"):
        export(model, "onnx", (torch.randn(2, 4),), tmp_path / "m.onnx")
    assert len(asked) == 1
