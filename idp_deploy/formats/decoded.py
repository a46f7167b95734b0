"""A constant that a reader decoded, and the stored tensor it is: for formats that make a weight of several parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from idp_deploy.flow import StoredTensor


class Part(Protocol):
    """A constant of the file."""

    @property
    def stored_bytes(self) -> int:
        """Bytes it takes in the file."""


P = TypeVar("P", bound=Part)


@dataclass(frozen=True, eq=False)
class Weight(Generic[P]):
    """A decoded constant. `stored` is integer where the file stores integers; `values` is what operators see."""

    values: np.ndarray
    mask: np.ndarray | None = None  # what is stored, where zeros are left out
    stored: np.ndarray | None = None  # dense integers of a quantized weight
    offset: np.ndarray | None = None  # broadcastable zero point of `stored`
    parts: tuple[P, ...] = field(default=())  # everything it is stored in
    bits: float = 0.0  # a stored value takes
    palette: bool = False

    @property
    def zeros(self) -> int:
        """Entries that a mask leaves out; without one, those that are zero."""
        if self.mask is not None:
            return int(np.count_nonzero((self.values == 0) & ~self.mask))
        if self.stored is not None:
            return int(np.count_nonzero(self.stored == (0 if self.offset is None else self.offset)))
        return int(self.values.size - np.count_nonzero(self.values))


def stored_tensor(name: str, decode: Callable[[], Weight[P]]) -> StoredTensor:
    """The tensor that a weight is: decoded once for what is said of it, and again when its numbers are asked for."""
    weight = decode()
    visible = weight.values if weight.stored is None else weight.stored
    words = ["sparse"] if weight.mask is not None else []
    if weight.palette:
        words.append(f"lut{weight.bits:g}")

    def values() -> np.ndarray:
        found = decode()
        return found.values if found.stored is None else found.stored

    return StoredTensor(
        name,
        tuple(visible.shape),
        str(visible.dtype),
        "+".join(words) or "dense",
        sum(part.stored_bytes for part in {id(part): part for part in weight.parts}.values()),
        weight.zeros,
        values,
        weight.bits,
        None if weight.stored is None and not weight.palette else lambda: decode().values.astype(np.float32),
    )
