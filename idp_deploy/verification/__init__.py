"""verify: run an artifact on this machine, compare it with the model, and prove its zeros from the file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from idp_deploy.arguments import FilePath, arguments_of, count, size
from idp_deploy.capturing import once, traced_once
from idp_deploy.errors import ConversionError, MissingDependencyError
from idp_deploy.flow import Artifact, CompressedModel, Contents, Parity, WeightProof
from idp_deploy.formats import FORMATS
from idp_deploy.formats.sessions import Session, Sessions
from idp_deploy.ledger import refuse_filled, shortfall, summary
from idp_deploy.masks import copied
from idp_deploy.reading import read
from idp_deploy.sealing import intact, key_of
from idp_deploy.soundness import answered, cloned, fast_path, overflow, remembered
from idp_deploy.tasks import Task
from idp_deploy.verification.calls import (
    Arrays,
    Call,
    arrays,
    batch_extent,
    calls_from_file,
    rows_of,
    seeded_calls,
)
from idp_deploy.verification.comparing import between_runtimes, with_model
from idp_deploy.verification.liveness import dead_activations
from idp_deploy.verification.proof import prove_weights, unread
from idp_deploy.verification.tolerance import quantized_activations
from idp_deploy.verification.unsealed import against_fresh
from idp_deploy.waiting import counted


def open_file(contents: Contents, *, threads: int = 1) -> Sessions:
    """A session in every runtime of the file's format, and notes on those that could not be asked.

    Raises:
        MissingDependencyError: the runtime is not installed. FileError: the file does not load.
    """
    opened = FORMATS[contents.format].function("open")(contents, threads=threads)
    return opened if isinstance(opened, Sessions) else Sessions(opened)


def run_file(file: Path | Contents, calls: Sequence[Arrays]) -> dict[str, list[Arrays]]:
    """Run a file in every runtime of its format: runtime → the outputs of each call, in the model's layout.

    Args:
        calls: for each call the flattened model inputs in order and in the model's layout (images NCHW).

    Raises:
        MissingDependencyError: the runtime is not installed. FileError: the file does not load.
    """
    contents = file if isinstance(file, Contents) else read(file)
    return {runtime: [session(call) for call in calls] for runtime, session in open_file(contents).items()}


@torch.random.fork_rng(devices=())  # a DataLoader draws from the caller's generator
def verify(
    artifact: FilePath | Contents,
    model: CompressedModel | None = None,
    example_inputs: Call | None = None,
    *,
    task: Task | None = None,
    seeds: int = 3,
    tolerance: float | None = None,
    accuracy_samples: int = 128,
) -> Parity:
    """Compare a file with the model it came from, in every runtime of its format on this machine.

    Outputs are compared over the example, `seeds` random calls like it and, with a task, `seeds` held-out samples;
    every masked weight is found in the file and compared entry by entry. Without a model the file is loaded and run,
    its runtimes are compared with each other, and the notes say what could not be checked.

    Args:
        artifact: a file of any format, ours or another tool's, or what was read of it.
        example_inputs: positional arguments of the model's forward; taken from the task, else drawn in the shapes
            the file declares.
        tolerance: replaces the declared one (`tolerance.declared`); relative to the largest output.
        accuracy_samples: how many held-out samples the file is scored on where there is a task; 0 for none.

    Raises:
        UsageError: the model's weights were written to after they were hardened. FileError: the file is broken.
        ConversionError: an operator that the reference interpreter does not know, or a model whose answers are random.
    """
    seeds, accuracy_samples = count("seeds", seeds, least=0), count("accuracy_samples", accuracy_samples, least=0)
    tolerance = None if tolerance is None else size("tolerance", tolerance)
    if model is not None:
        refuse_filled(model)
    contents = artifact if isinstance(artifact, Contents) else read(artifact)
    whole = intact(contents.path, key_of(model) if model is not None else None)
    notes = [*contents.warnings, *_vendors_word(contents, whole)]
    example = arguments_of("example_inputs", example_inputs)
    if example is None and task is not None:
        example = task.example_inputs()
    if example is None:
        calls = calls_from_file(contents, seeds=seeds + 1)
        notes.append("inputs drawn in the shapes the file declares, since no example inputs were given")
    else:
        drawn = partial(seeded_calls, example, task=task, seeds=seeds)
        if model is None:
            calls = drawn()
        else:
            calls, left_out = once("calls", model, (example, task, seeds), lambda: _taken(model, drawn()))
            notes += left_out
    calibration = model.quantization.calibration if model is not None and model.quantization else ()
    if calibration and quantized_activations(contents):
        calls = [calls[0], *calibration[: 2 * seeds]]  # the file's activation ranges hold for inputs like these only
    given = [arrays(call) for call in calls]
    sessions = open_file(contents)
    notes += sessions.notes
    pairs = [(name, call) for name in sessions for call in given]
    results: dict[str, list[Arrays]] = {name: [] for name in sessions}
    for name, call in counted(pairs, "comparing outputs"):
        results[name].append(sessions[name](call))
    proofs: tuple[WeightProof, ...] = ()
    if model is None:
        parities, more = between_runtimes(contents, results, tolerance)
    else:
        expected, unheard = once("answers", model, calls, partial(_answers, model, calls))
        parities, more = with_model(contents, expected, results, tolerance, model.quantization)
        if FORMATS[contents.format].blame and not all(parity.passed for parity in parities):
            worst = max(parity.tolerance for parity in parities)
            more = (*more, *FORMATS[contents.format].function("blame")(contents, model, calls[0], worst))
        with traced_once():
            proofs, unproved = prove_weights(model, contents, calls[0])
            read_by_it = model.without(unread(model, calls[0]))
        more += (*unproved, summary(read_by_it), *filter(None, [shortfall(read_by_it)]))
        more += unheard
        if any(np.isnan(one).any() for one in expected[0] if one.dtype.kind == "f"):
            more += (f"the model itself: {overflow(evaluation_copy(model), calls[0])}",)
        agrees = all(p.passed for p in parities) and all(p.passed for p in proofs)
        if agrees and not whole and FORMATS[contents.format].convert:
            again, differing, said = against_fresh(contents, model, calls[0], given, results, run_file)
            parities, proofs, more = (*parities, *again), (*proofs, *differing), (*more, *said)
    if FORMATS[contents.format].usual and parities and quantized_activations(contents):
        limit = max(parity.tolerance for parity in parities)
        more = (*more, *FORMATS[contents.format].function("usual")(contents, given[0], limit))
    metrics = _accuracy(sessions, task, accuracy_samples, model) if task and accuracy_samples else {}
    described = Artifact(contents.path, contents.format, contents.size_bytes, contents.manifest)
    return Parity(described, parities, proofs, metrics, (*notes, *more), held=model is not None)


def file_accuracy(
    artifact: FilePath | Contents, task: Task, *, limit: int | None = None, model: CompressedModel | None = None
) -> dict[str, float]:
    """The task's metric of a file over held-out samples, for each runtime of its format.

    Args:
        limit: at most this many samples, from the first on; None for all.
        model: scored on the same samples under "torch"; also tells how the outputs are nested. Without it a single
            output is given to the task as a tensor, several as a tuple.
    """
    contents = artifact if isinstance(artifact, Contents) else read(artifact)
    return _accuracy(open_file(contents), task, limit, model)


@torch.random.fork_rng(devices=())
def _accuracy(
    sessions: Mapping[str, Session], task: Task, limit: int | None, model: CompressedModel | None
) -> dict[str, float]:
    step = batch_extent(task.example_inputs())
    batches: list[Any] = []
    for batch in task.validation_loader():
        rows = batch_extent(task.inputs(batch))
        batches += [rows_of(batch, start, step) for start in range(0, rows - step + 1, step)]
        if limit is not None and len(batches) * step >= limit:
            batches = batches[: max(1, limit // step)]
            break
    calls = [task.inputs(batch) for batch in batches]
    scored: dict[str, list[Any]] = {}
    nest: Callable[[list[Any]], Any] = lambda leaves: leaves[0] if len(leaves) == 1 else tuple(leaves)  # noqa: E731
    if model is not None:
        scored["torch"] = _run(evaluation_copy(model), calls)
        spec = pytree.tree_structure(scored["torch"][0])
        if all(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(scored["torch"][0])):
            nest = lambda leaves: pytree.tree_unflatten(leaves, spec)  # noqa: E731
    for runtime, session in sessions.items():
        outputs = [session(arrays(call)) for call in counted(calls, f"accuracy in {runtime}")]
        scored[runtime] = [nest([torch.from_numpy(array.copy()) for array in output]) for output in outputs]
    metrics = {}
    for runtime, outputs in scored.items():
        scores = [task.score(output, batch) for output, batch in zip(outputs, batches, strict=True)]
        metrics[runtime] = sum(score for score, _ in scores) / max(1, sum(count for _, count in scores))
    return metrics


def evaluation_copy(model: CompressedModel) -> nn.Module:
    """The module on the CPU in eval mode; the caller's is untouched."""
    return copied(model.module).cpu().eval()


