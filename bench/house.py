"""python -m bench.house — what commands cost beside an earlier commit, and whether files are as small as then.

The earlier commit is checked out into a temporary folder with `git worktree`; both trees run the same steps in turns,
each in a process of its own on one thread. CPU time is that of the step and of every process it starts, after a small
run of the same kind has brought the imports. `--sizes` compares the bytes of every float32 file of the demo network and
the tests' zoo instead.

    simulate   simulate --layers of one .tflite file on two devices
    export-…   export --to all with verification
    plan-…     prune --target DEVICE: the search for a sparsity, without the training that follows
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BASE = "93c3888"
ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
FORMATS = ("onnx", "coreml", "tflite")
WANTED = {
    "simulate": 0.25,
    "export-mobilenet_v2": 0.8,
    "export-bert": 0.75,
    "plan-tflite": 0.35,
    "plan-onnx": 0.35,
    "plan-coreml": 0.35,
}
_DEVICES = {"tflite": "pixel-4", "onnx": "pixel-4", "coreml": "iphone-12"}
_LIMIT_BYTES = 4.0e6  # of MobileNetV2: met by some candidates, so that the search takes every step it can


def spent() -> float:
    """CPU seconds of this process and of every process below it, those that still run among them."""
    parents: dict[int, list[tuple[int, int]]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended, and its parent has its time
            fields = stat.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append((int(stat.parent.name), sum(map(int, fields[11:15]))))
    own = os.times()
    ticks, waiting = 0, [os.getpid()]
    while waiting:
        for child, used in parents.get(waiting.pop(), []):
            ticks += used
            waiting.append(child)
    return sum(own[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def step(name: str, folder: Path) -> Callable[[], Any]:
    """What is measured, ready to run; imports and fixtures are done."""
    import torch

    from bench.sizes.models import MODELS, pruned
    from idp_deploy.flow import CompressedModel

    torch.set_num_threads(1)
    verb, _, what = name.partition("-")
    small = CompressedModel(torch.nn.Sequential(torch.nn.Linear(4, 4)).eval(), {}), (torch.randn(1, 4),)
    if verb == "simulate":
        from idp_deploy.cli import main
        from idp_deploy.exporting import export

        def simulate(path: Path) -> None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
                main(["simulate", str(path), "--target", "pixel-4", "--target", "raspberry-pi-4", "--layers"])

        export(small[0], "tflite", small[1], folder / "small.tflite")
        model, inputs = pruned(MODELS["mobilenet_v1"])
        export(model, "tflite", inputs, folder / "m.tflite")
        simulate(folder / "small.tflite")
        return lambda: simulate(folder / "m.tflite")
    if verb == "export":
        try:
            from idp_deploy.shipping import export_and_verify
        except ImportError:  # where it was before
            from idp_deploy.pipeline import export_and_verify  # type: ignore[attr-defined,no-redef]

        export_and_verify(*small, folder, "small", FORMATS)
        model, inputs = pruned(MODELS[what])
        return lambda: export_and_verify(model, inputs, folder, "m", FORMATS)
    from idp_deploy.exporting import export
    from idp_deploy.flow import Budget, Model, Recipe
    from idp_deploy.planning import sparsity_for
    from idp_deploy.simulation.targets import load_target

    suffix = {"coreml": "mlpackage"}.get(what, what)
    export(small[0], what, small[1], folder / f"small.{suffix}")
    network = MODELS["mobilenet_v2"]
    torch.manual_seed(0)
    model, inputs = Model(network.build().eval()), network.inputs()
    device = load_target(_DEVICES[what])
    budgets = [Budget(device.name, what, "size", _LIMIT_BYTES, "bench")]
    return lambda: sparsity_for(model, inputs, Recipe(), device, budgets)


def once(name: str) -> None:
    """Run one step in this process and print what it took."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        run = step(name, Path(folder))
        start = spent()
        found = run()
        print(json.dumps({"cpu_s": spent() - start, "result": found if isinstance(found, float) else None}))


def sizes() -> None:
    """Write every float32 file of the demo network and the zoo; print the bytes of each, or why there is none."""
    warnings.simplefilter("ignore")
    from idp_deploy.exporting import export
    from tests.zoo import ZOO, pruned

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, entry in ZOO.items():
            model = pruned(entry)
            for format in FORMATS:
                path = Path(folder) / f"{name}.{ {'coreml': 'mlpackage'}.get(format, format) }"
                try:
                    found[f"{name}.{format}"] = export(model, format, entry.example_inputs(), path).size_bytes
                except Exception as error:
                    found[f"{name}.{format}"] = str(error).splitlines()[0]
    print(json.dumps(found))


def in_tree(tree: Path, *words: str) -> dict[str, Any]:
    """This script's answer on the code of a tree."""
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",
        "LITERT_TORCH_SHOW_PROGRESS": "n",
    }
    command = [sys.executable, str(Path(__file__).resolve()), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tree, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The tree of a commit, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def compare(name: str, base: Path, repeats: int) -> dict[str, Any]:
    """Medians of both trees for one step, and their ratio now / before."""
    runs: dict[str, list[float]] = {"before": [], "now": []}
    results = {}
    for i in range(repeats):
        for way, tree in sorted({"before": base, "now": ROOT}.items(), reverse=bool(i % 2)):
            answer = in_tree(tree, "--once", name)
            runs[way].append(answer["cpu_s"])
            results[way] = answer["result"]
    before, now = (statistics.median(runs[way]) for way in ("before", "now"))
    row = {"before_cpu_s": before, "now_cpu_s": now, "ratio": now / before, "wanted": WANTED[name], "runs": runs}
    return row | ({"results": results} if results["now"] is not None else {})


def main() -> None:
    """Measure, print a table, write it to bench/results."""
    parser = argparse.ArgumentParser(prog="python -m bench.house", description=__doc__)
    parser.add_argument("--base", default=BASE, help="the earlier commit")
    parser.add_argument("--steps", nargs="+", default=list(WANTED), choices=list(WANTED))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", action="store_true", help="compare the bytes of files instead of times")
    parser.add_argument("--once", metavar="STEP", help=argparse.SUPPRESS)
    parser.add_argument("--once-sizes", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        once(arguments.once)
        return
    if arguments.once_sizes:
        sizes()
        return
    found: dict[str, Any] = {"command": " ".join(["python -m bench.house", *sys.argv[1:]]), "base": arguments.base}
    with checked_out(arguments.base) as base:
        if arguments.sizes:
            before, now = (in_tree(tree, "--once-sizes") for tree in (base, ROOT))
            found["files"] = {name: [before.get(name), size] for name, size in now.items()}
            for name, (old, new) in found["files"].items():
                if old != new:
                    print(f"{name:40} {old} → {new}")
        else:
            found["steps"] = {}
            for name in arguments.steps:
                row = found["steps"][name] = compare(name, base, arguments.repeats)
                print(f"{name:22} {row['before_cpu_s']:7.2f} s → {row['now_cpu_s']:6.2f} s   {row['ratio']:.2f}×")
    path = RESULTS / f"house{'_sizes' * arguments.sizes}-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
