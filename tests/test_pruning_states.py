"""States of a pruner that are loaded into another one: of other settings, other layers, or none at all."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from idp_deploy.errors import UsageError
from idp_deploy.pruning import Pruner
from tests.pruning_fixtures import network, pruner_for, train


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"sparsity": 0.5}, r"sparsity 0\.9, and this Pruner has 0\.5"),
        ({"pattern": "2:4", "sparsity": 0.5}, r"sparsity 0\.9, and this Pruner has 0\.5"),
        ({"method": "gmp"}, "method 'idp', and this Pruner has 'gmp'"),
        ({"mode": "paper"}, "mode 'auto', and this Pruner has 'paper'"),
        ({"skip": ["6.*"]}, r"a mask for '6\.weight', which is not pruned here"),
        ({"skip": ["6.*"], "narrow": 1}, r"has no weight '6\.weight'"),
    ],
)
def test_a_state_of_other_settings_is_refused(other: dict[str, Any], said: str) -> None:
    model = network()
    narrow = {"skip": ["6.*"]} if other.pop("narrow", None) else {}
    pruner = pruner_for(model, **narrow)
    train(pruner.prepare(), pruner, 8)
    if narrow:
        other.pop("skip")
    fresh = network()
    resumed = Pruner(fresh, **{"sparsity": 0.9, "epochs": 1, "steps_per_epoch": 20, **other})
    with pytest.raises(UsageError, match=said):
        resumed.load_state_dict(pruner.state_dict())
    assert resumed.steps == 0
    assert resumed.report().step == 0


@pytest.mark.parametrize("state", [{}, None, network().state_dict(), {"steps": 3, "schedule": {}, "sites": []}])
def test_what_is_no_state_of_a_pruner_is_told_as_that(state: Any) -> None:
    with pytest.raises(UsageError, match=r"is no state of a Pruner"):
        pruner_for(network()).load_state_dict(state)


def test_a_state_of_wider_layers_is_refused_by_name() -> None:
    wide = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 8))
    pruner = pruner_for(wide)
    train(pruner.prepare(), pruner, 15)
    narrow = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 8))
    with pytest.raises(UsageError, match=r"'0\.weight' is \(64, 20\) in this pruner's state and \(48, 20\) here"):
        pruner_for(narrow).load_state_dict(pruner.state_dict())


def test_a_share_that_was_computed_is_kept_as_a_plain_number() -> None:
    pruner = Pruner(network(), sparsity=np.float64(3) * 0.3, epochs=1, steps_per_epoch=20)
    file = io.BytesIO()
    torch.save(pruner.state_dict(), file)
    file.seek(0)
    other = pruner_for(network())
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.recipe.sparsity == 0.9


def test_a_state_without_its_schedule_is_none() -> None:
    pruner = pruner_for(network())
    with pytest.raises(UsageError, match="this is no state of a Pruner"):
        pruner.load_state_dict({**pruner.state_dict(), "schedule": None})
