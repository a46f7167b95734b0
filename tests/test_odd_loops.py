"""Loops that take their gradients or their steps in another way than most, and modules that cannot be pruned yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from lightning.fabric import Fabric
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from idp_deploy import export, harden, prune, verify
from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.masks import apply_soft_mask
from idp_deploy.pruning import METHODS, Pruner, callbacks, one_shot
from tests.pruning_fixtures import PRUNABLE, Blobs, network, zeros
from tests.test_pruning_callbacks import Rows

TASK = Blobs()
TARGET = round(0.9 * PRUNABLE)
HOW: list[dict[str, Any]] = [
    {},
    {"clip": True, "floor": 0.3},
    {"shared": True},
    {"shared": True, "clip": True, "floor": 0.2},
    {"full": torch.tensor([[0, 1], [2, 3]])},
    {"elsewhere": torch.tensor(0.01)},
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("how", HOW)
def test_transforms_see_the_derivative_that_backward_has(how: dict[str, Any]) -> None:
    w = torch.randn(5, 7, requires_grad=True)

    def masked(x: Tensor) -> Tensor:
        return (apply_soft_mask(x, 0.5, 0.05, **how) * torch.arange(35.0).reshape(5, 7)).sum()

    masked(w).backward()
    gradient, value = torch.func.grad_and_value(masked)(w.detach())
    assert w.grad is not None
    torch.testing.assert_close(gradient, w.grad, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(value, masked(w.detach()))


def test_a_loop_whose_gradients_are_torch_funcs_prunes() -> None:
    model, loader = network().eval(), DataLoader(TASK.train, batch_size=32)
    pruner = Pruner(model, sparsity=0.9, epochs=2, steps_per_epoch=len(loader))
    pruner.prepare()
    for _ in range(2):
        for x, y in loader:
            parameters = {name: p.detach() for name, p in model.named_parameters()}

            def loss(values: dict[str, Tensor], x: Tensor = x, y: Tensor = y) -> Tensor:
                return F.cross_entropy(torch.func.functional_call(model, values, (x,)), y)

            gradients = torch.func.grad(loss)(parameters)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter -= 0.1 * gradients[name]
            pruner.step()
    assert pruner.finalize().zeros == TARGET == zeros(model)


def test_a_method_that_looks_at_gradients_says_what_transforms_hide() -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, epochs=2, method="movement" if "movement" in METHODS else "granet")
    pruner.prepare()
    x = TASK.train.tensors[0][:8]
    with pytest.raises(UsageError, match=r"torch\.func"):
        torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).sum())(dict(model.named_parameters()))


class Own(lightning.LightningModule):
    """Takes its steps itself, one in four batches."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.automatic_optimization = network(), False

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]) / 4)
        if (index + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


class Automatic(Own):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = True

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:  # type: ignore[override]
        return F.cross_entropy(self(batch[0]), batch[1])


def fit(module: lightning.LightningModule, epochs: int, *others: Any, **settings: Any) -> Any:
    pruning = callbacks.LightningPruning(sparsity=0.9, **settings)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[pruning, *others], enable_checkpointing=False, accelerator="cpu", **quiet
    )
    trainer.fit(module, DataLoader(TASK.train, batch_size=16))
    return pruning


@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers")
def test_a_module_that_steps_by_itself_is_told_of_after_one_epoch_and_may_say_how_often() -> None:
    with pytest.warns(IdpDeployWarning) as told:
        fit(Own(), 2)
    said = "\n".join(str(warning.message) for warning in told)
    assert "took 8 optimizer steps in its first epoch, where 32 were planned" in said
    assert "steps_per_epoch=8" in said
    pruning = fit(Own(), 3, steps_per_epoch=8)
    assert pruning.pruner.steps == pruning.pruner.plan.total == 24
    assert pruning.sparse.zeros == TARGET


@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers")
def test_gradients_that_accumulate_over_more_batches_later_are_planned() -> None:
    pruning = fit(Automatic(), 6, GradientAccumulationScheduler({0: 1, 2: 4}))
    assert pruning.pruner.steps == pruning.pruner.plan.total
    assert pruning.sparse.zeros == TARGET


