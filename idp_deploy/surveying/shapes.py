"""The shape of the model's input, where source, weights or an exported file tell it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from idp_deploy.errors import IdpDeployError
from idp_deploy.reading import read
from idp_deploy.surveying.definitions import last_name
from idp_deploy.surveying.fitting import Choice, value_of
from idp_deploy.surveying.layers import KINDS, argument, call_kind, leaves, literal
from idp_deploy.surveying.sources import Found

_DRAWN = ("randn", "rand", "zeros", "ones", "empty", "randint")
_CROPS = ("CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize")  # what comes last in a pipeline first
_SIZES = ("img_size", "image_size", "input_size", "crop_size", "resolution")
_DATASETS = {"CIFAR10": 32, "CIFAR100": 32, "SVHN": 32, "MNIST": 28, "FashionMNIST": 28, "KMNIST": 28, "STL10": 96}
_POOLED = ("AdaptiveAvgPool2d", "adaptive_avg_pool2d", "AdaptiveMaxPool2d", "adaptive_max_pool2d")
_LIKELY = (32, 28, 64, 96, 128, 160, 192, 224, 227, 256, 299)
SEQUENCE = 32  # steps, where any number will do
_POOLS = ("MaxPool2d", "AvgPool2d", "max_pool2d", "avg_pool2d")


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
    if choice.keys:
        keys = ", ".join(map(repr, choice.keys))
        return Guess((), f"forward takes a dict with {keys}: a function that returns (dict,)", "my_data:example_inputs")
    if len(choice.inputs) != 1:
        return _several(found, choice)
    for name, shape in _drawn(found):
        if first is None or _agrees(shape, first.shape) or _flat(shape, first, found):
            return Guess((_whole(name, shape),), f"as torch.{name} makes it in the code")
    if first is None:
        return Guess((), "the first layer does not tell it")
    if None not in first.shape:
        return Guess((_text(first),), "as the first layer takes it")
    if len(first.shape) == 4:
        size, why = _image_size(found, choice, first)
        if size:
            return Guess((_text(first, size),), why)
        return Guess((), "height and width cannot be told from the code", _text(first, 224))
    if first.dtype or len(first.shape) == 3:
        steps, most = _steps(choice)
        return Guess((_text(first, steps),), f"{steps} steps: any number {f'up to {most} ' if most else ''}will do")
    return Guess((), "the first layer does not tell it", _text(first, 224))


def _several(found: Found, choice: Choice) -> Guess:
    """Inputs one by one: as a call in the code gives them, else as the layers take them that each goes into first."""
    names = choice.inputs
    drawn = _given_together(found, choice)
    if drawn:
        return Guess(drawn, f"{', '.join(names)} as the code makes them")
    shapes: list[str | None] = []
    for name in names:
        first = _first(choice, choice.flows[name]) if name in choice.flows else None
        if first is None and re.search("mask", name) and shapes and shapes[-1] and shapes[-1].endswith(":int64"):
            shapes.append(shapes[-1])  # which entries count, as tokenizers give it
            continue
        size = _image_size(found, choice, first)[0] if first and len(first.shape) == 4 else _steps(choice)[0]
        told = first is not None and (size or None not in first.shape)
        shapes.append(_text(first, size) if first and told else None)
    if all(shapes):
        return Guess(tuple(shape or "" for shape in shapes), f"{', '.join(names)} as their first layers take them")
    return Guess((), f"forward takes {', '.join(names)}", '", "'.join(shape or "1x…" for shape in shapes))


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


def _steps(choice: Choice) -> tuple[int, int]:
    """(how many steps of a sequence to take, the most that learnt positions allow or 0)."""
    rows = [shape for name, shape in _stored(choice).items() if re.search(r"(^|[._])pos", name) and len(shape) > 1]
    most = min((shape[-2] for shape in rows if shape[-2] > 1), default=0)
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


def _stored(choice: Choice) -> dict[str, tuple[int, ...]]:
    if choice.weights is None:
        return {}
    start = f"{choice.prefix}." if choice.prefix else ""
    names = {n.removeprefix(start): s for n, s in choice.weights.shapes.items() if n.startswith(start)}
    tops = dict.fromkeys(layer.partition(".")[0] for layer in choice.layers)
    order = {top: place for place, top in enumerate(tops)}  # a .safetensors file sorts by name
    unknown = names.items() if not order else ()
    likely = [name for name, shape in unknown if len(shape) == 4 and shape[1] == 3]  # takes a picture
    likely += [name for name, shape in unknown if len(shape) == 2 and "emb" in name]

    def place(name: str) -> tuple[bool, int]:
        return (bool(likely) and name != likely[0], order.get(name.partition(".")[0], len(order)))

    return {name: names[name] for name in sorted(names, key=place)}


def _first(choice: Choice, inside: str = "") -> _First | None:
    """From the first layer with weights, in the order of the file; without a file, in that of the source.

    Args:
        inside: the layer that it is or is a part of.
    """
    kinds = {name: call_kind(call) for name, call in leaves(choice.layers)}
    for name, shape in _stored(choice).items():
        layer, _, parameter = name.rpartition(".")
        if not f"{layer}.".startswith(f"{inside}." if inside else ""):
            continue
        kind = kinds.get(layer, "")
        if parameter == "weight_ih_l0":
            return _First((1, None, shape[1]))
        if parameter != "weight" or len(shape) < 2:
            continue
        if kind == "Embedding" or (not kind and "emb" in layer):
            return _First((1, None), "int64")
        if len(shape) == 2:
            return _First((1, shape[1])) if kind == "Linear" or not kind else None
        return _First((1, shape[1], *([None] * (len(shape) - 2))))
    for layer, call in leaves(choice.layers):
        if not f"{layer}.".startswith(f"{inside}." if inside else ""):
            continue
        kind = call_kind(call)
        if kind in ("LayerNorm", "GroupNorm"):
            continue
        size = literal(call.args[0], choice.arguments) if call.args else None
        if kind in KINDS and isinstance(size, int):
            dimensions = {"Conv1d": 1, "Conv2d": 2, "Conv3d": 3, "Linear": 0}.get(kind)
            return _First((1, size, *([None] * dimensions))) if dimensions is not None else None
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


def _image_size(found: Found, choice: Choice, first: _First) -> tuple[int, str]:
    if size := _flattened(found, choice, first):
        return size, "the only usual size that gives the first linear layer its inputs"
    for name in _CROPS:
        for call in found.calls.get(name, ()):
            value = literal(call.args[0], found.constants) if call.args else None
            value = value[-1] if isinstance(value, tuple | list) and value else value
            if isinstance(value, int):
                return value, f"as {name} leaves it in the code"
    for name, value in (*found.constants.items(), *found.settings.items()):
        last: object = value[-1] if isinstance(value, tuple | list) and value else value
        if name.lower() in _SIZES and isinstance(last, int) and last > 1:
            return last, f"as {name} says in the {'code' if name in found.constants else 'settings'}"
    own = {name: literal(node, found.constants) for name, node in choice.definition.parameters.items()}
    for name, value in (*choice.arguments.items(), *own.items()):
        if name.lower() in _SIZES and isinstance(value, int) and value > 1:
            return value, f"as {name} is"
    for name, size in _DATASETS.items():
        if name in found.calls:
            return size, f"as {name} has it"
    if choice.definition.library or not (choice.definition.is_class or choice.definition.returns):
        return 224, "a usual size: models of that library pool over whatever they are given"
    if any(name in found.calls for name in _POOLED) or any(map(_averages, found.calls.get("mean", ()))):
        return 224 if first.shape[1] == 3 else 28, "a usual size: the model pools over whatever it is given"
    return 0, ""


def _averages(call: ast.Call) -> bool:
    """Whether a `mean` runs over height and width.

    >>> [_averages(ast.parse(text).body[0].value) for text in ("x.mean((2, 3))", "x.mean(dim=[-1, -2])", "x.mean(1)")]
    [True, True, False]
    """
    nodes = [*call.args, *(word.value for word in call.keywords if word.arg in ("dim", "axis"))]
    axes = [value for node in nodes if isinstance(value := literal(node, {}), tuple | list)]
    return any(sorted(axis) in ([2, 3], [-2, -1]) for axis in axes if all(isinstance(one, int) for one in axis))


def _flattened(found: Found, choice: Choice, first: _First) -> int:
    """The usual size at which convolutions and pools leave as many values as the first linear layer takes; else 0."""
    shapes = _stored(choice)
    steps: list[tuple[int, int, int]] = []  # kernel, stride, padding
    channels, wanted = 0, 0
    for name, call in leaves(choice.layers):
        kind, shape = call_kind(call), shapes.get(f"{name}.weight")
        if kind in _POOLED:
            return 0
        if kind == "Conv2d" and shape and not wanted:
            padding = literal(argument(call, KINDS[kind], "padding"), found.constants)
            stride = literal(argument(call, KINDS[kind], "stride"), found.constants)
            same = padding == "same"
            steps.append((shape[2], _int(stride, 1), shape[2] // 2 if same else _int(padding, 0)))
            channels = shape[0]
        elif kind in _POOLS and not wanted:
            steps.append(_pool(call, found.constants))
        elif kind == "Linear" and shape and not wanted:
            wanted = shape[1]
    declared = any(call_kind(call) in _POOLS for _, call in leaves(choice.layers))
    if not declared:  # called in forward, one after each convolution
        pools = [_pool(call, found.constants) for name in _POOLS for call in found.calls.get(name, ())]
        steps = [step for pair in zip(steps, [*pools, *[(1, 1, 0)] * len(steps)], strict=False) for step in pair]
    if not channels or not wanted:
        return 0
    sizes = sorted(_LIKELY, key=lambda size: (first.shape[1] == 1) != (size == 28))
    return next((size for size in sizes if channels * _after(size, steps) ** 2 == wanted), 0)


def _pool(call: object, constants: Mapping[str, object]) -> tuple[int, int, int]:
    arguments = getattr(call, "args", [])
    values = [literal(node, constants) for node in arguments if isinstance(literal(node, constants), int)]
    words = {word.arg: literal(word.value, constants) for word in getattr(call, "keywords", [])}
    kernel = _int(values[0] if values else words.get("kernel_size"), 2)
    stride = _int(values[1] if len(values) > 1 else words.get("stride"), kernel)
    return kernel, stride, _int(words.get("padding"), 0)


def _after(size: int, steps: Sequence[tuple[int, int, int]]) -> int:
    for kernel, stride, padding in steps:
        size = (size + 2 * padding - kernel) // stride + 1
        if size < 1:
            return 0
    return size


def _int(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


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
