"""The seal: two digests of a finished file, kept in its own manifest, that tell whether it is still the file we wrote.

`seal` is taken over all bytes with both blank, so that anybody can tell damage. `origin` is the same under a key that
only who holds the checkpoint can make: with it `verify` tells a file that somebody changed and sealed anew. A tool that
changes one bit, or writes the file anew, breaks both; `verify` then looks at everything in the file, not at the pruned
weights and the outputs alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from idp_deploy import documents, files

if TYPE_CHECKING:
    from idp_deploy.flow import CompressedModel

DIGITS = 32  # of SHA-256, hexadecimal
BLANK = "0" * DIGITS
_NAMES = ("seal", "origin")


def seal(path: Path, key: bytes) -> dict[str, str]:
    """Seal a file or package whose manifest holds `BLANK` twice; what stands there now, "" where there is no place."""
    found = _find(path)
    if found is None:
        return dict.fromkeys(_NAMES, "")
    holder, data, places = found
    marks = _marks(_digest(path, holder, _with(data, dict.fromkeys(places.values(), BLANK))), key)
    files.write_bytes(holder, b"".join(_with(data, {at: marks[name] for name, at in places.items()})))
    return {name: marks[name] if name in places else "" for name in _NAMES}


def intact(path: Path, key: bytes | None = None) -> bool | None:
    """Whether the file is as it was sealed, with a key: from that checkpoint; None where it carries no seal.

    Raises:
        OSError: it cannot be read.
    """
    found = _find(path)
    if found is None:
        return None
    holder, data, places = found
    given = {name: data[at : at + DIGITS] for name, at in places.items()}
    if given["seal"] == BLANK.encode():
        return None
    marks = _marks(_digest(path, holder, _with(data, dict.fromkeys(places.values(), BLANK))), key or b"")
    asked = _NAMES if key is not None else ("seal",)
    return all(hmac.compare_digest(given.get(name, b""), marks[name].encode()) for name in asked)


def key_of(model: CompressedModel) -> bytes:
    """What only a holder of the checkpoint knows: a digest of its weights, float buffers and calibration samples."""
    import torch
    from torch.utils import _pytree as pytree

    digest = hashlib.sha256()
    calibration = model.quantization.calibration if model.quantization else ()
    samples = enumerate(pytree.tree_leaves(calibration))
    for name, value in (*sorted(model.module.state_dict().items()), *samples):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            whole = value.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(whole.view(torch.uint8).numpy().data)
    return digest.digest()


def _marks(digest: bytes, key: bytes) -> dict[str, str]:
    return {"seal": digest.hex()[:DIGITS], "origin": hmac.new(key, digest, "sha256").hexdigest()[:DIGITS]}


def _find(path: Path) -> tuple[Path, bytes, dict[str, int]] | None:
    """(the file that holds the seal, its content, where each of `_NAMES` stands in it, if it does)."""
    for member in files.members(path):
        data = documents.read_bytes(member)
        for quote in ('"', '\\"'):  # as canonical JSON writes it, or text that is itself a string of JSON
            starts = {name: f"{quote}{name}{quote}:{quote}".encode() for name in _NAMES}
            found = {name: data.rfind(start) + len(start) for name, start in starts.items() if start in data}
            if "seal" in found:
                return member, data, found
    return None


def _with(data: bytes, marks: Mapping[int, str]) -> Iterator[bytes | memoryview]:
    """The parts of `data` with these marks in their places, not copied: it may be large."""
    start = 0
    for at, mark in sorted(marks.items()):
        yield memoryview(data)[start:at]
        yield mark.encode()
        start = at + DIGITS
    yield memoryview(data)[start:]


def _digest(path: Path, holder: Path, held: Iterable[bytes | memoryview]) -> bytes:
    digest = hashlib.sha256()
    for member in (*files.members(path), *sorted(path.parent.glob(f"{escape(path.name)}.????????????.data"))):
        if path.is_dir():
            digest.update(str(member.relative_to(path)).encode() + b"\0")
        if not member.is_file():  # a pipe that bears the name of our weights has no content
            continue
        digest.update(member.stat().st_size.to_bytes(8, "little"))
        if member == holder:
            for part in held:
                digest.update(part)
        else:
            with member.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    return digest.digest()
