"""The application: commands in the order of the pipeline, and errors as one message with the right exit code."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from idp_deploy.cli.commands import COMMANDS
from idp_deploy.cli.streams import escape_unprintable, open_closed, results_apart, silence_libraries, unheard
from idp_deploy.errors import (
    ELSEWHERE,
    ExitCode,
    IdpDeployError,
    SeveralErrors,
    of_dead_worker,
    of_missing_module,
    of_system,
)
from idp_deploy.legible import on_a_line, uncommanding


class _Commands(TyperGroup):
    """COMMANDS, each loaded when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # the names, for what is nearest

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.summary) for name, row in COMMANDS.items()])


def _command(name: str) -> Any:
    module, _, function = COMMANDS[name].function.partition(":")
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    found: Callable[..., Any] = getattr(import_module(f"idp_deploy.cli.{module}"), function)
    alone.command(name, epilog=f"Example: {COMMANDS[name].example}")(results_apart()(found))
    return typer.main.get_command(alone)


app = typer.Typer(
    name="idp-deploy",
    cls=_Commands,
    help="Prune a PyTorch model with IDP, export it sparse, prove it, simulate it, gate it.",
    epilog="Example: idp-deploy run",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        from idp_deploy.cli.environment import runtimes

        print(f"idp-deploy {version('idp-deploy')}")
        try:
            torch = version("torch")
        except PackageNotFoundError:
            torch = "is missing"
        print(f"torch {torch}, Python {platform.python_version()}")
        for suffix, words in runtimes().items():
            print(f"verifies {suffix} in {words}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Prune a PyTorch model with IDP, export it sparse, prove it, simulate it, gate it.

    --debug, anywhere on the line, shows the traceback of an error.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code that belongs to what happened."""
    open_closed()
    escape_unprintable()
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments or bool(os.environ.get("IDP_DEPLOY_DEBUG"))
    if not debug:
        silence_libraries()
    signal.signal(signal.SIGTERM, partial(_terminate, os.getpid()))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where whoever started it has it ignored
        signal.signal(signal.SIGINT, _interrupt)
    sys.exit(_run([a for a in arguments if a != "--debug"] or ["--help"], debug))


class _TerminatedError(BaseException):
    """SIGTERM, raised so that temporary folders are removed on the way out; nothing but `_run` catches it."""


def _terminate(main_process: int, number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN if os.getpid() == main_process else signal.SIG_DFL)
    if os.getpid() != main_process:  # a worker that was forked, such as a DataLoader's: as if there were no handler
        os.kill(os.getpid(), number)
        return
    _raise(_TerminatedError())


def _interrupt(_: int, __: object) -> None:
    _raise(KeyboardInterrupt())


_came: list[BaseException] = []  # raised by signals: Python and PyTorch make errors of their own of some


def _raise(stop: BaseException) -> None:
    _came.append(stop)
    raise stop


def _run(arguments: list[str], debug: bool) -> int:
    _came.clear()
    try:
        result = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        return _ended_by(_came[-1]) if _came and result else int(result or ExitCode.OK)
    except typer.Exit as leave:
        if isinstance(leave.__cause__, KeyboardInterrupt):  # what Typer makes of Ctrl-C
            return _ended_by(leave.__cause__)
        return _ended_by(_came[-1]) if _came and leave.exit_code else leave.exit_code
    except (_TerminatedError, KeyboardInterrupt) as signalled:
        return _ended_by(signalled)
    except SystemExit as left:
        return _say(
            f"the code of the model or the task ended the program (SystemExit: {left}) — let it raise an error, or "
            "return, instead of calling sys.exit()",
            ExitCode.USAGE,
        )
    except typer.Abort as abort:
        if isinstance(abort.__cause__, EOFError) and not debug:  # Typer takes the end of any stream for Ctrl-D
            return _explain(abort.__cause__, arguments)
        return _ended_by(KeyboardInterrupt())
    except BrokenPipeError:
        unheard()
        return ExitCode.OK
    except Exception as error:
        if debug:
            raise
        return _ended_by(_came[-1]) if _came else _explain(error, arguments)


def _ended_by(signalled: BaseException) -> int:
    if isinstance(signalled, _TerminatedError):
        return _say("terminated; no file was changed half-way", ExitCode.TERMINATED)
    return _say("interrupted; no file was changed half-way", ExitCode.INTERRUPTED)


def _deaf() -> None:
    """PyTorch raises the death of a loader's worker wherever the command stands; not while it says how it ended."""
    with suppress(AttributeError, ValueError):  # Windows has no such signal, and threads set none
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _explain(error: Exception, arguments: Sequence[str] = ()) -> int:
    _deaf()
    if isinstance(error, SeveralErrors):
        return max(_explain(one, arguments) for one in error.each)
    if isinstance(error, IdpDeployError):
        told = _sentence(error)
        configured = "run" in arguments[:1] and not any(word.startswith(("-o", "--out")) for word in arguments)
        where = "as 'output' in configuration" if configured else "with -o"  # whose -o is the report
        return _say(f"{told} {where}" if told.endswith(ELSEWHERE) else told, error.exit_code)
    if hasattr(error, "format_message"):  # what the parser raises: unknown options, missing arguments
        return _say(f"{error.format_message()} — see 'idp-deploy --help'", ExitCode.USAGE)
    if isinstance(error, OSError):
        if not _stands():
            return _say("the folder that this command runs in was removed — change to another one", ExitCode.FILE)
        return _explain(of_system(error))
    if isinstance(error, MemoryError):
        return _say("out of memory — use a smaller model or batch", ExitCode.FILE)
    if known := of_dead_worker(error) or of_missing_module(error):
        return _explain(known)
    first = (_sentence(error).strip().splitlines() or [""])[0]
    return _say(f"unexpected {type(error).__name__}: {first} — run again with --debug for the traceback", ExitCode.FILE)


def _stands() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _sentence(error: Exception) -> str:
    """What was said where it was raised: a worker of a DataLoader sends its whole traceback as the message."""
    text = str(error)
    if not (text.startswith("Caught ") and "in DataLoader worker process" in text):
        return text
    return text.rstrip().splitlines()[-1].partition(": ")[2]


def _say(message: str, code: ExitCode) -> int:
    _deaf()
    print(uncommanding(f"error: {on_a_line(message)}"), file=sys.stderr)
    return code
