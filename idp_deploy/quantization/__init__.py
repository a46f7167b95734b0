"""quantize: CompressedModel → CompressedModel, whose module holds what the integers or the palette mean.

| scheme       | weights                                          | activations                        |
| ------------ | ------------------------------------------------ | ---------------------------------- |
| fp16         | rounded to float16                               | float                              |
| int8-weights | symmetric int8, one scale an output channel      | float                              |
| int8         | symmetric int8, one scale an output channel      | int8, ranges by calibration inputs |
| lut4         | a palette of 15 values for each weight, and zero | float                              |

int8 weights may be restricted to few distinct values each (`values`), which compilers that compress weights, such as
Vela for the Ethos-U, store in fewer bits; a weight that would suffer keeps all of them.

Layers that are named (`keep_float`) stay float, and with them the activations that their operators compute.

Zeros stay exactly zero. A kept weight that rounds to zero leaves the mask, so that masks and values still agree.

The integers and their scales go on beside the module (`Quantization.levels`), and exporters store these. They fold
batch norm too; so that the integers still mean what is folded, batch norm is first absorbed into the layer before it:
the layer takes the folded weight, the norm becomes y = x + β' (γ = 1, μ = 0, σ² = 1 − ε). The names and shapes of the
state dict do not change.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.utils import _pytree as pytree

from idp_deploy.arguments import arguments_of, count, names
from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import CompressedModel, Levels, Quantization
from idp_deploy.ledger import refuse_filled
from idp_deploy.masks import copied, prunable_weights
from idp_deploy.quantization.absorbing import absorb_batch_norm, biases_of, owner_of
from idp_deploy.quantization.activation_noise import activation_noise
from idp_deploy.quantization.faint import silence_faint_channels
from idp_deploy.quantization.sparing import asked_float, twins_of
from idp_deploy.quantizers import palettize, quantize_int8, restrict, signal_to_noise_db
from idp_deploy.soundness import answered, overflow, refuse_unsound
from idp_deploy.tasks import Task, own_threads
from idp_deploy.waiting import counted

Quantizer = Callable[[np.ndarray, int], Levels]  # (weight, output axis) → it in few bits

THRESHOLD_DB = 15.0  # noise of 3 % of a layer's power; 8 bits give 35 to 50 dB, palettes 18 to 30
_WATCHED_CALLS = 8  # how many calibration calls the noise of activations is measured on
_RANDOM_CALLS = 16
_AMBIGUOUS = "a grouped transposed convolution: formats differ in which of its weights share a scale"
_EITHER_WAY = "no layer's weight: its outputs may be its rows or its columns"
_UNABSORBED = "the batch norm after it cannot be absorbed, and folding it would break the palette"


def _float16(w: np.ndarray, axis: int) -> Levels:
    with np.errstate(over="ignore"):
        return Levels(w.astype(np.float16))


def _int8(w: np.ndarray, axis: int) -> Levels:
    q, scale = quantize_int8(w, axis)
    return Levels(q, np.expand_dims(scale, tuple(a for a in range(w.ndim) if a != axis % w.ndim)))


def _lut4(w: np.ndarray, axis: int) -> Levels:
    indices, palette = palettize(w, bits=4)
    return Levels(indices, palette=palette)


SCHEMES: dict[str, Quantizer] = {"fp16": _float16, "int8": _int8, "int8-weights": _int8, "lut4": _lut4}


@own_threads(1)  # what is measured is stored, and the last bits of a sum depend on their number
@torch.random.fork_rng(devices=())  # a DataLoader draws from the caller's generator
def quantize(
    model: CompressedModel,
    scheme: str,
    *,
    task: Task | None = None,
    example_inputs: tuple[Any, ...] | None = None,
    threshold_db: float = THRESHOLD_DB,
    samples: int = 64,
    values: int | None = None,
    keep_float: Sequence[str] = (),
) -> CompressedModel:
    """Quantize the weights of convolutions, linear and recurrent layers, attention and embeddings.

    A weight whose signal-to-noise ratio, in itself or in its layer's output on calibration inputs, is below
    `threshold_db` stays float and is named in `Quantization.kept_float` with the reason.

    Args:
        scheme: a row of SCHEMES.
        task: gives calibration inputs; without it int8 calibrates on random inputs like the example, and says so.
        example_inputs: positional arguments of forward; by default the task's.
        threshold_db: decibels of signal over noise that a weight must keep.
        samples: how many calibration inputs to take from the task.
        values: of int8 and int8-weights: how many distinct integers a weight may have, zero among them.
        keep_float: globs over weight names, and over names of modules with all their parts, that stay float.

    Raises:
        UsageError: unknown scheme, `values` that it does not have, a glob that names no weight, no inputs where they
            are needed, a model that is quantized already, or one whose weights were written to after hardening.
        ConversionError: a weight, a statistic, or what the model gives is not finite.

    >>> model = CompressedModel(nn.Linear(2, 1), {"weight": torch.tensor([[True, False]])})
    >>> model.module.weight.data = torch.tensor([[0.3, 0.0]])
    >>> quantize(model, "int9")
    Traceback (most recent call last):
    ...
    idp_deploy.errors.UsageError: unknown scheme 'int9' — did you mean 'int8'? one of fp16, int8, int8-weights, lut4
    >>> quantize(model, "fp16").module.weight.tolist()
    [[0.300048828125, 0.0]]
    """
    _require_scheme(model, scheme)
    keep_float = names("keep_float", keep_float, "head.*")
    quantizer = _quantizer(scheme, None if values is None else count("values", values))
    example = arguments_of("example_inputs", example_inputs)
    if example is None and task is not None:
        example = task.example_inputs()
    if scheme == "int8" and example is None:
        raise UsageError(
            "int8 fixes activation ranges, for which the model must run",
            way_out="give a task or example inputs (--task, --inputs), or take --scheme int8-weights",
        )
    module = copied(model.module).cpu().eval()
    refuse_unsound(module)
    refuse_filled(model)
    axes = _quantizable(module, model.masks)
    asked = asked_float(keep_float, axes, twins_of(module))
    if scheme == "lut4" and example is None and any(isinstance(owner, _BatchNorm) for owner in module.modules()):
        raise UsageError(
            "a palette must be made after batch norm is folded, for which the model must run",
            way_out="give a task or example inputs (--task, --inputs)",
        )
    captured = capture(model, example) if example is not None else None
    unabsorbed = absorb_batch_norm(captured, module) if captured is not None else set()
    calls, notes = _calibration(scheme, task, example, samples)
    if task is None:
        calls = answered(module, calls)
    _refuse_unsound(calls)
    if scheme == "int8" and (found := overflow(module, calls[0])):
        raise ConversionError(
            f"no int8 range holds what this model computes: {found}", way_out="scale its weights down"
        )
    parameters = dict(module.named_parameters(remove_duplicate=False))
    levels: dict[str, Levels] = {}
    quantized: dict[str, np.ndarray] = {}
    weight_db: dict[str, float] = {}

    def store(names: Iterable[str], quantizer: Quantizer) -> None:
        for name in counted(tuple(names), "quantizing weights"):
            weight = parameters[name].detach().float().numpy()
            if name in model.masks:
                weight = np.where(model.masks[name].cpu().numpy(), weight, np.float32(0.0))
            levels[name] = quantizer(weight, axes[name])
            quantized[name] = levels[name].values
            weight_db[name] = signal_to_noise_db(weight, quantized[name])

    store(axes, quantizer)
    if values is not None:  # too few for some weights: these keep all their integers
        output_db = activation_noise(module, quantized, calls[:_WATCHED_CALLS], integer_inputs=scheme == "int8")
        spoilt = _too_noisy(weight_db, output_db, threshold_db)
        store(spoilt, SCHEMES[scheme])
        notes += tuple(
            f"{name} keeps all its integers: with {values}, {why}" for name, why in spoilt.items() if name not in asked
        )
    if scheme == "int8" and captured is not None:
        left = unabsorbed | asked.keys()
        biases = {name: bias for name, bias in biases_of(captured).items() if name in axes and name not in left}
        notes += silence_faint_channels(module, quantized, axes, biases, calls[:_WATCHED_CALLS])
    activation_db = activation_noise(module, quantized, calls[:_WATCHED_CALLS], integer_inputs=scheme == "int8")
    kept_float = _too_noisy(weight_db, activation_db, threshold_db)
    if scheme.startswith("int8"):
        kept_float |= dict.fromkeys(_grouped_transposed(module, axes), _AMBIGUOUS)
        matrices = prunable_weights(module, matrices=True)
        bare = [name for name in axes if name in matrices and matrices[name].kind == "matrix"]
        kept_float |= dict.fromkeys(bare, _EITHER_WAY)
    kept_float |= dict.fromkeys(_empty(parameters), "it has no entries")
    if scheme == "lut4":
        kept_float |= dict.fromkeys(sorted(unabsorbed & set(axes)), _UNABSORBED)
    kept_float |= asked
    masks = dict(model.masks)
    with torch.no_grad():
        for name, held in quantized.items():
            if name in kept_float:
                continue
            parameters[name].copy_(torch.from_numpy(held))
        for name, mask in masks.items():
            masks[name] = mask & (parameters[name] != 0).to(mask.device)
    calibration = tuple(calls) if scheme == "int8" else ()
    carried = {
        name: replace(one, q=np.where(quantized[name] == 0, one.q.dtype.type(0), one.q))  # channels may be silent now
        for name, one in levels.items()
        if name not in kept_float and scheme != "fp16" and parameters[name].dtype == torch.float32
    }
    described = Quantization(scheme, weight_db, kept_float, calibration, activation_db, notes, carried)
    few = f" --values {values}" if values is not None else ""
    floats = "".join(f" --float {shlex.quote(glob)}" for glob in keep_float)
    steps = (*model.provenance.steps, f"quantize --scheme {scheme}{few}{floats}")
    return CompressedModel(module, masks, model.recipe, described, replace(model.provenance, steps=steps))


def known(scheme: str, values: int | None = None) -> None:
    """
    Raises:
        UsageError: no row of SCHEMES, or values that it does not take.
    """
    if scheme not in SCHEMES:
        near = get_close_matches(str(scheme), SCHEMES, 1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"unknown scheme {scheme!r}", way_out=f"{hint}one of {', '.join(SCHEMES)}")
    _quantizer(scheme, values)


def _require_scheme(model: CompressedModel, scheme: str) -> None:
    known(scheme)
    if model.quantization is not None:
        raise UsageError(
            f"this model is quantized already, as {model.quantization.scheme}",
            way_out="quantize the float checkpoint instead: noise would add up",
        )


def _quantizer(scheme: str, values: int | None) -> Quantizer:
    """Of a scheme, with its integers restricted where that is asked."""
    if values is None:
        return SCHEMES[scheme]
    if not scheme.startswith("int8"):
        raise UsageError(f"{scheme} has no integers to restrict", way_out="take int8 or int8-weights, or leave it out")
    restrict(np.zeros(0, np.int8), values)  # a number that is refused is refused before anything is computed

    def few(w: np.ndarray, axis: int) -> Levels:
        whole = SCHEMES[scheme](w, axis)
        return replace(whole, q=restrict(whole.q, values))

    return few


def _quantizable(module: nn.Module, masks: Collection[str]) -> dict[str, int]:
    """Parameter name → output axis of every weight that schemes apply to, in the module's order."""
    prunable = prunable_weights(module, embeddings=True)
    axes: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() and (name in prunable or name in masks):
            axes[name] = prunable[name].output_axis if name in prunable else 0
    return axes


