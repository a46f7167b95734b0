"""Quantities with their units: how budgets are written, and how every number is shown.

>>> parse("600 kB", "bytes"), parse("4 ms", "ms"), parse("0.9", "share"), parse("90 %", "share")
(600000.0, 4.0, 0.9, 0.9)
>>> show(1_234_567, "bytes"), show(3.25, "ms"), show(0.9, "share"), show(2.5e-06, "error")
('1.23 MB', '3.25 ms', '90.00 %', '2.5e-06')
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from idp_deploy.errors import UsageError

Unit = Literal["bytes", "ms", "share", "error", "count"]

_FACTORS: Mapping[Unit, Mapping[str, float]] = {
    "bytes": {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "ms": {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "share": {"%": 0.01, "": 1.0},
    "error": {"": 1.0},
    "count": {"": 1.0},
}
_ALIASES = {  # in small letters → as it is written here
    **dict.fromkeys(("msec", "millisecond", "milliseconds"), "ms"), **dict.fromkeys(("sec", "second", "seconds"), "s"),
    **dict.fromkeys(("byte", "bytes"), "B"), **dict.fromkeys(("usec", "microseconds"), "us"), "k": "kB", "m": "MB",
}  # fmt: skip
_EXAMPLE: Mapping[Unit, str] = {"bytes": '"600 kB"', "ms": '"4 ms"', "share": '"90 %"', "error": "1e-3", "count": "0"}


@dataclass(frozen=True)
class Metric:
    """One thing a budget can limit."""

    unit: Unit
    at_least: bool = False  # the limit is a floor, not a ceiling


METRICS: Mapping[str, Metric] = {
    "size": Metric("bytes"),  # bytes on disk
    "gzip": Metric("bytes"),  # bytes to download, gzip
    "brotli": Metric("bytes"),  # bytes to download, brotli
    "latency": Metric("ms"),  # simulated time of one inference
    "memory": Metric("bytes"),  # resident weights plus peak activations
    "sparsity": Metric("share", at_least=True),  # zeros of the prunable weights, read from the file
    "flash": Metric("bytes"),  # what a microcontroller keeps of the model, by the vendor's software
    "sram": Metric("bytes"),  # on-chip memory of one inference, by the vendor's compiler
    "arena": Metric("bytes"),  # memory that TensorFlow Lite Micro asks for, run here
    "cpu_operators": Metric("count"),  # left to the processor beside a neural processing unit
    "error": Metric("error"),  # largest relative output error against the model
}


def parse(text: str | float, unit: Unit) -> float:
    """A quantity in the unit's base (bytes, ms, share in [0, 1], relative error).

    Raises:
        UsageError: not a number, an unknown suffix, a bare number where a unit is needed, negative or not finite.
    """
    if isinstance(text, float) and text.is_integer():
        text = int(text)  # as it was written
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([^\d\s]*)\s*", str(text).replace("\u03bc", "µ"))
    factors = _FACTORS[unit]
    if match is None or match[2] not in factors:
        hint = _hint(str(text), unit)
        raise UsageError(
            f"cannot read {text!r:.60} as a quantity in {unit}",
            way_out=f"{hint}write it like {_EXAMPLE[unit]} (units: {', '.join(k for k in factors if k) or 'none'})",
        )
    try:
        value = float(match[1]) * factors[match[2]]
    except ValueError:
        raise UsageError(f"cannot read {text!r} as a number", way_out=f"write it like {_EXAMPLE[unit]}") from None
    if not math.isfinite(value):
        raise UsageError(f"{text!r:.60} is not finite", way_out=f"write it like {_EXAMPLE[unit]}")
    if unit == "count" and not value.is_integer():
        raise UsageError(f"{text!r} is no whole number", way_out=f"write it like {_EXAMPLE[unit]}")
    return value


def _hint(text: str, unit: Unit) -> str:
    """What a quantity that cannot be read was meant as, where that is one thing."""
    number, suffix = re.fullmatch(r"\s*([\d.,_ ]*)(.*?)\s*", text, re.DOTALL).groups()  # type: ignore[union-attr]
    meant = {one.lower(): one for one in reversed([*_FACTORS[unit]])} | _ALIASES
    known = suffix if suffix in _FACTORS[unit] else meant.get(suffix.lower(), "")
    point = re.fullmatch(r"\d+,\d{1,2}|\d+,\d{4,}", number.strip())  # 1,800 may be either
    plain = number.strip().replace(",", ".") if point else re.sub(r"[ _](?=\d)", "", number.strip())
    if known not in _FACTORS[unit] or not known or not re.fullmatch(r"[0-9]*\.?[0-9]+", plain):
        return ""
    return f'did you mean "{plain} {known}"? '


def is_quantity(value: object) -> bool:
    """Whether a value that was read is a finite number from 0.

    >>> [is_quantity(value) for value in (0, 1.5, True, "1", -1, float("nan"), 10**400)]
    [True, True, False, False, False, False, False]
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def show(value: float | None, unit: Unit) -> str:
    """Three significant digits and a unit; "–" for an unknown."""
    if value is None or math.isnan(value):
        return "–"
    if unit == "bytes":
        for suffix, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if abs(value) >= factor:
                return f"{_three(value / factor)} {suffix}"
        return f"{value:.0f} B"
    if unit == "ms":
        return like(value).text(value)
    if unit == "share":
        return f"{value * 100:.2f} %"
    return f"{value:.0f}" if unit == "count" else f"{value:.1e}"


