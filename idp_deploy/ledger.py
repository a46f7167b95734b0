"""Whether what goes on is what was pruned: zeros counted in the weights, held against masks and against the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from idp_deploy.errors import UsageError, warn
from idp_deploy.flow import CompressedModel, MaskedModel
from idp_deploy.flow.model import kept_otherwise

PRUNER_STATE = frozenset({"steps", "schedule", "sites"})  # by these keys a pruner's state is known
_OF_INTEGERS = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
_DEPTH = 6  # of dicts and lists that are looked into


def refuse_filled(model: CompressedModel | MaskedModel) -> None:
    """Raise `UsageError` where the weights were written to, or replaced, after they were hardened.

    Of weights that came afterwards it warns: no mask is theirs, and they ship dense.
    """
    if not isinstance(model, CompressedModel):
        return
    for name, weight in model.module.named_parameters():
        refuse_otherwise(name, weight)
    refuse_integers(model.module)
    if not (filled := model.filled):
        if late := model.late:
            warn(
                f"weights that came into the model after it was hardened ship dense: {sum(late.values()):,} entries, "
                f"'{next(iter(late))}' first",
                "add or replace layers before pruning, or prune the model as it is now",
            )
        return
    weights = dict(model.module.named_parameters(remove_duplicate=False))
    for name in filled:
        pruned = model.masks[name].shape
        if name not in weights or weights[name].shape != pruned:
            now = f"{tuple(weights[name].shape)} now" if name in weights else "not in the model any more"
            raise UsageError(
                f"weight '{name}' was pruned as {tuple(pruned)} and is {now}: its layer was replaced afterwards",
                way_out="replace and wrap layers before Pruner(model), or prune the model as it is now",
            )
    name, count = max(filled.items(), key=lambda pair: pair[1])
    raise UsageError(
        f"{sum(filled.values()):,} entries that the masks prune are not zero, {count:,} of them in '{name}': the "
        "weights were written to after hardening (training on, an average, load_state_dict, a new layer)",
        way_out="put the zeros back with pruner.apply_to(module), or call pruner.step() while training on",
    )


def refuse_otherwise(name: str, weight: Any) -> None:
    """Raise `UsageError` where a weight is no plain dense tensor, since another tool has quantized or packed it."""
    if kind := kept_otherwise(weight):
        raise UsageError(
            f"weight '{name}' is kept as {kind}: it was quantized (torchao) or packed (to_sparse) in place",
            way_out="give the float model, dense (weight.dequantize(), weight.to_dense()): 'idp-deploy quantize' makes "
            "integers, and export stores zeros sparsely",
        )


def refuse_integers(module: Any) -> None:
    """Raise `UsageError` where torch's own quantization has put a layer of integers in a float layer's place."""
    for name, part in module.named_modules():
        if type(part).__module__.startswith(_OF_INTEGERS):
            raise UsageError(
                f"layer '{name}' is {type(part).__module__}.{type(part).__name__}, whose weights are integers",
                way_out="give the float model, from before torch.ao.quantization: 'idp-deploy quantize' makes integers",
            )


def refuse_plain(model: object) -> None:
    """Raise `UsageError` where `model` is a module, or something else that no masks came with."""
    if not isinstance(model, CompressedModel | MaskedModel):
        raise UsageError(
            f"{type(model).__name__} is no pruned model, of which masks are known",
            way_out="give what finalize(), one_shot(), prune() or harden() returned; a plain module is kept by "
            "torch.save(model.state_dict(), path), which load_model reads",
        )


def shortfall(model: CompressedModel) -> str:
    """What is to be said of a model with fewer zeros than were asked for, or with none; "" where all is well."""
    if not model.prunable or any(step.startswith("shrink") for step in model.provenance.steps):
        return ""  # removed channels are no zeros any more
    if model.zeros <= model.prunable // 1000:  # a few may be zero by chance
        few = f"only {model.zeros:,}" if model.zeros else "none"
        return (
            f"{few} of the {model.prunable:,} prunable weights is zero: these weights were not pruned, or they are a "
            "copy (an average, a best checkpoint) from before finalize() — prune them with 'idp-deploy prune', harden "
            "a copy with pruner.apply_to(copy), or save the best inside pruner.hardened()"
        )
    asked = model.recipe.sparsity if model.recipe is not None else 0.0
    short = round(asked * model.prunable) - model.zeros
    if short > max(len(model.masks), model.prunable // 1000):  # patterns round by weight
        return (
            f"{model.zeros:,} of {model.prunable:,} prunable weights are zero ({model.sparsity:.1%}) where {asked:.1%} "
            "was asked for — prune again, or finalize() the run"
        )
    return ""


def summary(model: CompressedModel) -> str:
    """`5,184 of 5,760 prunable weights are zero (90.0 %)`."""
    share = f"{100 * model.sparsity:.1f} %"
    return f"{model.zeros:,} of {model.prunable:,} prunable weights are zero ({share})"


def refuse_unhardened(where: str, content: Any, weights: Mapping[str, Any]) -> None:
    """Raise `UsageError` where `content`, a file's, carries pruners' states and `weights` not the zeros they speak of.

    Args:
        weights: parameters of the module by name; a state's names may have a prefix more or fewer.
    """
    for state in _states(content, _DEPTH, set()):
        _refuse_short(where, state, weights)


def _refuse_short(where: str, state: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    found, wanted, entries, others = 0, 0, 0, 0
    known = {tail: weight for name, weight in reversed([*weights.items()]) for tail in _tails(name)} | dict(weights)
    for name, site in state["sites"].items():
        weight = known[name] if name in known else next((weights[t] for t in _tails(name) if t in weights), None)
        if weight is None or not isinstance(site, Mapping) or site.get("shape", [*weight.shape]) != [*weight.shape]:
            others += 1
            continue
        mask, budget = site.get("mask"), site.get("budget")
        if mask is not None and getattr(mask, "shape", None) == weight.shape:
            budget = weight.numel() - int((mask != 0).sum())
        wanted += budget if isinstance(budget, int) else 0
        found, entries = found + int((weight == 0).sum()), entries + weight.numel()
    target = state.get("target")
    wanted = max(wanted, target if isinstance(target, int) and not others else 0)
    if entries and found < wanted:
        raise UsageError(
            f"{where} is of a run that was being pruned, at step {state['steps']}, and its training not finished: "
            f"{found:,} of {entries:,} weights are zero, where {wanted:,} were asked for",
            way_out="finalize() that run and save the model, or save inside pruner.hardened(); a copy of its weights "
            "is hardened by pruner.apply_to(copy)",
        )


def _states(content: Any, depth: int, seen: set[int]) -> Iterator[Mapping[str, Any]]:
    """Every state of a pruner in `content`; what is held many times over is looked into once."""
    if not depth or id(content) in seen or not isinstance(content, Mapping | list | tuple):
        return
    seen.add(id(content))
    if isinstance(content, Mapping) and content.keys() >= PRUNER_STATE and isinstance(content["sites"], Mapping):
        yield content
        return
    for entry in content.values() if isinstance(content, Mapping) else content:
        yield from _states(entry, depth - 1, seen)


def _tails(name: Any) -> list[str]:
    """`["a.0.weight", "0.weight", "weight"]` of the first of these: a name without prefixes."""
    parts = name.split(".") if isinstance(name, str) else []
    return [".".join(parts[start:]) for start in range(len(parts))]