@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers")
@pytest.mark.filterwarnings("error::idp_deploy.errors.IdpDeployWarning")
def test_training_that_began_without_masks_is_planned_from_where_it_stands() -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=2, enable_checkpointing=False, accelerator="cpu", **quiet)
    trainer.fit(module := Automatic(), DataLoader(TASK.train, batch_size=32))
    trainer.save_checkpoint("dense.ckpt")
    pruning = callbacks.LightningPruning(sparsity=0.9)
    trainer = lightning.Trainer(
        max_epochs=6, enable_checkpointing=False, accelerator="cpu", callbacks=[pruning], **quiet
    )
    trainer.fit(module, DataLoader(TASK.train, batch_size=32), ckpt_path="dense.ckpt")
    assert pruning.pruner.steps == pruning.pruner.plan.total == 4 * 16
    assert pruning.sparse.zeros == TARGET


def test_accelerate_loads_before_and_after_pruning_begins() -> None:
    def begun(load: str = "", at: str = "") -> tuple[Any, ...]:
        accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.SGD((net := network()).parameters(), 0.1)
        parts = accelerator.prepare(net, optimizer, DataLoader(TASK.train, batch_size=32))
        pruning = callbacks.AcceleratePruning(accelerator, sparsity=0.9)
        if at == "before":
            accelerator.load_state(load)
        pruning.begin(*parts, epochs=2)
        if at == "after":
            accelerator.load_state(load)
        return accelerator, *parts, pruning

    def epoch(accelerator: Any, model: nn.Module, optimizer: Any, loader: Any, pruning: Any) -> None:
        for x, y in loader:
            accelerator.backward(F.cross_entropy(model.eval()(x), y))
            optimizer.step()
            pruning.step()
            optimizer.zero_grad()

    epoch(*(first := begun()))
    with first[-1].hardened():
        first[0].save_state("state")
    epoch(*first)
    sparse = first[-1].finalize()
    for at in ("before", "after"):
        epoch(*(again := begun("state", at)))
        assert again[-1].pruner.steps == 2 * 16
        resumed = again[-1].finalize()
        assert resumed.zeros == zeros(resumed.module) == TARGET
        for a, b in zip(sparse.module.parameters(), resumed.module.parameters(), strict=True):
            torch.testing.assert_close(a, b)
        again[0].free_memory()


class Swapping:
    """An average kept by somebody else: its values are in the model for the metrics, in a trainer's own words."""

    def begin(self, model: nn.Module) -> None:
        self.average = [p.detach().clone() for p in model.parameters()]

    def follow(self, model: nn.Module) -> None:
        for mine, theirs in zip(self.average, model.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 0.1)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        self.kept = [p.detach().clone() for p in model.parameters()]
        for theirs, mine in zip(model.parameters(), self.average, strict=True):
            theirs.copy_(mine)

    @torch.no_grad()
    def back(self, model: nn.Module) -> None:
        for theirs, mine in zip(model.parameters(), self.kept, strict=True):
            theirs.copy_(mine)


class SwappingLightning(Swapping, lightning.Callback):
    def on_fit_start(self, _: Any, module: nn.Module) -> None:
        self.begin(module)

    def on_train_batch_end(self, _: Any, module: nn.Module, *__: Any) -> None:
        self.follow(module)

    def on_validation_start(self, _: Any, module: nn.Module) -> None:
        self.swap(module)

    def on_validation_end(self, _: Any, module: nn.Module) -> None:
        self.back(module)


class SwappingTrainer(Swapping, TrainerCallback):
    def on_train_begin(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.begin(model)

    def on_step_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.follow(model)

    def on_epoch_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.swap(model)

    def on_evaluate(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.back(model)


class Validated(Automatic):
    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self(batch[0])

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TASK.validation, batch_size=64)


def by_lightning(place: int | None) -> nn.Module:
    torch.manual_seed(0)
    return fit(Validated(), 4, *([] if place is None else [SwappingLightning()])).sparse.module  # type: ignore[no-any-return]


def by_trainer(place: int | None, attempts: Sequence[str] = ()) -> nn.Module:
    others: list[Any] = [callbacks.TrainerPruning(sparsity=0.9)]
    if place is not None:
        others.insert(place, SwappingTrainer())
    settings: dict[str, Any] = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "eval_strategy": "epoch"}
    arguments = TrainingArguments(
        "out",
        num_train_epochs=4,
        save_strategy="no",
        dataloader_drop_last=True,
        auto_find_batch_size=bool(attempts),
        **settings,
    )
    torch.manual_seed(0)
    trainer = Trainer(Answering(), arguments, train_dataset=Rows(), eval_dataset=Rows(), callbacks=others)
    fails = iter(attempts)
    take = trainer.training_step

    def step(*given: Any, **named: Any) -> Tensor:
        if said := next(fails, ""):
            raise RuntimeError(said)
        return take(*given, **named)

    trainer.training_step = step  # type: ignore[method-assign]
    trainer.train()
    return next(one for one in others if isinstance(one, callbacks.TrainerPruning)).sparse.module