def _empty(parameters: Mapping[str, Tensor]) -> list[str]:
    return [name for name, weight in parameters.items() if weight.dim() > 1 and not weight.numel()]


def _grouped_transposed(module: nn.Module, names: Iterable[str]) -> list[str]:
    owners = ((name, owner_of(module, name)) for name in names)
    return [name for name, owner in owners if isinstance(owner, _ConvTransposeNd) and owner.groups > 1]


def _refuse_unsound(calls: Sequence[tuple[Any, ...]]) -> None:
    """UsageError naming the first calibration input that holds something else than finite numbers."""
    for sample, call in enumerate(calls):
        for position, value in enumerate(call):
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                continue
            found = (~torch.isfinite(value)).nonzero()
            if len(found):
                index = found[0].tolist()
                raise UsageError(
                    f"calibration sample {sample}, input {position}, is {float(value[tuple(index)]):g} at {index}",
                    way_out="check the task's calibration inputs",
                )


def _calibration(
    scheme: str, task: Task | None, example: tuple[Any, ...] | None, samples: int
) -> tuple[list[tuple[Any, ...]], tuple[str, ...]]:
    """Calls to measure noise and ranges on, and what to say about them."""
    if task is not None:
        return [tuple(call) for call in task.calibration_inputs(samples)], ()
    if example is None:
        return [], ("no inputs were given: noise was measured on weights alone",)
    generator = torch.Generator().manual_seed(0)

    def like(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.numel():
            return leaf
        if not leaf.is_floating_point() or _has_two_values(leaf):  # indices and masks keep their values
            return leaf.flatten()[torch.randperm(leaf.numel(), generator=generator)].reshape(leaf.shape)
        deviation = _widest(leaf.float()) if leaf.numel() > 1 else 0.0
        drawn = torch.randn(leaf.shape, generator=generator) * (deviation or 1.0) + float(leaf.float().mean())
        return drawn.to(leaf.dtype)

    calls = [example, *(pytree.tree_map(like, example) for _ in range(_RANDOM_CALLS - 1))]
    note = "activation ranges come from random inputs, since there is no task" if scheme == "int8" else ""
    return calls, (note,) if note else ()


def _widest(floats: Tensor) -> float:
    """The largest standard deviation, at 95 %, that what these were drawn of may have; at most 4 times theirs.

    What is beyond a range is cut off, which costs more than a bit of it. χ² as by Wilson and Hilferty, "The
    distribution of chi-square" (1931).

    >>> round(_widest(torch.tensor([1.0, -1.0, 1.0, -1.0])) / float(torch.tensor([1.0, -1.0, 1.0, -1.0]).std()), 1)
    3.0
    """
    free = floats.numel() - 1
    low = (1 - 2 / (9 * free) - 1.645 * math.sqrt(2 / (9 * free))) ** 3
    return float(floats.std()) / math.sqrt(max(low, 1 / 16))


def _has_two_values(floats: Tensor) -> bool:
    low, high = floats.min(), floats.max()
    return bool(low < high) and bool(((floats == low) | (floats == high)).all())


def _too_noisy(
    weight_db: Mapping[str, float], activation_db: Mapping[str, float], threshold_db: float
) -> dict[str, str]:
    kept = {}
    for name, decibel in weight_db.items():
        if not decibel >= threshold_db:
            kept[name] = f"{decibel:.1f} dB of signal over noise, below {threshold_db:g} dB"
        elif not activation_db.get(name, threshold_db) >= threshold_db:
            kept[name] = f"{activation_db[name]:.1f} dB of signal over noise in its output, below {threshold_db:g} dB"
    return kept
