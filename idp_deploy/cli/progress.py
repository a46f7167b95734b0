"""Progress on stderr: a bar on a terminal, plain lines where it is piped."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from idp_deploy.cli.output import console, say

if TYPE_CHECKING:
    from idp_deploy.pruning import Progress as TrainingProgress


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

    def __call__(self, now: TrainingProgress) -> None:
        """After every step, and after every epoch with the two accuracies."""
        self._progress.update(
            self._task,
            completed=now.step,
            total=now.steps,
            description=f"{now.phase}, loss {now.loss:.3f}, zeros {now.sparsity * 100:.1f} %",
        )
        if now.soft is None or now.hard is None:
            return
        line = (
            f"epoch {now.epoch:>3}/{now.epochs} {now.phase:<6} loss {now.loss:.4f}  zeros {now.sparsity * 100:4.1f} %"
            f"  soft {now.soft * 100:5.2f} %  hard {now.hard * 100:5.2f} %"
        )
        if self._progress.disable:
            say(line)
        else:
            self._progress.console.print(line)
