"""The campaign: commands that are killed, that find the disk full, that meet another, that lose a worker.

python -m tests.chaos.killing --kills 200 --seed 1
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from random import Random

from tests.chaos import trials
from tests.chaos.commands import COMMANDS, IN_TURN, WORKERS, Command
from tests.chaos.process import Server, room

Counts = Counter[tuple[str, str]]


def campaign(commands: Sequence[Command], kills: int, others: int, seed: int, folder: Path) -> tuple[Counts, list[str]]:
    """(trials by command and kind, a line for each thing that did not hold).

    Args:
        kills: over the commands in turn. others: full disks, meetings and deaths of workers, each over them in turn.
    """
    modules = dict.fromkeys(module for command in commands for module in command.modules)
    servers = [Server(folder / name, modules) for name in ("one", "two")[: 1 + (others > 0)]]
    server = servers[0]
    known: dict[str, trials.Known] = {}
    counts: Counts = Counter()
    bad: list[str] = []

    def tried(command: Command, kind: str, trial: Callable[[trials.Known, Path], list[str]]) -> None:
        if command.name not in known:
            known[command.name] = trials.know(command, folder / f"known-{command.name}", server)
        counts[command.name, kind] += 1
        place = folder / "trial"
        found = trial(known[command.name], place)
        lines = [f"{command.name}, {kind} {counts[command.name, kind]}: {fault}" for fault in found]
        print("".join(f"{line}\n" for line in lines), end="", flush=True)  # at once: a campaign takes long
        bad.extend(lines)
        shutil.rmtree(place, ignore_errors=True)

    for number, command in zip(range(kills), cycle(commands), strict=False):
        random = Random(f"{seed}/kill/{number}")
        tried(command, "kill", lambda at, place, r=random: trials.killed(at, server, place, r))
    mounts = trials.can_mount(folder / "disk")
    for number, command in zip(range(others), cycle(dict.fromkeys(commands)), strict=False):
        random = Random(f"{seed}/other/{number}")
        if mounts:
            tried(command, "full disk", lambda at, place, r=random: trials.full_disk(at, server, place, r))
        tried(command, "two at once", lambda at, place: trials.two_at_once(at, servers, place))
    for number, (command, mark) in zip(range(others), cycle(w for w in WORKERS if w[0] in commands), strict=False):
        random = Random(f"{seed}/worker/{number}")
        tried(command, "worker", lambda at, place, r=random, m=mark: trials.worker_dies(at, server, place, r, m))
    for one in servers:
        one.end()
    return counts, bad


def main(arguments: list[str]) -> int:
    """Print the table and what did not hold; 1 if anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--others", type=int, default=20, help="full disks, two at once, workers that die: each so many"
    )
    parser.add_argument("--commands", default=",".join(command.name for command in COMMANDS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    start, folder = time.monotonic(), room()
    try:
        commands = [command for command in IN_TURN if command.name in options.commands.split(",")]
        counts, bad = campaign(commands, options.kills, options.others, options.seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    kinds = ("kill", "full disk", "two at once", "worker")
    print(
        f"{sum(counts.values())} trials, seed {options.seed}, {time.monotonic() - start:.0f} s, {len(bad)} did not hold"
    )
    print("".join(f"{cell:>20}" for cell in ("command", *kinds)))
    for command in dict.fromkeys(commands):
        print("".join(f"{cell:>20}" for cell in (command.name, *(counts[command.name, kind] for kind in kinds))))
    if options.others and not any(kind == "full disk" for _, kind in counts):
        print("no full disks: this user may not mount a file system")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
