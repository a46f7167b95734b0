"""The campaign: damaged files in child processes with limits; whatever ends, hangs or fills a child is counted.

python -m tests.fuzzing.campaign --cases 10000 --seed 1 [--kinds onnx,tflite] [--first 2500]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from tests.chaos.commands import EVERYTHING

KINDS = ("onnx", "tflite", "coreml", "pt", "safetensors", "manifest", "baseline", "toml")
SECONDS = 60.0  # a case; more is a hang
MEMORY = 2 << 30  # bytes a case may add
_BATCH_SECONDS = 300.0  # starting a child
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload([*EVERYTHING, "tests.fuzzing.cases", "tests.fuzzing.seeds"])
_WORDS = ("unchanged", "refused", "differs", "equal", "read", "wrong", "unexpected", "signal", "hang", "memory")


def campaign(
    kinds: Sequence[str], cases: int, seed: int, folder: Path, first: int = 0
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Run `cases` damaged files of each kind; (counts by kind and outcome, a line for each that is not fine).

    Args:
        first: the number of the first case: what a campaign in parts has done before.
    """
    from tests.fuzzing.cases import FINE

    counts: Counter[tuple[str, str]] = Counter()
    bad = []
    for kind in kinds:
        for number, word, said, text in _outcomes(kind, range(first, first + cases), seed, folder):
            counts[kind, word] += 1
            if word not in FINE:
                bad.append(f"{kind} {number} {word}: {said} → {text}")
    return counts, bad


def _outcomes(kind: str, cases: range, seed: int, folder: Path) -> Iterator[tuple[int, str, str, str]]:
    number = cases.start
    while number < cases.stop:
        child = _Child(kind, seed, folder)
        try:
            while number < cases.stop:
                word, said, text = child.ask(number)
                yield number, word, said, text
                number += 1
                if word in ("signal", "hang", "memory"):
                    break
        finally:
            child.end()


class _Child:
    """A process that runs one case after another and is replaced when one ends it: a fork of one with all imports."""

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self._pipe, theirs = _FORKS.Pipe()
        self._process = _FORKS.Process(target=serve, args=(kind, seed, folder, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._first = True

    def ask(self, number: int) -> tuple[str, str, str]:
        limit = SECONDS + (_BATCH_SECONDS if self._first else 0)
        self._first = False
        try:
            self._pipe.send_bytes(json.dumps(number).encode())
            if not self._pipe.poll(limit):
                return "hang", "", f"over {limit:.0f} s"
            word, said, text = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError):
            self._process.join()
            status = self._process.exitcode or 0
            return "signal", "", signal.Signals(-status).name if status < 0 else f"exit {status}"
        return word, said, text

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def serve(kind: str, seed: int, folder: Path, pipe: Connection) -> None:
    """The child's side."""
    import torch

    from tests.fuzzing.cases import run_case
    from tests.fuzzing.seeds import make

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    torch.set_num_threads(1)  # tiny layers: more threads would only wait for each other
    seeds = make(folder, frozenset({kind}))
    with tempfile.TemporaryDirectory() as own:
        while True:
            try:
                number = json.loads(pipe.recv_bytes())
            except EOFError:
                return
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            outcome = run_case(kind, seeds, Path(own), seed, number)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            word, text = outcome.word, outcome.text
            if grown > MEMORY:
                word, text = "memory", f"{grown / 1e9:.1f} GB"
            pipe.send_bytes(json.dumps([word, outcome.said, text]).encode())


def main(arguments: list[str]) -> int:
    """Print the table and the failures; 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="damaged files of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first, to go on")
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args(arguments)
    print(f"{options.cases} damaged files a kind from number {options.first}, seed {options.seed}")
    print("".join(f"{column:>12}" for column in ("kind", *_WORDS, "seconds")), flush=True)
    failures = []
    for kind in options.kinds.split(","):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            counts, bad = campaign([kind], options.cases, options.seed, Path(folder), options.first)
        row = (kind, *(counts[kind, word] for word in _WORDS), f"{time.monotonic() - start:.0f}")
        print("".join(f"{cell:>12}" for cell in row))
        print("".join(f"{line}\n" for line in bad), end="", flush=True)
        failures += bad
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
