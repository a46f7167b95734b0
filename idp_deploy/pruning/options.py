"""Every option by name: its default says its type, and a wrong one is refused before any training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from idp_deploy.arguments import count, names, plain, share
from idp_deploy.errors import UsageError
from idp_deploy.flow import Recipe
from idp_deploy.pruning.methods import METHODS

MODES = ("auto", "paper")
# which weights
SELECTION_OPTIONS: Mapping[str, Any] = {
    "rules": {},
    "shares": {},
    "multiple": None,  # of which the channels that stay are one
    "first": True,
    "last": True,
    "depthwise": False,
    "embeddings": False,
}
# when, by mode; None: by whether the model looks trained (auto), the paper's value, scaled to the epochs (paper)
SCHEDULE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "auto": {"dense": None, "ramp": None, "finish": 0.3},
    "paper": {"start": None, "rate": None, "finish": 0.0},
}
# how `prune` trains; in a loop of one's own they mean nothing
TRAINING_OPTIONS: Mapping[str, Any] = {
    "distill": 0.0,  # share of the loss that comes from the dense model's outputs
    "distill_temperature": 2.0,
    "learning_rate": None,  # peak; None: the task's, or 0.05
    "weight_decay": 5e-4,
    "warmup": 0.1,  # share of the steps in which the rate rises
}

_SHARES = {"floor", "floor_end", "ramp", "finish", "distill", "warmup", "drop", "rewind", "momentum"}  # 0 ≤ value ≤ 1
_POSITIVE = {"temperature", "kappa", "kappa_end", "rate", "distill_temperature", "learning_rate", "score_rate"}
_COUNTS = {"multiple", "refresh", "interval", "phases", "rounds"}  # whole, from 1
_WORDS = {"scope": ("layer", "global"), "start": ("random", "magnitude")}


def known_options(method: str, mode: str = "auto") -> dict[str, Any]:
    """What `method` can be told in `mode`, by name, with defaults.

    >>> sorted(known_options("str"))[:4], known_options("gmp", "paper")["finish"]
    (['decay', 'dense', 'depthwise', 'distill'], 0.0)
    """
    rule = METHODS[method]
    schedule = {name: rule.timing.get(name, default) for name, default in SCHEDULE_OPTIONS[mode].items()}
    return {**SELECTION_OPTIONS, **rule.options, **schedule, **TRAINING_OPTIONS, **rule.training}


def meant(recipe: Recipe) -> Recipe:
    """`recipe` in plain values, however its fields were written.

    Raises:
        UsageError: a field that cannot be meant.

    >>> recipe = meant(Recipe("90%", skip="head.*"))
    >>> recipe.sparsity, recipe.skip
    (0.9, ('head.*',))
    """
    if not isinstance(recipe.options, Mapping):
        raise UsageError(f"options are {recipe.options!r}", way_out='give them by name, such as {"finish": 0.2}')
    words = {name: getattr(recipe, name) for name in ("method", "pattern", "mode", "allocation")}
    for name, value in words.items():
        if not isinstance(value, str):
            raise UsageError(f"{name} is {value!r}", way_out=f'give its name, such as "{getattr(Recipe(), name)}"')
    return replace(
        recipe,
        sparsity=share("sparsity", recipe.sparsity),
        epochs=count("epochs", recipe.epochs, least=0),
        seed=count("seed", recipe.seed),
        skip=names("skip", recipe.skip, "head.*"),
        options=plain(recipe.options),
    )


def selection_options(recipe: Recipe) -> dict[str, Any]:
    """Those that say which weights are pruned, and by which pattern."""
    return {k: v for k, v in recipe.options.items() if k in SELECTION_OPTIONS and k not in ("shares", "multiple")}


def options_for(method: str, mode: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of `options` those that mean something to `method`: what several methods can share in a comparison."""
    known = known_options(method, mode)
    return {name: value for name, value in options.items() if name in known}


def check_options(method: str, mode: str, options: Mapping[str, Any]) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: no such method or mode, a name that `method` does not know in `mode`, or a value of the wrong type
            or size.

    >>> check_options("idp", "auto", {"kapa": 4})
    Traceback (most recent call last):
    ...
    idp_deploy.errors.UsageError: option 'kapa' is unknown to method idp — did you mean 'kappa'?
    """
    if mode not in MODES:
        raise UsageError(f"unknown mode '{mode}'", way_out=f"known are {', '.join(MODES)}")
    if method not in METHODS:
        near = get_close_matches(str(method).lower(), METHODS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"unknown method '{method}'", way_out=f"{hint}known are {', '.join(METHODS)}")
    known = known_options(method, mode)
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"option '{name}' is unknown to method {method}", way_out=_hint(name, known, mode))
        wanted = _expected(name, known[name], value)
        if wanted:
            raise UsageError(f"option {name} is {value!r}", way_out=f"give {wanted}")


def _hint(name: str, known: Mapping[str, Any], mode: str) -> str:
    other = next((m for m, names in SCHEDULE_OPTIONS.items() if m != mode and name in names), None)
    if other is not None:
        return f"it belongs to --mode {other}"
    near = get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"it knows {', '.join(sorted(known))}"


def _expected(name: str, default: Any, value: Any) -> str:
    """What `name` takes, in words, where `value` is something else; empty where it fits."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, str):
        return "" if value in _WORDS[name] else " or ".join(_WORDS[name])
    if name == "shares":
        fits = isinstance(value, Mapping) and all(
            isinstance(one, float | int) and 0 <= one < 1 for one in value.values()
        )
        return "" if fits else "weight names with shares of zeros, from 0 to below 1"
    if isinstance(default, Mapping):
        fits = isinstance(value, Mapping) and all(isinstance(x, str) for pair in value.items() for x in pair)
        return "" if fits else "globs with their patterns"
    if value is None and default is None:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if name == "dense":
        return "" if number and 0 <= value < 1 else "a share from 0 to below 1"
    if name in _SHARES:
        return "" if number and 0 <= value <= 1 else "a share from 0 to 1"
    if name in _POSITIVE:
        return "" if number and value > 0 else "a number above 0"
    if name in _COUNTS:
        return "" if number and value >= 1 and value == int(value) else "a whole number from 1"
    return "" if number else "a number"
