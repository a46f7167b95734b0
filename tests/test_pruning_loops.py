"""Loop × copy × checkpoint: what the exported file holds is what was pruned and measured, or the run says why not."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from accelerate import Accelerator
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from idp_deploy import export, verify
from idp_deploy.errors import IdpDeployWarning
from idp_deploy.flow import CompressedModel
from idp_deploy.loading import load_any, save_checkpoint
from idp_deploy.pruning import Pruner, callbacks
from tests.pruning_fixtures import PRUNABLE, Blobs, network, zeros
from tests.test_pruning_callbacks import Rows

TARGET = round(0.9 * PRUNABLE)
TASK = Blobs()
HELD, HELD_LABELS = TASK.validation.tensors


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def accuracy(model: nn.Module) -> float:
    mode = model.training
    with torch.no_grad():
        found = float((model.eval()(HELD).argmax(1) == HELD_LABELS).float().mean())
    model.train(mode)
    return found


def ships(file: str | CompressedModel, expected: float | None = None, factory: Any = network) -> None:
    """The exported file has all the zeros, and the accuracy that was measured."""
    model = load_any(file, factory) if isinstance(file, str) else file
    assert model.zeros == TARGET == zeros(model.module)
    export(model, "onnx", (HELD[:1],), Path("model.onnx"))
    parity = verify("model.onnx", model, (HELD[:1],), seeds=1)
    assert parity.passed
    assert sum(w.zeros for w in parity.weights) == TARGET
    if expected is not None:
        assert accuracy(model.module) == pytest.approx(expected, abs=1e-6)


class Lit(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def fit(
    *others: Any, epochs: int = 8, resume: str | None = None, lit: Lit | None = None, **settings: Any
) -> tuple[Lit, Any]:
    lit = lit or Lit()
    pruning = callbacks.LightningPruning(sparsity=0.9, **settings.pop("pruning", {}))
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[pruning, *others], accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **settings,
    )  # fmt: skip
    trainer.fit(lit, TASK.train_loader(0), TASK.validation_loader(), ckpt_path=resume)
    return lit, pruning


def best(**settings: Any) -> ModelCheckpoint:
    return ModelCheckpoint(".", "best", monitor="acc", mode="max", **settings)


@pytest.mark.wide
@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_lightning_keeps_the_best_hardened_checkpoint(accumulate: int, weights_only: bool) -> None:
    checkpoint = best(save_weights_only=weights_only)
    _, pruning = fit(checkpoint, accumulate_grad_batches=accumulate)
    assert pruning.pruner.steps == pruning.pruner.plan.total == 8 * 8 // accumulate
    assert pruning.sparse.zeros == TARGET
    ships("best.ckpt", float(checkpoint.best_model_score), Lit)


def test_lightning_stops_early_only_once_all_zeros_are_there() -> None:
    checkpoint = best()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, pruning = fit(checkpoint, EarlyStopping("acc", mode="max", patience=2, min_delta=1.0), epochs=20)
    assert pruning.pruner.complete
    assert 6 * 8 < pruning.pruner.steps < 20 * 8
    assert any(f"took {pruning.pruner.steps} of the 160 steps planned" in str(w.message) for w in caught)
    ships("best.ckpt", float(checkpoint.best_model_score), Lit)


def test_lightning_finishes_the_plan_where_it_is_asked_to() -> None:
    stop = EarlyStopping("acc", mode="max", patience=1, min_delta=1.0)
    _, pruning = fit(best(), stop, epochs=10, pruning={"on_unfinished": "finish"})
    assert pruning.pruner.steps == 80
    assert pruning.sparse.zeros == TARGET


def test_lightning_resumes_from_a_hardened_checkpoint_to_the_same_weights() -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(TASK.train, 64)

    def run(lit: Lit, epochs: int, *others: Any, resume: str | None = None) -> Any:
        lit.net[3].p = 0.0
        pruning = callbacks.LightningPruning(sparsity=0.9)
        trainer = lightning.Trainer(
            max_epochs=epochs, callbacks=[pruning, *others], accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=bool(others),
        )  # fmt: skip
        trainer.fit(lit, loader(), ckpt_path=resume)
        return pruning

    whole, parted = Lit(), Lit()
    run(whole, 10, ModelCheckpoint(".", "{epoch}", save_top_k=-1))
    saved = torch.load("epoch=3.ckpt", weights_only=True)["state_dict"]
    assert sum(int((value == 0).sum()) for value in saved.values() if value.dim() > 1) > 1000
    run(parted, 10, resume="epoch=3.ckpt")
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:best.ckpt. taking the weights under")
def test_lightning_averages_are_hardened_in_checkpoints_and_at_the_end() -> None:
    average = WeightAveraging(avg_fn=lambda a, b, n: 0.8 * a + 0.2 * b)
    checkpoint = best()
    lit, pruning = fit(checkpoint, average)
    assert zeros(lit) == pruning.sparse.zeros == TARGET
    model = load_any("best.ckpt", Lit)
    assert zeros(model.module) == TARGET
    assert accuracy(model.module) == pytest.approx(float(checkpoint.best_model_score), abs=1e-6)


def test_lightning_plans_no_steps_for_the_epoch_that_measures_batch_norms() -> None:
    lit, pruning = fit(StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=5, annealing_epochs=1))
    assert zeros(lit) == pruning.sparse.zeros == TARGET
    assert pruning.pruner.plan.total == 8 * len(TASK.train_loader(0))


class Net(nn.Module):
    """Loss and logits, as the Trainer wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.body(x)
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else logits.sum()
        return {"loss": loss, "logits": logits}


