"""The examples of docs/loops.md run as they stand; accumulation, resuming and what they refuse."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.pruning import callbacks
from tests.pruning_fixtures import PRUNABLE, Blobs, network, zeros

DOCS = Path(__file__).parents[1] / "docs" / "loops.md"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    warnings.simplefilter("ignore")


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.zeros_in_validation: list[int] = []
        self.seen: list[Tensor] = []
        self.net[4].register_forward_hook(lambda layer, *_: self.seen.append(layer.weight))

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.net(batch[0])
        self.zeros_in_validation.append(int((self.seen[-1] == 0).sum()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, samples: int = 64) -> None:
        self.inputs, self.labels = Blobs(samples).train.tensors

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.inputs[index], "labels": self.labels[index]}


class WithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = network(), nn.Linear(8, 8)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.body(x))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def example(word: str, **names: Any) -> dict[str, Any]:
    block = next(b for b in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if word in b)
    exec(compile(block, str(DOCS), "exec"), names)
    return names


def quiet(epochs: int, **settings: Any) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        **settings,
    )  # fmt: skip


def test_the_lightning_example_runs() -> None:
    module = Module()
    names = example("LightningPruning", module=module, loader=Blobs().train_loader(0))
    assert zeros(module) == names["pruning"].sparse.zeros == round(0.9 * PRUNABLE)
    assert isinstance(names["pruning"], lightning.Callback)
    assert names["pruning"].pruner.steps == 10 * 8
    assert names["pruning"].pruner.method.settings["kappa"] == 10  # SGD


def test_lightning_validates_hardened_weights_and_counts_accumulated_steps() -> None:
    module, pruning = Module(), callbacks.LightningPruning(sparsity=0.9)
    trainer = quiet(
        6, accumulate_grad_batches=4, num_sanity_val_steps=1, enable_checkpointing=False, callbacks=[pruning]
    )
    trainer.fit(module, Blobs().train_loader(0), Blobs().validation_loader())
    assert pruning.pruner.steps == 6 * 2
    dense, *ramp, last = module.zeros_in_validation
    assert dense == 0
    assert all(ramp), "hard zeros while the masks are still soft"
    assert last == int((module.net[4].weight == 0).sum())


@pytest.mark.parametrize("at", [2, 7])
def test_lightning_resumes_to_the_same_weights(at: int) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(Blobs().train, 64)

    def module() -> Module:
        fresh = Module()
        fresh.net[3].p = 0.0
        return fresh

    whole, parted = module(), module()
    quiet(10, enable_checkpointing=False, callbacks=[callbacks.LightningPruning(sparsity=0.9)]).fit(whole, loader())

    class Stop(lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch + 1 == at:
                trainer.save_checkpoint("half.ckpt")
                trainer.should_stop = True

    quiet(10, enable_checkpointing=False, callbacks=[callbacks.LightningPruning(sparsity=0.9), Stop()]).fit(
        module(), loader()
    )
    pruning = callbacks.LightningPruning(sparsity=0.9)
    quiet(10, enable_checkpointing=False, callbacks=[pruning]).fit(parted, loader(), ckpt_path="half.ckpt")
    assert pruning.sparse.zeros == round(0.9 * PRUNABLE)
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("epochs", "batch"), [(6, 32), (9, 64), (6, 128)])
def test_lightning_goes_on_with_another_batch_size_or_more_epochs(epochs: int, batch: int) -> None:
    def fit(epochs: int, batch: int, **settings: Any) -> Any:
        pruning = callbacks.LightningPruning(sparsity=0.9, on_unfinished="raise")
        loader = DataLoader(Blobs().train, batch)
        quiet(epochs, enable_checkpointing=False, callbacks=[pruning, *settings.pop("more", ())]).fit(
            Module(), loader, **settings
        )
        return pruning

    class Stop(lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                trainer.save_checkpoint("half.ckpt")
                raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(6, 64, more=[Stop()])
    with pytest.warns(IdpDeployWarning, match=f"stretched over {(epochs - 3) * 512 // batch} steps to come, in place"):
        pruning = fit(epochs, batch, ckpt_path="half.ckpt")
    assert pruning.pruner.steps == pruning.pruner.plan.total == 24 + (epochs - 3) * 512 // batch
    assert pruning.sparse.zeros == round(0.9 * PRUNABLE)


def test_the_trainer_goes_on_with_more_epochs() -> None:
    def fit(epochs: int, resume: str | None) -> Any:
        pruning = callbacks.TrainerPruning(sparsity=0.9, on_unfinished="raise")
        arguments = TrainingArguments(
            "run", num_train_epochs=epochs, save_steps=8, report_to=[], use_cpu=True, disable_tqdm=True
        )
        trainer = Trainer(WithLoss(), arguments, train_dataset=Rows(), callbacks=[pruning])
        trainer.train(resume_from_checkpoint=resume)
        return pruning

    steps = fit(2, None).pruner.plan.total
    with pytest.warns(IdpDeployWarning, match=f"stretched over {2 * steps - 8} steps to come, in place of {steps - 8}"):
        pruning = fit(4, "run/checkpoint-8")
    assert pruning.pruner.steps == pruning.pruner.plan.total == 2 * steps
    assert pruning.sparse.zeros == round(0.9 * (PRUNABLE + 64))


def test_the_trainer_example_runs() -> None:
    model = WithLoss()
    names = example("TrainerPruning", model=model, dataset=Rows())
    assert zeros(model.body) == names["pruning"].sparse.zeros == round(0.9 * PRUNABLE)
    assert isinstance(names["pruning"], TrainerCallback)
    assert names["pruning"].pruner.method.settings["kappa"] == 100  # AdamW
    assert any(Path("sparse").iterdir())


def test_the_accelerate_example_runs() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    names = example(
        "AcceleratePruning", model=model, optimizer=optimizer, loader=Blobs().train_loader(0),
        loss=nn.functional.cross_entropy,
    )  # fmt: skip
    assert zeros(model) == names["sparse"].zeros == round(0.9 * PRUNABLE)
    assert names["pruning"].pruner.steps == 10 * 2


def test_the_trainer_resumes_to_the_same_weights_and_misses_its_masks() -> None:
    def fit(resume: str | None) -> WithLoss:
        torch.manual_seed(0)
        model = WithLoss()
        arguments = TrainingArguments(
            "run", num_train_epochs=4, save_steps=4, report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=1e-2
        )
        trainer = Trainer(model, arguments, train_dataset=Rows(), callbacks=[callbacks.TrainerPruning(sparsity=0.9)])
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole, again = fit(None), fit("run/checkpoint-20")
    assert zeros(again.body) + zeros(again.head) == round(0.9 * (PRUNABLE + 64))
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    Path("run/checkpoint-20", callbacks.STATE_FILE).unlink()
    with pytest.raises(UsageError, match=r"resumes at step 20, and '.*checkpoint-20/idp_deploy_pruner\.pt'"):
        fit("run/checkpoint-20")


def test_what_the_trainer_knows_is_not_asked_twice() -> None:
    with pytest.raises(UsageError, match="'epochs' is the trainer's to say"):
        callbacks.LightningPruning(epochs=3)
    with pytest.raises(UsageError, match="does not say how many steps"):
        quiet(-1, callbacks=[callbacks.LightningPruning()]).fit(Module(), Blobs().train_loader(0))
    with pytest.raises(AttributeError, match="no attribute 'KerasPruning'"):
        callbacks.KerasPruning  # noqa: B018
