"""python -m bench.compat_onnx — what other tools make of our .onnx files, each tool in an environment of its own.

The networks of the zoo, and one for each kind of operator that reads a weight, are exported in every encoding; every
tool runs each file in a child process with a limit of time. Its outputs are compared with those of onnxruntime on the
dense file (of two the nearer: in exact integers, or as this CPU adds them), and with its own on that. A verdict is one
of: right, wrong, refuses, dense again (a tool that rewrites files wrote the zeros out), crashes, too slow. Results go
to bench/results/compat_onnx-DATE.json; the table of docs/elsewhere.md is printed. Exit 1 where a file is wrong and
`inspect --runtime` does not say so.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.compat_onnx_cases import COMPOSED, CONSUMERS, ENCODINGS, NETWORKS, SCHEMES, Case, distinct, write_cases
from idp_deploy.formats.onnx.runtimes import runtimes
from idp_deploy.formats.onnx.tools import lint

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
RUNNER = Path(__file__).with_name("compat_onnx_runner.py")
# of the largest output, against onnxruntime on the dense file of the same scheme
TOLERANCES = dict.fromkeys(SCHEMES, 1e-4) | {"int8": 0.25}  # integers are rounded where a tool likes to
# of the largest output, against the tool's own answer to the dense file
DRIFTS = dict.fromkeys(SCHEMES, 1e-5) | {"int8": 0.25}
FEW = 6  # networks are named up to this many
LINTED = {"opencv-new": "opencv"}  # where `inspect --runtime` has another name than the runner


@dataclass(frozen=True)
class Tool:
    """One way to run a file: `runner` is its name in compat_onnx_runner, `requirements` what its environment holds."""

    runner: str
    requirements: tuple[str, ...]
    npm: str = ""  # a package of npm beside them, for node
    networks: tuple[str, ...] = ()  # those it is run on, where it takes too long for all
    light: bool = False  # float32 alone, and of the zoo what `auto` writes, since a second a file is too long for all
    tolerance: float = 0.0  # where its own arithmetic is coarser than TOLERANCES

    def takes(self, case: Case) -> bool:
        """Whether a case is run through it."""
        if self.networks and case["network"] not in self.networks:
            return False
        usual = case["encoding"] in ("dense", "auto") or case["network"] in CONSUMERS
        return not self.light or (case["scheme"] == "float32" and usual)

    @property
    def environment(self) -> str:
        """The folder's name: what decides is the first requirement."""
        return (self.npm or self.requirements[0]).replace("==", "-").replace("@", "-")


_OPENCV = ("opencv-python-headless==5.0.0.93", "numpy==2.4.6")
_NEWEST = ("onnxruntime==1.32.0", "numpy==2.4.6", "onnx==1.23.2", "onnxslim==0.1.98", "onnxsim==0.8.1")
TOOLS = {
    "onnxruntime 1.17.3": Tool("onnxruntime", ("onnxruntime==1.17.3", "numpy==1.26.4")),
    "onnxruntime 1.20.1": Tool("onnxruntime", ("onnxruntime==1.20.1", "numpy==1.26.4")),
    "onnxruntime 1.32.0": Tool("onnxruntime", _NEWEST),
    "onnxruntime-web 1.30.0, wasm": Tool("ort-web", ("numpy==2.4.6",), npm="onnxruntime-web@1.30.0", light=True),
    "onnx 1.23.2, reference evaluator": Tool("reference", _NEWEST),
    "OpenVINO 2026.4.1": Tool("openvino", ("openvino==2026.4.1", "numpy==2.4.6")),
    "OpenCV 5.0 DNN, new engine": Tool("opencv-new", _OPENCV),
    "OpenCV 5.0 DNN, classic engine": Tool("opencv-classic", _OPENCV),
    "MNN 3.6.1": Tool("mnn", ("mnn==3.6.1", "numpy==2.4.6"), tolerance=1e-3),  # its exponential
    "ncnn by pnnx, 20261020": Tool("ncnn", ("ncnn==1.0.20261020", "pnnx==20261020", "numpy==2.4.6"), light=True),
    "tract 0.23.9": Tool("tract", ("tract==0.23.9", "numpy==2.4.6")),
    "IREE 3.13.0": Tool(
        "iree",
        ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", "numpy==2.4.6", "onnx==1.23.2"),
        networks=("mobilenet_v2", "conv", "conv_grouped", "gemm", "matmul", "gather", "lstm_one", "gru_one", *COMPOSED),
        light=True,
    ),
    "onnxslim 0.1.98": Tool("onnxslim", _NEWEST, light=True),
}


def environment(tool: Tool, folder: Path) -> Path:
    """The Python of the tool's environment, made where it is missing."""
    place = folder / tool.environment
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=True)
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "--quiet", *tool.requirements], check=True)
        if tool.npm:
            subprocess.run(["npm", "install", "--silent", "--prefix", place, tool.npm], check=True)
    return place / "bin" / "python"