class Held(Rows):
    def __init__(self) -> None:
        self.inputs, self.labels = HELD, HELD_LABELS


def score(prediction: Any) -> dict[str, float]:
    return {"acc": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def trainer(*others: Any, model: Net | None = None, **settings: Any) -> tuple[Trainer, Any]:
    pruning = callbacks.TrainerPruning(sparsity=0.9, **settings.pop("pruning", {}))
    arguments = TrainingArguments(
        "run", report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=1e-2, eval_strategy="epoch",
        save_strategy="epoch", metric_for_best_model="acc", greater_is_better=True, per_device_train_batch_size=32,
        **{"num_train_epochs": 8, "load_best_model_at_end": True, "save_total_limit": 2, **settings},
    )  # fmt: skip
    torch.manual_seed(0)
    made = Trainer(
        model or Net(), arguments, train_dataset=Rows(256), eval_dataset=Held(), compute_metrics=score,
        callbacks=[*others, pruning],
    )  # fmt: skip
    return made, pruning


@pytest.mark.wide
@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_trainer_ends_with_the_best_hardened_model(accumulate: int) -> None:
    made, pruning = trainer(gradient_accumulation_steps=accumulate)
    made.train()
    assert pruning.sparse.zeros == TARGET == zeros(made.model)
    assert accuracy(made.model.body) == pytest.approx(made.state.best_metric, abs=1e-6)
    folder = Path(made.state.best_model_checkpoint)
    saved = load_any(folder / "model.safetensors", Net)
    assert zeros(saved.module) == TARGET
    assert accuracy(saved.module.body) == pytest.approx(made.state.best_metric, abs=1e-6)
    ships(CompressedModel(made.model.body, {n.removeprefix("body."): m for n, m in pruning.sparse.masks.items()}))


def test_the_trainer_stops_early_only_once_all_zeros_are_there() -> None:
    made, pruning = trainer(EarlyStoppingCallback(1, early_stopping_threshold=1.0), num_train_epochs=20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.train()
    assert 0.3 * 160 <= pruning.pruner.steps < 160
    assert any("steps planned" in str(w.message) for w in caught if issubclass(w.category, IdpDeployWarning))
    assert pruning.sparse.zeros == TARGET == zeros(made.model)
    assert accuracy(made.model.body) == pytest.approx(made.state.best_metric, abs=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_the_trainer_finishes_the_plan_where_it_is_asked_to(first: bool) -> None:
    stop = EarlyStoppingCallback(1, early_stopping_threshold=1.0)
    made, pruning = trainer(*[stop] * first, pruning={"on_unfinished": "finish"}, num_train_epochs=6)
    if not first:
        made.add_callback(stop)
    made.train()
    assert pruning.pruner.steps == pruning.pruner.plan.total == 48
    assert pruning.sparse.zeros == TARGET


def test_the_trainer_resumes_from_a_hardened_checkpoint() -> None:
    made, _ = trainer(save_total_limit=None, load_best_model_at_end=False)
    made.train()
    again, pruning = trainer(save_total_limit=None, load_best_model_at_end=False)
    again.train(resume_from_checkpoint="run/checkpoint-16")
    assert pruning.sparse.zeros == TARGET
    for a, b in zip(made.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.wide
@pytest.mark.parametrize("accumulate", [1, 4])
def test_accelerate_counts_accumulated_steps_and_loads_the_best(accumulate: int) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    model, optimizer, loader = accelerator.prepare(net, optimizer, TASK.train_loader(0))
    pruning = callbacks.AcceleratePruning(accelerator, sparsity=0.9)
    pruning.begin(model, optimizer, loader, epochs=8)
    highest = -1.0
    for _ in range(8):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.cross_entropy(model(x), y))
                optimizer.step()
                pruning.step()
                optimizer.zero_grad()
        with pruning.hardened():
            found = accuracy(model)
            if pruning.complete and found > highest:
                highest = found
                accelerator.save_state("best")
    assert pruning.pruner.steps == pruning.pruner.plan.total == 64 // accumulate
    accelerator.load_state("best")
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdpDeployWarning)
        sparse = pruning.finalize()
    ships(sparse, highest)
    accelerator.free_memory()


@pytest.mark.wide
@pytest.mark.parametrize("copy", ["none", "ema", "swa", "best state", "best copy"])
@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_a_plain_loop_ships_what_it_measured(copy: str, stop: bool, resume: bool) -> None:
    def begin() -> tuple[nn.Module, torch.optim.Optimizer, Pruner]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        pruner = Pruner(model, sparsity=0.9, epochs=8, steps_per_epoch=8, optimizer=optimizer)
        return model, optimizer, pruner

    model, optimizer, pruner = begin()
    pruner.prepare()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8) if copy == "ema" else None)
    highest, kept, epochs = -1.0, None, 6 if stop else 8
    for epoch in range(epochs):
        if resume and epoch == 4:
            torch.save([model.state_dict(), optimizer.state_dict(), pruner.state_dict()], "state.pt")
            saved = torch.load("state.pt", weights_only=True)
            model, optimizer, pruner = begin()
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            pruner.load_state_dict(saved[2])
            pruner.prepare()
        for x, y in TASK.train_loader(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            pruner.step()
        average.update_parameters(model)
        with pruner.hardened():
            if pruner.complete and accuracy(model) > highest:
                highest = accuracy(model)
                kept = deepcopy(model.state_dict()) if copy == "best state" else deepcopy(model)
    if copy == "best state":
        model.load_state_dict(kept)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", IdpDeployWarning)
        sparse = pruner.finalize()
    assert any("took 48 of the 64 steps planned" in str(w.message) for w in caught) == stop
    if copy in ("ema", "swa"):
        sparse = pruner.apply_to(average)
    elif copy == "best copy":
        before = accuracy(kept)
        sparse = pruner.apply_to(kept)
        assert zeros(kept) >= TARGET
        if stop:  # frozen masks came later: the best copy has zeros of its own
            return
        highest = before
    assert zeros(sparse.module) >= TARGET
    expected = highest if copy in ("best state", "best copy") else accuracy(sparse.module)
    save_checkpoint(sparse, "model.pt")
    if zeros(sparse.module) == TARGET:
        ships("model.pt", expected)
