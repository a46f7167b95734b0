"""Weights that train where no mask reaches them: the loop computes with them somewhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.pruning import Pruner
from tests.pruning_fixtures import Blobs, network


class Elsewhere(nn.Module):
    """What `higher` makes: layers with a forward of their own, and the weights of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = dict(model.named_parameters())

    def forward(self, x: Tensor) -> Tensor:
        for name in ("0", "4", "6"):
            x = F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]).relu()
        return x


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_copy_that_computes_with_the_models_weights_is_told_of(looked_at: bool) -> None:
    """Without an evaluation ahead of it the way out was to leave every weight out; with one nothing was said."""
    model = network().eval()
    pruner = Pruner(model, sparsity=0.9, epochs=2, steps_per_epoch=3)
    pruner.prepare()
    optimizer, (x, y) = torch.optim.SGD(model.parameters(), 0.1), Blobs().train.tensors
    if looked_at:
        with torch.no_grad():
            model(x)

    def loop() -> None:
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(Elsewhere(model)(x), y).backward()
            optimizer.step()
            pruner.step()

    if looked_at:
        with pytest.warns(
            IdpDeployWarning, match=r"where something else computes .* no mask reaches it.*functional_call"
        ):
            loop()
        return
    with pytest.raises(UsageError, match=r"none is read by the forward of its own layer.*functional_call"):
        loop()
