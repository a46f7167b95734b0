"""Progress on stderr: a bar on a terminal, plain lines where it is piped."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from idp_deploy.cli.output import console, say

if TYPE_CHECKING:
    from idp_deploy.pruning.training import EpochReport


class EpochTable:
    """Called once a step and once an epoch while training; shows loss, sparsity, soft and hardened accuracy."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console(),
            transient=True,
            disable=not console().is_terminal,
        )
        self._task = self._progress.add_task("training", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, done: int, total: int, loss: float) -> None:
        """One optimizer step is done."""
        self._progress.update(self._task, completed=done, total=total, description=f"training, loss {loss:.3f}")

    def epoch(self, report: EpochReport) -> None:
        """One epoch is done."""
        line = (
            f"epoch {report.epoch:>3}/{report.epochs}  loss {report.loss:.4f}  zeros {report.sparsity * 100:5.1f} %"
            f"  soft {report.soft_accuracy * 100:6.2f} %  hardened {report.hardened_accuracy * 100:6.2f} %"
        )
        if self._progress.disable:
            say(line)
        else:
            self._progress.console.print(line)
