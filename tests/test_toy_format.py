"""One registered row takes a format through every command: nothing else is touched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from idp_deploy.cli import main
from idp_deploy.cli.app import _run
from idp_deploy.errors import FileError
from idp_deploy.formats import FORMATS
from idp_deploy.formats.onnx.write.export import store_onnx
from idp_deploy.formats.writing import Converted, Written
from tests.toy_format import TOY


def build() -> nn.Module:
    return nn.Linear(20, 10, bias=False)


def two_layers() -> nn.Module:
    return nn.Sequential(build(), nn.ReLU())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(FORMATS, "toy", TOY)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    layer = build()
    mask = (torch.arange(200) % 10 == 0).reshape(10, 20)
    layer.weight.data *= mask
    torch.save(layer.state_dict(), "net.pt")
    Path("targets").mkdir()
    Path("targets/phone.toml").write_text(
        (Path(__file__).parents[1] / "targets" / "pixel-4.toml").read_text()
        + '\n[[runtimes]]\nname = "toy-cpu"\nformat = "toy"\nfamily = "onnxruntime"\ncore = "a76"\n'
    )
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0), capsys.readouterr().out


MODEL = ("--model", "tests.test_toy_format:build", "--inputs", "1x20")


def test_a_row_is_a_format(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "export", "net.pt", "--to", "toy", *MODEL, "--json")
    assert code == 0, out
    assert json.loads(out)["artifacts"][0]["parity"]["passed"]
    assert run(capsys, "verify", "net.toy", "net.pt", *MODEL)[0] == 0
    code, out = run(capsys, "inspect", "net.toy", "--json")
    assert (code, json.loads(out)["tensors"][0]["zeros"]) == (0, 180)
    code, out = run(capsys, "simulate", "net.toy", "--target", "phone", "--json")
    assert code == 0, out
    assert json.loads(out)["estimates"][0]["latency_ms"]["middle"] > 0
    for limit, expected in (("90 %", 0), ("91 %", 1)):
        Path("limits.toml").write_text(f'[budgets.phone.toy]\nsparsity = "{limit}"\n')
        code, out = run(capsys, "check", "net.toy", "--target", "phone", "--budgets", "limits.toml")
        assert code == expected, out


def test_one_format_that_refuses_takes_no_other_along(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(two_layers().state_dict(), "two.pt")
    model = ("--model", "tests.test_toy_format:two_layers", "--inputs", "1x20")
    code, out = run(capsys, "export", "two.pt", "--to", "toy", "--to", "onnx", *model, "--json")
    assert code == 3
    found = json.loads(out)
    assert [a["format"] for a in found["artifacts"]] == ["onnx"]
    assert found["artifacts"][0]["parity"]["passed"]
    assert "linear layer alone" in found["refused"]["toy"]
    assert Path("two.onnx").exists()
    assert not Path("two.toy").exists()


def test_what_a_converter_stumbles_over_is_a_refusal_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.toy_format.pruned", lambda *_: 1 / 0)
    code, out = run(capsys, "export", "net.pt", "--to", "toy", "--to", "coreml", *MODEL, "--json", "--no-verify")
    assert code == 3
    assert "ZeroDivisionError" in json.loads(out)["refused"]["toy"]


# ── an ONNX that breaks, in front of a toy that must be there all the same ──────────────────────────────────────────


def stumbling(*_: object, **__: object) -> Converted:
    raise RuntimeError("no such symbol")


def exhausted(*_: object, **__: object) -> Converted:
    raise MemoryError


def onto_a_full_disk(converted: Converted, masks: Mapping[str, np.ndarray], record: str) -> Written:
    def save(path: Path) -> int:
        path.write_bytes(b"half of")
        raise OSError(28, "No space left on device", str(path))

    return replace(store_onnx(converted, masks, record), save=save)


def emptied(converted: Converted, masks: Mapping[str, np.ndarray], record: str) -> Written:
    return store_onnx(converted, {name: np.zeros_like(mask) for name, mask in masks.items()}, record)


def unreadable(path: Path) -> None:
    raise FileError(f"{path} is damaged", way_out="make it again")


@pytest.mark.wide
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"convert": "stumbling"}, "unexpected RuntimeError: no such symbol"),
        ({"convert": "exhausted"}, "unexpected MemoryError"),
        ({"store": "onto_a_full_disk"}, "No space left on device — check the path, its permissions and the free space"),
        ({"read": "unreadable"}, "is damaged — make it again"),
        ({"store": "emptied"}, ""),
    ],
    ids=lambda case: next(iter(case.values())) if isinstance(case, dict) else "",
)
def test_a_format_that_breaks_anywhere_takes_no_other_along(
    broken: dict[str, str], said: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named: dict[str, Any] = {role: f"{__name__}:{function}" for role, function in broken.items()}
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], **named))
    code, out = run(capsys, "export", "net.pt", "--to", "onnx", "--to", "toy", *MODEL, "--json")
    found = json.loads(out)
    assert code == 3
    assert {a["format"]: a["parity"]["passed"] for a in found["artifacts"]}["toy"]
    assert Path("net.toy").exists()
    assert not Path("net.onnx").exists()
    if said:
        assert said in found["refused"]["onnx"]
    else:
        assert Path("rejected/net.onnx").exists()
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") and path.name != ".idp-deploy"]


def test_what_differs_is_named_beside_what_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], store=f"{__name__}:emptied"))
    monkeypatch.setitem(FORMATS, "toy", replace(TOY, convert=f"{__name__}:stumbling"))
    assert _run(["export", "net.pt", "--to", "onnx", "--to", "toy", *MODEL], debug=False) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "no such symbol" in error
    assert "net.onnx does not agree with the model" in error
