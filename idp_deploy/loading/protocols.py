"""Pickles of newer protocols, said again in the one that torch reads as weights: torch.save(…, pickle_protocol=4)."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from typing import Any

_TORCH_READS = 2
_STRINGS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_GETS = {"BINGET", "LONG_BINGET"}
_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GROWTH = 16  # a checkpoint's pickle repeats a few short names


def in_older_protocol(data: bytes) -> bytes:
    """A checkpoint with its pickles in protocol 2; as it is where they are, or where they cannot be read.

    Nothing is built. Operators that have no counterpart stay, for torch to refuse.
    """
    try:
        return _in_zip(data) if data[:4] == b"PK\x03\x04" else _in_a_row(data)
    except Exception:  # pickles are broken in many ways
        return data


def _in_zip(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as written:
        for name in archive.namelist():
            content = archive.read(name)
            written.writestr(name, _older(io.BytesIO(content)) if name.endswith("/data.pkl") else content)
    return made.getvalue()


def _in_a_row(data: bytes) -> bytes:
    """The layout before zip files: five pickles one after the other, then the bytes of the tensors."""
    stream = io.BytesIO(data)
    return b"".join([*(_older(stream) for _ in range(5)), stream.read()])


def _older(stream: io.BytesIO) -> bytes:
    """The next pickle of a stream in protocol 2.

    Strings stand where they are used, instead of being remembered: the two in front of STACK_GLOBAL become one GLOBAL.

    Raises:
        ValueError: it is none, or would become much longer.
    """
    data, pieces, size, begun = stream.getbuffer(), list[bytes](), 0, stream.tell()
    strings, on_top, memo = dict[int, str](), list[str](), 0  # on_top: those that were pushed last, each a piece
    position: Any
    value: Any
    for operator, value, position in pickletools.genops(stream):
        name, piece = operator.name, b""
        if name == "PROTO":
            piece = pickle.PROTO + bytes([_TORCH_READS])
        elif name in _STRINGS or (name in _GETS and value in strings):
            on_top.append(value if name in _STRINGS else strings[value])
            written = on_top[-1].encode("utf-8", "surrogatepass")
            piece = pickle.BINUNICODE + struct.pack("<I", len(written)) + written
        elif name in _PUTS:
            place = memo if name == "MEMOIZE" else value
            memo += 1
            if on_top:
                strings[place] = on_top[-1]
            else:
                strings.pop(place, None)
                piece = pickle.LONG_BINPUT + struct.pack("<I", place)
        elif name == "STACK_GLOBAL":
            module, attribute = on_top[-2:]
            if "\n" in module + attribute:
                raise ValueError("a name of two lines")
            del pieces[-2:]
            piece, on_top = pickle.GLOBAL + f"{module}\n{attribute}\n".encode(), []
        elif name != "FRAME":
            piece, on_top = bytes(data[position : stream.tell()]), []
        size += len(piece)
        if size > _GROWTH * (stream.tell() - begun) + (1 << 16):
            raise ValueError("what it remembers is repeated without end")
        if piece:
            pieces.append(piece)
    return b"".join(pieces)
