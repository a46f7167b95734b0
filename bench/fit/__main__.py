"""Device-driven pruning against uniform and global at equal simulated latency.

    python -m bench.fit run --seeds 0,1,2,3,4   # trains what is missing; a line of JSON a seed and place
    python -m bench.fit measure                 # its .onnx file against the unstructured one of the same accuracy
    python -m bench.fit report                  # the table, with paired 95 % intervals

Every seed trains a net of its own, from which all arms go on for as many steps; the dense one too. The time that
uniform pruning takes is the limit for all. Places, net and steps are in `bench/fit/arms.py`; how noise is counted was
chosen on seeds 100 and 101.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.fit.arms import PLACES, Place, dense_time, example, first_batch, recipes
from bench.fit.measuring import measure
from bench.suite.running import evaluate, train
from bench.suite.tasks import SmallTask
from idp_deploy.flow import CompressedModel, Model, Recipe
from idp_deploy.pruning import Pruner
from idp_deploy.pruning.comparing import mean_interval

RESULTS = Path(__file__).parents[1] / "results" / "fit"
RUNS, MEASURED, REPORT = RESULTS / "runs.jsonl", RESULTS / "measured.jsonl", RESULTS / "report.md"
WANTED = 0.2  # of what uniform pruning loses


@cache
def start(task: SmallTask, seed: int) -> dict[str, Tensor]:
    """The trained net that every arm of a seed begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(1000 + seed)
        model = task.net()
    train(task, model, task.optimizer(model), task.trained, 1000 + seed)
    return model.state_dict()


def net(task: SmallTask, seed: int) -> nn.Module:
    """A fresh copy of it."""
    model = task.net()
    model.load_state_dict(start(task, seed))
    return model.eval()


def trained(task: SmallTask, seed: int, recipe: Recipe | None) -> tuple[CompressedModel | None, float]:
    """Pruned as the recipe says, for the task's steps; and its score on data that training never sees."""
    model, pruner = net(task, seed), None
    optimizer = task.optimizer(model)
    if recipe is not None:
        pruner = Pruner(
            model, sparsity=recipe.sparsity, epochs=1, steps_per_epoch=task.steps, pattern=recipe.pattern,
            allocation=recipe.allocation, seed=seed, optimizer=optimizer, example_inputs=example(task),
            **recipe.options,
        )  # fmt: skip
        pruner.prepare()
    train(task, model, optimizer, task.steps, seed, pruner)
    return (pruner.finalize() if pruner is not None else None), evaluate(task, model)


def run(seed: int, name: str, place: Place) -> dict[str, Any]:
    """Every arm of one seed on one device."""
    began = time.process_time()
    task, whole = place.task, Model(net(place.task, seed))
    found = recipes(place, whole, first_batch(task), example(task))
    line: dict[str, Any] = {"place": name, "seed": seed, "dense_ms": dense_time(place, whole, example(task))}
    line["scores"] = {"dense": trained(task, seed, None)[1]}
    line["milliseconds"] = {arm: ms for arm, (_, ms) in found.items()}
    line["zeros"] = {arm: recipe.sparsity for arm, (recipe, _) in found.items()}
    line["shares"] = dict(found["device"][0].options["shares"])
    line["rules"] = dict(found["device"][0].options["rules"])
    line["scores"] |= {arm: trained(task, seed, recipe)[1] for arm, (recipe, _) in found.items()}
    return line | {"cpu_seconds": round(time.process_time() - began, 1), "torch": torch.__version__}


def report() -> str:
    """How much of the lost accuracy the device's way keeps, by place."""
    lines = _lines(RUNS)
    parts = []
    for name, place in PLACES.items():
        mine = [line for line in lines if line["place"] == name]
        if not mine:
            continue
        rows = [f"{place.target}, .{place.format}, {place.task.says} ({len(mine)} seeds)"]
        rows += [f"uniform and global prune {place.pattern}", ""]
        rows += ["| arm | simulated | score | lost |", "| --- | ---: | ---: | ---: |"]
        dense = sum(line["scores"]["dense"] for line in mine) / len(mine)
        for arm in mine[0]["scores"]:
            score = sum(line["scores"][arm] for line in mine) / len(mine)
            times = [line["milliseconds"].get(arm, line["dense_ms"]) for line in mine]
            rows.append(f"| {arm} | {sum(times) / len(times):.3f} ms | {score:.2%} | {dense - score:.2%} |")
        rows.append("")
        for other in ("uniform", "global"):
            lost = sum(line["scores"]["dense"] - line["scores"][other] for line in mine) / len(mine)
            gain = mean_interval([line["scores"]["device"] - line["scores"][other] for line in mine])
            if gain is not None:
                shares = [part / lost if lost > 0 else 0.0 for part in (gain.middle, gain.low, gain.high)]
                rows.append(
                    f"against {other}: {gain.middle:+.2%} ({gain.low:+.2%} to {gain.high:+.2%}), "
                    f"{shares[0]:.0%} of what it loses ({shares[1]:.0%} to {shares[2]:.0%})"
                )
        parts.append("\n".join(rows))
    measured = _lines(MEASURED)
    if measured:
        ratio = mean_interval([line["times_faster"] for line in measured])
        rows = ["onnxruntime on this host, CPU time, in turns: its file against the unstructured one", ""]
        rows += ["| seed | its score | unstructured: zeros, score | its time | theirs | times faster |"]
        rows += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        rows += [
            f"| {one['seed']} | {one['score']:.2%} | {one['zeros']:.0%}, {one['other_score']:.2%} | {one['ms']:.4f} ms "
            f"| {one['other_ms']:.4f} ms | {one['times_faster']:.2f} |"
            for one in measured
        ]
        if ratio is not None:
            rows += ["", f"{ratio.middle:.2f} times ({ratio.low:.2f} to {ratio.high:.2f})"]
        parts.append("\n".join(rows))
    text = "\n\n".join(parts) + "\n"
    REPORT.write_text(text)
    return text


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _add(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "measure", "report"))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--places", default=",".join(PLACES))
    parser.add_argument("--minutes", type=float, default=1e9, help="start nothing further after this long")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    torch.set_num_threads(1)
    if given.what == "report":
        print(report())
        return
    have = {(line["place"], line["seed"]) for line in _lines(RUNS)}
    done = {line["seed"] for line in _lines(MEASURED)}
    for seed in map(int, given.seeds.split(",")):
        if given.what == "measure" and seed not in done and time.monotonic() < until:
            line = next(line for line in _lines(RUNS) if (line["place"], line["seed"]) == ("dense", seed))
            task = PLACES["dense"].task
            _add(MEASURED, measure(seed, line, partial(trained, task), example(task)))
        for name in given.places.split(",") if given.what == "run" else ():
            if (name, seed) not in have and time.monotonic() < until:
                _add(RUNS, run(seed, name, PLACES[name]))


if __name__ == "__main__":
    main()
