"""What LiteRT's own kernels would write over in TFLite files, and nothing else, has a copy of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import Model, Recipe
from idp_deploy.formats.tflite.write.graph import kind
from idp_deploy.formats.tflite.write.serializing import parse
from idp_deploy.pruning import one_shot
from idp_deploy.verification import verify


class Block(nn.Module):
    """A sum, what is done with its rows, and the sum once more."""

    def __init__(self, way: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        y = torch.sin(a) + torch.cos(b)
        return self.layer(self.way(y, c) + y)


WRITTEN_OVER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a product": lambda y, c: torch.exp(y.reshape(1, 16, 4) * c).reshape(1, 4, 4, 4),
    "a softmax": lambda y, c: torch.exp(y.reshape(1, 16, 4).softmax(-1) * c).reshape(1, 4, 4, 4),
    "a difference of a quotient": lambda y, c: torch.exp((y.reshape(1, 16, 4) / c) - c).reshape(1, 4, 4, 4),
    "twice": lambda y, c: (
        torch.exp(y.reshape(1, 16, 4) * c).reshape(1, 4, 4, 4)
        + torch.exp(y.reshape(1, 8, 8) / c[:, :8]).reshape(1, 4, 4, 4)
    ),
}
READ: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nothing written": lambda y, c: torch.exp(y.reshape(1, 16, 4)).reshape(1, 4, 4, 4),
    "no reshape": lambda y, c: torch.exp(y * c.reshape(1, 4, 4, 1)),
    "read twice": lambda y, c: (torch.exp(x := y.reshape(1, 16, 4)) * c * x).reshape(1, 4, 4, 4),
}


@pytest.mark.wide
@pytest.mark.parametrize("way", [*WRITTEN_OVER, *READ])
def test_what_is_read_again_is_not_written_over(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = one_shot(Model(Block({**WRITTEN_OVER, **READ}[way]).eval()), Recipe(0.5))
    inputs = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4), torch.rand(1, 16, 1) + 1
    path = export(model, "tflite", inputs, tmp_path / "m.tflite", layout="nchw").path
    parity = verify(path, model, inputs)
    assert parity.passed
    assert max(output.max_relative_error for output in parity.outputs) < 1e-5
    written = parse(path.read_bytes())
    copies = [op for op in written.subgraphs[0].operators if kind(written, op) == "TRANSPOSE"]
    assert bool(copies) == (way in WRITTEN_OVER)
