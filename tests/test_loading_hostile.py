"""Checkpoints that lie about themselves: nothing in one is believed before it is checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from idp_deploy.errors import FileError
from idp_deploy.loading import (
    load_checkpoint,
)
from tests.loading_fixtures import (
    FACTORY,
    compressed,
    edited,
    masked,
    put,
)

HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "format": put("format", value="idp-deploy/99"),
    "stage": put("stage", value="half"),
    "stage type": put("stage", value=["compressed"]),
    "no state": lambda c: c.pop("state_dict"),
    "state type": put("state_dict", value=3),
    "state entry": put("state_dict", "head.bias", value="x"),
    "extra weight": put("state_dict", "extra", value=torch.zeros(2)),
    "missing weight": lambda c: c["state_dict"].pop("head.bias"),
    "no shapes": lambda c: c.pop("shapes"),
    "shapes": put("shapes", "head.weight", value=[4, 9]),
    "shape type": put("shapes", "head.weight", value="4x8"),
    "no attributes": lambda c: c.pop("attributes"),
    "attribute type": put("attributes", "depthwise", "groups", value="8"),
    "attribute float": put("attributes", "depthwise", "groups", value=8.0),
    "attribute huge": put("attributes", "depthwise", "groups", value=2**40),
    "attributes list": put("attributes", value=[1]),
    "masks type": put("masks", value=[1]),
    "no masks": lambda c: c.pop("masks"),
    "mask type": put("masks", "head.weight", value=torch.ones(4, 8)),
    "mask of nothing": lambda c: c["masks"].update(ghost=c["masks"]["head.weight"]),
    "mask of a buffer": lambda c: c["masks"].update({"stem.1.running_mean": c["masks"]["head.weight"]}),
    "mask shape": put("masks", "head.weight", "shape", value=[8, 4]),
    "mask shape huge": put("masks", "head.weight", "shape", value=[10**12, 10**12]),
    "mask bits short": put("masks", "head.weight", "bits", value=torch.zeros(3, dtype=torch.uint8)),
    "mask bits long": put("masks", "head.weight", "bits", value=torch.zeros(5, dtype=torch.uint8)),
    "mask bits type": put("masks", "head.weight", "bits", value=torch.zeros(4)),
    "mask bits meta": put("masks", "head.weight", "bits", value=torch.zeros(4, dtype=torch.uint8, device="meta")),
    "mask bits list": put("masks", "head.weight", "bits", value=[0, 0, 0, 0]),
    "mask lies": put("masks", "head.weight", "bits", value=torch.zeros(4, dtype=torch.uint8)),
    "recipe type": put("recipe", value="idp"),
    "recipe field missing": lambda c: c["recipe"].pop("seed"),
    "recipe field unknown": put("recipe", "exec", value="rm"),
    "recipe sparsity": put("recipe", "sparsity", value=1.5),
    "recipe sparsity NaN": put("recipe", "sparsity", value=float("nan")),
    "recipe epochs": put("recipe", "epochs", value="ten"),
    "recipe skip": put("recipe", "skip", value=(1, 2)),
    "recipe options": put("recipe", "options", value=None),
    "quantization type": put("quantization", value=[]),
    "quantization scheme": put("quantization", "scheme", value=8),
    "quantization noise": put("quantization", "signal_to_noise_db", value={"head.weight": "loud"}),
    "quantization of nothing": put("quantization", "kept_float", value={"ghost": "x"}),
    "quantization reason": put("quantization", "kept_float", value={"head.weight": 3}),
    "quantization levels type": put("quantization", "levels", value=[]),
    "quantization levels of nothing": put("quantization", "levels", value={"ghost": {"scale": torch.ones(1)}}),
    "quantization levels unknown": put("quantization", "levels", value={"head.weight": {"zero": torch.ones(4, 1)}}),
    "quantization levels empty": put("quantization", "levels", value={"head.weight": {}}),
    "quantization scale list": put("quantization", "levels", value={"head.weight": {"scale": [1.0]}}),
    "quantization scale NaN": put("quantization", "levels", value={"head.weight": {"scale": torch.ones(4, 1) / 0 * 0}}),
    "quantization scale zero": put("quantization", "levels", value={"head.weight": {"scale": torch.zeros(4, 1)}}),
    "quantization scale shape": put("quantization", "levels", value={"head.weight": {"scale": torch.ones(3, 1)}}),
    "quantization scale huge": put(
        "quantization", "levels", value={"head.weight": {"scale": torch.ones(1).expand(10**12, 10)}}
    ),
    "quantization scale meta": put(
        "quantization", "levels", value={"head.weight": {"scale": torch.ones(4, 1, device="meta")}}
    ),
    "quantization scale of others": put("quantization", "levels", value={"head.weight": {"scale": torch.ones(4, 1)}}),
    "quantization palette": put("quantization", "levels", value={"head.weight": {"palette": torch.zeros(16)}}),
    "quantization calibration": put("quantization", "calibration", value=(3,)),
    "provenance type": put("provenance", value=None),
    "provenance steps": put("provenance", "steps", value=(None,)),
    "provenance versions": put("provenance", "versions", value={"torch": 2}),
    "provenance seed": put("provenance", "seed", value=True),
}


@pytest.mark.wide
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_checkpoints_are_refused(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    path = edited(change, compressed(), tmp_path / "c.pt")
    with pytest.raises(FileError) as caught:
        load_checkpoint(path, FACTORY)
    assert str(path) in str(caught.value)


HOSTILE_SOFT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "none": lambda c: c.pop("soft_masks"),
    "no recipe": put("recipe", value=None),
    "of nothing": put("soft_masks", "ghost", value={"threshold": 0.1, "temperature": 0.1, "zeros": 1}),
    "threshold": put("soft_masks", "head.weight", "threshold", value=-1.0),
    "threshold NaN": put("soft_masks", "head.weight", "threshold", value=float("nan")),
    "threshold infinite": put("soft_masks", "head.weight", "threshold", value=float("inf")),
    "temperature": put("soft_masks", "head.weight", "temperature", value=0.0),
    "zeros": put("soft_masks", "head.weight", "zeros", value=33),
    "zeros type": put("soft_masks", "head.weight", "zeros", value=1.5),
    "field": put("soft_masks", "head.weight", value={"threshold": 0.1}),
}


@pytest.mark.parametrize("change", HOSTILE_SOFT.values(), ids=HOSTILE_SOFT)
def test_hostile_soft_masks_are_refused(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    path = edited(change, masked(), tmp_path / "s.pt")
    with pytest.raises(FileError):
        load_checkpoint(path, FACTORY)


def test_a_view_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["state_dict"]["head.bias"] = torch.zeros(1).expand(10**13)
        content["shapes"]["head.bias"] = [10**13]

    with pytest.raises(FileError, match=r"'head.bias' is \(10000000000000,\) in the file"):
        load_checkpoint(edited(change, compressed(), tmp_path / "c.pt"), FACTORY)
