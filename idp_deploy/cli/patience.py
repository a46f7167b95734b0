"""How far a command is that takes seconds: a bar on a terminal, and in a log one line for what takes long.

Nothing here is imported for a command that is quick: a bar's library is, when there is something to show on a terminal.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from idp_deploy.cli.output import console, say
from idp_deploy.units import duration
from idp_deploy.waiting import listening

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 2.0  # seconds without a word


class Countdown:
    """What is left of pieces of work that take about as long, by those that were done here.

    Args:
        total: of the pieces. done: before this one began.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self._total, self._first, self._began = total, done, time.monotonic()

    def left(self, done: int) -> str:
        """To end a line with; nothing where nothing is left."""
        rest = (time.monotonic() - self._began) / max(done - self._first, 1) * (self._total - done)
        return f", about {duration(rest)} left" if done < self._total else ""


class Waiting:
    """What a command does, and how far it is: a bar with the time left on a terminal, and in a log a line a step.

    What takes long within a step has one line more in a log, once it has taken `PATIENCE` seconds, with the time left.

    Args:
        steps: how many the command takes, where that is known.
    """

    def __init__(self, steps: int = 0) -> None:
        self._steps, self._taken = Countdown(steps), 0
        self._bars: Progress | None = None
        self._bar: dict[str, TaskID] = {}
        self._pieces: dict[str, tuple[Countdown, float, bool]] = {}  # with when it began, and whether it was told
        self._listening = ExitStack()

    def step(self, message: str) -> None:
        """Say what begins, and what is left of all steps by those that are done."""
        say(message + (self._steps.left(self._taken) if self._taken else ""))
        self._taken += 1

    def __enter__(self) -> Self:
        self._listening.enter_context(listening(self._heard))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.close()
        if self._bars is not None:
            self._bars.stop()

    def _heard(self, what: str, done: int, total: int | None) -> None:
        if console().is_terminal:
            self._shown(what, done, total)
            return
        if done == 0:
            self._pieces[what] = (Countdown(total or 0), time.monotonic(), False)
        left, began, told = self._pieces[what]
        if not told and done and time.monotonic() - began > PATIENCE and done != total:
            of = f" of {total}{left.left(done)}" if total else ""
            say(f"{what}: {done}{of}")
            self._pieces[what] = (left, began, True)

    def _shown(self, what: str, done: int, total: int | None) -> None:
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        bar = self._bar.get(what)
        if bar is None:
            bar = self._bar[what] = self._bars.add_task(what)
        self._bars.update(bar, completed=done, total=total, visible=total is None or done < total)


def _bars() -> Progress:
    from rich import progress

    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=console(),
        transient=True,
    )
