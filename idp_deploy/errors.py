"""One base error that a user can act on; each child belongs to one exit code of the command line.

A message names the thing, the value that was met and the way out, so that it needs no traceback:

>>> str(UsageError("unknown target 'pixel4'", way_out="did you mean 'pixel-4'?"))
"unknown target 'pixel4' — did you mean 'pixel-4'?"
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from traceback import walk_tb

ELSEWHERE = "name another place"  # ends a way out; the command line adds "with -o"


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    GATE = 1
    USAGE = 2
    FILE = 3
    DEPENDENCY = 4
    INTERRUPTED = 130
    TERMINATED = 143


class IdpDeployError(Exception):
    """Base of everything this package raises on purpose.

    Args:
        message: what is wrong, naming the thing and its value.
        way_out: what the user can do about it; printed after a dash.
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(self, message: str, *, way_out: str = "") -> None:
        super().__init__(f"{message} — {way_out}" if way_out else message)
        self.message = message
        self.way_out = way_out


class UsageError(IdpDeployError):
    """A flag, an argument, a recipe or a configuration that cannot be meant (exit 2)."""

    exit_code = ExitCode.USAGE


class SeveralErrors(UsageError):  # noqa: N818
    """Several of them, found at once and said one by one (exit 2).

    >>> print(SeveralErrors([UsageError("a is 1", way_out="write 2"), UsageError("b is missing")]))
    a is 1 — write 2
    b is missing
    """

    def __init__(self, each: Sequence[UsageError]) -> None:
        super().__init__("\n".join(map(str, each)))
        self.each = tuple(each)


class GateError(IdpDeployError):
    """A gate that cannot hold anything back (exit 1)."""

    exit_code = ExitCode.GATE


class DivergedError(UsageError):
    """A training that went astray: settings that cannot be meant, seen only once it runs (exit 1)."""

    exit_code = ExitCode.GATE


class ConversionError(IdpDeployError):
    """A model or an operator that a format cannot hold, or a file that fails verification (exit 3)."""

    exit_code = ExitCode.FILE


class NoOperatorError(ConversionError):
    """An operator that a format has no counterpart for, whatever the shapes (exit 3)."""


class PrecisionError(ConversionError):
    """A model whose numbers are beyond what a format computes in unless it is asked otherwise (exit 3)."""


class FileError(IdpDeployError):
    """A file that is missing, broken, truncated or of another kind than it says (exit 3)."""

    exit_code = ExitCode.FILE


class UnsafeFileError(FileError):
    """A file whose loading could run code, such as a pickled module (exit 3)."""


class MissingDependencyError(IdpDeployError):
    """An optional package that this command needs is not installed (exit 4)."""

    exit_code = ExitCode.DEPENDENCY


_WORKSPACE = re.compile(r"\.idp-deploy-[0-9a-f]{32}/")  # where a file is made before it takes its name


def of_system(error: OSError) -> FileError:
    """What the system said of a file, as an error of ours.

    >>> str(of_system(OSError(28, "No space left on device", "out/model.onnx")))
    'out/model.onnx: No space left on device — check the path, its permissions and the free space'
    """
    name = _WORKSPACE.sub("", str(error.filename or ""))
    what = f"{name}: {error.strerror}" if name else str(error)
    return FileError(what, way_out="check the path, its permissions and the free space")


def of_dead_worker(error: Exception) -> FileError | None:
    """The error for a worker process of a DataLoader that ended by itself; None for any other error.

    >>> of_dead_worker(RuntimeError("mat1 and mat2 do not fit")) is None
    True
    """
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        what = str(error).splitlines()[0]
    elif isinstance(error, EOFError | ConnectionError) and any(
        frame.f_code.co_name == "_try_get_data" for frame, _ in walk_tb(error.__traceback__)
    ):  # its sockets are closed while the system still counts it among the living
        what = str(error) or type(error).__name__
    else:
        return None
    return FileError(
        f"a worker of the task's data loader ended ({what})",
        way_out="it may have run out of memory: use fewer workers, then --resume",
    )


def of_missing_module(error: Exception) -> MissingDependencyError | None:
    """The error for a package that this one is built on and that is not installed; None for any other error.

    >>> str(of_missing_module(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")))
    "this needs the package 'torch', which is not installed — pip install torch"
    >>> of_missing_module(ModuleNotFoundError("No module named 'train'", name="train")) is None
    True
    """
    from importlib.metadata import PackageNotFoundError, requires

    package = str(getattr(error, "name", None) or "").partition(".")[0].replace("_", "-")
    try:
        core = [line for line in requires("idp-deploy") or () if "extra ==" not in line]
    except PackageNotFoundError:  # a checkout that nobody installed
        return None
    if not isinstance(error, ModuleNotFoundError) or package not in {re.split(r"[^\w.-]", line)[0] for line in core}:
        return None
    return MissingDependencyError(
        f"this needs the package '{package}', which is not installed", way_out=f"pip install {package}"
    )


class IdpDeployWarning(UserWarning):
    """What is done all the same, though it may not be what was meant."""


def a_type(value: object) -> str:
    """The type of a value in a sentence.

    >>> a_type(3), a_type({})
    ('an int', 'a dict')
    """
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOaeio' else 'a'} {name}"


def warn(what: str, way_out: str = "") -> None:
    """One warning, at the line outside of this package that led to it."""
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("idp_deploy."):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(f"{what} — {way_out}" if way_out else what, IdpDeployWarning, stacklevel=depth)


@contextmanager
def hushed(level: str = "WARNING") -> Iterator[None]:
    """Inside, what libraries log up to `level` and what they warn of is not said: it is of their parts, not of ours."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.getLevelNamesMapping()[level])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def require(module: str, extra: str) -> None:
    """Raise `MissingDependencyError` naming the extra, unless `module` can be found (it is not imported).

    >>> require("json", "all")
    >>> require("no_such_module", "coreml")
    Traceback (most recent call last):
    ...
    idp_deploy.errors.MissingDependencyError: this needs the package 'no_such_module', which is not installed — \
pip install 'idp-deploy[coreml]'
    """
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingDependencyError(
            f"this needs the package '{module}', which is not installed",
            way_out=f"pip install 'idp-deploy[{extra}]'" if extra else f"pip install {module}",
        )


def asks_for_gpu(error: BaseException) -> bool:
    """Whether code raised it since it wants a GPU of NVIDIA's where there is none.

    >>> asks_for_gpu(AssertionError("Torch not compiled with CUDA enabled")), asks_for_gpu(ValueError("no data"))
    (True, False)
    """
    said = r"(?i)not (compiled|linked) with (support for )?cuda|no (nvidia|cuda)|found no nvidia"
    return re.search(said, str(error)) is not None
