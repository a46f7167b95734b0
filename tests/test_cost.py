"""What an export does not do twice, or for nothing: looked at by counts and by whose memory it is, never by seconds."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
from torch import nn

from idp_deploy import encodings
from idp_deploy.capturing import capture
from idp_deploy.collecting import seldom_collecting
from idp_deploy.exporting import export
from idp_deploy.exporting.sparing import hints_made_once, operators_fetched_once
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


def test_operators_of_onnx_are_read_once_and_what_an_export_adds_stays_in_its_own_table() -> None:
    from torch.onnx._internal.exporter import _registration

    from idp_deploy.formats.onnx.write.conversion import _operators_read_once

    plain = vars(_registration.ONNXRegistry)["from_torchlib"]
    tables = []
    for _ in range(2):
        with _operators_read_once():
            tables.append(_registration.ONNXRegistry.from_torchlib(opset_version=18))
    assert vars(_registration.ONNXRegistry)["from_torchlib"] is plain
    entries = [table.functions["aten::relu"] for table in tables]
    assert entries[0][0] is entries[1][0]
    tables[0].register_op(torch.ops.aten.relu.default, lambda x: x)
    tables[0].functions["added"] = []
    assert len(entries[0]) == len(entries[1]) + 1
    assert "added" not in tables[1].functions
    assert tables[1].functions["quantized_decomposed::quantize_per_tensor"]  # of a library that torch leaves to others
    assert _registration.ONNXRegistry.from_torchlib().functions["aten::relu"][0] is not entries[1][0]


def test_operators_of_onnx_are_read_again_after_a_library_has_registered_more() -> None:
    from idp_deploy.formats.onnx.write.conversion import _table

    class Table:
        functions: ClassVar[dict[str, list[str]]] = {}

    reads: list[int] = []

    def read(opset: int) -> Table:
        reads.append(opset)
        return Table()

    assert _table(read, 18) is not _table(read, 18)
    for namespace, known in (("of_no_row", 1), ("torchvision", 2)):  # torch.onnx has rows for the second alone
        library = torch.library.Library(namespace, "FRAGMENT")
        library.define("registered_for_onnx(Tensor x) -> Tensor")
        _table(read, 18)
        library._destroy()
        assert len(reads) == known


def test_operators_are_fetched_once_and_again_after_a_library_has_registered_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._export import utils
    from torch.export import decomp_utils, exported_program

    fetches: list[int] = []
    real = utils._collect_all_valid_cia_ops

    def collect() -> set[Any]:
        fetches.append(1)
        return real()

    modules = (utils, decomp_utils, exported_program)
    for module in modules:
        monkeypatch.setattr(module, "_collect_all_valid_cia_ops", collect)
    with operators_fetched_once(), operators_fetched_once():
        for module in modules:
            module._collect_all_valid_cia_ops().clear()  # the caller's own
        assert len(fetches) == 1
        assert utils._collect_all_valid_cia_ops() == real()
        library = torch.library.Library("registered_meanwhile", "DEF")
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x + x, "CompositeImplicitAutograd")
        found = utils._collect_all_valid_cia_ops()
        assert len(fetches) == 2
        assert torch.ops.registered_meanwhile.twice.default in found
        library._destroy()
    for module in modules:
        module._collect_all_valid_cia_ops()
    assert len(fetches) == 5


def test_a_torch_without_that_function_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._export import utils

    monkeypatch.delattr(utils, "_collect_all_valid_cia_ops")
    monkeypatch.delattr(torch._ops, "Callable")
    with operators_fetched_once(), hints_made_once():
        assert not hasattr(utils, "_collect_all_valid_cia_ops")
        assert not hasattr(torch._ops, "Callable")


def test_hints_of_kernels_are_made_once_and_mean_the_same() -> None:
    plain: Any = torch._ops.Callable
    operator = torch.ops.aten.relu.default
    with hints_made_once(), hints_made_once():
        first, second = (operator.py_impl(torch._C.DispatchKey.CPU).__annotations__ for _ in range(2))
        assert first["return"] is second["return"]
    after = operator.py_impl(torch._C.DispatchKey.CPU).__annotations__
    assert torch._ops.Callable is plain
    assert after["return"] is not second["return"]
    assert get_args(after["return"]) == get_args(second["return"])


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
