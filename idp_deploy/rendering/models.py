"""Documents about a model on its way: pruned, hardened, quantized."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from idp_deploy.flow import CompressedModel, MaskedModel
from idp_deploy.ledger import summary
from idp_deploy.legible import gathered
from idp_deploy.rendering.document import Bar, Chart, Document, Table
from idp_deploy.units import show

if TYPE_CHECKING:
    from idp_deploy.flow import Quantization


def compression_document(
    model: CompressedModel | MaskedModel,
    path: Path,
    *,
    accuracies: Mapping[str, float],
    metric: str = "accuracy",
    next: str = "",
    left: Mapping[str, str] | None = None,
) -> Document:
    """Zeros of prunable and of all, accuracy before and after, where it went.

    Args:
        left: why a weight was not pruned, by name, as far as that is known.
    """
    total = sum(p.numel() for p in model.module.parameters())
    if isinstance(model, MaskedModel):
        zeros, prunable = sum(m.zeros for m in model.soft_masks.values()), 0
        prunable = sum(p.numel() for n, p in model.module.named_parameters() if n in model.soft_masks)
        rows = [("zeros, once hardened", f"{zeros} of {prunable} prunable ({show(zeros / prunable, 'share')})")]
    else:
        zeros, prunable = model.zeros, model.prunable
        of_all = show(zeros / max(total, 1), "share")
        rows = [
            ("zeros", f"{zeros} of {prunable} prunable ({show(model.sparsity, 'share')})"),
            ("of all parameters", f"{of_all} of {total}"),
        ]
    rows += [(f"{metric}, {stage}", show(value, "share")) for stage, value in accuracies.items()]
    tables = [Table("", ("what", "value"), rows)]
    data: dict[str, object] = {
        "path": str(path),
        "zeros": zeros,
        "prunable": prunable,
        "parameters": total,
        "accuracy": dict(accuracies),
    }
    notes = []
    quantization = model.quantization if isinstance(model, CompressedModel) else None
    if quantization is not None:
        tables.append(_quantization_table(quantization))
        data["quantization"] = {
            "scheme": quantization.scheme,
            "signal_to_noise_db": dict(quantization.signal_to_noise_db),
            "kept_float": dict(quantization.kept_float),
        }
        floats: dict[str, list[str]] = {}
        for name, reason in quantization.kept_float.items():
            floats.setdefault(reason, []).append(name)
        notes += [f"{gathered(n)} stay{'s' * (len(n) == 1)} float: {reason}" for reason, n in floats.items()]
    if isinstance(model, CompressedModel):
        reasons: dict[str, list[str]] = {}
        for name, parameter in model.module.named_parameters():
            if name not in model.masks and parameter.dim() >= 2:
                reasons.setdefault((left or {}).get(name, ""), []).append(name)
        notes += [f"not pruned{f' ({reason})' if reason else ''}: {gathered(n)}" for reason, n in reasons.items()]
    said = summary(model) if isinstance(model, CompressedModel) and model.prunable else ""
    return Document(
        f"wrote {path}", tables, data, notes, pictures=_pictures(model, accuracies), next=next, summary=said
    )


def _pictures(model: CompressedModel | MaskedModel, accuracies: Mapping[str, float]) -> list[Chart]:
    """Accuracy stage by stage, and the zeros of each weight."""
    if isinstance(model, MaskedModel):
        sizes = {name: weight.numel() for name, weight in model.module.named_parameters()}
        zeros = {name: mask.zeros / max(sizes[name], 1) for name, mask in model.soft_masks.items()}
    else:
        zeros = {
            name: (mask.numel() - int(mask.sum()) - model.filled.get(name, 0)) / max(mask.numel(), 1)
            for name, mask in model.masks.items()
        }
    return [
        Chart("Accuracy", "share", list(accuracies), {"accuracy": [Bar(v) for v in accuracies.values()]}, "stage"),
        Chart("Zeros of each weight", "share", list(zeros), {"zeros": [Bar(v) for v in zeros.values()]}, "weight"),
    ]


def shrinking_document(
    before: CompressedModel, after: CompressedModel, path: Path, left: Mapping[str, int], *, next: str = ""
) -> Document:
    """Parameters before and after; weights whose zero channels could not be taken out."""
    old, new = (sum(p.numel() for p in model.module.parameters()) for model in (before, after))
    rows = [("parameters before", str(old)), ("parameters after", f"{new} ({show(new / max(old, 1), 'share')})")]
    notes = [
        *(f"{name} keeps {count} zero channels: the module counts on them" for name, count in left.items()),
        f'its weights are smaller than the factory\'s: in Python idp_deploy.load_checkpoint("{path}", factory).module, '
        "which load_state_dict alone refuses",
    ]
    data: dict[str, object] = {"path": str(path), "before": old, "after": new, "left": dict(left)}
    return Document(
        f"wrote {path}",
        [Table("", ("what", "value"), rows)],
        data,
        notes,
        next=next,
    )


def _quantization_table(quantization: Quantization) -> Table:
    rows = [
        (name, f"{decibel:.1f} dB", "float" if name in quantization.kept_float else quantization.scheme)
        for name, decibel in quantization.signal_to_noise_db.items()
    ]
    states = ["warn" if name in quantization.kept_float else "" for name in quantization.signal_to_noise_db]
    return Table("signal to noise", ("weight", "signal to noise", "stored"), rows, frozenset({1}), states)  # type: ignore[arg-type]
