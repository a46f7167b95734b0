"""The shape of the model's input, where source, weights or an exported file tell it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from idp_deploy.errors import IdpDeployError
from idp_deploy.reading import read
from idp_deploy.surveying.calling import value_of
from idp_deploy.surveying.configs import configuration_beside, input_of
from idp_deploy.surveying.definitions import last_name
from idp_deploy.surveying.effects import Shape
from idp_deploy.surveying.fitting import Choice
from idp_deploy.surveying.layers import KINDS, argument, call_kind, leaves, literal
from idp_deploy.surveying.pictures import Put, picture, usual
from idp_deploy.surveying.sources import Found
from idp_deploy.surveying.trials import Trial, held, stored

_DRAWN = ("randn", "rand", "zeros", "ones", "empty", "randint")
_RATES = ("sample_rate", "sampling_rate", "sr", "n_samples", "num_samples", "segment_length")
_COUNTS = ("num_points", "n_points", "npoints", "seq_len", "seq_length", "sequence_length", "window", "window_size")
_STEPPING = ("TransformerEncoder", "TransformerEncoderLayer", "MultiheadAttention")
SEQUENCE = 32  # steps, where any number will do
_LENGTHS = (SEQUENCE, 64, 128, 256, 512, 1024, 4096, 8000, 16000, 32000, 48000, 65536)
_CLIPS = ((16, 112, 112), (8, 224, 224), (32, 32, 32), (64, 64, 64), (16, 224, 224))  # frames or slices, height, width
_TIMES = re.compile(r"(?i)^(t|ts|time|times|timesteps?|step|noise_level|sigma)$")
_GRAPHS = re.compile(r"(?i)(^|_)(adj|adjacency|laplacian)(_|$)|^a$")


@dataclass(frozen=True)
class Guess:
    """Entries of `inputs`, empty where nothing tells them, and what told them."""

    inputs: tuple[str, ...]
    source: str
    template: str = "1x3x224x224"  # to be filled in, where `inputs` is empty


@dataclass(frozen=True)
class _First:
    """What the first layer says: dimensions with their batch, None where any size may stand."""

    shape: tuple[int | None, ...]
    dtype: str = ""


def guess(found: Found, choice: Choice | None, exports: Sequence[Path]) -> Guess:
    """The input shape, by the surest source that has one."""
    first = _first(choice) if choice else None
    if choice is None:
        return Guess((), "no model was found")
    for path in exports:
        if (shapes := _of_export(path)) and len(shapes) == len(choice.inputs) and _takes(first, shapes):
            return Guess(shapes, f"as {path.name} takes it")
    if choice.definition.spec.startswith("transformers:") and choice.weights is not None:
        entry, why = input_of(configuration_beside(choice.weights.path), choice.weights.shapes)
        return Guess((entry,) if entry else (), why, entry or "my_data:example_inputs")
    if choice.keys:
        keys = ", ".join(map(repr, choice.keys))
        return Guess((), f"forward takes a dict with {keys}: a function that returns (dict,)", "my_data:example_inputs")
    trial = Trial(found, choice)
    if len(choice.inputs) != 1:
        return _several(trial)
    flow = trial.probed.flows.get(choice.inputs[0], ("", 0))[0]
    first = (_first(choice, flow) if flow else None) or first
    for name, shape in _drawn(found):
        if (first is None and not choice.definition.is_class) or trial.sure(shape):
            return Guess((_whole(name, shape),), f"as torch.{name} makes it in the code")
        if (
            first is not None
            and (_agrees(shape, first.shape) or _flat(shape, first, found))
            and trial.fits([(1, *shape[1:])])
        ):
            return Guess((_whole(name, shape),), f"as torch.{name} makes it in the code")
    if first is None:
        return Guess((), "the first layer does not tell it")
    if None not in first.shape:
        rows = (1, SEQUENCE, *first.shape[1:])
        steps = any(call_kind(call) in _STEPPING for _, call in leaves(choice.layers))
        if (steps and trial.fits([rows])) or (not trial.fits([first.shape]) and trial.sure(rows)):
            return Guess((_text(_First(rows, first.dtype)),), f"as the first layer takes it, {SEQUENCE} of them")
        if not trial.fits([first.shape]):
            return Guess((), "what comes before the first matrix does not tell it", _text(first))
        return Guess((_text(first),), "as the first layer takes it")
    size, why = _extents_of(trial, first)
    return (
        Guess((_text(size),), why) if size else Guess((), why, _text(first, 224 if len(first.shape) > 3 else SEQUENCE))
    )


def _extents_of(trial: Trial, first: _First, put: Put = lambda shape: [shape]) -> tuple[_First | None, str]:
    """A whole shape for what is open in one, and what tells it.

    Args:
        put: all inputs, given this one.
    """

    def tried(shapes: Iterable[Shape]) -> Shape | None:
        return next((shape for shape in shapes if trial.takes(put(shape))), None)

    if len(first.shape) == 4:
        size, why = picture(trial, first.shape, put)
        return (_First((*first.shape[:2], *size)) if size else None, why)
    if first.dtype or len(first.shape) == 3:
        steps, most = _steps(trial)
        found = trial.found
        names, sources = (
            (*_COUNTS, *_RATES),
            (found.constants, found.settings, usual(trial.choice), trial.choice.arguments),
        )
        said = [value for source in sources if (value := held({k.lower(): v for k, v in source.items()}, names))]
        lengths = [steps] if most else [*dict.fromkeys((steps, *said, *_LENGTHS))]
        shapes = [tuple(extent or length for extent in first.shape) for length in lengths]
        channels = first.shape[1]
        turned: list[Shape] = (
            [(1, length, channels) for length in lengths] if len(first.shape) == 3 and channels else []
        )
        turned += [(1, length) for length in lengths] if channels == 1 else []
        shape = tried((*shapes, *turned))
        if shape is None:
            return None, "how many steps it takes cannot be told from the code"
        if steps in shape[1:]:
            return _First(shape, first.dtype), f"{steps} steps: any number {f'up to {most} ' if most else ''}will do"
        return _First(shape, first.dtype), "steps enough for all its layers"
    clip = tried((1, first.shape[1], *clip) for clip in _CLIPS)
    return (_First(clip), "a usual clip") if clip else (None, "the first layer does not tell it")


def _several(trial: Trial) -> Guess:
    """Inputs one by one: as a call in the code gives them, else as the layers take them that each goes into first."""
    found, choice = trial.found, trial.choice
    names = choice.inputs
    drawn = _given_together(found, choice)
    if drawn and trial.fits([tuple(map(int, one.partition(":")[0].split("x"))) for one in drawn]):
        return Guess(drawn, f"{', '.join(names)} as the code makes them")
    firsts: dict[str, _First | None] = {}
    for name in names:
        firsts[name] = _told_of(trial, name, firsts)
    open_ = [name for name, first in firsts.items() if first is None or None in first.shape]
    image = next((name for name in open_ if (first := firsts[name]) and len(first.shape) > 3), None)

    def put(shape: Shape) -> list[Shape | None]:
        return [_sized(first, shape, trial) if first else None for first in firsts.values()]

    first = firsts[image] if image else None
    size = _extents_of(trial, first, put)[0] if first else None
    shapes = [
        None if one is None or (one in map(firsts.get, open_) and len(one.shape) > 3 and size is None)
        else _text(_First(_sized(one, size.shape if size else (), trial) or (), one.dtype))
        for one in firsts.values()
    ]  # fmt: skip
    sized = [_sized(one, size.shape if size else (), trial) if one else None for one in firsts.values()]
    if all(shapes) and trial.fits(sized):
        return Guess(tuple(shape or "" for shape in shapes), f"{', '.join(names)} as their first layers take them")
    return Guess((), f"forward takes {', '.join(names)}", '", "'.join(shape or "1x…" for shape in shapes))


def _sized(first: _First, like: Shape, trial: Trial) -> Shape:
    """What is open in a shape filled in: pictures as large as another, sequences of the usual length."""
    if len(first.shape) > 3:
        return (*first.shape[:2], *like[2:]) if len(like) == len(first.shape) else first.shape
    return tuple(extent or _steps(trial)[0] for extent in first.shape)


def _told_of(trial: Trial, name: str, before: Mapping[str, _First | None]) -> _First | None:
    """What the layer says that an input goes into first, or its name."""
    choice, probed = trial.choice, trial.probed
    layer, place = probed.flows.get(name, ("", 0))
    earlier = next((one for one in reversed(list(before.values())) if one), None)
    if name in probed.columns:
        return _First((1, probed.columns[name]), "int64")
    hidden = stored(choice).get(f"{layer}.weight_hh_l0") if layer else None
    if place and hidden:
        count = sum(one.startswith(f"{layer}.weight_hh_l") for one in stored(choice))
        return _First((count, 1, hidden[-1]))
    first = _first(choice, layer) if layer else None
    if _TIMES.search(name) and earlier and (first is None or first.dtype):
        return _First((1,), first.dtype if first else "")
    if first is not None:
        return first
    if re.search("mask", name) and earlier and earlier.dtype == "int64":
        return earlier  # which entries count, as tokenizers give it
    if _GRAPHS.search(name) and earlier:
        return _First((earlier.shape[-2] if len(earlier.shape) > 1 and earlier.shape[-2] != 1 else SEQUENCE,) * 2)
    if probed.widths.get(name):
        graph = any(_GRAPHS.search(other) for other in choice.inputs)
        return _First((SEQUENCE if graph else 1, probed.widths[name]))
    return None


def _given_together(found: Found, choice: Choice) -> tuple[str, ...]:
    """Of a call in the code with as many drawn tensors as forward takes inputs."""
    tensors = {name: call for name, call in found.assigned.items() if last_name(call.func) in _DRAWN}
    for call in (call for calls in found.calls.values() for call in calls if len(call.args) == len(choice.inputs)):
        nodes = [tensors.get(node.id) if isinstance(node, ast.Name) else node for node in call.args]
        made = [node for node in nodes if isinstance(node, ast.Call) and last_name(node.func) in _DRAWN]
        if len(made) == len(choice.inputs):
            shapes = [(last_name(node.func), _extents(last_name(node.func), node, found)) for node in made]
            if all(shape for _, shape in shapes):
                return tuple(_whole(name, shape) for name, shape in shapes)
    return ()


def _whole(name: str, shape: Sequence[int]) -> str:
    return "x".join(map(str, (1, *shape[1:]))) + (":int64" if name == "randint" else "")


def _flat(shape: Sequence[int], first: _First, found: Found) -> bool:
    """Whether the first layer takes it flattened."""
    flattens = any(name in found.calls for name in ("flatten", "Flatten", "view", "reshape"))
    return flattens and len(first.shape) == 2 and prod(shape[1:]) == first.shape[1]


def _steps(trial: Trial) -> tuple[int, int]:
    """(how many steps of a sequence to take, the most that learnt positions allow or 0)."""
    table = stored(trial.choice).items()
    rows = [shape[-2] for name, shape in table if re.search(r"(^|[._])pos", name) and len(shape) > 1]
    most = min((count for count in (*rows, trial.probed.places) if count > 1), default=0)
    return min(SEQUENCE, most or SEQUENCE), most


def _text(first: _First, size: int = 1) -> str:
    return "x".join(str(extent or size) for extent in first.shape) + (f":{first.dtype}" if first.dtype else "")


def _agrees(shape: Sequence[int], pattern: Sequence[int | None]) -> bool:
    """
    >>> _agrees((8, 3, 64, 64), (1, 3, None, None)), _agrees((8, 1, 64, 64), (1, 3, None, None))
    (True, False)
    """
    rest = zip(shape[1:], pattern[1:], strict=False)
    return len(shape) == len(pattern) and all(want in (None, extent) for extent, want in rest)


def _takes(first: _First | None, shapes: Sequence[str]) -> bool:
    """Whether a first layer with a kernel takes as many dimensions; before any other, some may be taken together.

    >>> _takes(_First((1, 3, None, None)), ["1x3"]), _takes(_First((1, 3)), ["1x16x3"])
    (False, True)
    """
    if first is None or len(first.shape) < 3 or len(shapes) != 1:
        return True
    return len(shapes[0].partition(":")[0].split("x")) == len(first.shape)


def _first(choice: Choice, inside: str = "") -> _First | None:
    """From the first layer with weights, in the order of the file; without a file, in that of the source.

    Args:
        inside: the layer that it is or is a part of.
    """
    calls = dict(leaves(choice.layers))
    kinds = {name: call_kind(call) for name, call in calls.items()}
    for name, shape in stored(choice).items():
        layer, _, parameter = name.rpartition(".")
        if not f"{layer}.".startswith(f"{inside}." if inside else ""):
            continue
        kind = kinds.get(layer, "")
        if parameter == "weight_ih_l0":
            return _First((1, None, shape[1]))
        if parameter == "weight" and kind == "BatchNorm1d" and inside:
            return _First((1, shape[0]))
        if parameter != "weight" or len(shape) < 2:
            continue
        if kind == "Embedding" or (not kind and "emb" in layer):
            return _First((1, None), "int64")
        if len(shape) == 2:
            return _First((1, shape[1])) if kind == "Linear" or not kind else None
        if kind.startswith("ConvTranspose"):  # which begins a generator: what is drawn has no height yet
            stride = literal(argument(calls[layer], KINDS[kind], "stride"), {})
            return _First((1, shape[0], *([1 if stride in (None, 1) else None] * (len(shape) - 2))))
        return _First((1, shape[1], *([None] * (len(shape) - 2))))
    own = dict(leaves(choice.definition.layers))
    for layer, call in leaves(choice.layers):
        if not f"{layer}.".startswith(f"{inside}." if inside else ""):
            continue
        kind = call_kind(call)
        if kind in ("LayerNorm", "GroupNorm"):
            continue
        known = {**usual(choice), **choice.arguments} if layer in own else {}
        size = literal(call.args[0], known) if call.args else None
        if kind in KINDS:
            dimensions = {"Conv1d": 1, "Conv2d": 2, "Conv3d": 3, "Linear": 0}.get(kind)
            return (
                _First((1, size, *([None] * dimensions))) if dimensions is not None and isinstance(size, int) else None
            )
    return None


def _drawn(found: Found) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Shapes of example tensors in the code."""
    for name in _DRAWN:
        for call in found.calls.get(name, ()):
            if shape := _extents(name, call, found):
                yield name, shape


