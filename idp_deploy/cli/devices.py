"""Devices that a configuration names and nobody knows, each with its line. Knows no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from idp_deploy.configuration.mistakes import Mistake
from idp_deploy.errors import UsageError
from idp_deploy.simulation.targets import load_target


def unknown_devices(table: Mapping[str, Any], *keys: str) -> Iterator[Mistake]:
    """What stands under these keys of a configuration as it was read, `targets` and `budgets`, and is no device."""
    listed, named = (table.get(key) if key in keys else None for key in ("targets", "budgets"))
    places: list[tuple[tuple[str, ...], str]]
    places = [(("targets",), name) for name in (listed if isinstance(listed, list) else ()) if isinstance(name, str)]
    places += [(("budgets", name), name) for name in (named if isinstance(named, Mapping) else ())]
    for place, name in places:
        try:
            load_target(name)
        except UsageError as error:
            yield Mistake.of(place, error)
