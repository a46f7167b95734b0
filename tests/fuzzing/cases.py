"""What one damaged file goes through, and what may come of it."""

from __future__ import annotations

import contextlib
import io
import shutil
import traceback
import warnings
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from unittest.mock import patch

import numpy as np
import torch

from idp_deploy import capturing
from idp_deploy.distance import error_of
from idp_deploy.errors import IdpDeployError
from idp_deploy.flow import CompressedModel, Contents
from idp_deploy.formats.coreml import bisect
from idp_deploy.inspection import inspect
from idp_deploy.loading import load_any
from idp_deploy.reading import read
from idp_deploy.rendering.estimates import estimate_document
from idp_deploy.rendering.inspections import inspection_document
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import load_target
from idp_deploy.verification import proof, run_file, unsealed, verify
from tests.fuzzing.mutations import WAYS, mutate
from tests.fuzzing.seeds import FACTORY, INPUTS, Seed

FINE = {"unchanged", "refused", "differs", "equal", "read"}
ARTIFACTS = {"onnx", "tflite", "coreml", "manifest"}
_SLACK = 2.0  # an accepted file may miss the tolerance on other inputs by this factor: it was declared for these


@dataclass(frozen=True)
class Outcome:
    """`word`: one of FINE, or unexpected, wrong; the campaign adds signal, hang and memory."""

    word: str
    said: str  # what was changed
    text: str = ""  # what the product answered


def run_case(kind: str, seeds: list[Seed], folder: Path, seed: int, number: int) -> Outcome:
    """Damage one seed and hand it to the product, with the same result whenever and wherever it is called."""
    random = Random(f"{seed}/{kind}/{number}")
    good = random.choice(seeds)
    way = WAYS[number % len(WAYS)]
    bad = folder / f"case{good.path.suffix}"
    if bad.is_dir():
        shutil.rmtree(bad)
    bad.unlink(missing_ok=True)
    said = mutate(kind, good.path, bad, random, way)
    label = f"{good.path.name} {way}: {said}"
    if not said:
        return Outcome("unchanged", label)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            word, text = _artifact(good, bad) if kind in ARTIFACTS else _other(kind, bad)
    except IdpDeployError as error:
        return Outcome("refused", label, str(error))
    except MemoryError as error:
        return Outcome("memory", label, str(error))
    except Exception as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "idp_deploy" in frame.filename]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
        return Outcome("unexpected", label, f"{type(error).__name__} at {place}: {str(error)[:200]}")
    return Outcome(word, label, text)


def _other(kind: str, bad: Path) -> tuple[str, str]:
    """Checkpoints are loaded; configuration and baselines go through the command line's own functions."""
    if kind in ("pt", "safetensors"):
        load_any(bad, FACTORY)
        return "read", ""
    if kind == "toml":
        from idp_deploy.configuration import load

        load(bad, environment={}).budget_list()
        return "read", ""
    from idp_deploy.baselines import baseline_budgets

    baseline_budgets(bad)
    return "read", ""


def _artifact(good: Seed, bad: Path) -> tuple[str, str]:
    contents = read(bad)
    for tensor in contents.tensors:
        tensor.values()
    inspection_document(inspect(bad))
    estimate_document({"estimates": [simulate(contents, load_target("pixel-4"))]}, layers=True)
    model = _model(good)
    with (
        patch.object(proof, "capture", _captured),
        patch.object(bisect, "capture", _captured),
        patch.object(unsealed, "export", partial(_exported, good.path)),
    ):
        parity = verify(bad, model, INPUTS)
    if not parity.passed:
        return "differs", ""
    return _confirmed(good, bad, model, contents, max(o.tolerance for o in parity.outputs))


def _confirmed(good: Seed, bad: Path, model: CompressedModel, contents: Contents, tolerance: float) -> tuple[str, str]:
    """Whether a file that verify accepted computes what the good one does, on inputs that verify did not draw."""
    rng = np.random.default_rng(77)
    calls = [(rng.normal(size=INPUTS[0].shape).astype(np.float32),) for _ in range(4)]
    found = run_file(bad, calls)
    for runtime, wanted in _outputs(good.path, tuple(c[0].tobytes() for c in calls)).items():
        if runtime not in found:  # one that refused the file was not asked, and verify says so
            continue
        given = found[runtime]
        for i in range(len(wanted[0])):
            off = error_of([w[i] for w in wanted], [g[i] for g in given], "max")
            if not off <= _SLACK * tolerance:
                return "wrong", f"verify agrees, {runtime} is off by {off:.3g} (tolerance {tolerance:.3g})"
    return "equal", ""


@cache
def _outputs(path: Path, calls: tuple[bytes, ...]) -> dict[str, list[tuple[np.ndarray, ...]]]:
    shaped = [(np.frombuffer(c, np.float32).reshape(INPUTS[0].shape),) for c in calls]
    return {runtime: list(results) for runtime, results in run_file(path, shaped).items()}


@cache
def _model(good: Seed) -> CompressedModel:
    return good.model()


def _exported(good: Path, _model: object, _format: str, _inputs: object, path: Path, **_: object) -> None:
    """An export gives the same bytes every time (tested elsewhere): once is enough."""
    (shutil.copytree if good.is_dir() else shutil.copy)(good, path)


_captures: dict[int, capturing.Captured] = {}


def _captured(model: CompressedModel, example: tuple[torch.Tensor, ...]) -> capturing.Captured:
    """The trace of an undamaged model is the same in every case: once is enough."""
    if id(model) not in _captures:
        _captures[id(model)] = capturing.capture(model, example)
    return _captures[id(model)]
