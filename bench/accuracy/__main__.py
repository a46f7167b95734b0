"""Hardened accuracy of every method on generated tasks, one cached file a run, so that it can be filled in pieces.

    python -m bench.accuracy characters --methods idp,gmp,topk-ste,idp-detached,random --seeds 0,1 --minutes 15
    python -m bench.accuracy characters --report          # what is there, with paired 95 % intervals

Every run trains from fresh weights (drawn from its seed) with the same epochs, optimizer, learning-rate schedule,
prunable set and allocation; `dense` is the same training without pruning. Same seed, same data order: runs are paired.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idp_deploy.flow import Model, Recipe
from idp_deploy.pruning import Run
from idp_deploy.pruning.comparing import difference, score
from idp_deploy.tasks import Task
from sample_models import bert, characters, entailment, mobilenet_v1, resnet18

RUNS = Path(__file__).parent / "runs"

# a name for a method with settings of its own → (method, options); anything else is a method's own name
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("idp", {}),
    "idp-detached": ("idp", {"detach": True}),
    "idp-paper": ("idp", {}),
}


@dataclass(frozen=True)
class Problem:
    """One task and net of the protocol."""

    build: Callable[[], nn.Module]
    task: Callable[[], Task]
    sparsities: tuple[float, ...]
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)


PROBLEMS = {
    "characters": Problem(
        lambda: mobilenet_v1.build(width=0.25, classes=36, small_images=True), characters.task, (0.866, 0.95), 20
    ),
    "characters-small": Problem(  # no noise to speak of, so that sixteen short epochs leave chance far behind
        lambda: mobilenet_v1.build(width=0.25, classes=36, small_images=True),
        lambda: characters.task(samples=4800, validation=1800, noise=0.05, rotation=8.0, distractors=0, batch_size=32),
        (0.9,),
        16,
    ),
    "characters-resnet": Problem(lambda: resnet18.build(width=0.25, classes=36), characters.task, (0.855,), 20),
    "entailment": Problem(bert.build, entailment.task, (0.9,), 20, {"distill": 0.95}),
}


def run(problem: str, name: str, sparsity: float, seed: int, allocation: str) -> Run:
    """One run, read from its file where there is one."""
    file = RUNS / problem / f"{name}-{sparsity}-{allocation}-{seed}.json"
    if file.exists():
        return Run(**json.loads(file.read_text())["run"])
    torch.manual_seed(1000 + seed)
    given = PROBLEMS[problem]
    method, options = VARIANTS.get(name, (name, {}))
    recipe = Recipe(
        sparsity=0.0 if name == "dense" else sparsity,
        method=method,
        mode="paper" if name == "idp-paper" else "auto",
        allocation=allocation,
        epochs=given.epochs,
        seed=seed,
        options={**given.options, **options},
    )
    start = time.process_time()
    found = score(Model(given.build()), given.task(), recipe)
    found = Run(name, sparsity, seed, found.accuracy, found.realised)
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "run": asdict(found),
        "epochs": given.epochs,
        "cpu_seconds": round(time.process_time() - start, 1),
        "torch": torch.__version__,
    }
    file.write_text(json.dumps(record, indent=2) + "\n")
    return found


def report(problem: str, allocation: str) -> str:
    """A table of means, and paired differences of idp against each other method."""
    found = [
        Run(**json.loads(file.read_text())["run"]) for file in sorted((RUNS / problem).glob(f"*-{allocation}-*.json"))
    ]
    lines = [
        f"{problem}, allocation {allocation}: hardened accuracy in %, and idp minus the method with its 95 % interval"
    ]
    for sparsity in sorted({run.sparsity for run in found}):
        for name in sorted({run.method for run in found if run.sparsity == sparsity}):
            scores = [run.accuracy * 100 for run in found if (run.method, run.sparsity) == (name, sparsity)]
            line = f"  {sparsity}  {name:14} {sum(scores) / len(scores):6.2f}  ({len(scores)} seeds)"
            gap = difference(found, "idp", name, sparsity) if name != "idp" else None
            if gap is not None:
                low, middle, high = (100 * x for x in (gap.interval.low, gap.interval.middle, gap.interval.high))
                line += f"  idp {middle:+.2f} [{low:+.2f}, {high:+.2f}] {gap.verdict}"
            lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Fill in missing runs until the time is up, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--methods", default="dense,idp,gmp,topk-ste,idp-detached,random")
    parser.add_argument("--sparsities", default="", help="those of the problem by default")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--allocation", default="erk")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this long")
    parser.add_argument("--report", action="store_true", help="only report what is there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + given.minutes * 60
    sparsities = [float(s) for s in given.sparsities.split(",") if s] or PROBLEMS[given.problem].sparsities
    for seed in () if given.report else map(int, given.seeds.split(",")):
        for sparsity in sparsities:
            for name in given.methods.split(","):
                if time.monotonic() < until:
                    found = run(given.problem, name, sparsity, seed, given.allocation)
                    print(f"{name} {sparsity} seed {seed}: {found.accuracy * 100:.2f} %", flush=True)
    print(report(given.problem, given.allocation))


if __name__ == "__main__":
    main()
