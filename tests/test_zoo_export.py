"""The zoo through every exporter and scheme: a file that agrees with its model, or an error with exit code 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from idp_deploy.errors import ConversionError, ExitCode
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.quantization import SCHEMES, quantize
from idp_deploy.tasks import Task
from idp_deploy.verification import run_file, verify
from tests.formats_here import HERE
from tests.zoo import ZOO, Entry, flat, pruned

FAST = ("mobilenet_v2", "classic", "bert", "two_inputs")
REFUSED = {("tflite", "lut4")}  # what a format cannot hold; a new refusal must be written down here


class Calls(Task):
    """Calibration inputs of one entry."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def example_inputs(self) -> tuple[Any, ...]:
        return self.entry.example_inputs()

    def calibration_inputs(self, samples: int = 64) -> list[tuple[Any, ...]]:
        return [self.entry.example_inputs(100 + i) for i in range(16)]


def check(entry: Entry, format: FormatName, scheme: str | None, folder: Path) -> None:
    """Export, verify, and compare once more with our own hands on inputs that `verify` has not seen."""
    model = pruned(entry)
    if scheme:
        model = quantize(model, scheme, task=Calls(entry))
    path = folder / f"{entry.name}{FORMATS[format].suffix}"
    if (format, scheme) in REFUSED:
        with pytest.raises(ConversionError) as caught:
            export(model, format, entry.example_inputs(), path)
        assert caught.value.exit_code == ExitCode.FILE
        assert not path.exists()
        return
    export(model, format, entry.example_inputs(), path)
    parity = verify(path, model, entry.example_inputs())
    assert parity.passed, [o for o in parity.outputs if not o.passed] + [w for w in parity.weights if not w.passed]
    assert {w.parameter for w in parity.weights} == set(model.masks)
    if scheme != "int8":  # its outputs carry the noise of every activation: verify declares what is allowed
        limit = max(o.tolerance for o in parity.outputs)
        assert worst_error(model, entry, path) <= limit


def worst_error(model: CompressedModel, entry: Entry, path: Path) -> float:
    """The largest relative error over runtimes, outputs and two fresh inputs."""
    calls = [entry.example_inputs(seed) for seed in (11, 12)]
    with torch.no_grad():
        expected = [[x.numpy() for x in flat(model.module(*call))] for call in calls]
    worst = 0.0
    for outputs in run_file(path, [tuple(x.numpy() for x in call) for call in calls]).values():
        for made, wanted in zip(outputs, expected, strict=True):
            for a, b in zip(made, wanted, strict=True):
                assert a.shape == b.shape
                worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", FAST)
def test_fast_part_of_the_zoo(name: str, format: FormatName, tmp_path: Path) -> None:
    check(ZOO[name], format, None, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [None, *SCHEMES])
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)
def test_whole_zoo(entry: Entry, format: FormatName, scheme: str | None, tmp_path: Path) -> None:
    check(entry, format, scheme, tmp_path)
