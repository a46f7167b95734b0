"""What the shapes of stored weights say of the arguments of the layers that hold them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from idp_deploy.surveying.definitions import last_name

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """A layer: its first arguments in order, and for each known one (parameter, axis) where its value stands."""

    arguments: tuple[str, ...]
    sizes: Mapping[str, tuple[str, int]]


_CONV = Kind(
    ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    {"in_channels": ("weight", 1), "out_channels": ("weight", 0), "kernel_size": ("weight", 2)},
)
_NORM = Kind(("num_features",), {"num_features": ("weight", 0)})
_TRANSPOSED = Kind(
    ("in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups", "bias", "dilation"),
    {"in_channels": ("weight", 0), "out_channels": ("weight", 1), "kernel_size": ("weight", 2)},
)
_RECURRENT = Kind(
    ("input_size", "hidden_size", "num_layers"),
    {"input_size": ("weight_ih_l0", 1), "hidden_size": ("weight_hh_l0", 1)},
)
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _CONV),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), _NORM),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _TRANSPOSED),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _RECURRENT),
    "LayerNorm": Kind(("normalized_shape",), {"normalized_shape": ("weight", 0)}),
    "GroupNorm": Kind(("num_groups", "num_channels"), {"num_channels": ("weight", 0)}),
    "MultiheadAttention": Kind(("embed_dim", "num_heads"), {"embed_dim": ("in_proj_weight", 1)}),
    "TransformerEncoder": Kind(("encoder_layer", "num_layers"), {}),
    "TransformerEncoderLayer": Kind(
        ("d_model", "nhead", "dim_feedforward"),
        {"d_model": ("linear1.weight", 1), "dim_feedforward": ("linear1.weight", 0)},
    ),
    "Linear": Kind(("in_features", "out_features"), {"out_features": ("weight", 0), "in_features": ("weight", 1)}),
    "Embedding": Kind(
        ("num_embeddings", "embedding_dim"), {"num_embeddings": ("weight", 0), "embedding_dim": ("weight", 1)}
    ),
}


def call_kind(call: ast.Call) -> str:
    """`Conv2d`."""
    return last_name(call.func)


def unwrapped(call: ast.Call) -> ast.Call:
    """The layer inside of what is put around it: `spectral_norm(nn.Conv2d(3, 8, 3))`, `init(nn.Linear(8, 2), 0.1)`.

    >>> ast.unparse(unwrapped(ast.parse("init(nn.Linear(8, 2), 0.1)", mode="eval").body))
    'nn.Linear(8, 2)'
    """
    inner = call.args[0] if call.args else None
    around = call_kind(call)[:1].islower() and call_kind(call) not in ("list", "tuple", "dict")
    made = isinstance(inner, ast.Call) and (call_kind(inner) in KINDS or call_kind(inner) in ("Sequential", *_AROUND))
    made = made and (around or call_kind(call) in _AROUND)
    return unwrapped(inner) if made and isinstance(inner, ast.Call) else call


_AROUND = ("DataParallel", "TimeDistributed")


def leaves(layers: Mapping[str, ast.Call], prefix: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Layers by dotted name; a Sequential and a ModuleDict are looked into."""
    for name, call in ((name, unwrapped(call)) for name, call in layers.items()):
        named_entries = dict(entries_of(call)) if call_kind(call) in ("Sequential", "ModuleDict") else {}
        if named_entries:
            yield from leaves(named_entries, f"{prefix}{name}.")
        elif call_kind(call) == "Sequential" and not any(isinstance(item, ast.Starred) for item in call.args):
            inside = {str(index): item for index, item in enumerate(call.args) if isinstance(item, ast.Call)}
            yield from leaves({key: unwrapped(item) for key, item in inside.items()}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", call


def entries_of(call: ast.Call) -> Iterator[tuple[str, ast.Call]]:
    """Of `ModuleDict({"a": f()})`, `ModuleDict(dict(a=f()))` and `Sequential(OrderedDict([("a", f())]))`."""
    given = call.args[0] if call.args else None
    pairs: list[tuple[ast.expr | None, ast.expr]] = []
    if isinstance(given, ast.Call) and call_kind(given) in ("dict", "OrderedDict"):
        yield from ((word.arg, word.value) for word in given.keywords if word.arg and isinstance(word.value, ast.Call))
        given = given.args[0] if given.args else None
    if isinstance(given, ast.Dict):
        pairs = list(zip(given.keys, given.values, strict=True))
    elif isinstance(given, ast.List | ast.Tuple):
        pairs = [(one.elts[0], one.elts[1]) for one in given.elts if isinstance(one, ast.Tuple) and len(one.elts) == 2]
    for key, value in pairs:
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and isinstance(value, ast.Call):
            yield key.value, value


def argument(call: ast.Call, kind: Kind, name: str) -> ast.expr | None:
    """What a layer was given under this name, by position or by keyword."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    index = kind.arguments.index(name)
    return call.args[index] if index < len(call.args) else None


def literal(node: ast.expr | None, constants: Mapping[str, object]) -> object:
    """The value of an expression that is a literal or the name of one; None where it is neither."""
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    try:
        value = ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if is_writable(value) else None


def is_writable(value: object) -> bool:
    """Whether a literal holds no number longer than any size is: Python does not write out those.

    Lists that YAML lets hold each other, or one a thousand times, are looked into once.

    >>> is_writable([3, (4,)]), is_writable({"a": 1 << 20_000})
    (True, False)
    >>> within = [1]; within.append(within)
    >>> is_writable(within)
    True
    """
    left, seen = [value], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, int) and one.bit_length() > _MOST_BITS:
            return False
        left += [*one.keys(), *one.values()] if isinstance(one, dict) else one if isinstance(one, list | tuple) else ()
    return True


_MOST_BITS = 64


def named(node: ast.expr) -> str:
    """`width`, `config.width` and `config.model.width`; "" for anything else."""
    if isinstance(node, ast.Attribute):
        owner = named(node.value)
        return f"{owner}.{node.attr}" if owner and owner != "self" else ""
    return node.id if isinstance(node, ast.Name) else ""


def solved(
    node: ast.expr, value: int, known: Mapping[str, object] | None = None, shares: frozenset[str] = frozenset()
) -> tuple[str, int | float] | None:
    """(name, the least that it can be) where an expression holds one name that is not known.

    Args:
        shares: names that need not be whole numbers.

    >>> solved(ast.parse("2 * width", mode="eval").body, 64)
    ('width', 32)
    >>> solved(ast.parse("(size // patch) ** 2 + 1", mode="eval").body, 37, {"patch": 8})
    ('size', 48)
    >>> solved(ast.parse("(size // 4) * (size // 4)", mode="eval").body, 36)
    ('size', 24)
    >>> solved(ast.parse("int(32 * width)", mode="eval").body, 8, shares=frozenset(("width",)))
    ('width', 0.25)
    """
    known = known or {}
    if name := named(node):
        return None if name in known else (name, value)
    names = {name for inner in ast.walk(node) if isinstance(inner, ast.expr) and (name := named(inner))} - _FUNCTIONS
    owners = {name.rsplit(".", count)[0] for name in names for count in range(1, name.count(".") + 1)}
    unknown = [name for name in names - owners if not isinstance(known.get(name), int | float)]
    if len(unknown) != 1:
        return None
    try:
        size = _inverted(node, value, known)
    except OverflowError:
        return None
    if size is None or size <= 0:
        return None
    likely = (round(size, 2), round(size, 4)) if unknown[0] in shares else (round(size),)
    return next(
        ((unknown[0], one) for one in likely if one and evaluated(node, {**known, unknown[0]: one}) == value), None
    )


def _inverted(node: ast.expr, value: float, known: Mapping[str, object]) -> float | None:
    """What the one unknown name of an expression is, where it stands in it once."""
    if named(node):
        return value
    if isinstance(node, ast.Call) and call_kind(node) in _FUNCTIONS and len(node.args) == 1:
        return _inverted(node.args[0], value, known)
    if not isinstance(node, ast.BinOp):
        return None
    left, right = evaluated(node.left, known), evaluated(node.right, known)
    if left is None and isinstance(node.op, ast.Mult) and ast.dump(node.left) == ast.dump(node.right):
        return _inverted(node.left, abs(value) ** 0.5, known)
    if (left is None) == (right is None):
        return None
    inner, other = (node.left, right) if left is None else (node.right, left)
    undone = _UNDONE.get((type(node.op), left is None))
    return _inverted(inner, undone(value, other), known) if undone and other else None


def evaluated(node: ast.expr, known: Mapping[str, object]) -> float | None:
    """The value of an expression of numbers and names; None where it holds anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int | float) else None
    if name := named(node):
        value = known.get(name)
        return value if isinstance(value, int | float) else None
    if isinstance(node, ast.Call) and call_kind(node) in _FUNCTIONS and len(node.args) == 1:
        inner = evaluated(node.args[0], known)
        return None if inner is None else round(inner) if call_kind(node) == "round" else int(inner)
    if not isinstance(node, ast.BinOp) or type(node.op) not in ARITHMETIC:
        return None
    left, right = evaluated(node.left, known), evaluated(node.right, known)
    if left is None or right is None or (isinstance(node.op, ast.Pow) and not 0 <= right <= _MOST_POWER):
        return None
    try:
        return ARITHMETIC[type(node.op)](left, right)
    except (ZeroDivisionError, OverflowError):
        return None


_MOST_POWER = 4
_FUNCTIONS = {"int", "round"}
ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNDONE: Mapping[tuple[type[ast.operator], bool], Callable[[float, float], float]] = {  # whether the left is sought
    (ast.Add, True): lambda value, other: value - other,
    (ast.Add, False): lambda value, other: value - other,
    (ast.Sub, True): lambda value, other: value + other,
    (ast.Sub, False): lambda value, other: other - value,
    (ast.Mult, True): lambda value, other: value / other,
    (ast.Mult, False): lambda value, other: value / other,
    (ast.FloorDiv, True): lambda value, other: value * other,
    (ast.Div, True): lambda value, other: value * other,
    (ast.Pow, True): lambda value, other: abs(value) ** (1 / other),
}
