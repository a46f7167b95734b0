"""What an export does not do twice, or for nothing: looked at by counts and by whose memory it is, never by seconds."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from idp_deploy import encodings
from idp_deploy.capturing import capture
from idp_deploy.exporting import export
from idp_deploy.exporting.collecting import seldom_collecting
from idp_deploy.exporting.sparing import operators_fetched_once
from idp_deploy.flow import CompressedModel
from idp_deploy.formats.tflite.write.matching import Match, match
from tests.test_counts import counter

pytestmark = pytest.mark.anew


def sparse(module: nn.Module) -> CompressedModel:
    """90 % of every matrix is zero, by a plain assignment."""
    generator = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(p.shape, generator=generator) < 0.1 for n, p in module.named_parameters() if p.dim() > 1}
    with torch.no_grad():
        for name, mask in masks.items():
            module.get_parameter(name)[~mask] = 0.0
    return CompressedModel(module.eval(), masks)


def test_what_is_frozen_is_counted_once_however_deep_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, count = counter(monkeypatch)
    count("gc.get_freeze_count", "counts")
    with seldom_collecting(), seldom_collecting(), seldom_collecting():
        assert gc.get_threshold()[0] >= 50_000
    assert seen["counts"] == 1


def test_places_of_a_weight_are_looked_for_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = sparse(nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 200)))
    seen, count = counter(monkeypatch)
    count("numpy.flatnonzero", "searches")
    made = {kind: encodings.size_bytes(kind, model.masks["0.weight"].numpy()) for kind in ("gaps8", "gaps5", "gaps4")}
    one_by_one = seen.pop("searches")
    chosen = encodings.smallest(model.masks["0.weight"].numpy(), 32, tuple(made))
    assert (one_by_one, seen.pop("searches"), chosen) == (3, 1, min(made, key=made.__getitem__))
    count("idp_deploy.formats.onnx.write.storing.smallest", "choices")
    export(model, "onnx", (torch.randn(1, 300),), tmp_path / "m.onnx")
    assert seen["choices"] == 4  # two matrices, two biases


def test_sources_of_operators_are_read_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of torch's own function: in a run of the whole suite the table that is made of them is there already."""
    from torch.onnx._internal.exporter import _registration

    from idp_deploy.formats.onnx.write.conversion import _operators_read_once

    apis, reads = _registration.onnxscript_apis, []
    monkeypatch.setattr(apis, "get_torchlib_ops", lambda: reads.append(1) or ["the operators"])
    for _ in range(2):
        with _operators_read_once():
            assert apis.get_torchlib_ops() == ["the operators"]
    assert len(reads) == 1
    apis.get_torchlib_ops()
    assert len(reads) == 2


def test_operators_are_fetched_once_and_again_after_a_library_has_registered_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._export import utils

    fetches: list[int] = []
    real = utils._materialize_cpp_cia_ops

    def fetch() -> None:
        fetches.append(1)
        real()

    monkeypatch.setattr(utils, "_materialize_cpp_cia_ops", fetch)
    with operators_fetched_once(), operators_fetched_once():
        utils._collect_all_valid_cia_ops()
        assert len(fetches) == 1
        library = torch.library.Library("registered_meanwhile", "DEF")
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x + x, "CompositeImplicitAutograd")
        found = utils._collect_all_valid_cia_ops()
        assert len(fetches) == 2
        assert torch.ops.registered_meanwhile.twice.default in found
        library._destroy()
    utils._collect_all_valid_cia_ops()
    assert len(fetches) > 3


def test_a_torch_without_that_function_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._export import utils

    monkeypatch.delattr(utils, "_materialize_cpp_cia_ops")
    with operators_fetched_once():
        assert not hasattr(utils, "_materialize_cpp_cia_ops")


@pytest.mark.parametrize("small", [-0.0, 1e-40, -1.1754942e-38])
def test_subnormals_and_negative_zeros_become_zeros_and_the_rest_stays(small: float) -> None:
    model = sparse(nn.Linear(64, 64))
    weight = model.module.get_parameter("weight")
    with torch.no_grad():
        weight[0, :3] = torch.tensor([small, 1.1754944e-38, 1.0])
    before = weight.detach().clone()
    captured = capture(CompressedModel(model.module, {}), (torch.randn(1, 64),)).weight("weight")
    assert captured[0, :3].view(np.int32).tolist() == [0, *before[0, 1:3].numpy().view(np.int32).tolist()]
    assert np.array_equal(captured[1:], before[1:].numpy())
    assert torch.equal(weight.view(torch.int32), before.view(torch.int32))  # the caller's model is untouched


def test_dropout_that_is_off_is_no_node_and_one_that_is_on_stays() -> None:
    class Net(nn.Module):
        def __init__(self, on: bool) -> None:
            super().__init__()
            self.layer, self.on = nn.Linear(8, 8), on

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.layer(x), 0.5, training=self.on)

    for on in (False, True):
        captured = capture(CompressedModel(Net(on).eval(), {}), (torch.randn(1, 8),))
        calls = [node.target for node in captured.module.graph.nodes if node.op == "call_function"]
        assert (torch.ops.aten.dropout.default in calls) is on
        assert not any("from_node" in node.meta for node in captured.module.graph.nodes)


def test_constants_are_found_in_any_order_of_axes_among_many_with_the_same_sum() -> None:
    draw = np.random.default_rng(0)
    kernels = {f"w{i}": draw.permutation(np.arange(48, dtype=np.float32)).reshape(2, 2, 3, 4) for i in range(8)}
    orders = [
        (0, 2, 3, 1),
        (2, 3, 1, 0),
        (1, 2, 3, 0),
        (0, 1, 2, 3),
        (3, 2, 1, 0),
        (0, 1, 3, 2),
        (1, 0, 2, 3),
        (2, 1, 0, 3),
    ]
    constants = {i: np.ascontiguousarray(kernels[f"w{i}"].transpose(order)) for i, order in enumerate(orders)}
    found = match(constants, kernels)
    for i, order in enumerate(orders):
        assert found[i].parameter == f"w{i}"
        assert np.array_equal(found[i].lay_out(kernels[f"w{i}"], constants[i].shape), constants[i]), order


def test_rescaled_constants_are_found_by_where_their_zeros_are() -> None:
    draw = np.random.default_rng(0)
    kernels = {f"w{i}": draw.permutation(np.arange(48) % 2).reshape(2, 2, 3, 4).astype(np.float32) for i in range(8)}
    constants = {i: 3 * np.ascontiguousarray(kernel.transpose(0, 2, 3, 1)) for i, kernel in enumerate(kernels.values())}
    assert match(constants, kernels) == {i: Match(f"w{i}", (0, 2, 3, 1), exact=False) for i in range(8)}


def test_a_number_is_found_as_one_that_has_no_axes() -> None:
    scale = np.array(0.37, np.float32)
    found = match({0: scale.reshape(1, 1), 1: scale}, {"scale": scale})
    assert found == {i: Match("scale", (), exact=True) for i in (0, 1)}
    assert found[0].lay_out(scale != 0, (1, 1)).tolist() == [[True]]
