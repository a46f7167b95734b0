"""Words of a configuration that nobody knows, said before the first stage trains for hours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from idp_deploy.cli.devices import unknown_devices
from idp_deploy.cli.inputs import example_inputs
from idp_deploy.cli.session import share
from idp_deploy.configuration.mistakes import Mistake, nearest
from idp_deploy.configuration.shapes import CALLABLE, shapes
from idp_deploy.errors import UsageError
from idp_deploy.formats import COMPILED_FROM, FORMATS, usual
from idp_deploy.masks import parse_pattern
from idp_deploy.pruning import ALLOCATIONS, METHODS
from idp_deploy.pruning.options import MODES, check_options
from idp_deploy.quantization import known
from idp_deploy.schemas import CHOICES
from idp_deploy.simulation.targets import load_target

_ONE_OF: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("prune", "method"): tuple(METHODS),
    ("prune", "mode"): tuple(MODES),
    ("prune", "allocation"): ("auto", *ALLOCATIONS),
    **{keys: words for keys, words in CHOICES.items() if keys[0] == "export"},
}


def misspelt(table: Mapping[str, Any]) -> Iterator[Mistake]:
    """Every word of a configuration, as it was read, that a stage of `run` would refuse."""
    for keys, check in _checks(table):
        try:
            check()
        except UsageError as error:
            yield Mistake.of(keys, error)
    yield from unknown_devices(table, "targets", "budgets")


def _checks(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Callable[[], object]]]:
    prune, quantize, export = (_table(table.get(key)) for key in ("prune", "quantize", "export"))
    tables: Mapping[str, Mapping[str, Any]] = {"prune": prune, "quantize": quantize, "export": export}
    for keys, words in _ONE_OF.items():
        if isinstance(word := tables[keys[0]].get(keys[1]), str):
            yield keys, partial(_one_of, keys[1], word, words)
    if isinstance(target := prune.get("target"), str):
        yield ("prune", "target"), partial(_aim, target)
    if isinstance(pattern := prune.get("pattern"), str):
        yield ("prune", "pattern"), partial(parse_pattern, pattern)
    for glob, rule in _table(prune.get("rules")).items():
        if isinstance(rule, str) and rule != "skip":
            yield ("prune", "rules", glob), partial(parse_pattern, rule)
    method, mode = prune.get("method", "idp"), prune.get("mode", "auto")
    if method in METHODS and mode in MODES:
        for name, value in _table(prune.get("options")).items():
            yield ("prune", "options", name), partial(check_options, method, mode, {name: value})
    if isinstance(scheme := quantize.get("scheme"), str):
        yield ("quantize", "scheme"), partial(known, scheme.lower(), quantize.get("values"))
    if isinstance(encoding := export.get("encoding"), str):
        for format in _formats(export):
            yield ("export", "encoding"), partial(FORMATS[format].refuse_encoding, encoding)
    for text in _list(table.get("inputs")):
        yield ("inputs",), partial(_read, text)


def _one_of(key: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise UsageError(f"unknown {key} {word!r}", way_out=nearest(word, words))


def _aim(target: str) -> None:
    """A share of zeros, or else a device."""
    if share(target) is None:
        load_target(target)


def _read(text: str) -> None:
    """Shapes are; what a function of the project makes is made later."""
    if not re.fullmatch(CALLABLE, text.strip()):
        example_inputs(shapes(text))


def _formats(export: Mapping[str, Any]) -> Iterator[Any]:
    wanted = [str(name).lower() for name in _list(export.get("to", [*usual()]))]
    for name in usual() if "all" in wanted else wanted:
        if (format := COMPILED_FROM.get(name, name)) in FORMATS:
            yield format


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    """Its texts; what else there is is complained of elsewhere."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else []
