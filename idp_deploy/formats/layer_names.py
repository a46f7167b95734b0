"""Which module of the model an operator or a tensor of a file was: the same name in every format.

The manifest names the pruned parameters of a file of ours, and others that nothing else tells. What it leaves out is
read from the tensors' own names where these are parameters' (`features.1.0.weight`), and where a format has no dots in
a name (`features_1_0_weight`), as those of the same form that the manifest names, or as a sibling of one
(`features_1_dw_weight`). What a converter made of a parameter has its module and a slash before it. Anything else, as
in many files of other tools, keeps the operator's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from idp_deploy.flow import Contents, GraphOp

_PARAMETER = re.compile(r"(?P<module>.+)\.(?:weight|bias|folded_bias|\w+_proj_weight|\w+_proj_bias)(?:_\w+)?")
_INSIDE = re.compile(r"(?P<module>[^/]+)/[^/]+")  # `encoder.rnn/val_31` in files of ours, `dense/kernel` in Keras'
_PART = re.compile(r"_[1-9]\d*$")
_NUMBER = re.compile(r"\d+")
_SIBLING = re.compile(r"([^.]+)_(folded_bias|weight|(?<!_folded_)bias)")
KERNELS_FIRST = ("weight", "bias")  # roles of an operator, the one that names it first


def key_of(name: str) -> str:
    """What layers of different formats are matched by: no format keeps every character.

    >>> key_of("features.1.0") == key_of("features_1_0")
    True
    """
    return re.sub(r"\W+", "_", name).strip("_").lower()


class _Known:
    """Modules by tensor, where the tensors of these parameters are known."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = {tensor: name for name, tensor in parameters.items()}
        self._forms = _forms(self._parameters)
        self._homes = _homes(self._parameters)

    def of_tensor(self, name: str) -> str:
        """The module whose weight or bias the tensor is; "" where its name does not tell."""
        first = _PART.sub("_0", name)  # gates of a recurrence, cut apart: the manifest names the first
        name = name if name in self._parameters or first not in self._parameters else first
        parameter = self._parameters.get(name) or self._as_others(name) or name
        if name in self._parameters:
            return parameter.rpartition(".")[0] or parameter
        found = _PARAMETER.fullmatch(parameter) or _INSIDE.fullmatch(parameter)
        return found["module"] if found else ""

    def _as_others(self, name: str) -> str:
        """`name` with its dots, if the manifest spells another of the same form (`features_N_N_weight`) or home."""
        form = _NUMBER.sub("#", name)
        numbers = iter(_NUMBER.findall(name))
        return re.sub("#", lambda _: next(numbers), self._forms.get(form) or self._at_home(form))

    def _at_home(self, form: str) -> str:
        """The parameter of a module beside those that the manifest names, where all of these agree on the dots.

        What follows the longest such home is taken for one name: no file says whether `dw_conv` had a dot.
        """
        found = _SIBLING.fullmatch(form)
        if found is None:
            return ""
        ends = [i + 1 for i, letter in enumerate(found[1][:-1]) if letter == "_"]
        known = [(end, self._homes[found[1][:end]]) for end in ends if found[1][:end] in self._homes]
        if not known or any(not known[-1][1].startswith(dotted) for _, dotted in known):
            return ""
        end, dotted = known[-1]
        return "" if dotted == "?" else f"{dotted}{found[1][end:]}.{found[2]}"


class LayerNames(_Known):
    """Modules by tensor and by operator of one file."""

    def __init__(self, contents: Contents) -> None:
        manifest = contents.manifest
        super().__init__({**manifest.get("names", {}), **manifest.get("weights", {})})

    def of(self, op: GraphOp) -> str:
        """The module the operator was, else its own name."""
        tensors = sorted(op.weights.items(), key=lambda item: _rank(item[0]))
        return next((module for _, tensor in tensors if (module := self.of_tensor(tensor))), op.name)


def untold(pruned: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Parameter → tensor of those `others` whose module nothing tells in a file that names the `pruned` ones.

    >>> untold({"a.b.weight": "a_b_weight"}, {"a.b.bias": "a_b_bias", "a.c.d.weight": "a_c_d_weight"})
    {'a.c.d.weight': 'a_c_d_weight'}
    """
    modules: dict[str, set[str]] = {}
    for name, tensor in (*pruned.items(), *others.items()):
        modules.setdefault(tensor, set()).add(name.rpartition(".")[0] or name)  # equal parameters are stored once
    found: dict[str, str] = {}
    while True:  # each that is named tells of others, or that a rule was none
        names = _Known({**found, **pruned})
        told = {tensor for tensor, known in modules.items() if names.of_tensor(tensor) in known}
        more = {name: tensor for name, tensor in others.items() if tensor not in told and name not in found}
        if not more:
            return found
        found |= more


def _homes(parameters: Mapping[str, str]) -> dict[str, str]:
    """How names begin, numbers apart, in tensors → in parameters, to the end of a module; two that differ are none."""
    found: dict[str, str] = {}
    for tensor, parameter in parameters.items():
        words = _NUMBER.sub("#", parameter).split(".")
        for count in range(1, len(words) - 1):
            dotted = ".".join([*words[:count], ""])
            if _NUMBER.sub("#", tensor).startswith(plain := dotted.replace(".", "_")):
                found[plain] = dotted if found.get(plain, dotted) == dotted else "?"
    return found


def _forms(parameters: Mapping[str, str]) -> dict[str, str]:
    """Form of a tensor's name → form of its parameter's, numbers apart; only where all of a form agree."""
    found: dict[str, set[str]] = {}
    for tensor, parameter in parameters.items():
        if _NUMBER.findall(tensor) == _NUMBER.findall(parameter):
            found.setdefault(_NUMBER.sub("#", tensor), set()).add(_NUMBER.sub("#", parameter))
    return {form: forms.pop() for form, forms in found.items() if len(forms) == 1}


def _rank(role: str) -> tuple[int, str]:
    return (KERNELS_FIRST.index(role) if role in KERNELS_FIRST else len(KERNELS_FIRST), role)
