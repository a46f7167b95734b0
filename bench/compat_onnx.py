"""python -m bench.compat_onnx — what other tools make of our .onnx files, each tool in an environment of its own.

Small networks are exported in every encoding; every tool runs each file in a child process with a limit of time, and
its outputs are compared with those of onnxruntime on the dense file. A verdict is one of: right, wrong, refuses,
dense again (a tool that rewrites files wrote the zeros out), crashes, too slow. Results go to
bench/results/compat_onnx-DATE.json; the table that docs/formats.md shows is printed. Exit 1 where a file is wrong that
is right when stored densely.
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
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from idp_deploy.exporting import export
from idp_deploy.quantization import quantize
from tests.zoo import ZOO, pruned

RESULTS = Path(__file__).parent / "results"
RUNNER = Path(__file__).with_name("compat_onnx_runner.py")
NETWORKS = ("mobilenet_v2", "mixer", "gru", "lstm")
ENCODINGS = ("dense", "auto", "portable", "bitmask", "gaps8", "gaps5", "gaps4", "sparse-initializer")
TOLERANCES = {"float32": 1e-4, "int8": 0.25}  # of the largest output; integers are rounded where a tool likes to


@dataclass(frozen=True)
class Tool:
    """One way to run a file: `runner` is its name in compat_onnx_runner, `requirements` what its environment holds."""

    runner: str
    requirements: tuple[str, ...]
    npm: str = ""  # a package of npm beside them, for node

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
    "onnxruntime-web 1.30.0, wasm": Tool("ort-web", ("numpy==2.4.6",), npm="onnxruntime-web@1.30.0"),
    "onnx 1.23.2, reference evaluator": Tool("reference", _NEWEST),
    "OpenVINO 2026.4.1": Tool("openvino", ("openvino==2026.4.1", "numpy==2.4.6")),
    "OpenCV 5.0 DNN, new engine": Tool("opencv-new", _OPENCV),
    "OpenCV 5.0 DNN, classic engine": Tool("opencv-classic", _OPENCV),
    "MNN 3.6.1": Tool("mnn", ("mnn==3.6.1", "numpy==2.4.6")),
    "ncnn by pnnx, 20261020": Tool("ncnn", ("ncnn==1.0.20261020", "pnnx==20261020", "numpy==2.4.6")),
    "tract 0.23.9": Tool("tract", ("tract==0.23.9", "numpy==2.4.6")),
    "IREE 3.13.0": Tool(
        "iree", ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", "numpy==2.4.6", "onnx==1.23.2")
    ),
    "onnxslim 0.1.98": Tool("onnxslim", _NEWEST),
}


def write_cases(networks: Iterable[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Every network × scheme × encoding, beside its input and what onnxruntime makes of the dense file."""
    cases: dict[str, dict[str, Any]] = {}
    for network in networks:
        model, inputs = pruned(ZOO[network]), ZOO[network].example_inputs()
        for scheme in TOLERANCES:
            ready = model if scheme == "float32" else quantize(model, scheme, example_inputs=inputs)
            for encoding in ENCODINGS:
                name = f"{network}-{scheme}-{encoding}"
                artifact = export(ready, "onnx", inputs, folder / f"{name}.onnx", encoding=encoding)
                described = {key: artifact.manifest[key] for key in ("inputs", "outputs")}
                (folder / f"{name}.json").write_text(json.dumps(described))
                arrays = {f"input_{i}": x.numpy() for i, x in enumerate(inputs)}
                if encoding == "dense":
                    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
                    wanted = session.run(
                        described["outputs"], dict(zip(described["inputs"], arrays.values(), strict=True))
                    )
                arrays |= {f"output_{i}": x for i, x in enumerate(wanted)}
                np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
                cases[name] = {"network": network, "scheme": scheme, "encoding": encoding, "bytes": artifact.size_bytes}
    return cases


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
            command, input="\n".join(left), check=False, capture_output=True, text=True, errors="replace"
        )
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


