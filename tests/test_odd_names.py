"""Arguments and modules that are called as converters call what they make, or what Python has no names for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from tests.formats_here import HERE
from tests.test_strange_models import checked

NAMES = ("c0", "c1", "conv1d", "cast_0", "x_to_fp16", "val_0", "args_0", "output", "const_0", "main", "conv_weight")


@pytest.mark.parametrize("format", HERE)
def test_arguments_may_be_called_as_converters_call_what_they_make(format: FormatName, tmp_path: Path) -> None:
    written = "\n".join([
        f"def forward(self, {', '.join(NAMES)}):",
        f"    x = self.conv(torch.cat([{', '.join(NAMES)}], -1))",
        "    return {'c2': x.relu(), 'c0': x.unsqueeze(0), 'linear': x[:, :, :7]}",
    ])  # fmt: skip
    scope: dict[str, Any] = {"torch": torch}
    exec(written, scope)
    net = type("Net", (nn.Module,), {"forward": scope["forward"]})()
    net.conv = nn.Conv1d(8, 8, 3, groups=8, dilation=2)
    checked(CompressedModel(net.eval(), {}), format, tuple(torch.randn(1, 8, 2) for _ in NAMES), tmp_path, proved=False)


class Keyed(nn.Module):
    """Layers under the keys of a ModuleDict, which may be any words."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({key: nn.Linear(4, 4) for key in keys})

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = layer(x).relu()
        return x


@pytest.mark.parametrize("format", HERE)
def test_modules_may_be_called_what_python_has_no_names_for(format: FormatName, tmp_path: Path) -> None:
    keys = ("stage-1", "stage_1", "p/q", "conv:0", "a b", "$x^2$", "größe", "1", "層")
    checked(CompressedModel(Keyed(*keys).eval(), {}), format, (torch.randn(1, 4),), tmp_path, proved=False)


def test_a_module_called_by_a_word_of_pythons_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cannot hold a module called 'class' — rename it"):
        export(CompressedModel(Keyed("one", "class").eval(), {}), "onnx", (torch.randn(1, 4),), tmp_path / "m.onnx")
