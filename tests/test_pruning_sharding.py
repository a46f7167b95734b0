"""Sharded weights get the masks and the values that whole ones get."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.flow.model import gathered
from idp_deploy.loading import load_checkpoint, save_checkpoint
from idp_deploy.pruning import METHODS, Pruner
from tests.pruning_fixtures import PRUNABLE, RECIPES, network, train

ROOT = Path(__file__).parents[1]
RESUMED = ["soft", "hard", "hard, the pruner's first", "hard, whole, the pruner's first"]
SHARDABLE = [method for method in METHODS if method not in ("synflow", "grasp")]


def shard(model: nn.Module) -> nn.Module:
    mesh = torch.distributed.init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def pruned(method: str, how: str, steps: int = 20) -> dict[str, torch.Tensor]:
    """Weights and masks after a short run on the same data everywhere; sharded before or after `prepare`, or never."""
    pattern, sparsity = RECIPES[method]
    model = network()
    if how == "before":
        shard(model)
    pruner = Pruner(model, sparsity=sparsity, pattern=pattern, method=method, epochs=steps, dense=0.1, finish=0.3)
    pruner.prepare()
    if how == "after":
        shard(model)
    torch.manual_seed(1)
    train(model, pruner, steps // 2)
    with pruner.hardened():
        pass
    train(model, pruner, steps - steps // 2)
    sparse = pruner.finalize()
    weights = {name: p.full_tensor() if isinstance(p, DTensor) else p.detach() for name, p in model.named_parameters()}
    with TemporaryDirectory() as folder:
        save_checkpoint(sparse, file := Path(folder) / "model.pt")
        counted = {"zeros": torch.tensor([sparse.zeros, load_checkpoint(file, network).zeros])}
    return weights | counted | {f"mask of {name}": mask for name, mask in sparse.masks.items()}


def agree(method: str, how: str) -> None:
    sharded, expected = pruned(method, how), pruned(method, "never")
    assert sharded.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(sharded[name], expected[name])]
    assert not different, f"{method}, sharded {how}: {different}"


@pytest.fixture
def group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_process_of_its_own_prunes_shards_as_whole_weights(how: str) -> None:
    agree("idp", how)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("how", RESUMED)
def test_sharded_weights_resume_as_they_went_on(how: str) -> None:
    def begin(seed: int) -> tuple[nn.Module, Pruner]:
        model = shard(network(seed).eval())
        return model, Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=20)

    (model, pruner), (other, resumed) = begin(0), begin(5)
    train(pruner.prepare(), pruner, 10)
    with nullcontext() if how == "soft" else pruner.hardened():
        states = deepcopy([model.state_dict(), pruner.state_dict()])
    if "whole" in how:  # as many gather what they save
        states[1]["dense"] = {name: gathered(weight) for name, weight in states[1]["dense"].items()}
    loads = [lambda: other.load_state_dict(states[0]), lambda: resumed.load_state_dict(states[1])]
    for load in reversed(loads) if "first" in how else loads:
        load()
    resumed.prepare()
    for one, its in ((model, pruner), (other, resumed)):
        train(one, its, 10)
        assert its.finalize().zeros == round(0.9 * PRUNABLE)
    for name, value in model.state_dict().items():
        assert torch.equal(gathered(value), gathered(other.state_dict()[name])), name


@pytest.mark.usefixtures("group")
def test_what_needs_the_whole_network_is_refused() -> None:
    model = shard(network())
    example = (torch.ones(2, 20),)
    with pytest.raises(UsageError, match=r"'0\.weight' is sharded, and method synflow needs the whole network"):
        Pruner(model, sparsity=0.5, epochs=4, method="synflow", example_inputs=example).prepare()
    with pytest.raises(UsageError, match="allocation by sensitivity needs the whole network"):
        Pruner(model, sparsity=0.5, epochs=4, allocation="sensitivity", loss=lambda: model(*example).sum()).prepare()


@pytest.mark.usefixtures("group")
def test_coupled_channels_of_a_sharded_model_are_refused_by_their_cause() -> None:
    """It was told that a model cannot be copied, and to save one that is not pruned yet."""
    with pytest.raises(UsageError, match=r"'0\.weight' is sharded, and pruning coupled channels needs the whole"):
        Pruner(shard(network()), sparsity=0.5, pattern="channel", example_inputs=(torch.ones(2, 20),))


def test_layers_of_keras_are_refused_by_their_cause() -> None:
    foreign = type("Dense", (nn.Linear,), {"__module__": "keras.src.layers.core.dense"})
    with pytest.raises(UsageError, match="'Dense' is a layer of Keras, which computes with variables of its own"):
        Pruner(nn.Sequential(foreign(4, 4)))


def test_flattened_weights_are_refused() -> None:
    class FullyShardedDataParallel(nn.Sequential):
        """The older wrapper is known by its name, so that it need not be imported."""

    with pytest.raises(UsageError, match="fully_shard, which keeps them apart"):
        Pruner(FullyShardedDataParallel(network()), sparsity=0.5, epochs=4)
    model = network()
    pruner = Pruner(model, sparsity=0.5, epochs=4)
    model[0].weight = nn.Parameter(model[0].weight.detach().flatten())
    with pytest.raises(UsageError, match=r"'0\.weight' has changed its shape to \(960,\)"):
        pruner.prepare()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("unused", [False, True])
def test_a_method_without_gradients_is_told_what_its_processes_wait_for(unused: bool) -> None:
    """It ended in a message of the reducer, which names parameters by their numbers."""
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=unused)
    pruner = Pruner(wrapped, sparsity=0.9, epochs=1, steps_per_epoch=4, method="supermask")
    with nullcontext() if unused else pytest.warns(IdpDeployWarning, match="find_unused_parameters=True"):
        pruner.prepare()
    if unused:
        train(wrapped, pruner, 4)
        assert pruner.finalize().zeros == round(0.9 * PRUNABLE)


RUN = """
import sys
import torch
from tests.test_pruning_sharding import RESUMED, SHARDABLE, agree, test_sharded_weights_resume_as_they_went_on
torch.distributed.init_process_group("gloo")
for method in SHARDABLE:
    agree(method, "before")
agree("idp", "after")
for how in RESUMED:
    test_sharded_weights_resume_as_they_went_on(how)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_prune_halves_as_one_prunes_the_whole(tmp_path: Path) -> None:
    assert PRUNABLE % 2 == 0
    script = tmp_path / "run.py"
    script.write_text(RUN)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launch], env=environment, cwd=ROOT, timeout=600, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
