"""Small changes that leave a file well formed: does `verify` accept one that moves an output?

python -m tests.fuzzing.changes --cases 2000 --seed 1 [--only onnx/int8,coreml/float] [-o RESULT.json]

Each case changes one bit or one value of a stored weight, bias, scale, zero point or constant, and then does with the
file's own seal what `SEALS` says. What `verify` accepts is run on inputs that `verify` did not draw, beside the good
file: it may not differ by more than the tolerance that `verify` stated. Of what it refuses every tenth is run as well,
to tell how many of the changes can be seen in an output at all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from unittest.mock import patch

import numpy as np
import torch

from idp_deploy.distance import error_of
from idp_deploy.errors import IdpDeployError
from idp_deploy.flow import FormatName, Parity
from idp_deploy.sealing import seal
from idp_deploy.verification import proof, run_file, unsealed, verify
from tests.fuzzing import cases
from tests.fuzzing.mutations import mutate, without_manifest
from tests.fuzzing.seeds import INPUTS, SCHEMES, Seed, make

_LOOKED_AT = 10  # every so many of the refused
_CALLS = [
    (np.random.default_rng(77 + i).normal(scale=scale, size=INPUTS[0].shape).astype(np.float32),)
    for i, scale in enumerate((1, 1, 1, 0.3, 3))
]


def _blank(kind: FormatName, path: Path) -> None:
    """As a file whose writer was killed before it sealed."""
    for member in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        data = member.read_bytes()
        for name in (b'"seal":"', b'"origin":"'):
            at = data.rfind(name) + len(name)
            if at >= len(name):
                data = data[:at] + b"0" * 32 + data[at + 32 :]
        member.write_bytes(data)


SEALS: dict[str, Callable[[FormatName, Path], object]] = {
    "broken": lambda kind, path: None,
    "blank": _blank,
    "gone": without_manifest,  # with all of the manifest
    "forged": lambda kind, path: seal(path, b"a key without the checkpoint"),
}


def changed(good: Seed, count: int, seed: int, folder: Path) -> Iterator[tuple[str, str, float, str]]:
    """(what became of its seal, what verify said, how far outputs moved over the tolerance, what was changed)."""
    format: FormatName = good.kind  # type: ignore[assignment]
    model, label = good.model(), f"{format}/{good.scheme or 'float'}"
    for number in range(count):
        random = Random(f"{seed}/{label}/{number}")
        how = list(SEALS)[number % len(SEALS)]
        bad = folder / f"case{good.path.suffix}"
        shutil.rmtree(bad, ignore_errors=True) if bad.is_dir() else bad.unlink(missing_ok=True)
        said = mutate(format, good.path, bad, random, "constant")
        if not said:  # the same bytes, as where a zero was negated
            yield how, "unchanged", 0.0, said
            continue
        SEALS[how](format, bad)
        exported = partial(cases._exported, good.path)  # the same bytes every time, as tests elsewhere hold
        with patch.object(proof, "capture", cases._captured), patch.object(unsealed, "export", exported):
            try:
                parity = verify(bad, model, INPUTS)
            except IdpDeployError:
                yield how, "not read", float("nan"), said
                continue
        word = "accepted" if parity.passed else "refused"
        looked = parity.passed or number % _LOOKED_AT == 0
        yield how, word, _moved(good.path, bad, parity) if looked else float("nan"), said


def _moved(good: Path, bad: Path, parity: Parity) -> float:
    """The largest difference of any output in any runtime, over the tolerance that was stated for it."""
    stated = {p.runtime: p for p in parity.outputs if not p.runtime.endswith(" again")}
    found, worst = run_file(bad, _CALLS), 0.0
    for runtime, wanted in cases._outputs(good, tuple(call[0].tobytes() for call in _CALLS)).items():
        for i in range(len(wanted[0])):
            off = error_of([w[i] for w in wanted], [g[i] for g in found[runtime]], stated[runtime].measure)
            worst = max(worst, off / stated[runtime].tolerance if off == off else float("inf"))
    return worst


def row(good: Seed, count: int, seed: int, folder: Path) -> tuple[dict[str, object], list[str]]:
    """Counts of one format and scheme; a line for each that was accepted and moves an output too far."""
    words: Counter[str] = Counter()
    seals: Counter[str] = Counter()
    bad, most, seen, looked = [], 0.0, 0, 0
    for how, word, moved, said in changed(good, count, seed, folder):
        words[word] += 1
        seals[how] += 1
        if word == "accepted":
            most = max(most, moved)
            if moved > 1:
                bad.append(f"{good.path.name}, seal {how}, {said}: accepted, moves outputs by {moved:.3g} × tolerance")
        elif word == "refused" and moved == moved:
            looked, seen = looked + 1, seen + (moved > 1)
    found = {word: words[word] for word in ("refused", "not read", "accepted", "unchanged")}
    beyond = round(seen / looked, 3) if looked else None
    return {**found, "most_over_tolerance": round(most, 4), "refused_beyond_tolerance": beyond, "seals": seals}, bad


def main(arguments: list[str]) -> int:
    """Print the table; 1 if anything was accepted that moves an output by more than its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=2000, help="changes of each format and scheme")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="FORMAT/SCHEME, comma-separated; 'float' for no scheme")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    wanted = {*filter(None, options.only.split(","))} or {
        f"{kind}/{s or 'float'}" for kind, some in SCHEMES.items() for s in some
    }
    print(f"{options.cases} changes each, seed {options.seed}")
    columns = ("refused", "not read", "accepted", "unchanged", "most_over_tolerance", "refused_beyond_tolerance")
    print(f"{'file':22}" + "".join(f"{column:>{len(column) + 2}}" for column in columns), flush=True)
    command = f"python -m tests.fuzzing.changes --cases {options.cases} --seed {options.seed}"
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        for good in make(Path(folder), frozenset(one.split("/")[0] for one in wanted)):
            label = f"{good.kind}/{good.scheme or 'float'}"
            if label not in wanted:
                continue
            start = time.monotonic()
            result, bad = row(good, options.cases, options.seed, Path(folder))
            cells = "".join(f"{result[column]!s:>{len(column) + 2}}" for column in columns)
            print(f"{label:22}{cells}   {time.monotonic() - start:.0f} s")
            print("".join(f"  {line}\n" for line in bad), end="", flush=True)
            failures += bad
            if options.output:  # after every file: some take half an hour
                found = json.loads(options.output.read_text()) if options.output.exists() else {}
                found[label] = {"command": command, **result}
                options.output.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
