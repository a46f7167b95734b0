"""What strangers' forwards take and return: dicts of their own kind, namespaces, None, numbers, nested lists."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.verification import verify
from tests.formats_here import HERE


class Batch(dict[str, Any]):
    """Entries as attributes, as many libraries have them."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Encoding(UserDict[str, Any]):
    """A tokenizer's answer."""


class Answer:
    """What one library returns: attributes, no dict."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.hidden = logits, [logits * 2]


class Net(nn.Module):
    def __init__(self, rest: Callable[..., Any]) -> None:
        super().__init__()
        self.layer, self.rest = nn.Linear(6, 5), rest

    def forward(self, *inputs: Any) -> Any:
        return self.rest(self.layer, *inputs)


def x() -> Tensor:
    return torch.randn(2, 6)


GIVEN: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "a dict of its own kind": (
        lambda layer, batch: Batch(one=layer(batch.a), two=layer(batch["b"])), (Batch(a=x(), b=x()),)),
    "a user's dict": (lambda layer, batch: Encoding(y=layer(batch["a"])), (Encoding(a=x(), b=x()),)),
    "a namespace": (lambda layer, batch: SimpleNamespace(y=layer(batch.a)), (SimpleNamespace(a=x(), b=x()),)),
    "an object alone": (lambda layer, a: Answer(layer(a)), (x(),)),
    "none between": (lambda layer, a, mask, b, gain: layer(a + b) * gain, (x(), None, x(), 2)),
    "sizes": (lambda layer, a: {"y": layer(a), "shape": a.shape, "rows": len(a)}, (x(),)),
    "an input plus nothing": (lambda layer, a: (layer(a), a + 0, a * 1), (x(),)),
}  # fmt: skip


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", GIVEN)
def test_files_take_and_give_their_tensors(name: str, format: FormatName, tmp_path: Path) -> None:
    rest, inputs = GIVEN[name]
    model = one_shot(Model(Net(rest).eval()), Recipe(0.5))
    artifact = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}")
    parity = verify(artifact.path, model, inputs)
    assert parity.passed, [part for part in (*parity.outputs, *parity.weights) if not part.passed]
    assert parity.weights
    held = "input [3] is 2: the file holds it and has no such input"
    assert (held in artifact.notes) == (name == "none between")


class Frozen(dict[str, Any]):
    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("read only")


class View(Mapping[str, Any]):
    """Entries that somebody else holds."""

    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held

    def __getitem__(self, key: str) -> Any:
        return self.held[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


class Linked:
    def __init__(self, logits: Tensor) -> None:
        self.logits, self.parts = logits, [self]


@pytest.mark.parametrize(
    "give", [lambda y: Frozen(y=y), lambda y: View({"y": y}), lambda y: MappingProxyType({"y": y}), Linked]
)
def test_what_cannot_be_made_again_of_its_entries_is_told(give: Callable[[Tensor], Any], tmp_path: Path) -> None:
    model = one_shot(Model(Net(lambda layer, a: give(layer(a))).eval()), Recipe(0.5))
    with pytest.raises(ConversionError, match=r"cannot capture .* in output, which is not a known type"):
        export(model, "onnx", (x(),), tmp_path / "m.onnx")


@pytest.mark.parametrize("format", [format for format in HERE if format in ("coreml", "onnx")])
def test_a_state_that_is_not_given_is_none(format: FormatName, tmp_path: Path) -> None:
    class Spoken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(6, 4, batch_first=True)

        def forward(self, x: Tensor, state: Tensor | None = None) -> Any:
            return self.gru(x, state)

    model, inputs = one_shot(Model(Spoken().eval()), Recipe(0.5)), (torch.randn(1, 3, 6), None)
    assert verify(export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path, model, inputs).passed
