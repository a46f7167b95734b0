"""Weights in parts, tied weights, buffers and versions: the module that comes out is the one that was saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from idp_deploy.errors import FileError, IdpDeployError, IdpDeployWarning
from idp_deploy.flow import Model, Recipe
from idp_deploy.loading import load_any, load_checkpoint, load_model, save_checkpoint
from idp_deploy.pruning import one_shot
from tests.checkpoint_layouts import (
    prefixed,
    weights,
)
from tests.loading_fixtures import build, same, source

# ── weights in parts ────────────────────────────────────────────────────────────────────────────────────────────────


def parted(wrap: Callable[[nn.Module], Any]) -> nn.Module:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ConvTranspose1d(6, 6, 3), nn.Flatten(), nn.Linear(36, 5))
    for layer in (net[0], net[1], net[3]):
        wrap(layer)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) / 10)
    for _ in range(2):  # a spectral norm iterates; a hook that runs after another's is late by one
        net(torch.randn(2, 4, 6))
    return net.eval()


PARTS: dict[str, Callable[[nn.Module], Any]] = {
    "weight_norm": weight_norm,
    "weight_norm over all": lambda layer: weight_norm(layer, dim=None),
    "weight_norm over inputs": lambda layer: weight_norm(layer, dim=1),
    "parametrized weight_norm": parametrizations.weight_norm,
    "spectral_norm": spectral_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.7),
    "prune twice": lambda layer: (
        prune.l1_unstructured(layer, "weight", 0.5),
        prune.random_unstructured(layer, "weight", 0.5),
    ),
    "prune the bias": lambda layer: (
        prune.l1_unstructured(layer, "weight", 0.7),
        prune.l1_unstructured(layer, "bias", 2),
    ),
    "prune below weight_norm": lambda layer: prune.l1_unstructured(weight_norm(layer), "weight_v", 0.5),
}


@pytest.mark.parametrize("wrap", PARTS.values(), ids=PARTS)
def test_weights_in_parts_become_whole_whatever_the_factory_builds(
    wrap: Callable[[nn.Module], Any], tmp_path: Path
) -> None:
    trained = parted(wrap)
    torch.save({"state_dict": prefixed("net.", trained.state_dict())}, tmp_path / "m.pt")
    expected = [layer.weight.detach() + 0.0 for layer in (trained[0], trained[1], trained[3])]
    for factory in (lambda: parted(wrap), lambda: parted(lambda layer: layer)):
        found = load_any(tmp_path / "m.pt", factory, announce=lambda _: None)
        names = ["0.weight", "1.weight", "3.weight"]
        assert all(torch.equal(found.module.get_parameter(n), e) for n, e in zip(names, expected, strict=True))
        assert sorted(found.masks) == names
        assert found.zeros == sum(int((e == 0).sum()) for e in expected)
        assert not any(
            bool(torch.signbit(found.module.get_parameter(n)[e == 0]).any())
            for n, e in zip(names, expected, strict=True)
        )
        save_checkpoint(found, tmp_path / "ours.pt")
        assert same(load_checkpoint(tmp_path / "ours.pt", factory).module, found.module)


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, weight_norm])
def test_weights_of_frozen_parts_and_those_joined_without_gradients_are_parameters(
    wrap: Callable[[nn.Module], Any],
) -> None:
    net = nn.Sequential(wrap(nn.Linear(8, 8)), nn.Linear(8, 8)).requires_grad_(False).eval()
    weight = net[0].weight.clone()
    with pytest.warns(IdpDeployWarning, match="do not train"):
        sparse = one_shot(Model(net), Recipe(0.5))
    assert list(sparse.masks) == ["0.weight", "1.weight"]
    assert torch.equal(sparse.module.get_parameter("0.weight"), weight * sparse.masks["0.weight"])
    net.requires_grad_(True)
    with torch.no_grad():
        found = one_shot(Model(net), Recipe(0.5))
    assert list(found.masks) == ["0.weight", "1.weight"]
    assert found.module.get_parameter("0.weight").requires_grad


def test_whole_weights_go_into_a_factory_that_builds_parts(tmp_path: Path) -> None:
    plain = parted(lambda layer: layer)
    torch.save(plain.state_dict(), tmp_path / "m.pt")
    for wrap in PARTS.values():
        found = load_model(tmp_path / "m.pt", lambda wrap=wrap: parted(wrap), announce=lambda _: None).module
        assert all(torch.equal(found.get_parameter(n), p) for n, p in plain.named_parameters())


class _NeedsAGpu(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")


class _Unsaved(nn.Module):
    """As torch.ao.pruning's FakeSparsity: a mask that load_state_dict asks for and state_dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(1))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask

    def state_dict(self, *_: Any, **given: Any) -> Any:
        return {}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (_NeedsAGpu, "'0.weight' is computed from others, and that fails with RuntimeError: no kernel"),
        (_Unsaved, "mask"),
    ],
)
def test_parametrizations_that_fail_are_told_on_one_line(part: type[nn.Module], words: str, tmp_path: Path) -> None:
    def build() -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 2))
        parametrize.register_parametrization(net[0], "weight", part(), unsafe=True)
        return net

    torch.save(build().state_dict(), tmp_path / "m.pt")
    with pytest.raises(IdpDeployError, match=words) as caught:
        load_any(tmp_path / "m.pt", build, announce=lambda _: None)
    assert "\n" not in str(caught.value)