def run(tool: Tool, python: Path, folder: Path, names: list[str], limit: int) -> dict[str, dict[str, Any]]:
    """What the tool does with each case. A process that dies takes one case with it; the next goes on behind."""
    found: dict[str, dict[str, Any]] = {}
    while left := [name for name in names if name not in found]:
        command = [str(part) for part in (python, RUNNER, tool.runner, folder, limit)]
        done = subprocess.run(
            command, input="\n".join(left), check=False, capture_output=True, text=True, errors="replace", cwd=folder
        )  # some tools leave files where they run
        started = None
        for line in done.stdout.splitlines():
            message = json.loads(line[1:]) if line.startswith("@{") else {}
            started = message.get("start", started)
            if "versions" in message:
                _hold(tool, message["versions"])
            if "case" in message:
                found[message.pop("case")] = message
                started = None
        if started is not None:
            found[started] = {"died": "too slow" if done.returncode == -signal.SIGALRM else "crashes"}
        elif done.returncode:
            raise RuntimeError(f"{tool.runner} did not start: {done.stderr[-500:]}")
    return found


def _hold(tool: Tool, versions: dict[str, str]) -> None:
    for requirement in tool.requirements:
        name, _, version = requirement.partition("==")
        if versions.get(name) != version:
            raise RuntimeError(f"{tool.environment} holds {name} {versions.get(name)}, not {version}: make it anew")


def judged(result: dict[str, Any], case: Case, name: str, tool: Tool, folder: Path) -> dict[str, Any]:
    """The verdict on one case and what it rests on."""
    if "died" in result:
        return {"verdict": result["died"]}
    if "refused" in result:
        return {"verdict": "refuses", "message": result["refused"].replace(f"{folder}/", "")}
    wanted, got = np.load(folder / f"{name}.npz"), np.load(folder / f"{name}.{tool.runner}.npz")
    count = sum(key.startswith("exact_") for key in wanted.files)
    tolerance = max(TOLERANCES[case["scheme"]], tool.tolerance)
    ways = [[wanted[f"{way}_{i}"] for i in range(count)] for way in ("exact", "usual")]
    outputs = min(ways, key=lambda each: distance(got, each))
    error = distance(got, outputs)
    if not error <= tolerance:
        return {"verdict": "wrong", "error": error}
    found = {"verdict": "right", "error": error}
    own = folder / f"{case['network']}-{case['scheme']}-dense.{tool.runner}.npz"
    dense = np.load(own) if own.exists() else {}
    if distance(dense, outputs) <= tolerance:
        found["drift"] = distance(got, [dense[f"arr_{i}"] for i in range(count)])
        if not found["drift"] <= DRIFTS[case["scheme"]]:
            return found | {"verdict": "wrong"}
    written = result.get("bytes")
    if written is not None and case["encoding"] != "dense" and written > 1.2 * case["bytes"]:
        return found | {"verdict": "dense again"}
    return found


def distance(got: Mapping[str, np.ndarray], wanted: list[np.ndarray]) -> float:
    """How far the worst output is off, as a share of its largest value; infinite where one is missing."""
    worst = 0.0
    for i, b in enumerate(wanted):
        a = got[f"arr_{i}"] if f"arr_{i}" in got else np.zeros(0)
        if a.size != b.size:
            return float("inf")
        a, b = a.reshape(b.shape).astype(float), b.astype(float)
        off = float(np.abs(a - b).max() / np.abs(b).max())
        worst = max(worst, off) if off == off else float("inf")
    return worst


def rows_of(title: str, cases: dict[str, Case], verdicts: dict[str, dict[str, Any]], folder: Path) -> list[Row]:
    """One row a network and scheme: encodings by verdict, the largest error and drift of the right ones, one message
    a verdict, and what `inspect --runtime` says where that is milder or stricter."""
    runtime = LINTED.get(TOOLS[title].runner, TOOLS[title].runner)
    rows: dict[tuple[str, str], Row] = {}
    for name, case in cases.items():
        found = verdicts[case.get("same", name)]
        verdict, key = found["verdict"], (case["network"], case["scheme"])
        row = rows.setdefault(key, {"tool": title, "network": key[0], "scheme": key[1], "verdicts": {}})
        row["verdicts"].setdefault(verdict, []).append(case["encoding"])
        for what in ("error", "drift"):
            if what in found and (what == "error" or case["encoding"] != "dense"):
                row[what] = max(row.get(what, 0.0), float(f"{found[what]:.2g}"))
        if "message" in found:
            row.setdefault("messages", {}).setdefault(verdict, found["message"])
        path = folder / f"{case.get('same', name)}.onnx"
        said = lint(path, runtime).verdict if runtime in runtimes() else "right"
        if severity(said) != severity(verdict):
            how = "milder" if severity(said) < severity(verdict) else "stricter"
            row.setdefault(how, {}).setdefault(said, []).append(case["encoding"])
    return list(rows.values())


