"""Whether a comparison can see anything: an output that hardly depends on its input agrees with nearly any file.

A heavily pruned net with untrained weights can pass a tolerance of 1e-4 with its first layer set to zero. So the
variation of every output over the calls is measured, and where it is small the tolerance shrinks with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from idp_deploy.distance import filled_from, is_text, reals
from idp_deploy.soundness import cloned, unmapped
from idp_deploy.verification.calls import Arrays, Call

FLOAT32_FLOOR = 2e-5  # relative error that honest runtimes reach in float32 on deep nets
_STILL = 1e-6  # relative variation below which an activation counts as constant
_HARDLY = 0.05
_NAMED = 5


def variation(outputs: Sequence[np.ndarray]) -> float:
    """How far one output moves over the calls: max over entries of (max − min over calls) / max |output|.

    0.0 for a single call, for outputs whose shape changes, and for an output that is zero. What a mask was filled with
    counts as zero. Names of classes move wholly, or not at all.

    >>> round(variation([np.array([1.0, 2.0]), np.array([1.0, 1.5])]), 3)
    0.25
    """
    if len(outputs) < 2 or len({o.shape for o in outputs}) > 1 or not outputs[0].size:
        return 0.0
    if is_text(outputs[0]):
        return float(any(not np.array_equal(output, outputs[0]) for output in outputs))
    stacked = np.stack([reals(output) for output in outputs])
    stacked[np.abs(stacked) >= filled_from(outputs)] = 0.0
    largest = float(np.abs(stacked).max())
    spread = float((stacked.max(axis=0) - stacked.min(axis=0)).max())
    return spread / largest if largest > 0 and np.isfinite(largest) else 0.0


def tolerance_for(moved: float, tolerance: float) -> float:
    """A tolerance a tenth of the variation where that is the smaller one, but never below what float32 allows.

    >>> tolerance_for(0.5, 1e-4), tolerance_for(4e-4, 1e-4), tolerance_for(0.0, 1e-4), tolerance_for(0.0, 2e-2)
    (0.0001, 4e-05, 2e-05, 0.02)
    """
    if tolerance > 1e-4:  # half precision and quantized activations: their own noise is as large
        return tolerance
    return min(tolerance, max(moved / 10, FLOAT32_FLOOR))


def output_notes(names: Sequence[str], outputs: Sequence[Arrays], tolerance: float) -> tuple[str, ...]:
    """One note for each output that moves less than ten times the tolerance and less than 5 % over the calls."""
    notes = []
    for i, name in enumerate(names):
        moved = variation([call[i] for call in outputs])
        if moved < min(10 * tolerance, _HARDLY):
            notes.append(
                f"output '{name}' hardly depends on the input (it moves by {moved:.1e} of its size): "
                f"agreement on it says little about the layers before it"
            )
    return tuple(notes)


def dead_activations(module: nn.Module, calls: Sequence[Call]) -> tuple[str, ...]:
    """A note naming the leaf layers whose input moves over the calls while their output does not.

    The module is run in the mode it is in, and left as it was.
    """
    if len(calls) < 2:
        return ()
    watched: dict[str, _Watched] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            seen, made = _first_tensor(inputs), _first_tensor(output)
            if seen is not None and made is not None:
                watched.setdefault(name, _Watched(seen.clone(), made.clone())).update(seen, made)

        return hook

    leaves = [(name, child) for name, child in module.named_modules() if name and not any(child.children())]
    handles = [child.register_forward_hook(watch(name)) for name, child in leaves]
    try:
        with torch.no_grad():
            for call in calls:
                module(*cloned(call))
    finally:
        for handle in handles:
            handle.remove()
    dead = [name for name, record in watched.items() if record.input_moved and not record.output_moved]
    if not dead:
        return ()
    more = f" and {len(dead) - _NAMED} more" if len(dead) > _NAMED else ""
    return (f"the signal ends at {', '.join(dead[:_NAMED])}{more}: errors before that are invisible in the output",)


@dataclass
class _Watched:
    first_input: Tensor
    first_output: Tensor
    input_moved: bool = False
    output_moved: bool = False

    def update(self, seen: Tensor, made: Tensor) -> None:
        self.input_moved |= _moved(self.first_input, seen)
        self.output_moved |= _moved(self.first_output, made)


def _moved(first: Tensor, now: Tensor) -> bool:
    if first.shape != now.shape:
        return True
    if not first.is_floating_point():
        return not torch.equal(first, now)
    return float((first - now).abs().max()) > _STILL * float(first.abs().max()) if first.numel() else False


def _first_tensor(values: Any) -> Tensor | None:
    return next((unmapped(leaf).detach() for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)), None)
