"""What a command line leaves unsaid: configuration, factories, the newest checkpoint, where outputs go."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy import configuration, documents, files, ownership
from idp_deploy.cli.output import say
from idp_deploy.configuration import Configuration
from idp_deploy.configuration.mistakes import Mistake, error_of
from idp_deploy.configuration.shapes import shapes
from idp_deploy.errors import FileError, IdpDeployError, UsageError
from idp_deploy.flow import Recipe
from idp_deploy.formats import is_folder, models_in, of_folder
from idp_deploy.rendering.document import shell

if TYPE_CHECKING:
    from idp_deploy.flow import CompressedModel, Model
    from idp_deploy.simulation.targets import Target
    from idp_deploy.tasks import Task

STATE = Path(".idp-deploy") / "newest.json"  # in the working folder


@dataclass(frozen=True)
class Session:
    """Flags over configuration. `factory` and `task_spec` are names of callables, or None."""

    configuration: Configuration
    factory: str | None
    task_spec: str | None
    inputs: tuple[str, ...]
    trust: bool = False
    weights_key: str | None = None  # which weights of a file that holds several
    named: Path | None = None  # the configuration that a flag names

    def follow(self, verb: str, path: Path, words: str = "", *, inputs: bool = True) -> str:
        """The command to be typed next, with what this one was told by flags and no configuration would say again.

        Args:
            inputs: that command wants the model's inputs.
        """
        told = self.configuration
        flags = [("--model", self.factory)] * (self.factory != told.model)
        flags += [("--task", self.task_spec)] * (self.task_spec != told.task)
        flags += [("--inputs", shape) for shape in self.inputs] * (inputs and self.inputs != tuple(told.inputs))
        flags += [("--config", str(self.named))] * (self.named is not None)
        typed = [text for flag in flags for text in flag if text]
        return " ".join(filter(None, ["idp-deploy", verb, shell(path), words, shlex.join(typed)]))

    def task(self) -> Task | None:
        """The task, if one is named."""
        from idp_deploy.loading import load_task

        with self._where_it_stands():
            return load_task(self.task_spec) if self.task_spec else None

    def example_inputs(self, task: Task | None) -> tuple[Any, ...]:
        """From --inputs, else from the task.

        Raises:
            UsageError: neither is given.
        """
        from idp_deploy.cli.inputs import example_inputs

        if self.inputs:
            return example_inputs(self.inputs)
        if task is not None:
            return task.example_inputs()
        raise UsageError(
            "the shape of the model's input is unknown", way_out="pass --inputs 1x3x224x224, or --task pkg.mod:task"
        )

    @property
    def device_name(self) -> str | None:
        """The device that `[prune] target` names, where it is no share of zeros."""
        target = self.configuration.prune.target
        return str(target) if share(target) is None else None

    def recipe(self, **flags: Any) -> tuple[Recipe, Target | None]:
        """`[prune]` with every flag that was given laid over it, and the device where the target names one.

        Raises:
            UsageError: a target that is neither a share of zeros nor a known device.
        """
        table = self.configuration.prune.model_dump()
        chosen = {**table, **{name: value for name, value in flags.items() if value not in (None, [], ())}}
        rules = pairs(flags.get("rules") or (), "--rule")
        rules |= {
            glob: pattern for glob, pattern in table["rules"].items() if glob not in rules
        }  # the first one counts
        given = {name: _literal(text) for name, text in pairs(flags.get("options") or (), "--option").items()}
        options = {**table["options"], **given}
        if chosen["learning_rate"] is not None:
            options["learning_rate"] = chosen["learning_rate"]
        if rules:
            options["rules"] = rules
        sparsity = share(chosen["target"])
        device = None
        if sparsity is None:
            from idp_deploy.simulation.targets import load_target

            device = load_target(str(chosen["target"]))
        recipe = Recipe(
            sparsity=Recipe().sparsity if sparsity is None else sparsity,
            method=chosen["method"],
            pattern=chosen["pattern"],
            mode=chosen["mode"],
            allocation=chosen["allocation"],
            epochs=chosen["epochs"] or 0,
            seed=chosen["seed"],
            skip=tuple(chosen["skip"]),
            options=options,
        )
        return recipe, device

    def leaves_open(self, **flags: Any) -> bool:
        """Whether nobody has said where zeros may lie or how they are shared out, so that a device may choose."""
        chosen = self.configuration.prune.model_fields_set | {name for name, value in flags.items() if value}
        return not chosen & {"pattern", "allocation", "rules"}

    def goes_on(self, path: Path, *, quantized: bool = False) -> str:
        """The command that comes after a checkpoint was written, as configuration has it."""
        if self.configuration.quantize.scheme and not quantized:
            return self.follow("quantize", path)
        named = "to" in self.configuration.export.model_fields_set
        return self.follow("export", path, "" if named else "--to all")

    def weights(self, named: Path | None) -> Path:
        """The file of weights to start from: as named, else as configured.

        Raises:
            UsageError: neither is. FileError: it is missing.
        """
        path = named or self.configuration.path(self.configuration.weights)
        if path is None:
            raise UsageError("no weights are named", way_out="pass MODEL.pt, or set 'weights' in configuration")
        return existing(path)

    def model(self, path: Path) -> Model:
        """A dense model from a state dict."""
        from idp_deploy.loading import load_model

        with self._where_it_stands():
            return load_model(path, self.factory, trust=self.trust, weights_key=self._key(path), announce=say)

    def compressed(self, path: Path) -> CompressedModel:
        """Our checkpoint, or any state dict with its zeros taken as they stand."""
        from idp_deploy.loading import load_any

        with self._where_it_stands():
            return load_any(path, self.factory, trust=self.trust, weights_key=self._key(path), announce=say)

    @contextmanager
    def _where_it_stands(self) -> Iterator[None]:
        """What is said of a flag is said of the configuration's line, where no flag was given."""
        told = self.configuration
        try:
            yield
        except UsageError as error:
            for key, given, configured in (("model", self.factory, told.model), ("task", self.task_spec, told.task)):
                said = error.message.removeprefix(f"--{key} ")
                if told.source and given == configured and said != error.message:
                    variable = f"IDP_DEPLOY_{key.upper()}"
                    variables = {key: variable} if os.environ.get(variable) else {}
                    mistake = Mistake((key,), f"{key} {said}", error.way_out)
                    raise error_of([mistake], told.source, variables) from error
            raise

    def _key(self, path: Path) -> str | None:
        """A configured key is that of the weights to start from; in what we made of these there is one set alone."""
        configured = self.weights_key == self.configuration.weights_key
        return None if configured and ownership.is_ours(path) else self.weights_key


