"""What IDP costs: a training step with soft masks against the plain step, interleaved, in CPU time.

    python -m bench.overhead                            # MobileNet-v1 1.0, 96 px, batch 16: the ratio, and a result
    python -m bench.overhead --batch 64                 # more images to the same weights
    python -m bench.overhead --method gmp               # what another method costs
    python -m bench.overhead --method product           # what the least costs that could be called a mask: w · 1

Both models take steps in turn, so that whatever else the machine does hits both, several times over with new models,
since where memory comes to lie matters too. Peak memory is that of one process each, started anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from idp_deploy.pruning import Pruner
from sample_models import mobilenet_v1

RESULTS = Path(__file__).parent / "results"
SIZE, BATCH = 96, 16
PLAIN, PRODUCT = "plain", "product"  # beside the names of methods


class Product(nn.Module):
    """A weight times a constant of its shape, which is what any mask does at the least."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.ones = torch.ones_like(weight)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` as it is."""
        return weight * self.ones


def stepper(method: str, batch: int = BATCH) -> tuple[Callable[[], None], nn.Module]:
    """A function that takes one training step, in the middle of the ramp where masks are soft."""
    torch.manual_seed(0)
    model = mobilenet_v1.build(width=1.0, classes=1000)
    images, labels = torch.randn(batch, 3, SIZE, SIZE), torch.randint(0, 1000, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
    pruner = None
    if method == PRODUCT:
        for name in pruned_weights():
            layer = model.get_submodule(name.rpartition(".")[0])
            parametrize.register_parametrization(layer, "weight", Product(layer.weight.detach()))
    elif method != PLAIN:
        pruner = Pruner(model, sparsity=0.9, method=method, epochs=100_000, dense=0.0, ramp=0.0)
        pruner.prepare()
        assert pruner.report().zeros  # a step before the ramp would cost nothing and say nothing

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()

    return step, model


def pruned_weights() -> list[str]:
    """Names of what `Pruner` prunes by default."""
    return list(Pruner(mobilenet_v1.build(width=1.0, classes=1000), sparsity=0.9).report().layers)


def cpu_seconds(step: Callable[[], None]) -> float:
    """CPU time of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def peak_bytes(method: str, batch: int) -> int:
    """Peak resident memory of a fresh process that takes four steps: the median of five such processes."""
    steps = f"step, _ = o.stepper({method!r}, {batch}); [step() for _ in range(4)]"
    code = f"import bench.overhead as o; {steps}; print(o.own_peak())"
    runs = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5))
    return int(statistics.median(int(run.stdout) for run in runs))


def own_peak() -> int:
    """Peak resident memory of this process so far."""
    # ru_maxrss would carry over the parent's peak
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def pairs_of_steps(method: str, batch: int, rounds: int) -> list[tuple[float, float]]:
    """CPU time of plain and masked steps taken in turn by two new models, each first in every other round."""
    plain, masked = stepper(PLAIN, batch)[0], stepper(method, batch)[0]
    for step in (plain, masked, plain, masked):
        step()
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            masked_s, plain_s = cpu_seconds(masked), cpu_seconds(plain)
        else:
            plain_s, masked_s = cpu_seconds(plain), cpu_seconds(masked)
        pairs.append((plain_s, masked_s))
    return pairs


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", default="idp", help="a method, or 'product'")
    parser.add_argument("--batch", type=int, default=BATCH, help="images a step")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    runs = [pairs_of_steps(chosen.method, chosen.batch, chosen.rounds) for _ in range(chosen.repeats)]
    medians = [statistics.median(masked / plain for plain, masked in run) for run in runs]
    ratios = [masked / plain for run in runs for plain, masked in run]
    weights = sum(p.numel() * p.element_size() for p in stepper(PLAIN)[1].parameters())
    extra = peak_bytes(chosen.method, chosen.batch) - peak_bytes(PLAIN, chosen.batch)
    question = f"--method {chosen.method} --batch {chosen.batch} --rounds {chosen.rounds} --repeats {chosen.repeats}"
    result = {
        "date": date.today().isoformat(),
        "command": f"OMP_NUM_THREADS=1 python -m bench.overhead {question}",
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[1], 1),  # what else the machine did
        "plain_step_ms": round(1000 * statistics.median(plain for run in runs for plain, _ in run), 1),
        "ratio_median_of_medians": round(statistics.median(medians), 4),
        "ratio_medians": [round(median, 4) for median in medians],
        "ratio_quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)[::2]],
        "weight_bytes": weights,
        "extra_peak_bytes": extra,
        "extra_peak_over_weights": round(extra / weights, 3),
    }
    print(json.dumps(result, indent=2))
    name = "overhead" + f"-{chosen.method}" * (chosen.method != "idp") + f"-{chosen.batch}" * (chosen.batch != BATCH)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}-{date.today().isoformat()}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
