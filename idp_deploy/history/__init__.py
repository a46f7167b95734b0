"""What a run has done already, kept beside its outputs, so that the next run does only what has changed.

    stage = what it depends on + the stages before it + the files it leaves
    done  = all of that is as it was when the stage ended, told by contents

The record is data: nothing in it is run, and one that cannot be read means that nothing is done yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from idp_deploy import documents, files
from idp_deploy.history.fingerprints import Digests, watching
from idp_deploy.ownership import OUTPUT, RUN, claim

T = TypeVar("T")
Inputs = Mapping[str, Any]  # what it is, in words → digest or plain value
FORCED = "--force"
NEVER = "not done yet"
_DIGEST = 64  # characters


@dataclass(frozen=True)
class Stage:
    """One stage of a run, before it runs."""

    name: str
    inputs: Inputs
    after: tuple[str, ...] = ()
    outputs: tuple[Path, ...] = ()  # what a user would look for; more may lie beside them
    runs_code: bool = False  # the user's, which may read files that nothing names


@dataclass(frozen=True)
class Entry:
    """A stage that ended."""

    inputs: Mapping[str, Any]
    before: Mapping[str, str]  # stage before it → digest of what that had made
    seen: Mapping[str, str]  # file that the user's code read → digest
    outputs: Mapping[str, str]  # file → digest
    result: Any
    seconds: float


@dataclass(frozen=True)
class _Record:
    kind: str
    stages: dict[str, Entry] = field(default_factory=dict)
    begun: dict[str, Any] = field(default_factory=dict)  # the inputs of a stage that did not end
    digests: dict[str, str] = field(default_factory=dict)


class Listener(Protocol):
    """Hears of the stages of a run."""

    def begins(self, name: str, why: str) -> None:
        """A stage begins, and why."""

    def ended(self, name: str) -> None:
        """The stage that began last has ended."""

    def skipped(self, name: str) -> None:
        """A stage is done already."""


class History:
    """The stages of one run against what is recorded of the last.

    Args:
        path: of the record. roots: folders whose files the user's code may read. force: nothing is done yet.

    Raises:
        UsageError: somebody else's file is where the record goes.
    """

    def __init__(self, path: Path, roots: Sequence[Path], *, force: bool = False) -> None:
        self.path, self._roots, self._force = claim(path, elsewhere=OUTPUT), roots, force
        self._record = _read(path)
        self.digests = Digests(self._record.digests)
        self.stages: dict[str, Stage] = {}
        self._listener: Listener | None = None
        self._stopped = dict(self._record.begun)
        self._ran: set[str] = set()
        self._done: set[str] = set()

    def tell(self, listener: Listener) -> None:
        """Who hears of stages as they begin, end or are left out."""
        self._listener = listener

    def expect(self, stages: Iterable[Stage]) -> None:
        """The stages of this run, in their order."""
        self.stages = {stage.name: stage for stage in stages}

    def why(self, name: str) -> str:
        """Why a stage has to run; "" where it is done."""
        stage, entry = self.stages[name], self._record.stages.get(name)
        if name in self._ran | self._done:
            return ""
        if self._force:
            return FORCED
        if entry is None or not {self._inside(path) for path in stage.outputs} <= entry.outputs.keys():
            return NEVER
        for before in stage.after:
            if before in self._ran or self.why(before) or self._made(before) != entry.before.get(before):
                return f"'{before}' comes before it"
        return (
            _changed(entry.inputs, stage.inputs)
            or self._other(entry.seen, self.digests.of_data)
            or self._other(entry.outputs, self.digests.of)
        )

    def seconds(self, name: str) -> float | None:
        """How long a stage took last time."""
        entry = self._record.stages.get(name)
        return entry.seconds if entry else None

    def resumes(self, name: str) -> bool:
        """Whether the last run was stopped in this stage, with the same inputs as now."""
        return not self._force and self._stopped.get(name) == _plain(self.stages[name].inputs)

    def made(self, path: Path) -> bool:
        """Whether an earlier run wrote a file at this place, whatever is there now."""
        return any(self._inside(path) in entry.outputs for entry in self._record.stages.values())

    def keep(
        self,
        name: str,
        kind: type[T],
        work: Callable[[], T],
        *,
        finished: Callable[[T], bool] = lambda _: True,
        outputs: Callable[[T], Sequence[Path]] | None = None,
    ) -> T:
        """The result of a stage: that of the last run where the stage is done, else of `work`, which is recorded.

        Args:
            kind: dataclass or plain type of the result.
            finished: whether the result counts as done; else the next run does the stage again.
            outputs: the files that were written, where they may be others than the stage's.
        """
        if not self.why(name):
            try:
                found: T = TypeAdapter(kind).validate_python(self._record.stages[name].result)
            except ValidationError:
                pass
            else:
                self._done.add(name)
                if self._listener is not None:
                    self._listener.skipped(name)
                return found
        stage = self.stages[name]
        if self._listener is not None:
            self._listener.begins(name, self.why(name))
        self._record.stages.pop(name, None)
        self._record.begun.clear()
        self._record.begun[name] = _plain(stage.inputs)
        self._write()
        before = time.monotonic()
        own = [self.path, *(path for other in self.stages.values() for path in other.outputs)]
        with watching(self._roots if stage.runs_code else [], without=own) as seen:
            result = work()
        if self._listener is not None:
            self._listener.ended(name)
        self._ran.add(name)
        made = outputs(result) if outputs else stage.outputs
        if finished(result):
            self._record.begun.clear()
            self._record.stages[name] = Entry(
                inputs=_plain(stage.inputs),
                before={before: self._made(before) for before in stage.after},
                seen={self._inside(path): self.digests.of_data(path) for path in sorted(seen)},
                outputs={self._inside(path): self.digests.of(path) for path in made},
                result=TypeAdapter(kind).dump_python(result, mode="json"),
                seconds=time.monotonic() - before,
            )
            self._write()
        return result

    def _inside(self, path: Path) -> str:
        """How the record names a file, so that a folder may be moved as a whole."""
        return os.path.relpath(path, self.path.parent)

    def _other(self, files: Mapping[str, str], digest: Callable[[Path], str]) -> str:
        """What became of the first file that is not as it was."""
        for name, was in files.items():
            place = self.path.parent / name
            if digest(place) != was:
                return f"{os.path.relpath(place)} {'changed' if place.exists() else 'is missing'}"
        return ""

    def _made(self, name: str) -> str:
        """Digest of what a stage left: files and result."""
        entry = self._record.stages.get(name)
        made = json.dumps([entry.outputs, entry.result], sort_keys=True) if entry else ""
        return hashlib.sha256(made.encode()).hexdigest()

    def _write(self) -> None:
        content = TypeAdapter(_Record).dump_python(self._record, mode="json")
        content["digests"] = self.digests.used
        files.write_bytes(self.path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def _read(path: Path) -> _Record:
    try:
        return TypeAdapter(_Record).validate_python(documents.parse_json(documents.read_text(path)))
    except (OSError, ValueError):
        return _Record(RUN)


def _plain(inputs: Inputs) -> dict[str, Any]:
    """As JSON gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(inputs, default=str))
    return found


def _changed(was: Inputs, now: Inputs) -> str:
    """What differs, the first of it.

    >>> _changed({"prune.target": 0.9}, {"prune.target": 0.8})
    'prune.target: 0.9 → 0.8'
    """
    now = _plain(now)
    for label in [*now, *(label for label in was if label not in now)]:
        if was.get(label) != now.get(label):
            values = [values.get(label) for values in (was, now)]
            if any(isinstance(value, str) and len(value) == _DIGEST for value in values):
                return f"{label} {'is new' if label not in was else 'changed' if label in now else 'is not used now'}"
            before, after = (json.dumps(value, ensure_ascii=False) for value in values)
            return f"{label}: {before} → {after}"
    return ""
