"""emulate: run a file in the stock arm64 runtime under QEMU with a device's core, and count what really executes.

The counts are those of the runtime's own kernels: they show which path it takes (a sparse file that silently runs
dense) and repeat to the instruction. They are not times: what an instruction costs differs by core. `make emulator`
sets the tools up in a private folder; everything that runs there is in the folder `emulator` of the sources, the
counting plugin under its own licence.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from idp_deploy.errors import ConversionError, MissingDependencyError, UsageError
from idp_deploy.flow import Contents, EmulationCounts
from idp_deploy.formats import FORMATS
from idp_deploy.formats.linting import lint
from idp_deploy.formats.sparse_kernels import SparseLint
from idp_deploy.reading import read
from idp_deploy.simulation.emulator_profiles import identity, profile, write_root
from idp_deploy.simulation.question import Question
from idp_deploy.simulation.targets import Target
from idp_deploy.simulation.work import Workload, with_sparse
from idp_deploy.simulation.workload import workload
from idp_deploy.waiting import counted

WAY_OUT = "'make emulator' in a clone of idp-deploy sets it up"
MARK = "IDP-DEPLOY "  # before each line of the plugin
SEED = 0
LIMIT_SECONDS = 3600
MOST_REPEATS = 256  # windows that the plugin keeps
CLEAR = 0.9  # executed MACs below this share of the dense ones: the sparse path can be told from the dense one


def home() -> Path:
    """Where the emulator is set up: $IDP_DEPLOY_EMULATOR, or idp-deploy/emulator in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("IDP_DEPLOY_EMULATOR") or Path(cache) / "idp-deploy" / "emulator")


def emulator_missing() -> tuple[str, ...]:
    """What `emulate` lacks here, in words; empty where it can run."""
    system = f"{platform.system()} on {platform.machine()}"
    lacks = [] if system == "Linux on x86_64" else [f"Linux on x86_64 (this is {system})"]
    folder = home()
    if not folder.is_dir():
        return (*lacks, f"everything: {folder} is not there")
    needs = {
        "amd64/usr/bin/qemu-aarch64": "QEMU user mode",
        "amd64/lib64/ld-linux-x86-64.so.2": "the libraries of QEMU",
        "arm64/usr/bin/python3.11": "the arm64 Python",
        "site/ai_edge_litert": "the arm64 LiteRT",
        "site/onnxruntime": "the arm64 onnxruntime",
        "count.so": "the counting plugin",
        "guest.py": "the program that runs the model",
    }
    return (*lacks, *(f"{what} ({folder / name})" for name, what in needs.items() if not (folder / name).exists()))


