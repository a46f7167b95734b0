"""What IDP costs: a training step with soft masks against the plain step, interleaved, in CPU time.

    python -m bench.overhead            # MobileNet-v1 1.0, 96 px, batch 16; prints the ratio, writes the result

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

from idp_deploy.pruning import Pruner
from sample_models import mobilenet_v1

RESULT = Path(__file__).parent / "results" / f"overhead-{date.today().isoformat()}.json"
SIZE, BATCH = 96, 16


def stepper(masked: bool) -> tuple[Callable[[], None], nn.Module]:
    """A function that takes one training step, in the middle of the ramp where masks are soft."""
    torch.manual_seed(0)
    model = mobilenet_v1.build(width=1.0, classes=1000)
    images, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 1000, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
    pruner = Pruner(model, sparsity=0.9, epochs=100_000, dense=0.0, ramp=0.0) if masked else None
    if pruner is not None:
        pruner.prepare()
        assert pruner.report().zeros  # a step before the ramp would cost nothing and say nothing

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()

    return step, model


def cpu_seconds(step: Callable[[], None]) -> float:
    """CPU time of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def peak_bytes(masked: bool) -> int:
    """Peak resident memory of a fresh process that takes four steps: the median of five such processes."""
    code = f"import bench.overhead as o; step, _ = o.stepper({masked}); [step() for _ in range(4)]; print(o.own_peak())"
    runs = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5))
    return int(statistics.median(int(run.stdout) for run in runs))


def own_peak() -> int:
    """Peak resident memory of this process so far."""
    # ru_maxrss would carry over the parent's peak
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def pairs_of_steps(rounds: int) -> list[tuple[float, float]]:
    """CPU time of plain and masked steps taken in turn by two new models, each first in every other round."""
    plain, masked = stepper(False)[0], stepper(True)[0]
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
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    runs = [pairs_of_steps(chosen.rounds) for _ in range(chosen.repeats)]
    medians = [statistics.median(masked / plain for plain, masked in run) for run in runs]
    ratios = [masked / plain for run in runs for plain, masked in run]
    weights = sum(p.numel() * p.element_size() for p in stepper(False)[1].parameters())
    extra = peak_bytes(True) - peak_bytes(False)
    result = {
        "date": date.today().isoformat(),
        "command": f"OMP_NUM_THREADS=1 python -m bench.overhead --rounds {chosen.rounds} --repeats {chosen.repeats}",
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
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
