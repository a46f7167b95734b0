"""What torch.onnx writes as something else, written right: means at places, angles, diagonals, logs of exponentials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import Model, Recipe
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.elementwise import atan2, log_sigmoid, logaddexp2
from idp_deploy.rewriting.scattering import mean_of_scattered

WAYS: dict[str, Callable[[Tensor], object]] = {
    "means at places": lambda x: x.scatter_reduce(1, x.argmax(1, keepdim=True).expand_as(x), x, "mean"),
    "means of what comes": lambda x: torch.zeros_like(x).scatter_reduce_(
        1, x.argmin(1, keepdim=True).expand_as(x), x, "mean", include_self=False
    ),
    "log-sigmoids": lambda x: F.logsigmoid(x * 100),
    "sums of exponentials": lambda x: (torch.logaddexp(x * 100, x), torch.logaddexp2(x * 200, x)),
    "angles": lambda x: torch.atan2(F.relu(x - 1), x),
    "a diagonal beside infinities": lambda x: torch.diagonal(x.masked_fill(x > x[:, :1], torch.inf), 0, 1, 2),
    "bounds beyond bounds": lambda x: (
        x.clamp(-1, 0.2).clamp(0.3, 0.5),
        F.relu(x.clamp(-3, -0.2)),
        F.relu6(x).clamp_max(-1),
        F.hardtanh(x).clamp(min=2),
    ),
    "bounds within bounds": lambda x: (x.clamp(-1, 0.7).clamp(0.3, 0.5), F.relu(x.clamp(max=0.2))),
    "bounds of nothing": lambda x: (
        x.clamp(min=-torch.inf).clamp(max=torch.inf) * 2,
        x.clamp(max=torch.inf).clamp(max=0.2),
        x.clamp(-1, 1).clamp(min=torch.inf).clamp(max=5),
    ),
    "rows added to every row": lambda x: (
        x[0].index_add(0, torch.arange(20), x[0] * 2),
        torch.index_put(x[0], (torch.arange(20),), x[0] * 3, accumulate=True),
    ),
    "bounds of one tensor": lambda x: x.clamp(-3, 3).clamp(-2, 2) + x.clamp(-1, 1).clamp(-0.5, 0.5),
    "bounds of one tensor, as tensors": lambda x: (
        torch.clamp(x, torch.tensor(-1.0), torch.tensor(0.5)),
        torch.clamp(x, torch.tensor(-0.2), torch.tensor(3.0)).clamp(-0.1, 2),
        torch.minimum(torch.minimum(x, torch.tensor(1.0)), torch.tensor(0.4)),
        torch.minimum(torch.minimum(x, torch.tensor(0.3)), torch.tensor(0.9)),
    ),
    "bounds with more axes": lambda x: torch.minimum(torch.maximum(x[0, 0], -torch.ones(1, 1)), torch.ones(1, 1)),
    "a trace beside infinities": lambda x: torch.trace(torch.tril(x[0]) + torch.full((20, 20), -torch.inf).triu(1)),
}


class Ended(nn.Module):
    def __init__(self, end: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.end = nn.Linear(16, 20), end

    def forward(self, x: Tensor) -> object:
        return self.end(self.layer(x))


@pytest.mark.wide
@pytest.mark.parametrize("name", WAYS)
def test_what_torch_onnx_writes_as_something_else_is_right(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Ended(WAYS[name]).eval(), torch.randn(1, 20, 16)
    model = one_shot(Model(module), Recipe(0.5))
    path = export(model, "onnx", (x,), tmp_path / "m.onnx").path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = model.module(x)
    outputs = wanted if isinstance(wanted, tuple) else (wanted,)
    for found, exact in zip(session.run(None, {"x": x.numpy()}), outputs, strict=True):
        np.testing.assert_allclose(found, exact.detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_means_are_torchs(include_self: bool, kind: torch.dtype) -> None:
    x, source = (torch.randint(0, 100, size).to(kind) for size in ((3, 4), (6, 4)))
    places = torch.tensor([0, 0, 0, 1, 1, 0])[:, None].expand(6, 4)
    found = mean_of_scattered(x, 0, places, source, "mean", include_self=include_self)
    assert found is not None
    wanted = x.scatter_reduce(0, places, source, "mean", include_self=include_self)
    assert found.dtype == wanted.dtype
    assert torch.allclose(found, wanted)
    assert mean_of_scattered(x, 0, places, source, "sum") is None


def test_angles_and_logs_are_torchs() -> None:
    y, x = torch.tensor([0.0, -0.0, 0, -0.0, 1, -1, 0]), torch.tensor([-1.0, -1, 1, 1, -1, -1, 0])
    assert torch.equal(atan2(y, x), torch.atan2(y, x))
    z = torch.tensor([-300.0, -20, -1, 0, 1, 20, 300])
    assert torch.allclose(log_sigmoid(z), F.logsigmoid(z), atol=1e-6)
    assert torch.allclose(logaddexp2(z, z / 2), torch.logaddexp2(z, z / 2))