def _extents(name: str, call: ast.Call, found: Found) -> tuple[int, ...]:
    """The shape that torch's function of that name is asked for, with a batch of one; empty where it is not told."""
    nodes = [word.value for word in call.keywords if word.arg == "size"] or list(call.args)
    if name == "randint":
        nodes = nodes[-1:]
    if len(nodes) == 1 and isinstance(nodes[0], ast.Tuple | ast.List):
        nodes = list(nodes[0].elts)
    values = [value_of(node, found) for node in nodes]
    flat = values[0] if len(values) == 1 and isinstance(values[0], tuple | list) else values
    extents = [extent for extent in tuple(flat)[1:] if isinstance(extent, int) and extent > 0]  # whatever the batch is
    return (1, *extents) if extents and len(extents) == len(flat) - 1 else ()


def _of_export(path: Path) -> tuple[str, ...]:
    """Inputs of an exported file in the model's layout; nothing where an extent other than the batch is open."""
    try:
        contents = read(path)
    except IdpDeployError:
        return ()
    if contents.format != "onnx":  # the others may have moved the channels
        return ()
    found = []
    for name in contents.inputs:
        value = contents.values.get(name)
        if value is None or not value.shape or any(extent < 1 for extent in value.shape[1:]):
            return ()
        dtype = "" if value.dtype == "float32" else f":{value.dtype}"
        found.append("x".join(map(str, (1, *value.shape[1:]))) + dtype)
    return tuple(found)