def emulate(
    artifact: Path | str | Contents, target: Target, *, runtime: str | None = None, repeats: int = 1
) -> EmulationCounts:
    """Count one inference of a .tflite or .onnx file, on one thread of the core that the target's runtime uses.

    The inputs are seeded noise (indices: zeros), extents the file leaves open are 1, and a first inference to warm up
    is not counted. Seconds to minutes by the size of the network.

    Args:
        runtime: of the target; its own for the format by default. It decides the core alone: the program that runs is
            the stock LiteRT or onnxruntime.
        repeats: counted inferences; the median is reported, with the spread of all. LiteRT's agree to the instruction,
            onnxruntime's within about 0.2 %.

    Raises:
        UsageError: a format or a core that cannot be emulated, no repeats. FileError: a broken file.
        MissingDependencyError: the emulator is not set up. ConversionError: the runtime refuses the file there.
    """
    path = artifact.path if isinstance(artifact, Contents) else Path(artifact)
    if not 1 <= repeats <= MOST_REPEATS:
        raise UsageError(f"repeats is {repeats}", way_out=f"from 1 to {MOST_REPEATS}")
    contents = artifact if isinstance(artifact, Contents) else read(path)
    chosen = target.runtime(contents.format, runtime)
    package = FORMATS[contents.format].emulated
    if not package or chosen is None:
        suffixes = " or ".join(row.suffix for row in FORMATS.values() if row.emulated)
        raise UsageError(
            f"{path} is not a file that an emulated {target.name} runs", way_out=f"emulate a file of {suffixes}"
        )
    about = identity(chosen.core, target.name)
    if missing := emulator_missing():
        raise MissingDependencyError(f"the emulator lacks {', '.join(missing)}", way_out=WAY_OUT)
    with tempfile.TemporaryDirectory(prefix="idp-deploy-emulator-") as folder:
        root = Path(folder)
        write_root(root, home() / "arm64", profile(about, target.core(chosen).ghz))
        windows = parse_windows(_run(command(root, about.cpu, path, repeats), path, chosen.core))
    if len(windows) != repeats:
        raise ConversionError(f"{path}: {len(windows)} of {repeats} inferences were counted on {chosen.core}")
    windows.sort(key=lambda window: window["instructions"])
    least, middle, most = windows[0], windows[(repeats - 1) // 2], windows[-1]
    verdict = judge(contents, middle["macs"])
    return EmulationCounts(
        artifact=path,
        target=target.name,
        core=chosen.core,
        runtime=_version(package),
        instructions=middle["instructions"],
        executed_macs=middle["macs"],
        bytes_loaded=middle["bytes_loaded"],
        bytes_stored=middle["bytes_stored"],
        dense_macs=verdict.dense_macs,
        runs_sparse=verdict.runs_sparse,
        predicted_sparse=verdict.predicted_sparse,
        repeats=repeats,
        spread=most["instructions"] / max(1, least["instructions"]) - 1,
        notes=verdict.notes,
    )


def counts(question: Question) -> list[EmulationCounts]:
    """Every file on every device's core."""
    pairs = counted(list(question.pairs), "emulating")
    return [emulate(file.contents or file.path, d, runtime=question.runtime) for file, d in pairs]


def command(root: Path, cpu: str, path: Path, repeats: int) -> list[str]:
    """The command line that runs guest.py under QEMU; QEMU uses its own libraries, not the system's."""
    folder = home().resolve()
    libraries = [folder / "amd64" / part / "x86_64-linux-gnu" for part in ("lib", "usr/lib")]
    plugin = str(folder / "count.so").replace(",", ",,")  # a single comma ends the name
    return [
        str(folder / "amd64/lib64/ld-linux-x86-64.so.2"),
        *("--library-path", ":".join(map(str, libraries))),
        str(folder / "amd64/usr/bin/qemu-aarch64"),
        *("-L", str(root), "-cpu", cpu, "-plugin", f"file={plugin}"),
        *(str(folder / "arm64/usr/bin/python3.11"), "-S", str(folder / "guest.py")),
        *(str(path.resolve()), str(SEED), str(repeats)),
    ]


def environment() -> dict[str, str]:
    """Of the guest, and nothing of the caller's: QEMU hands on what it is given."""
    return {
        "PATH": "/usr/bin",
        "LC_ALL": "C.UTF-8",
        "LD_LIBRARY_PATH": "/lib/aarch64-linux-gnu:/usr/lib/aarch64-linux-gnu",
        "PYTHONHOME": "/usr",
        "PYTHONPATH": str(home().resolve() / "site"),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _run(words: Sequence[str], path: Path, core: str) -> str:
    """Standard error of the emulated run."""
    try:
        done = subprocess.run(
            words,
            env=environment(),
            capture_output=True,
            timeout=LIMIT_SECONDS,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise ConversionError(
            f"{path} was not done after {LIMIT_SECONDS} s of emulation", way_out="use a smaller input"
        ) from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(MARK)]
        last = said[-1].strip() if said else "no message"
        raise ConversionError(f"{path} does not run on an emulated {core} (exit {done.returncode}): {last}")
    return done.stderr


def parse_windows(text: str) -> list[dict[str, int]]:
    """The counts of each window from what the plugin wrote, other lines left aside.

    >>> parse_windows('INFO: ready\\nIDP-DEPLOY {"instructions": 3, "macs": 1}\\n')
    [{'instructions': 3, 'macs': 1}]
    """
    return [json.loads(line.removeprefix(MARK)) for line in text.splitlines() if line.startswith(MARK)]


class Judgement(NamedTuple):
    """Which path ran, which one was to be expected, and why."""

    dense_macs: int
    runs_sparse: bool
    predicted_sparse: bool
    notes: tuple[str, ...]


def judge(contents: Contents, executed_macs: int) -> Judgement:
    """Tell the sparse path from the dense one by the MACs that were executed.

    The path is the one whose MACs, dense or without the zeros of the 1×1 convolutions, are nearer to those executed
    as a ratio: kernels round up to whole vectors, so neither is met exactly.
    """
    work, rules = workload(contents), lint(contents)
    dense, sparse = work.macs, _sparse_macs(work)
    distinct = 0 < sparse < CLEAR * dense
    runs = distinct and executed_macs < math.sqrt(dense * sparse)
    return Judgement(dense, runs, rules.runs_sparse, (*work.notes, *_why(runs, distinct, rules)))


def _sparse_macs(work: Workload) -> int:
    return with_sparse(work, frozenset(op.name for op in work.ops if op.op_class == "conv1x1")).executed_macs


def _why(runs: bool, distinct: bool, rules: SparseLint) -> list[str]:
    if not distinct:
        return ["too few zeros in 1×1 convolutions to tell a sparse path from a dense one"]
    if runs == rules.runs_sparse:
        return [] if runs else [f"ran dense: {f.op}: {f.message} — {f.fix}" for f in rules.findings[:1]]
    ran, said = ("sparse", "dense") if runs else ("dense", "sparse")
    return [f"ran {ran} where the rules predict {said}: do not trust the estimate for this file"]


def _version(package: str) -> str:
    """The name and version of a package among the emulated ones, from its .dist-info folder."""
    found = sorted((home() / "site").glob(f"{package}-*.dist-info"))
    name, _, version = found[0].name.removesuffix(".dist-info").partition("-") if found else (package, "", "?")
    return f"{name.replace('_', '-')} {version}"
