"""Progress on stderr: a bar on a terminal, plain lines where it is piped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from idp_deploy.cli.output import console, say
from idp_deploy.units import duration

if TYPE_CHECKING:
    from idp_deploy.pruning import Progress as TrainingProgress

TRAINING = "prune"  # the stage that trains


class StageLines:
    """The stages of a run: a line each with its time and what is left of it on a terminal, one line each elsewhere.

    Args:
        stages: their names, in order. seconds: how long a stage took last time, where that is known.
    """

    def __init__(self, stages: Sequence[str], seconds: Callable[[str], float | None]) -> None:
        self._stages, self._seconds = list(stages), seconds
        self._started = self._began = time.monotonic()
        self._skipped: list[str] = []
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            _Left(),
            console=console(),
            transient=True,
            disable=not console().is_terminal,
        )

    def begins(self, name: str, why: str) -> None:
        """Say which stage begins and why, and how long it took last time."""
        self._close()  # of one that was refused
        last = self._seconds(name)
        about = f", took {duration(last)} last time" if last is not None else ""
        say(f"[{self._stages.index(name) + 1}/{len(self._stages)}] {name}: {why}{about}")
        self._began = time.monotonic()
        if name != TRAINING:  # which has a bar of its own
            self._progress.start()
            self._progress.add_task(name, total=None, expected=last)

    def ended(self, name: str) -> None:
        """Say how long it took."""
        self._close()
        say(f"{name}: {duration(time.monotonic() - self._began)}")

    def skipped(self, name: str) -> None:
        """Remember it for the last line: what is not done needs no line of its own."""
        self._skipped.append(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()
        if kind is None:
            left = f"; done already: {', '.join(self._skipped)}" if self._skipped else ""
            say(f"run: {duration(time.monotonic() - self._started)}{left}")

    def _close(self) -> None:
        self._progress.stop()
        for task in self._progress.task_ids:
            self._progress.remove_task(task)


class _Left(ProgressColumn):
    """What is left by the time that the stage took before."""

    def render(self, task: Task) -> Text:
        expected = task.fields.get("expected")
        left = (expected or 0.0) - (task.elapsed or 0.0)
        return Text(f"about {duration(left)} left" if left > 0 else "")


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
        self._began: tuple[float, int] | None = None  # the time and the steps done at the first call

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, now: TrainingProgress) -> None:
        """After every step, and after every epoch with the two accuracies."""
        self._began = self._began or (time.monotonic(), now.step)
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
            say(line + self._left(now))
        else:
            self._progress.console.print(line)

    def _left(self, now: TrainingProgress) -> str:
        assert self._began is not None
        (began, first), left = self._began, now.steps - now.step
        if now.step <= first or left <= 0:
            return ""
        return f"  {duration((time.monotonic() - began) / (now.step - first) * left)} left"