def test_parametrizations_that_cannot_be_undone_are_refused(tmp_path: Path) -> None:
    net = nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6)))
    torch.save(net.state_dict(), tmp_path / "m.pt")
    with pytest.raises(FileError, match=r"computed from parts.*remove_parametrizations"):
        load_model(tmp_path / "m.pt", lambda: nn.Sequential(nn.Linear(6, 6)))
    found = load_model(
        tmp_path / "m.pt", lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6))), announce=lambda _: None
    )
    assert torch.equal(found.module[0].weight, net[0].weight)


class Masked(nn.Conv1d):
    """As in PixelCNN, with a mask of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.register_buffer("weight_mask", torch.ones_like(self.weight))
        self.weight_mask[..., 2] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv1d(x, self.weight * self.weight_mask, self.bias, padding=1)


def masked(wrap: Callable[[nn.Module], Any] = lambda layer: layer) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Masked(4, 6), wrap(nn.Conv1d(6, 5, 1)))


@pytest.mark.parametrize("under", ["", "net."])
def test_a_mask_that_a_module_has_itself_stays_beside_weights_that_become_whole(under: str, tmp_path: Path) -> None:
    net = masked(weight_norm)
    torch.save({under + name: value for name, value in net.state_dict().items()}, tmp_path / "m.pt")
    module = load_model(tmp_path / "m.pt", masked, announce=lambda _: None).module
    x = torch.randn(2, 4, 8)
    assert torch.equal(module.get_buffer("0.weight_mask"), net.get_buffer("0.weight_mask"))
    assert torch.allclose(module(x), net(x), atol=1e-6)


def test_recurrent_weight_norm_becomes_whole(tmp_path: Path) -> None:
    def factory() -> nn.Module:
        torch.manual_seed(1)
        return weight_norm(nn.LSTM(4, 6), "weight_hh_l0")

    trained = factory().eval()
    torch.save(trained.state_dict(), tmp_path / "m.pt")
    x = torch.randn(5, 1, 4)
    for build_it in (factory, lambda: nn.LSTM(4, 6)):
        found = load_model(tmp_path / "m.pt", build_it, announce=lambda _: None).module
        assert torch.equal(found(x)[0], trained(x)[0])
        assert isinstance(found.weight_hh_l0, nn.Parameter)


# ── ties, buffers, versions ─────────────────────────────────────────────────────────────────────────────────────────


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("causal", torch.full((3, 3), float("-inf")).triu(1))
        self.register_buffer("positions", torch.arange(3), persistent=False)


def test_tied_weights_that_are_stored_once_are_taken(tmp_path: Path) -> None:
    net = Tied()
    save_model(net, str(tmp_path / "m.safetensors"))
    found = load_model(tmp_path / "m.safetensors", Tied).module
    assert torch.equal(found.embed.weight, net.embed.weight)
    assert found.head.weight is found.embed.weight


def test_tied_weights_that_differ_in_the_file_are_refused(tmp_path: Path) -> None:
    torch.save({**Tied().state_dict(), "head.weight": torch.ones(7, 3)}, tmp_path / "m.pt")
    with pytest.raises(FileError, match=r"'embed.weight' and 'head.weight' differ, but are one tensor"):
        load_model(tmp_path / "m.pt", Tied)


def test_masks_that_are_infinite_by_design_and_buffers_that_are_not_saved_are_no_obstacle(tmp_path: Path) -> None:
    net = Tied()
    torch.save({**net.state_dict(), "positions": torch.arange(3)}, tmp_path / "m.pt")
    assert torch.equal(load_model(tmp_path / "m.pt", Tied).module.embed.weight, net.embed.weight)


class Versioned(nn.Module):
    """A module that refuses weights of unknown age, as MnasNet 0.5 of torchvision does."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if local_metadata.get("version") not in (1, 2):
            raise ValueError(f"version should be 1 or 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize("wrap", [lambda s: s, dict, lambda s: {"state_dict": s}, lambda s: prefixed("module.", s)])
def test_versions_of_modules_are_kept_through_our_checkpoints(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    net = Versioned()
    torch.save(wrap(net.state_dict()), tmp_path / "m.pt")
    found = load_any(tmp_path / "m.pt", Versioned)
    save_checkpoint(found, tmp_path / "ours.pt")
    assert same(load_checkpoint(tmp_path / "ours.pt", Versioned).module, net)
    fresh = Versioned()
    fresh.load_state_dict(torch.load(tmp_path / "ours.pt", weights_only=True)["state_dict"], strict=True)
    assert same(fresh, net)
    save_checkpoint(load_any(tmp_path / "ours.pt", Versioned), tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "ours.pt").read_bytes()


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = build()


def test_weights_of_the_inner_net_go_into_a_factory_that_wraps_it(tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed("net.")}, tmp_path / "m.pt")
    assert same(load_model(tmp_path / "m.pt", Wrapper).module.model, source())
    torch.save(weights(), tmp_path / "m.pt")
    assert same(load_model(tmp_path / "m.pt", Wrapper).module.model, source())
