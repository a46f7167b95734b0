"""The child's side: holds objects of foreign code, answers one request at a time, ends with its parent.

It imports what it is asked for and nothing else; what a library prints goes nowhere.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy.isolation.wire import Message, pack, unpack

# Beyond what is mapped before a file is opened. Arenas of phone models take megabytes; a damaged file asks for more.
MEMORY_BYTES = 1 << 30
MEMORY_PER_BYTE = 8  # content, a runtime's own copy, weights unpacked from sparse storage


def main(descriptor: int) -> None:
    """Serve until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    pipe = Connection(descriptor)
    objects: dict[int, Any] = {}
    while True:
        try:
            request, arrays = unpack(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        for number in request["forget"]:
            objects.pop(number, None)
        try:
            value, results = _answer(request, arrays, objects)
            reply = pack({"value": value}, results)
        except Exception as error:  # whatever the foreign code raises is the parent's to judge
            reply = pack({"error": type(error).__name__, "text": str(error)}, {})
        with suppress(BrokenPipeError):
            pipe.send_bytes(reply)


def _answer(request: dict[str, Any], arrays: dict[str, np.ndarray], objects: dict[int, Any]) -> Message:
    if request["do"] == "open":
        module, _, name = request["at"].partition(":")
        make = getattr(import_module(module), name)
        if prepare := getattr(make, "prepare", None):
            prepare()  # imports the library, so that its own size does not count against the file
        _limit_memory(arrays[""].size)
        number = max(objects, default=0) + 1
        objects[number] = make(arrays[""].tobytes(), **request["words"])
        return number, {}
    method = getattr(objects[request["number"]], request["method"])
    value, results = method(arrays, **request["words"])
    return value, results


def _limit_memory(content: int) -> None:
    """Address space for what is mapped now and for one file of `content` bytes, where the system can hold it."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        mapped = pages * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES + MEMORY_PER_BYTE * content, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
