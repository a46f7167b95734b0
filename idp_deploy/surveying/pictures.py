"""Height and width of a picture, by the surest source that has a size which the model takes."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from math import isqrt

from idp_deploy.surveying.effects import Shape
from idp_deploy.surveying.fitting import Choice
from idp_deploy.surveying.layers import literal
from idp_deploy.surveying.sources import Found
from idp_deploy.surveying.trials import Trial

_CROPS = ("CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize")  # what comes last in a pipeline first
_SIZES = (
    *("img_size", "image_size", "input_size", "crop_size", "resolution", "imgsz", "img_sz", "im_size", "imsize"),
    *("image_height", "img_height", "image_h", "img_h", "img_dim", "image_dim", "size"),
)
_DATASETS = {"CIFAR10": 32, "CIFAR100": 32, "SVHN": 32, "MNIST": 28, "FashionMNIST": 28, "KMNIST": 28, "STL10": 96}
_POOLED = ("AdaptiveAvgPool2d", "adaptive_avg_pool2d", "AdaptiveMaxPool2d", "adaptive_max_pool2d")
_LIKELY = (32, 28, 64, 96, 128, 160, 192, 224, 227, 256, 299, 48, 40, 84, 100, 105, 112, 150, 200, 384, 448, 512)
_USUAL = (224, 256, 128, 64, 32, 28, 384, 512, 227, 299, 240, 320)  # where any size will do
Put = Callable[[Shape], Sequence[Shape | None]]  # all inputs, given one


def picture(trial: Trial, first: Shape, put: Put) -> tuple[tuple[int, int] | None, str]:
    """(height and width or None, what tells them).

    Args:
        first: as the first layer takes it. put: all inputs, given this one.
    """
    found, choice = trial.found, trial.choice

    def fits(height: int, width: int = 0) -> bool:
        return trial.fits(put((*first[:2], height, width or height)))

    for height, width, why in _heights_and_widths(found, choice):
        if fits(height, width):
            return (height, width), why
    sizes = sorted(_LIKELY, key=lambda size: (first[1] == 1) != (size == 28))
    if not fits(1021):  # no model has this size, so that one which looks at it does not take it
        for size in sizes:
            follower = trial.follow(put((*first[:2], size, size)))
            if follower is not None and follower.checked and not follower.blind:
                return (size, size), "the only usual size that gives the first linear layer its inputs"
    for size, why in _said(found, choice, first):
        if fits(size):
            return (size, size), why
    probed = trial.follow(put((*first[:2], 1024, 1024)))
    if probed is not None and not (probed.dark and probed.blind):
        size = next((size for size in _USUAL if trial.takes(put((*first[:2], size, size)))), 0)
        if size:
            return (size, size), "a usual size: nothing in the model or beside it asks for another"
    if size := _least(trial, first, put):
        return (size, size), "the least size that gives its layers what they were made for"
    return None, "height and width cannot be told from the code"


def _least(trial: Trial, first: Shape, put: Put) -> int:
    """The side of a square that gives a matrix as many values as it has, by how far off a large one is; 0 for none."""
    gap = trial.gap(put((*first[:2], _LARGE, _LARGE)))
    if gap is None:
        return 0
    got, wanted = gap
    about = isqrt(_LARGE * _LARGE * wanted // got)
    for size in range(max(1, about - _NEAR), about + _NEAR):
        follower = trial.follow(put((*first[:2], size, size)))
        if follower is not None and not (follower.dark or follower.blind or follower.lost):
            return size
    return 0


_LARGE, _NEAR = 1020, 40


def _heights_and_widths(found: Found, choice: Choice) -> Iterator[tuple[int, int, str]]:
    """Pairs such as IMG_H and IMG_W, of the code, its settings or the arguments."""
    for source in (choice.arguments, usual(choice), found.constants, found.settings):
        low = {name.lower(): value for name, value in source.items()}
        for start in ("img_", "image_", "input_", "screen_", "img", "image", "im", ""):
            for high, wide in (("height", "width"), ("h", "w")):
                pair = (low.get(start + high), low.get(start + wide))
                if all(isinstance(one, int) and one > 1 for one in pair):
                    yield *pair, f"as {start + high} and {start + wide} are"  # type: ignore[misc]


def _said(found: Found, choice: Choice, first: Shape) -> Iterator[tuple[int, str]]:
    """Sizes that something names, the surest first."""
    for name in _CROPS:
        for call in found.calls.get(name, ()):
            value = literal(call.args[0], found.constants) if call.args else None
            value = value[-1] if isinstance(value, tuple | list) and value else value
            if isinstance(value, int):
                yield value, f"as {name} leaves it in the code"
    for name, value in (*found.constants.items(), *found.settings.items()):
        last: object = value[-1] if isinstance(value, tuple | list) and value else value
        if name.lower() in _SIZES and isinstance(last, int) and last > 1:
            yield last, f"as {name} says in the {'code' if name in found.constants else 'settings'}"
    for name, value in (*choice.arguments.items(), *usual(choice).items()):
        if name.lower() in _SIZES and isinstance(value, int) and value > 1:
            yield value, f"as {name} is"
    for name, size in _DATASETS.items():
        if name in found.calls:
            yield size, f"as {name} has it"
    if choice.definition.library or not (choice.definition.is_class or choice.definition.returns):
        yield 224, "a usual size: models of that library pool over whatever they are given"
    if any(name in found.calls for name in _POOLED) or any(map(_averages, found.calls.get("mean", ()))):
        yield 224 if first[1] == 3 else 28, "a usual size: the model pools over whatever it is given"


def usual(choice: Choice) -> dict[str, object]:
    """Defaults of its arguments."""
    return {name: literal(node, {}) for name, node in choice.definition.parameters.items()}


def _averages(call: ast.Call) -> bool:
    """Whether a `mean` runs over height and width.

    >>> [_averages(ast.parse(text).body[0].value) for text in ("x.mean((2, 3))", "x.mean(dim=[-1, -2])", "x.mean(1)")]
    [True, True, False]
    """
    nodes = [*call.args, *(word.value for word in call.keywords if word.arg in ("dim", "axis"))]
    axes = [value for node in nodes if isinstance(value := literal(node, {}), tuple | list)]
    return any(sorted(axis) in ([2, 3], [-2, -1]) for axis in axes if all(isinstance(one, int) for one in axis))
