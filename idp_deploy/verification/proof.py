"""The proof that every pruned weight of the model lies in the file: the same zeros, the same values, entry by entry.

A converter may rename, transpose, reorder or split a weight, so it is found by content and the manifest's names are
only a hint. What is compared is what the reader decoded; nothing here shares code with the encoders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from idp_deploy.capturing import Captured, capture, once
from idp_deploy.errors import ConversionError
from idp_deploy.flow import CompressedModel, Contents, StoredTensor, WeightProof
from idp_deploy.formats import FORMATS
from idp_deploy.masks import prunable_weights
from idp_deploy.verification.entries import Reference, Stored, best, pairs, rounded
from idp_deploy.verification.factors import copies, scaled, scaled_made
from idp_deploy.verification.others import altered
from idp_deploy.verification.reaching import left_in_sums, made_of, reaching, silenced
from idp_deploy.waiting import counted

_MOST_PARTS = 16  # kinds of part sizes to try
_MOST_PIECES = 256  # of one weight
_NORM_ROUNDINGS = 6  # weight, γ, σ² (half of one), its root, their product, and that times the weight


def prove_weights(
    model: CompressedModel, contents: Contents, example_inputs: tuple[Any, ...]
) -> tuple[tuple[WeightProof, ...], tuple[str, ...]]:
    """Find each masked parameter in the file and compare it; (proofs in parameter order, notes).

    A float tensor must hold exactly the model's value rounded to its type where the file is ours (its manifest says
    so), and within one rounding step where another tool folded or fused in its own order. An integer or palette
    tensor must hold the values of the quantized model up to the rounding of its scale, or, where the model was not
    quantized, values within half an integer step. A zero of the model must be a zero of the file and the reverse.
    Of what is not masked only tensors that are nearly the model's are told of, as failed proofs.
    """
    captured: Captured | None = None
    notes: list[str] = []
    try:
        captured = once("to be proved", model, example_inputs, lambda: capture(model, example_inputs))
    except ConversionError as error:
        notes.append(f"batch norm not folded for the comparison: {error.message}")
    references = _references(model, captured, notes)
    ours = contents.manifest
    hints = ours.get("weights", {})
    stored = [Stored(tensor, half_scales=FORMATS[contents.format].half_scales) for tensor in contents.tensors]
    by_size: dict[int, list[Stored]] = {}
    for candidate in (*stored, *(half for whole in stored for half in whole.directions())):
        by_size.setdefault(candidate.tensor.size, []).append(candidate)
    taken: set[str] = set()
    silent: set[str] | None = None
    proofs = []
    for name, candidates in counted(references.items(), "proving weights"):
        hint = hints.get(name)
        same_size = by_size.get(candidates[0].values.size, [])
        order = sorted(same_size, key=lambda s: (s.tensor.name != hint, s.tensor.name in taken))
        proof = best(pair for s in order for r in candidates for pair in pairs(r, s, exact=bool(ours)))
        if proof is None or not proof.passed:
            exact = bool(ours)
            found = _from_parts(candidates, stored, exact=exact) or _from_pieces(candidates, stored, exact=exact)
            proof = found or _from_rows(candidates, stored) or proof
        if captured is not None and (proof is None or not proof.passed):
            proof = _from_copies(captured, candidates[0], same_size, exact=bool(ours)) or proof
        if proof is None or not proof.passed:
            acting = [kept for r in candidates if (kept := r.acting_rows()) is not None]
            pieces = [pair for r in acting for s in stored for pair in pairs(r, s, exact=bool(ours))]
            found = best(pieces) or _from_parts(acting, stored, exact=bool(ours)) if acting else None
            if found is not None and found.passed:
                proof = found
                left = len(candidates[0].values) - len(acting[0].values)
                notes.append(f"{left} rows of weight '{name}' act on constants only: the file holds what they give")
        if captured is not None and (proof is None or not proof.passed):
            silent = silenced(captured.module) if silent is None else silent
            if captured.aliases.get(name, name) in silent:
                notes.append(
                    f"weight '{name}' stands before a factor of zero: the file may leave it out; not looked for"
                )
                continue
        if proof is None:
            shape = candidates[0].values.shape
            notes.append(f"weight '{name}' of shape {shape} was not found in {contents.path.name}")
            zeros = int((candidates[0].values == 0).sum())
            proof = WeightProof(name, "", "", 0, zeros, 0, float("nan"), passed=False)
        taken.add(proof.tensor)
        proofs.append(proof)
    if captured is not None:
        explained = {name for proof in proofs if proof.passed for name in proof.tensor.split(" + ")}
        proofs += altered(captured, model.masks, stored, explained)
        notes += _lost_in_half(captured, stored)
    return tuple(proofs), tuple(notes)


def unread(model: CompressedModel, example_inputs: tuple[Any, ...]) -> tuple[str, ...]:
    """The pruned weights that no output depends on: they are in no file."""
    with suppress(ConversionError):
        return once("to be proved", model, example_inputs, lambda: capture(model, example_inputs)).unread(model)
    return ()


def _lost_in_half(captured: Captured, stored: Sequence[Stored]) -> list[str]:
    """A note for each float weight of which the file's float16 cannot tell entries from zero."""
    if not any(candidate.tensor.dtype == "float16" for candidate in stored):
        return []
    notes = []
    for name in sorted({str(node.target) for node in captured.module.graph.nodes if node.op == "get_attr"}):
        values = captured.weight(name)
        if values.dtype == np.float32 and (lost := int(((values != 0) & (rounded(values, "float16") == 0)).sum())):
            notes.append(f"{lost} entries of '{name}' are below the smallest number of float16, and no zeros to prove")
    return notes