def judged(result: dict[str, Any], case: dict[str, Any], name: str, runner: str, folder: Path) -> dict[str, Any]:
    """The verdict on one case and what it rests on."""
    if "died" in result:
        return {"verdict": result["died"]}
    if "refused" in result:
        return {"verdict": "refuses", "message": result["refused"]}
    arrays, got = np.load(folder / f"{name}.npz"), np.load(folder / f"{name}.{runner}.npz")
    pairs = [(got[f"arr_{i}"], arrays[f"output_{i}"]) for i in range(len(got.files))]
    if any(a.size != b.size for a, b in pairs):
        return {"verdict": "wrong", "message": f"shapes {[a.shape for a, _ in pairs]}"}
    error = max(float(np.abs(a.reshape(b.shape) - b).max() / np.abs(b).max()) for a, b in pairs)
    if not error <= TOLERANCES[case["scheme"]]:
        return {"verdict": "wrong", "error": error}
    written = result.get("bytes")
    if written is None:
        return {"verdict": "right", "error": error}
    grown = case["encoding"] != "dense" and written > 1.2 * case["bytes"]
    return {"verdict": "dense again" if grown else "right", "error": error, "written": written}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a tool, a column an encoding; networks are named where they are not treated alike.

    What a tool does not do with the dense file either is said in that column alone.
    """
    encodings = [encoding for encoding in ENCODINGS if any(row["encoding"] == encoding for row in rows)]
    lines = ["| tool | " + " | ".join(f"`{encoding}`" for encoding in encodings) + " |"]
    lines.append("| --- |" + " --- |" * len(encodings))
    for tool in dict.fromkeys(row["tool"] for row in rows):
        mine = [row for row in rows if row["tool"] == tool]
        dense = {(r["network"], r["scheme"]) for r in mine if r["encoding"] == "dense" and r["verdict"] == "right"}
        cells = [
            _cell([r for r in mine if r["encoding"] == e and (e == "dense" or (r["network"], r["scheme"]) in dense)])
            for e in encodings
        ]
        lines.append(f"| {tool} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    verdicts: dict[str, list[str]] = {}
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        for verdict in dict.fromkeys(row["verdict"] for row in mine):
            schemes = [row["scheme"] for row in mine if row["verdict"] == verdict]
            label = network if len(schemes) == len(mine) else f"{network} {' '.join(schemes)}"
            verdicts.setdefault(verdict, []).append(label)
    if len(verdicts) == 1:
        return next(iter(verdicts))
    return "; ".join(f"{verdict}: {', '.join(labels)}" for verdict, labels in verdicts.items())


def main() -> int:
    """Export, run everywhere, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.compat_onnx", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=ZOO)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--environments", type=Path, default=Path("build/compat-onnx"), help="where they are or go")
    parser.add_argument("--limit", type=int, default=60, help="seconds a case may take")
    parser.add_argument("-o", "--output", type=Path, default=None)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases = write_cases(arguments.networks, folder)
        for title in arguments.tools:
            tool = TOOLS[title]
            python = environment(tool, arguments.environments.absolute())
            results = run(tool, python, folder, list(cases), arguments.limit)
            for name, case in cases.items():
                verdict = judged(results[name], case, name, tool.runner, folder)
                rows.append({"tool": title, **case, **verdict})
                print(f"{title:32}{name:40}{verdict['verdict']}", flush=True)
    when = datetime.now(UTC).date().isoformat()
    command = shlex.join(["python", "-m", "bench.compat_onnx", *sys.argv[1:]])
    requirements = {title: TOOLS[title].requirements for title in arguments.tools}
    record = {"command": command, "date": when, "limit_s": arguments.limit, "requirements": requirements, "rows": rows}
    output = arguments.output or RESULTS / f"compat_onnx-{when}.json"
    output.write_text(json.dumps(record, indent=1) + "\n")
    print(table(rows))
    right = {
        (r["tool"], r["network"], r["scheme"]) for r in rows if r["encoding"] == "dense" and r["verdict"] == "right"
    }
    return int(any(r["verdict"] == "wrong" and (r["tool"], r["network"], r["scheme"]) in right for r in rows))


if __name__ == "__main__":
    sys.exit(main())
