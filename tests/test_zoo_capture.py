"""capture() over the whole zoo: same outputs, batch norm folded, masks still true, the caller untouched."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from idp_deploy.capturing import capture
from tests.zoo import ZOO, Entry, flat, pruned


@pytest.mark.wide
@pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)
def test_zoo_is_alive(entry: Entry) -> None:
    """Outputs differ between inputs by a fair part of their size, so that agreement says something."""
    model = pruned(entry)
    assert model.sparsity == pytest.approx(0.9, abs=0.06)
    with torch.no_grad():
        outputs = [flat(model.module(*entry.example_inputs(seed))) for seed in range(3)]
    for per_call in zip(*outputs, strict=True):
        assert all(torch.isfinite(x).all() for x in per_call)
        scale = max(float(x.abs().max()) for x in per_call)
        for a, b in pairwise(per_call):
            assert float((a - b).abs().max()) > 0.05 * scale


# their blocks occur in the others, too
SLOW = {"mobilenet_v1", "mobilenet_v3", "efficientnet_lite", "resnet18", "resnet50", "squeezenet", "convnext",
        "segmenter", "super_resolution", "mixer", "torch_attention", "lstm"}  # fmt: skip


@pytest.mark.wide
@pytest.mark.parametrize(
    "entry", [pytest.param(e, marks=[pytest.mark.slow] * (e.name in SLOW), id=e.name) for e in ZOO.values()]
)
def test_capture_keeps_function_zeros_and_caller(entry: Entry) -> None:
    """Every batch norm that has a layer before it is gone, and what is left computes the same."""
    model = pruned(entry)
    before = copy.deepcopy(model.module.state_dict())
    modes = [m.training for m in model.module.modules()]
    random_state = torch.get_rng_state()
    captured = capture(model, entry.example_inputs())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [m.training for m in model.module.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    assert all(p.requires_grad for p in model.module.parameters())
    with torch.no_grad():
        for seed in range(2):
            inputs = entry.example_inputs(seed)
            for expected, found in zip(flat(model.module(*inputs)), flat(captured.module(*inputs)), strict=True):
                assert float((expected - found).abs().max()) <= 2e-5 * float(expected.abs().max())
    norms = [n for n in captured.module.graph.nodes if n.target is torch.ops.aten.batch_norm.default]
    assert len(norms) == entry.unfolded
    total = sum(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.module.modules())
    assert len(captured.folded) == total - entry.unfolded
    for name, mask in model.masks.items():
        weight = captured.weight(name)
        assert np.array_equal(captured.masks[name], mask.numpy())
        assert not weight[~mask.numpy()].any()
        assert np.count_nonzero(weight) == int(mask.sum())


@pytest.mark.parametrize("name", ["unet", "bert", "keyword_spotter", "two_inputs"])
def test_capture_with_a_free_batch(name: str) -> None:
    entry = ZOO[name]
    model = pruned(entry)
    captured = capture(model, entry.example_inputs(), dynamic_batch=True)
    assert captured.dynamic_batch
    inputs = entry.example_inputs(3, batch=3)
    with torch.no_grad():
        pairs = zip(flat(model.module(*inputs)), flat(captured.module(*inputs)), strict=True)
        for expected, found in pairs:
            assert found.shape == expected.shape
            assert float((expected - found).abs().max()) <= 2e-5 * float(expected.abs().max())
