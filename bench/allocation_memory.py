"""Memory that an allocation takes beside the model, in bytes a parameter: python -m bench.allocation_memory [MILLIONS].

Each allocation runs in a fresh process over one net of equal layers; what counts is how far the peak of resident memory
rises above what the weights took.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

RESULT = Path(__file__).with_name("results") / "allocation_memory.json"
HOWS = ("uniform", "erk", "global", "lamp", "sensitivity")


def peak(how: str, millions: int) -> float:
    """Bytes a parameter of one allocation at 90 % zeros, in this process."""
    import torch

    from idp_deploy.pruning import Layer, allocate

    torch.manual_seed(0)
    side = 1 << 10
    layers = [Layer(f"l{i}", torch.randn(millions * 10**6 // (10 * side), side)) for i in range(10)]
    if how == "sensitivity":
        layers = [replace(layer, gradient=torch.randn_like(layer.weight)) for layer in layers]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    allocate(layers, 0.9, how)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return grown / sum(layer.entries for layer in layers)


def main(millions: int) -> None:
    found = {}
    for how in HOWS:
        command = [sys.executable, "-m", "bench.allocation_memory", "--one", how, str(millions)]
        found[how] = round(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 2)
        print(f"{how:8} {found[how]:6.2f} bytes a parameter")
    record = {"command": f"python -m bench.allocation_memory {millions}", "millions": millions, "bytes": found}
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(peak(sys.argv[2], int(sys.argv[3])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