def _references(model: CompressedModel, captured: Captured | None, notes: list[str]) -> dict[str, list[Reference]]:
    """For each masked parameter the values to look for: folded first, then as the module has them."""
    raw = {name: p for name, p in model.module.named_parameters(remove_duplicate=False) if name in model.masks}
    quantization = model.quantization
    folded: dict[str, np.ndarray] = {}
    acts: dict[str, np.ndarray] = {}
    used: set[str] | None = None
    if captured is not None:
        used = {str(node.target) for node in captured.module.graph.nodes if node.op == "get_attr"}
        folded = {name: captured.weight(name) for name in raw if name in used}
        acts = {name: reaching(captured.module, name) for name in folded}
        every = dict(model.module.named_parameters(remove_duplicate=False))
        for name, parameter in raw.items():  # a tied weight goes by one of its names
            twin = next((t for t in sorted(used) if t in every and every[t] is parameter), None)
            if name not in used and twin is not None:
                folded[name], acts[name] = captured.weight(twin), reaching(captured.module, twin)
    gates = {name: weight.gates for name, weight in prunable_weights(model.module).items()}
    references: dict[str, list[Reference]] = {}
    for name in model.masks:
        if used is not None and name not in folded:
            notes.append(f"weight '{name}' has no part in the model's outputs and is not looked for")
            continue
        made: list[np.ndarray] = []
        if captured is not None and name in acts and not acts[name].any():
            made = made_of(captured.module, captured.aliases.get(name, name))
            if not made:
                notes.append(_of_constants(captured, name))
                continue
            made += scaled_made(captured.module, captured.aliases.get(name, name))
        quantized = quantization is not None and quantization.scheme != "fp16" and name not in quantization.kept_float
        wide = np.float64 if raw[name].element_size() == 8 else np.float32
        plain = raw[name].detach().cpu().double().numpy()
        values = [folded[name], plain] if name in folded else [plain]
        references[name] = [
            Reference(name, v.astype(wide), quantized, acts.get(name), gates=gates.get(name, 1)) for v in values
        ]
        references[name] += [Reference(name, v, False, computed=True) for v in made]
        if captured is not None and name in folded:
            factored = scaled(captured.module, captured.aliases.get(name, name), folded[name])
            references[name] += [Reference(name, v, quantized, acts.get(name), computed=True) for v in factored]
    return references


def _of_constants(captured: Captured, name: str) -> str:
    """Why a weight is not looked for, and where its zeros went if they are in no file."""
    left = left_in_sums(captured.module, captured.aliases.get(name, name))
    if left is None:
        return f"weight '{name}' acts on constants only: the file may hold what it gives; not looked for"
    return (
        f"weight '{name}' meets an input only in a sum with other constants, of which {left:.1%} are zero: the file "
        "holds that sum; make the sum one weight, then prune it (merge a LoRA, give RepVGG its deploy form)"
    )


def _from_copies(captured: Captured, whole: Reference, stored: Sequence[Stored], *, exact: bool) -> WeightProof | None:
    """A weight that several layers share, of which the file holds one for each, times that layer's constants."""
    name, proofs = whole.parameter, []
    for one in copies(captured.module, captured.aliases.get(name, name), whole.values):
        references = [
            replace(whole, values=values, acts=None, computed=True, roundings=_NORM_ROUNDINGS) for values in one
        ]
        found = best(pair for r in references for s in stored for pair in pairs(r, s, exact=exact))
        if found is None or not found.passed:
            return None
        proofs.append(found)
    if not proofs:
        return None
    joined = _joined(proofs)
    return replace(joined, expected_zeros=proofs[0].expected_zeros, zeros=proofs[0].zeros)