@dataclass(frozen=True)
class Scale:
    """One unit and one number of decimals for every value of an axis or a column."""

    factor: float  # of a value in the base unit
    suffix: str
    digits: int

    def number(self, value: float | None) -> str:
        """Without the unit; "–" for an unknown."""
        return "–" if value is None or math.isnan(value) else f"{value / self.factor:.{self.digits}f}"

    def text(self, value: float | None) -> str:
        """With it."""
        return f"{self.number(value)} {self.suffix}".rstrip() if self.number(value) != "–" else "–"


def like(value: float) -> Scale:
    """Milliseconds with three significant digits in the unit that `show` takes for `value`, for what stands beside it.

    >>> like(0.0922).text(0.0922), like(0.0922).number(0.144)
    ('0.0922 ms', '0.1440')
    """
    suffix = "s" if value >= 1000 else "ms" if value >= 0.01 or value == 0 else "µs"
    factor = _FACTORS["ms"][suffix]
    return Scale(factor, suffix, _decimals(value / factor))


# unit → the least of the largest values that is told in it
_STEPS: Mapping[Unit, tuple[tuple[str, float], ...]] = {
    "bytes": (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)),
    "ms": (("µs", 1e-3), ("ms", 0.1), ("s", 1e3)),
    "share": (("%", 0.01),),
    "error": (("", 1.0),),
    "count": (("", 1.0),),
}


def scale(values: Iterable[float | None], unit: Unit) -> Scale:
    """The unit that fits the largest of `values`, for all of them.

    >>> axis = scale([0.005, 0.0104], "ms")
    >>> axis.text(0.005), axis.text(0.0104)
    ('5.0 µs', '10.4 µs')
    >>> scale([10.1, 0.07], "ms").text(0.07)
    '0.07 ms'
    """
    sizes = [abs(v) for v in values if v is not None and math.isfinite(v) and v]
    largest = max(sizes, default=0.0)
    steps = _STEPS[unit]
    suffix = next((name for name, least in reversed(steps) if largest >= least), steps[0][0])
    factor = _FACTORS[unit][suffix]
    if suffix == "B":
        return Scale(factor, suffix, 0)
    if unit == "share":
        return Scale(factor, suffix, 1)
    leading = math.floor(math.log10(largest / factor)) if largest else 0
    last = -math.floor(math.log10(min(sizes, default=1.0) / factor)) if unit == "ms" else 1
    return Scale(factor, suffix, max(1, 2 - leading, min(2, last)))  # the smallest are to be told from nothing


def _three(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    """Of three significant digits."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0


def duration(seconds: float) -> str:
    """A time to wait, in the unit that says enough of it.

    >>> [duration(s) for s in (0.34, 4.26, 75, 4000, 200_000)]
    ['0.3 s', '4.3 s', '1 min 15 s', '1 h 6 min', '55 h 33 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"
