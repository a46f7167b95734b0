"""What ships is what was pruned: zeros are counted in the weights, and where these part from masks nothing goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from idp_deploy import export, one_shot, quantize, verify
from idp_deploy.errors import FileError, IdpDeployWarning, UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.ledger import refuse_unhardened, shortfall
from idp_deploy.loading import load_any, save_checkpoint
from idp_deploy.loading.checkpoints import TRAINER_STATE, as_it_stands
from idp_deploy.pruning import Pruner
from idp_deploy.pruning.results import Finalized
from idp_deploy.rendering.artifacts import export_document
from tests.forked import command
from tests.pruning_fixtures import PRUNABLE, network, train, zeros

X = (torch.randn(2, 20),)
WRITTEN = (
    r"entries that the masks prune are not zero, [\d,]+ of them in '.*': the weights were written to after hardening"
)


def pruned() -> tuple[Pruner, Finalized]:
    model = network().eval()
    pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=12)
    train(pruner.prepare(), pruner, 12)
    return pruner, pruner.finalize()


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    model = ["--model", "tests.pruning_fixtures:network", "--inputs", "1x20"]
    done = command("export", *words, "--to", "onnx", *model, folder=folder)
    return done.returncode, done.stdout, done.stderr


def test_weights_written_to_after_hardening_go_nowhere(tmp_path: Path) -> None:
    pruner, sparse = pruned()
    save_checkpoint(sparse, tmp_path / "good.pt")
    export(sparse, "onnx", X, tmp_path / "good.onnx")
    kept = (tmp_path / "good.pt").read_bytes()
    sparse.module.load_state_dict(network(3).state_dict())
    assert sparse.zeros == 0
    assert sum(sparse.filled.values()) == round(0.9 * PRUNABLE)
    for stage in (
        lambda: save_checkpoint(sparse, tmp_path / "good.pt"),
        lambda: export(sparse, "onnx", X, tmp_path / "good.onnx"),
        lambda: verify(tmp_path / "good.onnx", sparse, X),
        lambda: quantize(sparse, "int8-weights"),
    ):
        with pytest.raises(UsageError, match=WRITTEN):
            stage()
    assert (tmp_path / "good.pt").read_bytes() == kept
    pruner.apply_to(sparse.module)
    assert sparse.zeros == round(0.9 * PRUNABLE)
    save_checkpoint(sparse, tmp_path / "good.pt")


class Packed(torch.Tensor):
    """As torchao's: no numbers of its own, and hardly an operator that it knows."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Packed:
        made: Packed = torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype)  # type: ignore[attr-defined]
        made.held = held
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    def dequantize(self) -> torch.Tensor:  # type: ignore[override]
        return self.held

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(given[0].held)
        raise NotImplementedError(function)


@pytest.mark.parametrize(
    ("keep", "said"),
    [(Packed, "Packed"), (torch.Tensor.to_sparse, "sparse_coo")],
)
def test_weights_that_another_tool_packed_are_counted_and_go_nowhere(
    keep: Callable[[torch.Tensor], torch.Tensor], said: str, tmp_path: Path
) -> None:
    _, sparse = pruned()
    sparse.module[4].weight = nn.Parameter(keep(sparse.module[4].weight.detach()))
    assert sparse.zeros == round(0.9 * PRUNABLE)
    for stage in (
        lambda: save_checkpoint(sparse, tmp_path / "m.pt"),
        lambda: export(sparse, "onnx", X, tmp_path / "m.onnx"),
        lambda: one_shot(Model(sparse.module), Recipe(sparsity=0.95)),
        lambda: Pruner(sparse.module, sparsity=0.95),
    ):
        with pytest.raises(UsageError, match=rf"weight '4\.weight' is kept as {said}.* — give the float model"):
            stage()


class Named(torch.Tensor):
    """A tensor with a class of its own and nothing else."""


def test_weights_of_a_class_of_their_own_are_saved_as_plain_ones(tmp_path: Path) -> None:
    _, sparse = pruned()
    sparse.module[4].weight = nn.Parameter(sparse.module[4].weight.detach().as_subclass(Named))
    save_checkpoint(sparse, tmp_path / "m.pt")
    assert load_any(tmp_path / "m.pt", network).zeros == sparse.zeros


def test_export_ends_with_the_zeros_of_the_weights(tmp_path: Path) -> None:
    _, sparse = pruned()
    save_checkpoint(sparse, tmp_path / "good.pt")
    code, out, err = run(tmp_path, str(tmp_path / "good.pt"))
    assert code == 0
    assert "2,477 of 2,752 prunable weights are zero (90.0 %)" in out.splitlines()[-2]
    assert "warning" not in err
    data = json.loads(run(tmp_path, str(tmp_path / "good.pt"), "--json")[1])
    assert (data["zeros"], data["prunable"], data["warnings"]) == (2477, 2752, [])
    parity = verify(tmp_path / "good.onnx", sparse, X)
    assert sum(w.zeros for w in parity.weights) == sparse.zeros
    assert "2,477 of 2,752 prunable weights are zero (90.0 %)" in parity.notes


