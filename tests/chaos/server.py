"""Commands in processes that can be killed, without the seconds that importing takes: each is a fork of this one.

python -m tests.chaos.server MODULE… imports these at first. It reads one JSON request a line and answers with the
process id, then with how the process ended. A fork runs the command line as `idp-deploy` would, or `-c CODE` as Python
would, and its exit handlers.
What a fork has imported besides, where the request asks for that, the next ones have from the start.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

HANG_SECONDS = 500.0  # after which a command says on stderr where it stands
# what changes a folder, and opening a file: before each of them the process may be killed
STEPS = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.symlink", "os.truncate", "open"}


def serve() -> list[str]:
    """Fork for every request; returns in a fork, with the arguments it is to run."""
    _load(sys.argv[1:])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            _become(request)
            arguments: list[str] = request["arguments"]
            return arguments
        print(json.dumps(process), flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if os.path.exists(request["loaded"]):
            with open(request["loaded"]) as file:
                _load(json.load(file))
        print(json.dumps(status), flush=True)
    os._exit(0)


def _load(modules: list[str]) -> None:
    for module in modules:
        import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy everything


def _become(request: dict[str, Any]) -> None:
    """A group, a working folder, streams and signals of its own."""
    os.setsid()  # Ctrl-C goes to all of a group
    os.chdir(request["folder"])
    sys.path.insert(0, request["folder"])
    os.environ |= request["environment"]
    for number, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    faulthandler.dump_traceback_later(HANG_SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if request["loaded"]:
        atexit.register(_tell_modules, request["loaded"], request["folder"])
    if request["step"] is not None:
        sys.addaudithook(_fault(request["folder"], request["step"], request["signal"], request["steps"]))


def _tell_modules(report: str, folder: str) -> None:
    """Write the names of all modules with a file that is none of the folder's, in the order they came."""
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items() if name != "__main__"}
    with open(report, "w") as file:
        json.dump([name for name, path in files.items() if path and not path.startswith(folder)], file)


def _fault(folder: str, step: int, number: int, report: str) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that counts steps on files in `folder`, and sends the signal before the step of that number."""
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in STEPS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.join(folder, os.fsdecode(arguments[0]))
        if not path.startswith(folder) or path.endswith((".py", ".pyc")) or "__pycache__" in path or path == report:
            return
        seen += 1
        if step == 0:  # only counted
            with os.fdopen(os.open(report, os.O_WRONLY | os.O_CREAT), "w") as file:
                file.write(str(seen))
        elif seen == step:
            os.kill(os.getpid(), number) if number != signal.SIGINT else os.killpg(0, number)

    return count


def _end(code: int) -> None:
    """End as Python does, but for taking a thousand modules apart."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    given = serve()
    from idp_deploy.cli import main

    try:
        exec(given[1], {"__name__": "__main__"}) if given[:1] == ["-c"] else main(given)
    except SystemExit as leave:
        _end(int(leave.code or 0))
    _end(0)