def open_session(
    model: str | None = None,
    task: str | None = None,
    inputs: Sequence[str] | None = None,
    config: Path | None = None,
    trust: bool = False,
    weights_key: str | None = None,
    words: Callable[[Mapping[str, Any]], Iterable[Mistake]] = lambda _: (),
) -> Session:
    """Read the configuration, whose `words` may be looked at beforehand, and lay the flags over it."""
    found = configuration.load(config, words=words)
    if config is None and (other := configuration.passed_over(found.source)) is not None:
        say(f"note: [tool.idp-deploy] of {other} is not read: {configuration.OWN} stands beside it")
    return Session(
        found,
        model or found.model,
        task or found.task,
        tuple(shape for text in inputs for shape in shapes(text)) if inputs else found.inputs,
        trust,
        weights_key or found.weights_key,
        config,
    )


def remember(kind: str, paths: Sequence[Path]) -> None:
    """Note the newest output of a kind ("checkpoint" or "artifacts") for the next command in this folder.

    A convenience: where it cannot be written the outputs stand all the same, and the next command wants their names.
    """
    state = _state()
    state[kind] = [str(path) for path in paths]
    try:
        files.write_bytes(STATE, json.dumps(state, indent=1, sort_keys=True).encode())
    except (OSError, IdpDeployError) as error:
        why = error.message if isinstance(error, IdpDeployError) else error
        say(f"{STATE} is left out ({why}): name the files to the next command")


def checkpoint_of(named: Path | None) -> Path:
    """The checkpoint that is named, else the newest output of prune, harden, shrink, quantize or run in this folder.

    Raises:
        UsageError: none is named and there is none. FileError: it is missing.
    """
    if named is not None:
        return existing(named)
    for path in map(Path, _state().get("checkpoint", [])):
        if path.exists():
            say(f"from {path}, the newest checkpoint of this folder")
            return path
    raise UsageError("no checkpoint was made in this folder yet", way_out="name one: MODEL.pt")


def newest_artifacts() -> tuple[Path, ...]:
    """The newest output of export in this working folder; empty where there is none."""
    return tuple(path for path in map(Path, _state().get("artifacts", [])) if path.exists())


def existing(path: Path) -> Path:
    """`path`, or a FileError that says it is missing. A folder has a name, from which others are made: . becomes it."""
    if not path.exists():
        raise FileError(f"no such file: {path}", way_out="check the path")
    return path if path.name.strip(".") else path.resolve()


def artifact_of(named: Path) -> Path:
    """The file that is named, or the only model file of a folder.

    Raises:
        FileError: it is missing, or a folder that holds none or several.
    """
    if not is_folder(existing(named)):
        return existing(named)
    inside = models_in(named)
    if len(inside) != 1:
        raise of_folder(named)
    say(f"of {named}: {inside[0].name}")
    return inside[0]


def artifacts_of(named: Sequence[Path]) -> list[Path]:
    """The files that are named, and of a folder every model file in it.

    Raises:
        FileError: one is missing, or a folder that holds none.
    """
    found: dict[Path, None] = {}
    for path in named:
        inside = models_in(path) if is_folder(existing(path)) else (existing(path),)
        if not inside:
            raise of_folder(path)
        if inside[0].parent == path:
            say(f"of {path}: {', '.join(one.name for one in inside)}")
        found |= dict.fromkeys(inside)
    return list(found)


def _state() -> dict[str, list[str]]:
    try:
        state = documents.parse_json(documents.read_text(STATE))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """`name=value` of a repeatable flag.

    >>> pairs(["layers.*=2:4", "depthwise = skip"], "--rule")
    {'layers.*': '2:4', 'depthwise': 'skip'}

    Raises:
        UsageError: not of that form.
    """
    found = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.rpartition("="))
        if not name or not equals or not value:
            raise UsageError(f"cannot read {flag} {text!r}", way_out=f"write {flag} NAME=VALUE")
        found[name] = value
    return found


def _literal(text: str) -> bool | int | float | str:
    """true, false, a number, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def share(target: str | float) -> float | None:
    """A share of zeros in (0, 1); None where `target` is a word, which then names a device.

    Raises:
        UsageError: a number outside (0, 1).
    """
    text = str(target).strip()
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        if re.fullmatch(r"[0-9]*,[0-9]+ *%?", text):
            point = text.replace(",", ".")
            raise UsageError(f"--target {target} is neither a share nor a device", way_out=f"write {point}") from None
        return None
    if not 0 < value < 1:
        raise UsageError(f"--target {target} is not between 0 and 1", way_out="0.9 makes 90 % of the weights zero")
    return value
