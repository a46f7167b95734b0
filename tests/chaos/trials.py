"""What is done to a command, and what has to hold after it: each trial gives the list of what did not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from idp_deploy import files
from tests.chaos.commands import Command, prepare
from tests.chaos.process import Ended, Server, members

CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
DISK = "3m"
_PAGE = 4096
_FOREIGN = ("torchinductor_", "pymp-")  # PyTorch's own, kept for all programs; Python's, of a worker that was killed
_UNTOUCHED = ("model.pt", "pruned.pt", "notes.txt", "idp-deploy.toml")


@dataclass(frozen=True)
class Known:
    """One command undisturbed: what it finds (`before`, with outputs of other weights), what it makes of that."""

    command: Command
    before: Path
    old: dict[str, str]
    new: dict[str, str]
    entries: set[str]
    seconds: float
    steps: int


def know(command: Command, folder: Path, server: Server) -> Known:
    """Run it over other weights, then over the weights of all trials, with the former outputs in place."""
    folder.mkdir()
    other, before, after = folder / "other", folder / "before", folder / "after"
    prepare(other, seed=1)
    _expect(server.run(command.again(resume=False), other, learns=True))
    prepare(before, seed=0)
    for name in command.outputs:
        (before / name).parent.mkdir(exist_ok=True)
        shutil.move(other / name, before / name)
    shutil.copytree(before, after)
    timed = _expect(server.run(command.again(resume=False), after))
    again = folder / "counted"
    shutil.copytree(before, again)
    counted = _expect(server.run(command.again(resume=False), again, step=0))
    old, new = _digests(command, before), _digests(command, after)
    assert new == _digests(command, again)
    assert not set(old.values()) & set(new.values())
    return Known(command, before, old, new, _entries(after), timed.seconds, counted.steps)


def killed(known: Known, server: Server, folder: Path, random: Random) -> list[str]:
    """A signal at a random moment, or before a random step on files; then the command again."""
    number = random.choice(list(CODES))
    shutil.copytree(known.before, folder)
    if random.random() < 0.5:
        step, moment = random.randint(1, known.steps), None
    else:
        step, moment = None, random.uniform(0.02, known.seconds)

    def kill(process: int, seconds: float) -> bool:
        if moment is None or seconds < moment:
            return moment is None
        os.killpg(process, number) if number == signal.SIGINT else os.kill(process, number)
        return True

    ended = server.run(known.command.again(resume=False), folder, step=step, signal=number, meanwhile=kill)
    where = f"{signal.Signals(number).name} {f'before step {step}' if step else f'after {moment:.3f} s'}"
    faults = _faults(known, folder, ended, {CODES[number], 0})
    if number != signal.SIGKILL:
        faults += _leftovers(folder, server)
    return [f"{where}: {fault}" for fault in faults + _again(known, server, folder)]


def full_disk(known: Known, server: Server, folder: Path, random: Random) -> list[str]:
    """A small disk with no room, or room for a part; then with room."""
    with _disk(folder) as place:
        here = place / "work"
        shutil.copytree(known.before, here)
        free = random.randrange(8) * _PAGE
        filler = place / "filler"
        stat = os.statvfs(place)
        filler.write_bytes(bytes(max(0, stat.f_bavail * stat.f_frsize - free)))
        ended = server.run(known.command.again(resume=False), here)
        faults = _faults(known, here, ended, {2, 3, 0}) + _leftovers(here, server)
        if ended.status and "No space left" not in ended.stderr:
            faults.append(f"says nothing of the disk: {ended.stderr[-300:]}")
        filler.unlink()
        return [f"{free} bytes free: {fault}" for fault in faults + _again(known, server, here)]


def two_at_once(known: Known, servers: Sequence[Server], folder: Path) -> list[str]:
    """The same command twice in one folder; each ends well or says what is in its way."""
    from concurrent.futures import ThreadPoolExecutor

    shutil.copytree(known.before, folder)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda server: server.run(known.command.again(resume=False), folder), servers))
    faults = [fault for ended in both for fault in _faults(known, folder, ended, {0})]
    return faults + _leftovers(folder, servers[0]) + _again(known, servers[0], folder)


def worker_dies(known: Known, server: Server, folder: Path, random: Random, mark: str) -> list[str]:
    """A process that the command started ends by SIGKILL, a moment after it is seen."""
    shutil.copytree(known.before, folder)
    delay, seen, struck = random.uniform(0, 0.3), -1.0, 0

    def strike(process: int, seconds: float) -> bool:
        nonlocal seen, struck
        found = [one for one, line in members(process) if mark in line]
        if not found:
            return False
        seen = seconds if seen < 0 else seen
        if seconds - seen < delay:
            return False
        with suppress(ProcessLookupError):  # it ended by itself in the meantime
            os.kill(found[0], signal.SIGKILL)
            struck += 1
        return True

    ended = server.run(known.command.again(resume=False), folder, meanwhile=strike)
    faults = _faults(known, folder, ended, {0, 3}) + _leftovers(folder, server)
    return [f"{struck} struck after {delay:.2f} s: {fault}" for fault in faults + _again(known, server, folder)]


def _faults(known: Known, folder: Path, ended: Ended, codes: Iterable[int]) -> list[str]:
    """Torn outputs, touched inputs, odd ends, processes that stayed."""
    faults = []
    if ended.status not in set(codes):
        faults.append(f"ended with {ended.status}: {ended.stderr[-300:]}")
    ignored = "Exception ignored in" in ended.stderr  # Python drops what is raised in a callback: the command goes on
    traced = "Traceback" in ended.stderr and not ignored
    if traced or "error: unexpected" in ended.stderr or ended.stderr.count("error:") > 1:
        faults.append(f"says {ended.stderr[-600:]}")
    if ended.left:
        faults.append("a process of it stayed")
    now = _digests(known.command, folder)
    faults += [f"{name} is torn" for name in now if now[name] not in (known.old[name], known.new[name])]
    if ended.status == 0 and now != known.new:
        faults.append("ended well with other bytes")
    touched = [name for name in _UNTOUCHED if files.sha256(folder / name) != files.sha256(known.before / name)]
    return faults + [f"{name} was touched" for name in touched]


def _leftovers(folder: Path, server: Server) -> list[str]:
    found = [str(path.relative_to(folder)) for path in folder.rglob(".idp-deploy-*")]
    found += [str(path) for path in server.temporary.iterdir() if not path.name.startswith(_FOREIGN)]
    return [f"{name} was left" for name in found]


def _again(known: Known, server: Server, folder: Path) -> list[str]:
    """The next command resumes, or starts anew, to the very bytes; nothing temporary stays."""
    shutil.rmtree(server.temporary)
    server.temporary.mkdir()
    ended = server.run(known.command.again(), folder)
    faults = [f"again: {fault}" for fault in _faults(known, folder, ended, {0}) + _leftovers(folder, server)]
    if more := _entries(folder) ^ known.entries:
        faults.append(f"again: not as undisturbed: {', '.join(sorted(more))}")
    return faults


def _digests(command: Command, folder: Path) -> dict[str, str]:
    """SHA-256 of each output, "" where there is none."""
    return {name: files.sha256(folder / name) if (folder / name).exists() else "" for name in command.outputs}


def _entries(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in found if "__pycache__" not in name}


def _expect(ended: Ended) -> Ended:
    assert ended.status == 0, ended.stderr
    return ended


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """A file system of `DISK` in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a file system."""
    try:
        with _disk(folder):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