@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers")
@pytest.mark.parametrize(("run", "place"), [(by_lightning, 0), (by_trainer, 0), (by_trainer, 1)])
def test_an_average_that_is_swapped_in_for_the_metrics_leaves_the_training_as_it_is(
    run: Callable[[int | None], nn.Module], place: int
) -> None:
    alone, beside = run(None), run(place)
    assert zeros(alone) == zeros(beside) == TARGET
    for a, b in zip(alone.parameters(), beside.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_that_is_tried_again_with_smaller_batches_is_pruned() -> None:
    assert zeros(by_trainer(None, ["", "", "CUDA out of memory."])) == TARGET


def test_a_model_that_fabric_wraps_has_the_names_and_the_precision_of_its_file() -> None:
    fabric = Fabric(accelerator="cpu", precision="bf16-mixed")
    net = network()
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), 0.1))
    pruner = Pruner(model, sparsity=0.9, epochs=1, steps_per_epoch=8, optimizer=optimizer)
    assert pruner.prepare() is model
    for x, y in fabric.setup_dataloaders(TASK.train_loader(0)):
        optimizer.zero_grad()
        fabric.backward(F.cross_entropy(model(x), y))
        optimizer.step()
        pruner.step()
    sparse = pruner.finalize()
    assert sparse.module is net
    assert pruner.steps == 8
    assert sparse.zeros == zeros(net) == TARGET
    inputs = (TASK.validation.tensors[0][:1],)
    export(sparse, "onnx", inputs, Path("m.onnx"))
    assert verify("m.onnx", sparse, inputs, seeds=1).passed


class Answering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        y = self.net(x)
        return {"logits": y} if labels is None else {"loss": F.cross_entropy(y, labels), "logits": y}


@pytest.fixture
def precision() -> Iterator[None]:
    """What accelerate remembers in this process of the precision to train in, forgotten before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("precision")
def test_our_own_loop_in_the_precision_of_an_accelerator_gives_a_model_without_it() -> None:
    Accelerator(mixed_precision="bf16", cpu=True)
    masked = prune(Model(network()), TASK, Recipe(sparsity=0.9, epochs=2))
    inputs = (TASK.validation.tensors[0][:1],)
    export(harden(masked), "onnx", inputs, Path("m.onnx"))
    assert verify("m.onnx", harden(masked), inputs, seeds=1).passed


@pytest.mark.usefixtures("precision")
def test_a_model_that_trained_in_mixed_precision_is_exported() -> None:
    model, pruning = Answering(), callbacks.TrainerPruning(sparsity=0.9)
    settings: dict[str, Any] = {"use_cpu": True, "bf16": True, "report_to": [], "disable_tqdm": True}
    arguments = TrainingArguments("out", num_train_epochs=2, save_strategy="no", **settings)
    Trainer(model, arguments, train_dataset=Rows(), callbacks=[pruning]).train()
    inputs = (TASK.validation.tensors[0][:1],)
    export(pruning.sparse, "onnx", inputs, Path("m.onnx"))
    assert verify("m.onnx", pruning.sparse, inputs, seeds=1).passed


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))


def without_values() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(4, 2)


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.Linear(4, 2)]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lazy, "'0.weight' of a lazy layer has no shape yet"),
        (without_values, "'weight' is on the meta device"),
        (Listed, "Listed has no parameters"),
        (lambda: torch.export.export(nn.Linear(4, 2), (torch.ones(1, 4),)).module(), "no layer that holds them"),
    ],
)
def test_modules_that_cannot_be_pruned_are_told_why(build: Callable[[], nn.Module], said: str) -> None:
    for way in (lambda model: Pruner(model), lambda model: one_shot(Model(model), Recipe(0.5))):
        with pytest.raises(UsageError, match=said) as caught:
            way(build())
        assert caught.value.way_out
