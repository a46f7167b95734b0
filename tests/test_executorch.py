"""ExecuTorch's .pte, read from two files that executorch 1.5.1 wrote: what its schema says, and no more."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from idp_deploy.cli.app import _run
from idp_deploy.errors import FileError, UsageError
from idp_deploy.formats import FORMATS
from idp_deploy.inspection import inspect
from idp_deploy.reading import read

GOLDEN = Path(__file__).parent / "golden"
PORTABLE, XNNPACK = GOLDEN / "linear-portable.pte", GOLDEN / "linear-xnnpack.pte"  # Linear(8, 4) → ReLU → Linear(4, 3)


def test_operators_constants_and_zeros_of_portable_kernels() -> None:
    contents = read(PORTABLE)
    shapes = {tensor.shape: tensor for tensor in contents.tensors}
    weight = shapes[(4, 8)]
    assert (weight.dtype, weight.encoding, weight.size_bytes, weight.zeros) == ("float32", "dense", 128, 16)
    np.testing.assert_allclose(weight.values()[0, 1], 0.1897, atol=5e-5)
    assert {(4,), (3, 4), (3,)} <= set(shapes)
    assert "aten::relu" in {op.kind for op in contents.ops}
    (name,) = contents.inputs
    assert contents.values[name].shape == (1, 8)
    assert contents.values[contents.outputs[0]].shape == (1, 3)
    assert contents.warnings == ()


def test_a_delegates_data_are_said_by_size_and_not_counted() -> None:
    contents = read(XNNPACK)
    assert [op.kind for op in contents.ops] == ["XnnpackBackend"]
    assert contents.tensors == ()
    assert "the delegate XnnpackBackend holds" in contents.warnings[0]
    assert "not counted" in inspect(XNNPACK).warnings[0]


@pytest.mark.wide
@pytest.mark.parametrize("path", [PORTABLE, XNNPACK], ids=["portable", "xnnpack"])
def test_every_truncation_and_damage_is_refused_or_read(path: Path, tmp_path: Path) -> None:
    whole, place = path.read_bytes(), tmp_path / "m.pte"
    for end in range(0, len(whole), 7):
        place.write_bytes(whole[:end])
        with suppress(FileError):
            read(place)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 1500):
        damaged = bytearray(whole)
        damaged[at] = int(rng.integers(0, 256))
        place.write_bytes(damaged)
        try:
            for tensor in read(place).tensors:
                tensor.values()
        except FileError:
            continue


def test_it_is_read_and_gated_but_neither_written_nor_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for role in ("convert", "open"):
        with pytest.raises(UsageError, match=r"not (written|run) here"):
            FORMATS["executorch"].function(role)
    assert _run(["verify", str(XNNPACK)], debug=False) == 2
    assert _run(["export", "m.pt", "--to", "executorch"], debug=False) == 2
    capsys.readouterr()
    assert _run(["inspect", str(PORTABLE), "--json"], debug=False) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "executorch"
    for limit, expected in (("10 kB", 0), ("1 kB", 1)):
        Path("limits.toml").write_text(f'[budgets.pixel-4.executorch]\nsize = "{limit}"\n')
        line = ["check", str(XNNPACK), "--target", "pixel-4", "--budgets", "limits.toml"]
        assert _run(line, debug=False) == expected