def _vendors_word(contents: Contents, whole: bool | None) -> list[str]:
    """Let the maker's own reader open the file, unless it is still as we wrote it and did then; what was not done.

    Raises:
        FileError: it does not open.
    """
    row = FORMATS[contents.format]
    if not row.vendor or whole:
        return []
    try:
        row.function("vendor")(contents.path)
    except MissingDependencyError as error:
        return [f"not opened by {', '.join(row.converter)}: {error.message}"]
    return []


@fast_path(taken=False)
def _taken(model: CompressedModel, calls: list[Call]) -> tuple[list[Call], tuple[str, ...]]:
    """(the calls that the model answers, a note on those that it does not)."""
    taken = answered(evaluation_copy(model), calls)
    left = len(calls) - len(taken)
    words = f"{left} of {len(calls)} calls left out: the model stops at their numbers, or gives none"
    return taken, (words,) if left else ()


@fast_path(taken=False)
def _answers(model: CompressedModel, calls: Sequence[Call]) -> tuple[list[Arrays], tuple[str, ...]]:
    """(the model's outputs of every call, notes on layers that no output tells of and on outputs that are no numbers).

    Raises:
        ConversionError: the outputs are random.
    """
    module = evaluation_copy(model)
    expected = [arrays(output) for output in _run(module, calls)]
    _refuse_two_answers(module, calls[0], expected[0])
    notes = (*_of_fast_path(module, calls[0], expected[0]), *dead_activations(module, calls))
    if any(np.isnan(one).any() for one in expected[0] if one.dtype.kind == "f"):
        notes += (f"the model itself: {overflow(module, calls[0])}",)
    return expected, notes