def _from_parts(references: Iterable[Reference], stored: Sequence[Stored], *, exact: bool) -> WeightProof | None:
    """A weight cut into equal tensors along one axis (groups of a convolution, projections of an attention)."""
    for reference in references:
        size = reference.values.size
        counts = sorted(
            {size // s.tensor.size for s in stored if 0 < s.tensor.size < size and not size % s.tensor.size}
        )
        for count in counts[:_MOST_PARTS]:
            candidates = [s for s in stored if s.tensor.size * count == size]
            for axis, extent in enumerate(reference.values.shape):
                if extent % count or extent < count or len(candidates) < 2:
                    continue
                proofs = []
                for part in np.split(reference.values, count, axis):
                    piece = replace(reference, values=part, acts=None, gates=1)
                    found = best(pair for s in candidates for pair in pairs(piece, s, exact=exact))
                    if found is None or not found.passed:
                        break
                    proofs.append(found)
                if len(proofs) == count:
                    return _joined(proofs)
    return None


def _from_pieces(references: Iterable[Reference], stored: Sequence[Stored], *, exact: bool) -> WeightProof | None:
    """A weight cut along its first axis, not evenly (the query of an attention, then its keys and values at once)."""
    for reference in references:
        rows, width = len(reference.values), reference.values.size // max(1, len(reference.values))
        cut = [s for s in stored if width and s.tensor.size % width == 0 and 0 < s.tensor.size < reference.values.size]
        cut.sort(key=lambda s: -s.tensor.size)
        proofs: list[WeightProof] = []
        start = 0
        while start < rows and len(proofs) < _MOST_PIECES and len(cut) > 1:
            for candidate in cut:
                count = candidate.tensor.size // width
                if count > rows - start:
                    continue
                piece = replace(reference, values=reference.values[start : start + count], acts=None, gates=1)
                found = best(pairs(piece, candidate, exact=exact))
                if found is not None and found.passed:
                    proofs.append(found)
                    start += count
                    break
            else:
                break
        if start == rows and len(proofs) > 1:
            return _joined(proofs)
    return None


def _joined(proofs: Sequence[WeightProof]) -> WeightProof:
    """One proof for the whole of what was found in parts."""
    parts = {proof.tensor: proof for proof in proofs}
    return WeightProof(
        parameter=proofs[0].parameter,
        tensor=" + ".join(parts),
        encoding=" + ".join(sorted({proof.encoding for proof in proofs})),
        size_bytes=sum(proof.size_bytes for proof in parts.values()),
        expected_zeros=sum(proof.expected_zeros for proof in proofs),
        zeros=sum(proof.zeros for proof in proofs),
        max_relative_error=max(proof.max_relative_error for proof in proofs),
        passed=all(proof.passed for proof in proofs),
    )


def _from_rows(references: Iterable[Reference], stored: Sequence[Stored]) -> WeightProof | None:
    """A weight that was split, joined with others or had its rows reordered (gates of a GRU): every row is somewhere.

    Looks at float matrices in both orientations; None unless all rows are found, each as often as the weight has it.
    """
    for reference in references:
        if reference.values.ndim < 2:
            continue
        rows = reference.values.reshape(-1, reference.values.shape[-1])
        wanted = {dtype: Counter(_keys(rounded(rows, dtype))) for dtype in ("float32", "float16")}
        found: Counter[bytes] = Counter()
        sources: dict[str, tuple[StoredTensor, float]] = {}
        for candidate in stored:
            tensor, need = candidate.tensor, wanted.get(candidate.tensor.dtype)
            if need is None or tensor.size % rows.shape[1] or tensor.size < rows.shape[1]:
                continue
            matrix = candidate.values.squeeze()
            if matrix.ndim != 2:
                continue
            for oriented in (matrix, matrix.T):
                if oriented.shape[1] != rows.shape[1]:
                    continue
                hits = Counter(key for key in _keys(oriented) if key in need)
                if hits and any(any(np.frombuffer(key, np.float32)) for key in hits):
                    found += hits
                    sources[tensor.name] = (tensor, min(1.0, sum(hits.values()) / len(oriented)))
        need = wanted[next((t.dtype for t, _ in sources.values()), "float32")]
        if sources and all(found[key] >= count for key, count in need.items()):
            zeros = int((rows == 0).sum())
            return WeightProof(
                parameter=reference.parameter,
                tensor=" + ".join(sources),
                encoding=" + ".join(sorted({tensor.encoding for tensor, _ in sources.values()})),
                size_bytes=round(sum(tensor.size_bytes * share for tensor, share in sources.values())),
                expected_zeros=zeros,
                zeros=zeros,
                max_relative_error=0.0,
                passed=True,
            )
    return None


def _keys(rows: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(rows, np.float32) + np.float32(0.0)]  # −0.0 becomes 0.0
