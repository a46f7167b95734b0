"""Images at the ends of a TFLite file lie as was asked for, as is said, and as verification takes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.errors import UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import Model, Recipe
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.rendering import render
from idp_deploy.rendering.artifacts import export_document
from idp_deploy.verification import run_file, verify


class Masks(nn.Module):
    """Two images and a vector in; a mask, a vector and a grid that is no image out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(1, 16, 3, padding=1)
        self.mask, self.head, self.grid = nn.Conv2d(16, 5, 1), nn.Linear(16, 4), nn.Linear(7, 24)

    def forward(self, left: Tensor, right: Tensor, vector: Tensor) -> dict[str, Tensor]:
        x = (self.left(left) + self.right(right)).relu()
        return {"mask": self.mask(x), "class": self.head(x.mean((2, 3))), "grid": self.grid(vector).reshape(1, 2, 3, 4)}


EXAMPLE = (torch.randn(1, 3, 6, 8), torch.randn(1, 1, 6, 8), torch.randn(1, 7))
SHAPES = {
    "auto": ([(1, 6, 8, 3), (1, 6, 8, 1), (1, 7)], (1, 5, 6, 8), {"args_0", "args_1"}),
    "nhwc": ([(1, 6, 8, 3), (1, 6, 8, 1), (1, 7)], (1, 6, 8, 5), {"args_0", "args_1", "mask"}),
    "nchw": ([(1, 3, 6, 8), (1, 1, 6, 8), (1, 7)], (1, 5, 6, 8), set()),
}


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["", "int8"])
@pytest.mark.parametrize("layout", SHAPES)
def test_images_lie_as_asked_at_both_ends(layout: str, scheme: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    torch.manual_seed(0)
    model = one_shot(Model(Masks().eval()), Recipe(0.7))
    model = quantize(model, scheme, example_inputs=EXAMPLE) if scheme else model
    artifact = export(model, "tflite", EXAMPLE, tmp_path / "m.tflite", layout=layout)
    inputs, mask, turned = SHAPES[layout]
    runner = Interpreter(str(artifact.path)).get_signature_runner()
    assert [tuple(runner.get_input_details()[f"args_{i}"]["shape"]) for i in range(3)] == inputs
    assert tuple(runner.get_output_details()["mask"]["shape"]) == mask
    assert tuple(runner.get_output_details()["grid"]["shape"]) == (1, 2, 3, 4)
    assert artifact.manifest["layouts"] == dict.fromkeys(turned, "NHWC")
    parity = verify(artifact.path, model, EXAMPLE)
    assert parity.passed, (parity.outputs, parity.notes)
    results = run_file(artifact.path, [tuple(x.numpy() for x in EXAMPLE)])
    assert all(np.shape(calls[0][0]) == (1, 5, 6, 8) for calls in results.values())  # in the model's layout
    said = [note for note in artifact.notes if note.startswith("layout:")]
    assert len(said) == (layout != "nchw")
    assert all(("mask is NHWC too" in note) == (layout == "nhwc") for note in said)
    document = export_document([artifact], {}, {}, None, model=model, next="")
    layouts = json.loads(render(document, "json"))["artifacts"][0]["layouts"]
    assert {name for side in layouts.values() for name, one in side.items() if one == "NHWC"} == turned


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--layout takes nchw, nhwc or auto, not 'chwn'"):
        export(one_shot(Model(Masks().eval()), Recipe(0.7)), "tflite", EXAMPLE, tmp_path / "m.tflite", layout="chwn")
    assert not list(tmp_path.iterdir())
