"""What would mend a budget that the vendor's software answers: asked of that software again where it can be.

Flash: the file with more of its smallest weights zero, compiled again. SRAM, arena and cycles with channels removed: by
the share of activations, weights and channels that are left, since nobody has the smaller network yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from idp_deploy.errors import IdpDeployError
from idp_deploy.flow import Check, Contents, Remedy, StoredTensor
from idp_deploy.formats.prunable import prunable_tensors
from idp_deploy.gating import Evidence, sparsity
from idp_deploy.simulation.estimating import simulate
from idp_deploy.simulation.question import load
from idp_deploy.simulation.targets import Target
from idp_deploy.trying import CHANNELS, SHARES, WHOLE, Tried, best, channels, least, percent
from idp_deploy.weighing import Asked


def for_flash(check: Check, evidence: Evidence, target: Target) -> Remedy | None:
    """More zeros, as the vendor's encoding takes them; None where the weights cannot be found in the file."""
    contents = evidence.contents
    now = sparsity(contents)[0]
    more = [share for share in SHARES if share > now]
    places = _places(contents)
    if not more or not places:
        return None
    asked: dict[float, float] = {}

    def at(share: float) -> float:
        if share not in asked:
            asked[share] = _flash(contents, places, (1 - share) / max(1 - now, 1e-9), evidence, target)
        return asked[share]

    def tried() -> Tried:
        share, value = least(more, check.budget.limit, at)
        yield f"prune to {percent(share)} zeros", f"prune --target {share:.2f}", value

    return best(check, tried())


def for_activations(check: Check, evidence: Evidence, asked: Asked) -> Remedy | None:
    """Fewer channels, and so narrower maps between the layers."""
    work, value = asked.loaded.work, check.value or 0.0

    def at(share: float) -> float:
        return value - (1 - _left(asked, share)["activations"]) * min(value, float(work.peak_activation_bytes))

    return _narrower(check, evidence, asked, at)


def for_vendor_latency(check: Check, evidence: Evidence, asked: Asked) -> Remedy | None:
    """Fewer channels: what takes the most cycles shrinks with its multiplications or its bytes."""
    vendor = evidence.estimate.vendor
    cycles = {name: count for name, count in vendor.cycles.items() if name != "total"} if vendor else {}
    if not any(cycles.values()):
        return None

    def at(share: float) -> float:
        left = _left(asked, share) | {"npu": 1 - share}  # it takes channels in blocks, which are not full any more
        kinds = {"npu": "npu", "sram": "activations", "flash": "weights", "dram": "weights"}
        then = max(count * left[kinds.get(name, "npu")] for name, count in cycles.items())
        return (check.value or 0.0) * then / max(cycles.values())

    return _narrower(check, evidence, asked, at)


def _narrower(check: Check, evidence: Evidence, asked: Asked, at: Callable[[float], float]) -> Remedy | None:
    makers = asked.removable.makers

    def tried() -> Tried:
        if makers:
            share, value = least(CHANNELS, check.budget.limit * WHOLE, at)
            yield *channels(share, evidence, makers), value

    return best(check, tried())


def _left(asked: Asked, share: float) -> dict[str, float]:
    """Shares of the largest activations and of weights that are left without these channels."""
    work, less = asked.loaded.work, asked.without(share).work
    parts = {
        "activations": (less.peak_activation_bytes, work.peak_activation_bytes),
        "weights": (less.parameters, work.parameters),
    }
    return {name: then / before if before else 1.0 for name, (then, before) in parts.items()}


def _places(contents: Contents) -> dict[int, StoredTensor]:
    """Offset in the file → the integer weights that lie there as they are; what lies there twice is left out."""
    found = {}
    for tensor in prunable_tensors(contents):
        content = _integers(tensor).tobytes()
        start = contents.parsed.find(content) if tensor.dtype == "int8" and not tensor.is_sparse else -1
        if start >= 0 and contents.parsed.find(content, start + 1) < 0:
            found[start] = tensor
    return found


def _integers(tensor: StoredTensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.values())


def _flash(
    contents: Contents, places: Mapping[int, StoredTensor], left: float, evidence: Evidence, target: Target
) -> float:
    """Bytes of the compiled file with this share left of the entries that are not zero, the largest."""
    content = bytearray(contents.parsed)
    for start, tensor in places.items():
        values = _integers(tensor)
        sizes = np.abs((tensor.dequantize or tensor.values)()).reshape(-1)
        kept = round(int(np.count_nonzero(values)) * left)
        thinned = values.reshape(-1).copy()
        thinned[np.argsort(sizes, kind="stable")[: sizes.size - kept]] = 0
        content[start : start + thinned.nbytes] = thinned.tobytes()
    changed = load(replace(contents, parsed=bytes(content)))
    try:
        vendor = simulate(changed, target, runtime=evidence.estimate.runtime, transfer=False).vendor
    except IdpDeployError:
        return float("inf")
    return float(vendor.flash_bytes) if vendor and vendor.flash_bytes is not None else float("inf")
