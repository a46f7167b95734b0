"""Hidden units of recurrent layers: they go from every gate, layer and direction, or stay and say why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from idp_deploy import Pruner, one_shot, shrink
from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.exporting import export
from idp_deploy.formats import FORMATS
from idp_deploy.verification import verify
from tests.recurrent_networks import Hearing, Sounds, Steps


class Own(nn.LSTM):
    """A class of somebody's own."""


@pytest.mark.parametrize("method", ["idp", "gmp", "topk-ste", "l1-channel"])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN, Own])
def test_units_that_training_prunes_are_removed(kind: type[nn.RNNBase], method: str) -> None:
    torch.manual_seed(0)
    module, x, wanted = Hearing(kind), torch.randn(16, 9, 8), torch.randn(16, 3)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    pruner = Pruner(
        module, sparsity=0.5, pattern="channel", method=method, epochs=1, steps_per_epoch=8, optimizer=optimizer,
        example_inputs=(x,),
    )  # fmt: skip
    pruner.prepare()
    for _ in range(8):
        optimizer.zero_grad()
        F.mse_loss(module(x), wanted).backward()
        optimizer.step()
        pruner.step()
    hard = pruner.finalize()
    small = shrink(hard, (x,)).module.eval()
    assert small.recurrent.hidden_size in (8, 12)
    torch.testing.assert_close(small(x), module.eval()(x), rtol=1e-6, atol=1e-6)
    assert {p.shape[0] % small.recurrent.hidden_size for p in small.recurrent.parameters()} == {0}


def test_biases_of_soft_units_are_soft_as_well() -> None:
    torch.manual_seed(0)
    module, x = Hearing(nn.GRU), torch.randn(4, 9, 8)
    pruner = Pruner(module, sparsity=0.5, pattern="channel", epochs=1, steps_per_epoch=20, example_inputs=(x,))
    pruner.prepare()
    for _ in range(10):
        module(x)
        pruner.step()
    names, weights = module.recurrent._flat_weights_names, list(module.recurrent._flat_weights)
    inside: list[torch.Tensor] = []
    module.recurrent.register_forward_pre_hook(lambda layer, _: inside.extend(layer._flat_weights))
    module(x)
    shares = torch.stack([a / b for name, a, b in zip(names, inside, weights, strict=True) if "bias" in name])
    assert ((shares > 0.01) & (shares < 0.99)).any()
    torch.testing.assert_close(shares, shares[:1].expand_as(shares))
    assert all(a is b for a, b in zip(weights, module.recurrent._flat_weights, strict=True))


@pytest.mark.parametrize("choice", [{"skip": ["*hh*"]}, {"rules": {"recurrent": "unstructured"}}], ids=["skip", "rule"])
def test_a_weight_that_keeps_its_units_keeps_those_of_the_layer(choice: dict[str, object]) -> None:
    options = {"rules": choice["rules"]} if "rules" in choice else {}
    pruned = one_shot(
        Sounds(), sparsity=0.5, pattern="channel", example_inputs=Sounds.x, skip=choice.get("skip", ()), options=options
    )
    assert shrink(pruned, Sounds.x).module.recurrent.hidden_size == 16


def test_without_example_inputs_units_stay() -> None:
    with (
        pytest.warns(IdpDeployWarning, match="without example inputs"),
        pytest.raises(UsageError, match="nothing tells which hidden units go together"),
    ):
        one_shot(Hearing(nn.GRU), sparsity=0.3, pattern="channel")


def test_a_state_whose_width_only_forward_knows_keeps_the_units() -> None:
    with pytest.raises(UsageError, match=r"without some of them the model cannot be called.*cell"):
        one_shot(Steps(), sparsity=0.5, pattern="channel", example_inputs=Steps.x, skip=["a.weight"])


@pytest.mark.parametrize("format", ["onnx", "tflite", "coreml"])
def test_files_of_fewer_units_are_what_the_model_gives(format: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Hearing(nn.LSTM).eval(), (torch.randn(1, 9, 8),)
    small = shrink(one_shot(module, sparsity=0.5, pattern="channel", example_inputs=x), x)
    artifact = export(small, format, x, tmp_path / f"small{FORMATS[format].suffix}")
    assert verify(artifact.path, small, x).passed