def test_no_zeros_are_a_warning_with_the_way_out(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "dense.pt")
    code, out, err = run(tmp_path, str(tmp_path / "dense.pt"))
    assert code == 0
    assert "0 of 2,752 prunable weights are zero (0.0 %)" in out
    assert "warning: none of the 2,752 prunable weights is zero" in err
    assert "pruner.apply_to(copy)" in err
    assert json.loads(run(tmp_path, str(tmp_path / "dense.pt"), "--json")[1])["warnings"]


@pytest.mark.parametrize(("few", "said"), [(0, "none of"), (2, "only 2 of"), (3, "")])
def test_a_few_zeros_by_chance_are_no_pruned_model(few: int, said: str) -> None:
    module = network()
    with torch.no_grad():
        module[0].weight.view(-1)[:few] = 0
    assert shortfall(as_it_stands(Model(module))).partition(" the 2,752")[0] == said


def test_a_target_that_was_not_reached_is_told(tmp_path: Path) -> None:
    _, sparse = pruned()
    masks = {name: mask.clone() for name, mask in sparse.masks.items()}
    with torch.no_grad():
        masks["4.weight"][:] = True
        sparse.module.get_parameter("4.weight").add_(0.1)
    save_checkpoint(Finalized(sparse.module, masks, sparse.recipe), tmp_path / "less.pt")
    code, _, err = run(tmp_path, str(tmp_path / "less.pt"))
    assert code == 0
    assert "where 90.0% was asked for" in err


@pytest.mark.parametrize("steps", [1, 6, 12])
def test_weights_of_a_run_that_never_hardened_are_refused(tmp_path: Path, steps: int) -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=24)
    train(pruner.prepare(), pruner, steps)
    file = tmp_path / "half.pt"
    torch.save({"state_dict": model.state_dict(), "extra": [{"pruner": pruner.state_dict()}]}, file)
    with pytest.raises(UsageError, match=rf"at step {steps}, and its training not finished: 0 of 2,752"):
        load_any(file, network)
    code, _, _ = run(tmp_path, str(file))
    assert code == 2
    with pruner.hardened():
        torch.save({"state_dict": model.state_dict(), "pruner": pruner.state_dict()}, file)
        there = zeros(model)
    if pruner.complete:
        assert load_any(file, network).zeros == there == round(0.9 * PRUNABLE)
    else:
        with pytest.raises(UsageError, match=f"{there:,} of 2,752 weights are zero"):
            load_any(file, network)


def by_accelerate(folder: Path, weights: Any, state: Any) -> Path:
    save_file(weights, folder / "model.safetensors")
    torch.save({"kept": object}, folder / "custom_checkpoint_0.pkl")  # of something else, which is not read
    torch.save(state, folder / "custom_checkpoint_1.pkl")
    return folder


def by_one_file_of_it(folder: Path, weights: Any, state: Any) -> Path:
    return by_accelerate(folder, weights, state) / "model.safetensors"


def by_sharded_accelerate(folder: Path, weights: Any, state: Any) -> Path:
    torch.save(state, folder / "custom_checkpoint_0.pkl")
    dcp.save({"model": weights}, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)
    return folder


def by_distributed(folder: Path, weights: Any, state: Any) -> Path:
    dcp.save({"app": {"model": weights, "pruners": [state]}}, checkpoint_id=folder / "run", no_dist=True)
    return folder / "run"


def with_another_models(folder: Path, weights: Any, state: Any) -> Path:
    """A discriminator's, which has weights of the same names and of other shapes."""
    other = Pruner(nn.Sequential(nn.Linear(8, 4)), sparsity=0.9, epochs=1)
    torch.save(other.state_dict(), folder / "custom_checkpoint_0.pkl")
    save_file(weights, folder / "model.safetensors")
    torch.save(state, folder / "custom_checkpoint_1.pkl")
    return folder


def test_a_damaged_state_beside_the_weights_is_told(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / TRAINER_STATE).write_bytes(b"damaged")
    with pytest.raises(FileError, match=f"{TRAINER_STATE} is not a PyTorch checkpoint"):
        load_any(tmp_path, network)


WAYS = [by_accelerate, by_one_file_of_it, by_sharded_accelerate, by_distributed, with_another_models]


