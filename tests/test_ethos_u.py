"""Ethos-U: what Vela says of a file, gated; what the NPU would leave to the processor is named."""

from __future__ import annotations

import json
import re
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.cli.app import _run
from idp_deploy.errors import ConversionError, FileError, MissingDependencyError
from idp_deploy.exporting import export
from idp_deploy.flow import Budget, CompressedModel
from idp_deploy.gating import Evidence, gate
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.simulation import simulate
from idp_deploy.simulation.ethos_u85 import lint
from idp_deploy.simulation.targets import list_targets, load_target
from tests.lazily import Made
from tests.test_tflite import Mobile, pruned

HERE = find_spec("ethosu") is not None
needs_vela = pytest.mark.skipif(not HERE, reason="needs the extra [ethos-u]: make ethos-u")
ROOT = Path(__file__).parents[1]
U55 = "ethos-u55-128"


def own_project(folder: Path, monkeypatch: pytest.MonkeyPatch, configuration: str) -> None:
    """A folder with a user's code, a state dict and a configuration."""
    shutil.copy(ROOT / "tests" / "tiny_project" / "tiny.py", folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    tiny = import_module("tiny")
    torch.manual_seed(0)
    torch.save(tiny.build().state_dict(), "model.pt")
    (folder / "idp-deploy.toml").write_text(configuration)


def call(*words: str) -> int:
    return _run(list(words), debug=False)


NAMES = [target.name for target in list_targets() if target.compiler]


@pytest.fixture(scope="module")
def net() -> tuple[CompressedModel, tuple[Tensor]]:
    torch.manual_seed(0)
    module = Mobile()
    module.train()(torch.randn(16, 3, 32, 32))
    return pruned(module), (torch.randn(1, 3, 32, 32),)


@pytest.fixture(scope="module")
def files(net: tuple[CompressedModel, tuple[Tensor]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    model, inputs = net
    folder = tmp_path_factory.mktemp("files")
    asked: dict[str, dict[str, Any]] = {
        "float": {"encoding": "dense"},
        "sparse": {"io": "int8"},
        "ends": {"encoding": "dense"},
        "whole": {"encoding": "dense", "io": "int8"},
    }

    def made(name: str) -> Path:
        one = model if name == "float" else quantize(model, "int8", example_inputs=inputs)
        return export(one, "tflite", inputs, folder / f"{name}.tflite", **asked[name]).path

    return Made(made)


@needs_vela
@pytest.mark.parametrize("name", ["ethos-u55-128", "ethos-u65-256", "ethos-u85-256"])
def test_few_values_are_stored_smaller(name: str, tmp_path: Path) -> None:
    from idp_deploy.vendors.vela import Configuration, compile_for

    compiler, inputs = load_target(name).compiler, (torch.randn(1, 3, 16, 16),)
    assert compiler is not None
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(64, 256, 1)).eval()
    encoded: dict[int | None, float] = {}
    for values in (None, 16):
        integers = quantize(CompressedModel(net, {}), "int8", example_inputs=inputs, values=values)
        path = export(integers, "tflite", inputs, tmp_path / "n.tflite", encoding="dense", io="int8").path
        made = compile_for(path.read_bytes(), Configuration(**compiler.model_dump()), path.name)
        encoded[values] = made.number("total_npu_encoded_weights")
    assert encoded[16] < 0.75 * encoded[None]


def test_there_are_six_targets() -> None:
    wanted = {"ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512", "ethos-u85-256", "ethos-u85-1024"}
    assert set(NAMES) == wanted


@pytest.mark.skipif(HERE, reason="Vela is installed here")
def test_without_the_extra_the_line_to_install_it_is_named(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MissingDependencyError, match=r"ethosu.*pip install 'idp-deploy\[ethos-u\]'"):
        simulate(files["whole"], load_target("ethos-u55-128"))
    assert call("simulate", str(files["whole"]), "--target", "ethos-u55-128") == 4
    assert "pip install 'idp-deploy[ethos-u]'" in capsys.readouterr().err


@needs_vela
@pytest.mark.parametrize("name", NAMES)
def test_every_target_answers(name: str, files: dict[str, Path]) -> None:
    estimate = simulate(files["whole"], load_target(name))
    vendor = estimate.vendor
    assert vendor is not None, estimate.reason
    assert estimate.latency_ms is None, "the vendor's time is no estimate of ours"
    assert vendor.cpu_operators == ()
    assert vendor.latency_ms
    assert vendor.latency_ms > 0
    assert vendor.cycles["total"] >= vendor.cycles["npu"] > 0
    assert vendor.encoded_weight_bytes
    assert vendor.original_weight_bytes
    assert 0 < vendor.encoded_weight_bytes < vendor.original_weight_bytes
    assert vendor.sram_bytes
    assert vendor.sram_bytes > 0
    assert (vendor.dram_traffic_bytes or 0) + (vendor.flash_traffic_bytes or 0) > 0
    assert estimate.ops


@needs_vela
def test_float_ends_are_the_operators_left_on_the_cpu(files: dict[str, Path]) -> None:
    vendor = simulate(files["ends"], load_target("ethos-u55-128")).vendor
    assert vendor is not None
    assert [op.kind for op in vendor.cpu_operators or ()] == ["Quantize", "Dequantize"]
    assert [op.reason for op in vendor.cpu_operators or ()] == [
        "Operation has tensor with unsupported DataType Float32 (args_0)",
        "Unsupported opType",
    ]


@needs_vela
@pytest.mark.parametrize(
    ("file", "target", "reason"),
    [
        ("float", "ethos-u55-128", "no operator on the NPU .*quantize --scheme int8"),
        ("float", "ethos-u85-256", "no operator on the NPU .*Float32"),
        ("sparse", "ethos-u55-128", r"Vela refuses sparse.tflite .*--target ethos-u55-128"),
    ],
)
def test_what_vela_cannot_place_fails(
    file: str, target: str, reason: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate = simulate(files[file], load_target(target))
    assert estimate.vendor is None
    assert re.search(reason, estimate.reason), estimate.reason
    for metric in ("flash", "sram", "latency", "cpu_operators"):
        report = gate([Budget(target, "tflite", metric, 1e12, "here")], [Evidence(read(files[file]), estimate)])
        assert [check.verdict for check in report.checks] == ["not estimable"], metric
    monkeypatch.chdir(tmp_path)
    assert call("simulate", str(files[file]), "--target", target) == ConversionError.exit_code


@needs_vela
def test_budgets_gate_what_vela_says(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.toml").write_text(
        '[budgets.ethos-u55-128.tflite]\nflash = "1 MB"\nsram = "1 MB"\nlatency = "1 s"\ncpu_operators = 0\n'
    )
    assert call("check", str(files["whole"]), "--target", U55, "--budgets", str(tmp_path / "b.toml"), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {c["metric"]: c["verdict"] for c in document["checks"]} == dict.fromkeys(
        ("flash", "sram", "latency", "cpu_operators"), "pass"
    )
    assert document["estimates"][0]["vendor"]["software"].startswith("Vela 5.2")
    assert call("check", str(files["ends"]), "--target", U55, "--budgets", str(tmp_path / "b.toml")) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "vendor estimates" in text
    assert "export with --io int8" in text


@needs_vela
def test_a_file_vela_cannot_read_is_refused_by_name(files: dict[str, Path], tmp_path: Path) -> None:
    from idp_deploy.vendors.vela import Configuration, compile_for

    with pytest.raises((ConversionError, FileError), match=r"Vela .* broken\.tflite"):
        compile_for(
            b"TFL3" * 9, Configuration("ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram"), "broken.tflite"
        )


def grouped(keep: int, axis: int) -> CompressedModel:
    """Two 1×1 layers and a classifier with `keep` of every 4 weights along an axis, behind a 3-channel stem."""
    torch.manual_seed(0)
    module = Mobile()
    module.train()(torch.randn(16, 3, 32, 32))
    masks = {}
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1 and p.shape[1] % 4 == 0 and p.shape[axis] % 4 == 0:
                order = p.abs().movedim(axis, -1).unflatten(-1, (-1, 4)).argsort(-1, descending=True)
                mask = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order[..., :keep], True)
                masks[name] = mask.flatten(-2).movedim(-1, axis)
                p *= masks[name]
    return CompressedModel(module.eval(), masks)


@pytest.fixture(scope="module")
def patterned(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    inputs, folder = (torch.randn(1, 3, 32, 32),), tmp_path_factory.mktemp("patterned")
    made = {}
    for keep, axis in ((2, 1), (1, 1), (2, 0), (4, 1)):
        model = quantize(grouped(keep, axis), "int8", example_inputs=inputs)
        path = folder / f"{keep}-{axis}.tflite"
        made[keep, axis] = export(model, "tflite", inputs, path, encoding="dense", io="int8").path
    return made


def test_the_group_that_breaks_the_pattern_is_named(patterned: dict[tuple[int, int], Path]) -> None:
    lints = {key: lint(read(path)) for key, path in patterned.items()}
    wide = [f for f in lints[2, 1].findings if "divide" not in f.message]
    assert not wide, wide
    assert len(lints[2, 1].sparse_ops) == len(lints[1, 1].sparse_ops) == 4
    assert [f.message for f in lints[2, 1].findings] == ["3 input channels do not divide by 4"]
    assert not lints[4, 1].sparse_ops
    assert any("inputs 0 to 3 hold more than 2 weights" in f.message for f in lints[2, 0].findings)
    assert all("--pattern 2:4" in f.fix for f in lints[2, 0].findings if f.rule == "2:4" and "hold" in f.message)


@needs_vela
def test_vela_counts_fewer_cycles_exactly_where_the_groups_hold(patterned: dict[tuple[int, int], Path]) -> None:
    cycles = {}
    for key, path in patterned.items():
        vendor = simulate(path, load_target("ethos-u85-256")).vendor
        assert vendor is not None
        cycles[key] = vendor.cycles["npu"]
    assert max(cycles[2, 1], cycles[1, 1]) < min(cycles[4, 1], cycles[2, 0])


def test_inspect_names_them_on_the_command_line(
    patterned: dict[tuple[int, int], Path], files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for path, said in ((patterned[2, 0], "hold more than 2 weights"), (files["float"], "the NPU computes int8")):
        assert call("inspect", str(path), "--runtime", "ethos-u85", "--json") == 0
        assert said in json.dumps(json.loads(capsys.readouterr().out)["lint"])


def checkpoint(folder: Path, model: CompressedModel) -> None:
    from idp_deploy.loading import save_checkpoint

    save_checkpoint(model, folder / "net.pt")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: tuple[CompressedModel, tuple[Tensor]]) -> Path:
    """A folder with a quantized checkpoint, and configuration that builds it."""
    model, inputs = net
    checkpoint(tmp_path, quantize(model, "int8", example_inputs=inputs))
    (tmp_path / "idp-deploy.toml").write_text('model = "tests.test_tflite:Mobile"\ninputs = ["1x3x32x32"]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_for_an_npu_weights_lie_dense_and_ends_are_integers(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", "net.pt", "--to", "tflite", "--target", U55) == 0
    contents = read(project / "net.tflite")
    assert all(tensor.encoding == "dense" for tensor in contents.tensors)
    assert {contents.values[name].dtype for name in (*contents.inputs, *contents.outputs)} == {"int8"}
    assert "weights are stored densely" in capsys.readouterr().err
    assert call("export", "net.pt", "--to", "tflite", "--target", U55, "--io", "float", "--encoding", "csr") == 0
    contents = read(project / "net.tflite")
    assert any(tensor.encoding == "csr" for tensor in contents.tensors)
    assert {contents.values[name].dtype for name in contents.inputs} == {"float32"}
    assert call("export", "net.pt", "--to", "tflite", "--target", U55, "--target", "pixel-4") == 0
    assert any(tensor.encoding == "csr" for tensor in read(project / "net.tflite").tensors)
    assert f"for {U55} export it again" in capsys.readouterr().err
    assert call("export", "net.pt", "--to", "ethos-u") == 2
    assert "no target with one is named — --target ethos-u55-128" in capsys.readouterr().err


@needs_vela
def test_the_compiled_file_lies_beside_the_verified_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", "net.pt", "--to", "ethos-u", "--target", U55, "--target", "ethos-u85-256") == 0
    compiled = read(project / f"net.{U55}.tflite")
    assert [op.kind for op in compiled.ops] == ["CUSTOM:ethos-u"]
    assert (project / "net.ethos-u85-256.tflite").exists()
    assert compiled.manifest["options"] == {"encoding": "dense", "io": "int8"}
    before = (project / f"net.{U55}.tflite").read_bytes()
    assert call("export", "net.pt", "--to", "ethos-u", "--target", U55) == 0
    assert (project / f"net.{U55}.tflite").read_bytes() == before, "the same model gives the same bytes"
    capsys.readouterr()
    assert call("verify", f"net.{U55}.tflite", "net.pt") == 3
    assert "verify the .tflite that it was made of" in capsys.readouterr().err
    assert call("simulate", f"net.{U55}.tflite", "--target", U55) == 3
    assert "it is compiled already" in capsys.readouterr().err


@needs_vela
def test_a_float_model_is_not_compiled(
    project: Path, net: tuple[CompressedModel, tuple[Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(project, net[0])
    assert call("export", "net.pt", "--to", "ethos-u", "--target", U55) == 3
    assert "no operator of net.tflite on the NPU — quantize --scheme int8" in capsys.readouterr().err
    assert not (project / f"net.{U55}.tflite").exists()


@needs_vela
def test_the_run_in_the_docs_ends_in_a_gated_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "microcontrollers.md").read_text()
    own_project(tmp_path, monkeypatch, next(b for b in re.findall(r"```toml\n(.*?)```", page, re.S) if "ethos-u" in b))
    assert call("run", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {check["metric"] for check in report["checks"]} == {"flash", "sram", "latency", "cpu_operators"}
    assert (tmp_path / "out" / "model.pruned.int8.ethos-u55-128.tflite").exists()
    assert report["parities"]