def _refuse_two_answers(module: nn.Module, call: Call, first: Arrays) -> None:
    for i, (a, b) in enumerate(zip(first, arrays(_run(module, [call])[0]), strict=True)):
        size = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
        if not np.allclose(a, b, rtol=1e-3, atol=1e-3 * size, equal_nan=True):
            if kept := remembered(module, call):
                raise ConversionError(
                    f"forward keeps {', '.join(map(repr, kept))} from one call to the next, and its answer depends on "
                    "it: a file keeps nothing between two calls",
                    way_out="make it an input, and an output that the caller hands in again",
                )
            raise ConversionError(
                f"the model gives two answers for one input: output {i} differs from one run to the next",
                way_out="give dropout training=self.training, and take other random numbers as an input",
            )


def _run(module: nn.Module, calls: Sequence[Call]) -> list[Any]:
    with torch.no_grad(), fast_path(taken=False):
        return [module(*cloned(call)) for call in calls]


def _of_fast_path(module: nn.Module, call: Call, found: Arrays) -> tuple[str, ...]:
    """A note where an encoder of torch's gives other numbers for what is padded."""
    if not any(isinstance(part, nn.TransformerEncoder) for part in module.modules()):
        return ()
    with torch.no_grad(), fast_path(taken=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype, it says
        other = arrays(module(*cloned(call)))
    if all(a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(found, other, strict=True)):
        return ()
    return (
        "nn.TransformerEncoder gives zeros for what is padded, in inference alone: the file computes it as training",
    )
