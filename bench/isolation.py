"""What children, seals and checks cost: commands of this build beside those of another checkout, in turn.

python -m bench.isolation OTHER_CHECKOUT [--runs 5] [--commands verify,export,…]

Both have a Python of their own in `.venv/bin/python`. Each builds the files that it reads. What counts is the ratio of
the medians of wall time; CPU time of the whole process tree is beside it, since a busy machine stretches wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
RESULT = HERE / "bench" / "results" / "isolation-2026-11-28.json"
_INPUTS = ("--model", "net:build", "--inputs", "1x3x224x224")
COMMANDS = {
    "verify tflite": ("verify", "net.tflite", "net.pt", *_INPUTS),
    "verify onnx": ("verify", "net.onnx", "net.pt", *_INPUTS),
    "export tflite": ("export", "net.pt", "--to", "tflite", *_INPUTS, "-o", "out"),
    "export onnx": ("export", "net.pt", "--to", "onnx", *_INPUTS, "-o", "out"),
    "inspect": ("inspect", "net.tflite"),
    "simulate": ("simulate", "net.tflite", "--target", "pixel-4"),
    "check": ("check", "net.tflite", "--budgets", "budgets.toml", "--target", "pixel-4"),
}
_NET = "from bench.sizes.models import MODELS\n\ndef build():\n    return MODELS['mobilenet_v2'].build().eval()\n"
_BUDGETS = '[budgets.pixel-4.tflite]\nsize = "100 MB"\n'


def timed(checkout: Path, folder: Path, arguments: tuple[str, ...]) -> tuple[float, float]:
    """(wall, CPU) seconds of one command with all its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**_environment(checkout, folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [checkout / ".venv" / "bin" / "python", "-m", "idp_deploy", *arguments],
        cwd=folder, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{checkout} {' '.join(arguments)}: {done.stderr[-500:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _environment(checkout: Path, folder: Path) -> dict[str, str]:
    """Python writes compiled code beside the sources: installed commands do not compile themselves at every start."""
    return {**os.environ, "PYTHONPATH": f"{checkout}:{folder}", "PYTHONDONTWRITEBYTECODE": ""}


def prepare(checkout: Path, folder: Path) -> None:
    """A pruned MobileNetV2 and its files, by that checkout."""
    (folder / "net.py").write_text(_NET)
    (folder / "budgets.toml").write_text(_BUDGETS)
    make = "import torch, net; torch.manual_seed(0); torch.save(net.build().state_dict(), 'dense.pt')"
    python = checkout / ".venv" / "bin" / "python"
    subprocess.run([python, "-c", make], cwd=folder, check=True, env=_environment(checkout, folder))
    timed(
        checkout, folder, ("prune", "dense.pt", "--one-shot", "--target", "0.8", "--model", "net:build", "-o", "net.pt")
    )
    timed(checkout, folder, ("export", "net.pt", "--to", "onnx", "--to", "tflite", *_INPUTS, "-o", "."))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Commands of this build beside another's.")
    parser.add_argument("other", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    options = parser.parse_args(arguments)
    checkouts = {"other": options.other.absolute(), "this": HERE}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=options.other, capture_output=True, text=True)
    found = json.loads(RESULT.read_text())["commands"] if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root) / name for name in checkouts}
        for name, folder in folders.items():
            folder.mkdir()
            prepare(checkouts[name], folder)
        for command in options.commands.split(","):
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
            for _ in range(options.runs):
                for name in checkouts:
                    times[name].append(timed(checkouts[name], folders[name], COMMANDS[command]))
            medians = {name: [statistics.median(t[i] for t in some) for i in (0, 1)] for name, some in times.items()}
            wall, cpu = (medians["this"][i] / medians["other"][i] for i in (0, 1))
            found[command] = {"wall_ratio": round(wall, 3), "cpu_ratio": round(cpu, 3), "runs": options.runs}
            print(f"{command:14} wall {wall:.2f}  CPU {cpu:.2f}  ({medians['other'][1]:.1f} s of CPU)", flush=True)
            record = {"command": "python -m bench.isolation OTHER", "other": commit.stdout.strip(), "commands": found}
            RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
