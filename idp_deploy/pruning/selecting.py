"""Which of a module's prunable weights a recipe prunes, by which pattern, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from idp_deploy.errors import UsageError
from idp_deploy.masks import KINDS, Channel, Pattern, Prunable, computed_weights, parse_pattern, prunable_weights
from idp_deploy.soundness import refuse_without_values

_OF_NO_LAYER = "no layer's weight; --rule 'NAME=unstructured' prunes one, --rule 'matrix=unstructured' all of them"
_NAMED = 6
_CALLED = {"matrix": "matrices of no layer"}


@dataclass(frozen=True)
class Selection:
    """`chosen` is what the word *prunable* counts from here on; `left` says why a weight stays dense."""

    chosen: Mapping[str, tuple[Prunable, Pattern]]
    left: Mapping[str, str]


def select(
    module: nn.Module,
    pattern: str,
    *,
    skip: Sequence[str] = (),
    rules: Mapping[str, str] | None = None,
    first: bool = True,
    last: bool = True,
    depthwise: bool = False,
    embeddings: bool = False,
) -> Selection:
    """Choose weights.

    Args:
        pattern: the default pattern. Weights whose input channels N:M does not divide, such as a stem of 3, stay dense.
        skip: globs over weight names that stay dense.
        rules: exceptions, glob over weight names or kind (a word of KINDS) → pattern or "skip". A name outranks
            a kind, a kind the default. Matrices that are no layer's weight are pruned where a rule says so alone.
        first, last: whether the first and the last prunable weight are pruned.
        depthwise: whether depthwise convolutions are. They hold few weights and no mobile runtime runs or stores them
            sparse to advantage, so they are not unless asked.
        embeddings: whether embedding tables are, and with them the linear layers tied to them.

    Raises:
        UsageError: a skip glob or a rule that matches nothing, a pattern that does not divide a weight it was named
            for or that is complex, a weight that is computed from others at each call, or nothing left to prune.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise UsageError(
            "the layers of a TorchScript module cannot be masked",
            way_out="build the model by its Python class and load scripted.state_dict() into it",
        )
    refuse_without_values(module)
    found, rules = prunable_weights(module, embeddings=True, matrices=True), dict(rules or {})
    computed = computed_weights(module)
    for glob in [*skip, *rules]:
        if glob not in KINDS and not any(fnmatchcase(name, glob) for name in [*found, *computed]):
            raise UsageError(
                f"'{glob}' matches no prunable weight", way_out=f"they are {', '.join(list(found)[:8]) or 'none'}, …"
            )
    names = [name for name, weight in found.items() if weight.kind not in ("embedding", "matrix")]
    chosen: dict[str, tuple[Prunable, Pattern]] = {}
    left: dict[str, str] = {}
    for name, (kind, call) in computed.items():
        matching = [glob for glob in [*skip, *rules] if fnmatchcase(name, glob)]
        if (kind == "embedding" and not embeddings) or (kind == "depthwise" and not depthwise):
            left[name] = kind
        elif matching:
            left[name] = f"matches skip '{matching[0]}'"
        else:
            raise UsageError(
                f"'{name}' is computed from other parameters at each call, and zeros in those are none in it",
                way_out=f'call {call} on its layer before the optimizer is made, or skip=["{name}"]',
            )
    for name, weight in found.items():
        named = next((rules[glob] for glob in rules if fnmatchcase(name, glob)), None)
        rule = named or rules.get(weight.kind)
        skipped = next((glob for glob in skip if fnmatchcase(name, glob)), None)
        if skipped is not None:
            left[name] = f"matches skip '{skipped}'"
        elif rule == "skip":
            left[name] = "a rule says skip"
        elif not (parameter := module.get_parameter(name)).is_floating_point():
            dtype = str(parameter.dtype).removeprefix("torch.")
            if named is not None:
                raise UsageError(
                    f"'{name}' is {dtype}, and masks are for real floats",
                    way_out="leave it out of the rules; a complex one may be two, its real and its imaginary part",
                )
            left[name] = f"{dtype}, and masks are for real floats"
        elif rule is None and weight.kind == "depthwise" and not depthwise:
            left[name] = "depthwise"
        elif rule is None and weight.kind == "embedding" and not embeddings:
            left[name] = "embedding"
        elif rule is None and weight.kind == "matrix":
            left[name] = _OF_NO_LAYER
        elif rule is None and not first and name == names[0]:
            left[name] = "first layer"
        elif rule is None and not last and name == names[-1]:
            left[name] = "last layer"
        else:
            parsed = parse_pattern(rule or pattern)
            if isinstance(parsed, Channel) and weight.kind in ("embedding", "matrix"):
                left[name] = f"channels of {_CALLED.get(weight.kind, f'{weight.kind} layers')} cannot be removed"
                continue
            shape = tuple(parameter.shape)
            if named is None and (reason := parsed.misfit(shape, weight.output_axis)):
                left[name] = reason
                continue
            parsed.check(name, shape, weight.output_axis)
            chosen[name] = (weight, parsed)
    if not found and not left:
        held = sum(parameter.numel() for parameter in module.parameters())
        raise UsageError(
            f"nothing to prune: {type(module).__name__} has {held:,} parameters, and no layer that holds them"
            if held
            else f"nothing to prune: {type(module).__name__} has no parameters",
            way_out="give the module that the layers are built in, by its class: not a trace of it, nor one that "
            "keeps it in a list or a closure",
        )
    if not chosen:
        alone = set(left.values()) == {_OF_NO_LAYER}
        reasons = "; ".join(f"{reason}: {some(names)}" for reason, names in by_reason(left).items())
        raise UsageError(
            f"nothing to prune: {len(found)} prunable weights, all of them left dense" + f" ({reasons})" * bool(left),
            way_out="prune them by a rule: --rule 'matrix=unstructured', or "
            'prune.rules.matrix = "unstructured" in configuration'
            if alone
            else "skip fewer of them, or take another pattern",
        )
    return Selection(chosen, left)


def by_reason(left: Mapping[str, str]) -> dict[str, list[str]]:
    """The weights of each reason.

    >>> by_reason({"a": "depthwise", "b": "last layer", "c": "depthwise"})
    {'depthwise': ['a', 'c'], 'last layer': ['b']}
    """
    found: dict[str, list[str]] = {}
    for name, reason in left.items():
        found.setdefault(reason, []).append(name)
    return found


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