def severity(verdict: str) -> int:
    """A tool may refuse or crash or take for ever with what it does not know; worse is what nobody notices."""
    return {"right": 0, "dense again": 1, "wrong": 3}.get(verdict, 2)


def table(rows: list[Row]) -> str:
    """Markdown: a row a tool, a column an encoding: how many of the networks and schemes it takes, which not.

    An encoding is judged by what the tool is right on when it is stored densely.
    """
    encodings = [e for e in ENCODINGS if any(e in each for row in rows for each in row["verdicts"].values())]
    lines = ["| tool | " + " | ".join(f"`{encoding}`" for encoding in encodings) + " |"]
    lines.append("| --- |" + " --- |" * len(encodings))
    for tool in dict.fromkeys(row["tool"] for row in rows):
        mine = [row for row in rows if row["tool"] == tool]
        sound = [row for row in mine if "dense" in row["verdicts"].get("right", ())]
        cells = [_cell(mine if encoding == "dense" else sound, encoding) for encoding in encodings]
        lines.append(f"| {tool} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: list[Row], encoding: str) -> str:
    found: dict[str, list[str]] = {}
    for row in rows:
        for verdict, encodings in row["verdicts"].items():
            if encoding in encodings:
                found.setdefault(verdict, []).append(row["network"])
    if len(found) <= 1:
        return next((f"{verdict}, all {len(names)}" for verdict, names in found.items()), "—")
    return "; ".join(f"{verdict} {len(names)}{_named(names, verdict)}" for verdict, names in sorted(found.items()))


def _named(networks: list[str], verdict: str) -> str:
    names = list(dict.fromkeys(networks))
    return f": {', '.join(names)}" if verdict != "right" and len(names) <= FEW else ""


def main() -> int:
    """Export, run everywhere, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.compat_onnx", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=SCHEMES)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--environments", type=Path, default=Path("build/compat-onnx"), help="where they are or go")
    parser.add_argument("--limit", type=int, default=60, help="seconds a case may take")
    parser.add_argument("-o", "--output", type=Path, default=None)
    parser.add_argument("--cases", type=Path, default=None, help="where the files lie or go, to be used again")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.cases or Path(temporary)).absolute()
        cases = _cases(arguments.networks, folder, arguments.schemes)
        for title in arguments.tools:
            tool = TOOLS[title]
            mine = {n: c for n, c in cases.items() if tool.takes(c)}
            python = environment(tool, arguments.environments.absolute())
            results = run(tool, python, folder, list(distinct(mine)), arguments.limit)
            verdicts = {n: judged(results[n], mine[n], n, tool, folder) for n in distinct(mine)}
            rows += rows_of(title, mine, verdicts, folder)
            print(f"{title:36}{dict(Counter(v['verdict'] for v in verdicts.values()))}", flush=True)
    when = datetime.now(UTC).date().isoformat()
    command = shlex.join(["python", "-m", "bench.compat_onnx", *sys.argv[1:]])
    record = {
        "command": command, "date": when, "limit_s": arguments.limit,
        "requirements": {title: TOOLS[title].requirements for title in arguments.tools},
        "networks": arguments.networks, "schemes": arguments.schemes,
    }  # fmt: skip
    output = arguments.output or RESULTS / f"compat_onnx-{when}.json"
    output.write_text(written(record, rows))
    print(table(rows))
    for row in rows:
        if "milder" in row or is_silent(row):
            print(json.dumps(row))
    return int(any(is_silent(row) for row in rows))


def _cases(networks: list[str], folder: Path, schemes: list[str]) -> dict[str, Case]:
    """What `write_cases` wrote there before, or writes now."""
    index = folder / "cases.json"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        index.write_text(json.dumps(write_cases(networks, folder, schemes)))
    cases: dict[str, Case] = json.loads(index.read_text())
    return {n: case for n, case in cases.items() if case["network"] in networks and case["scheme"] in schemes}


def written(record: dict[str, Any], rows: list[Row]) -> str:
    """The record as JSON, one row a line."""
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    return json.dumps(record, indent=1).removesuffix("\n}") + f',\n "rows": [\n  {lines}\n ]\n}}\n'


def is_silent(row: Row) -> bool:
    """Whether a result is wrong and nobody is told, neither by the tool nor by `inspect --runtime`."""
    untold = {encoding for encodings in row.get("milder", {}).values() for encoding in encodings}
    return bool(untold & set(row["verdicts"].get("wrong", ())))


if __name__ == "__main__":
    sys.exit(main())
