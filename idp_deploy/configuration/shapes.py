"""Inputs as people write them: `1x3x224x224`, `1,64`, `(1, 64)`, `1x32:int64`, several with commas between them."""

from __future__ import annotations

import re

from idp_deploy.errors import UsageError

CALLABLE = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"  # pkg.mod:callable
_TYPES = {"float": "float32", "half": "float16", "long": "int64", "int": "int32"}  # as PyTorch calls them
_BRACKETED = re.compile(r"[(\[]([^()\[\]]*)[)\]](.*)", re.DOTALL)
_WAY_OUT = "write a shape like 1x3x224x224 or 1x32:int64"


def shapes(text: str) -> list[str]:
    """What a text says of inputs, one an input, in one spelling; what is not read here is left as it is.

    >>> shapes("1x3x8x8"), shapes("(1, 64)"), shapes("1,64:long"), shapes("[1,8]:int64,(1,2,)"), shapes("1x8, 1x4")
    (['1x3x8x8'], ['1x64'], ['1x64:int64'], ['1x8:int64', '1x2'], ['1x8', '1x4'])

    Raises:
        UsageError: sizes that may be one shape or several, or what is no size.
    """
    if re.fullmatch(CALLABLE, text.strip()):
        return [text.strip()]
    parts = [part.strip() for part in re.split(r",(?![^()\[\]]*[)\]])", text) if part.strip()]
    sizes = [bool(re.fullmatch(r"\d+", part)) for part in parts]
    if len(parts) > 1 and all(sizes[:-1]) and re.fullmatch(r"\d+(\s*:.*)?", parts[-1]):
        return [_shape(text, ",".join(parts))]
    if len(parts) > 1 and any(sizes):
        raise UsageError(f"the input {text!r} may be one shape or several", way_out=_WAY_OUT)
    return [_shape(text, part) for part in parts or [text]]


def _shape(text: str, part: str) -> str:
    """One of them in the usual spelling."""
    bracketed = _BRACKETED.fullmatch(part)
    sizes, dtype = bracketed.groups() if bracketed else (part.partition(":")[0], "".join(part.partition(":")[1:]))
    found = re.split(r"\s*[xX×*,]\s*|\s+", sizes.strip().removesuffix(",").strip())
    word = re.fullmatch(r"\s*(?::\s*(?:torch\.)?(\w+)\s*)?", dtype)
    if word is None or not all(re.fullmatch(r"[1-9]\d*", size) for size in found):
        free = any(re.fullmatch(r"-1|\?|None|[A-Za-z]\w*", size) for size in found)
        way_out = f"{_WAY_OUT}; a batch is left free by itself" if free else _WAY_OUT
        raise UsageError(f"cannot read the input {text!r}", way_out=way_out)
    return "x".join(found) + (f":{_TYPES.get(word[1], word[1])}" if word[1] else "")