@pytest.mark.parametrize("save", WAYS)
def test_a_pruners_state_is_found_wherever_tools_put_it(tmp_path: Path, save: Callable[..., Path]) -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=12)
    train(pruner.prepare(), pruner, 12)
    soft = {name: value + 1e-3 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    (tmp_path / "soft").mkdir()
    with pytest.raises(UsageError, match="not finished: 0 of 2,752"):
        load_any(save(tmp_path / "soft", soft, pruner.state_dict()), network)
    (tmp_path / "hard").mkdir()
    hard = save(tmp_path / "hard", model.state_dict(), pruner.state_dict())
    assert load_any(hard, network).zeros == round(0.9 * PRUNABLE)


def test_a_state_of_many_weights_is_looked_through_at_once() -> None:
    names = [f"blocks.{place}.weight" for place in range(5000)]
    sites: dict[Any, Any] = {3: {"budget": 4}, None: None, **{name: {"shape": [2, 2], "budget": 2} for name in names}}
    weights = {f"module.{name}": torch.eye(2) for name in names}
    began = time.process_time()
    refuse_unhardened("a.pt", {"steps": 1, "schedule": {}, "sites": sites}, weights)
    assert time.process_time() - began < 2
    weights["module.blocks.7.weight"] = torch.ones(2, 2)
    with pytest.raises(UsageError, match="9,998 of 20,000 weights are zero, where 10,000 were asked for"):
        refuse_unhardened("a.pt", {"steps": 1, "schedule": {}, "sites": sites}, weights)


def test_of_two_weights_of_one_name_the_state_means_the_whole_one() -> None:
    weights = {"teacher.0.weight": torch.ones(2, 2), "0.weight": torch.eye(2)}
    sites = {"0.weight": {"shape": [2, 2], "budget": 2}}
    refuse_unhardened("a.pt", {"steps": 1, "schedule": {}, "sites": sites}, weights)


def test_the_state_of_a_frozen_run_lies_with_weights_that_have_its_zeros(tmp_path: Path) -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=12)
    train(pruner.prepare(), pruner, 12)
    torch.save({"model": model.state_dict(), "pruner": pruner.state_dict()}, tmp_path / "frozen.pt")
    assert load_any(tmp_path / "frozen.pt", network).zeros == round(0.9 * PRUNABLE)
    average = {name: value + 1e-3 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    torch.save({"model": average, "pruner": pruner.state_dict()}, tmp_path / "average.pt")
    with pytest.raises(UsageError, match="not finished: 0 of 2,752"):
        load_any(tmp_path / "average.pt", network)


class Distilled(nn.Module):
    """A student with its teacher inside; forward, and so the file, is the student."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = network(), network(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.student(x)
        return out


def test_zeros_of_weights_that_are_in_no_file_do_not_count(tmp_path: Path) -> None:
    module = Distilled().eval()
    pruner = Pruner(module, sparsity=0.9, epochs=1, steps_per_epoch=12, skip=["student.0.weight"])
    with pytest.warns(IdpDeployWarning, match="'teacher.0.weight' first"):
        train(pruner.prepare(), pruner, 12)
    sparse = pruner.finalize()
    artifact = export(sparse, "onnx", X, tmp_path / "student.onnx")
    unread = tuple(f"teacher.{place}.weight" for place in (0, 4, 6))
    assert artifact.unread == unread
    assert f"not in the file, for no output depends on them: {', '.join(unread)}" in artifact.notes
    there = zeros(module.student)
    notes = verify(tmp_path / "student.onnx", sparse, X).notes
    assert sparse.zeros == there + zeros(module.teacher)
    assert f"{there:,} of 1,792 prunable weights are zero" in " ".join(notes)
    document = export_document([artifact], {}, {}, model=sparse)
    assert (document.data["zeros"], document.data["prunable"]) == (there, 1792)


def test_pruned_weights_that_no_gradient_can_reach_are_told_of_after_one_epoch() -> None:
    module = Distilled()
    pruner = Pruner(module, sparsity=0.9, epochs=2, steps_per_epoch=6)
    with pytest.warns(IdpDeployWarning, match="3 of 6 pruned weights were in no forward .* 'teacher.0.weight' first"):
        train(pruner.prepare(), pruner, 6)
    with torch.no_grad():
        module.teacher(X[0])
    train(module, pruner, 6)
    assert pruner.finalize().zeros == round(0.9 * 2 * PRUNABLE)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_layers_that_torch_has_quantized_are_named(tmp_path: Path) -> None:
    integers = torch.ao.quantization.quantize_dynamic(network().eval(), {nn.Linear})
    said = (
        r"layer '0' is torch\.ao\.nn\.quantized\.dynamic\..*Linear, whose weights are integers — give the float model"
    )
    export(network().eval(), "onnx", X, tmp_path / "m.onnx")
    for call in (
        lambda: export(integers, "onnx", X, tmp_path / "n.onnx"),
        lambda: verify(tmp_path / "m.onnx", integers, X),
        lambda: quantize(integers, "int8-weights"),
    ):
        with pytest.raises(UsageError, match=said):
            call()
