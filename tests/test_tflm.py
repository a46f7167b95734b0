"""TensorFlow Lite Micro: weights behind its own decoder, proved in the stock runtime, with the arena they take."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from idp_deploy.errors import FileError, MissingDependencyError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import Budget, CompressedModel
from idp_deploy.formats.linting import lint
from idp_deploy.formats.tflite.read.contents import read_tflite
from idp_deploy.formats.tflite.write.graph import compact
from idp_deploy.formats.tflite.write.micro import behind_decoders
from idp_deploy.formats.tflite.write.serializing import parse, serialize
from idp_deploy.gating import Evidence, gate
from idp_deploy.quantization import quantize
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import load_target
from idp_deploy.verification import run_file, verify
from tests.lazily import Made
from tests.test_ethos_u import call, own_project
from tests.test_tflite import Mobile, pruned

HERE = find_spec("tflite_micro") is not None
needs_tflm = pytest.mark.skipif(not HERE, reason="needs the extra [tflm]: make tflm")


@pytest.fixture(scope="module")
def models() -> dict[str, CompressedModel]:
    torch.manual_seed(0)
    module = Mobile()
    module.train()(torch.randn(16, 3, 32, 32))
    model = pruned(module)
    return {"float": model, "int8": quantize(model, "int8", example_inputs=INPUTS)}


torch.manual_seed(1)
INPUTS: tuple[Tensor] = (torch.randn(1, 3, 32, 32),)


@pytest.fixture(scope="module")
def files(models: dict[str, CompressedModel], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("tflm")

    def made(key: tuple[str, str]) -> Path:
        name, encoding = key
        path = folder / f"{name}-{encoding}.tflite"
        return export(models[name], "tflite", INPUTS, path, encoding=encoding).path

    return Made(made)


@pytest.mark.wide
@pytest.mark.parametrize("name", ["float", "int8"])
def test_weights_lie_behind_decoders_and_read_as_they_were(name: str, files: dict[tuple[str, str], Path]) -> None:
    dense, packed = (read_tflite(files[name, encoding]) for encoding in ("dense", "tflm"))
    assert packed.size_bytes < dense.size_bytes
    assert packed.tensor("classifier.weight").encoding == "tflm"
    for tensor in dense.tensors:
        assert np.array_equal(packed.tensor(tensor.name).values(), tensor.values()), tensor.name
        assert packed.tensor(tensor.name).zeros == tensor.zeros
    assert [op.kind for op in packed.ops] == [op.kind for op in dense.ops]


def test_no_runtime_of_phones_is_said_to_run_it(files: dict[tuple[str, str], Path]) -> None:
    found = lint(read_tflite(files["float", "tflm"]))
    assert not found.runs_sparse
    assert "behind TFLM_DECODE, which TensorFlow Lite Micro alone unpacks" in found.findings[0].message


@needs_tflm
@pytest.mark.parametrize("name", ["float", "int8"])
def test_the_stock_runtime_agrees_bit_for_bit_with_the_dense_file(
    name: str, models: dict[str, CompressedModel], files: dict[tuple[str, str], Path]
) -> None:
    parity = verify(files[name, "tflm"], models[name], INPUTS)
    assert parity.passed, parity
    assert {output.runtime for output in parity.outputs} == {"tflite-micro"}
    assert len(parity.weights) == len(models[name].masks)
    from idp_deploy.formats.tflite.run import _Interpreter

    call = (INPUTS[0].numpy(),)
    dense = _Interpreter(read_tflite(files[name, "dense"]), "tflite-micro", 1).run(call)
    assert np.array_equal(dense[0], run_file(files[name, "tflm"], [call])["tflite-micro"][0][0])


@needs_tflm
def test_large_weights_are_cut_so_that_the_arena_grows_by_a_block(
    files: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    whole, call = files["int8", "dense"], (INPUTS[0].numpy(),)
    outputs, arenas, operators = [], [], []
    for block in (1 << 30, 512, 128):
        tflite = parse(whole.read_bytes())
        behind_decoders(tflite, block)
        compact(tflite)
        path = tmp_path / f"{block}.tflite"
        path.write_bytes(serialize(tflite))
        outputs.append(run_file(path, [call])["tflite-micro"][0][0])
        operators.append(len(read_tflite(path).ops))
        vendor = simulate(path, load_target("cortex-m")).vendor
        assert vendor is not None
        arenas.append(vendor.arena_bytes)
    assert operators[0] < operators[1] < operators[2]
    assert all(np.array_equal(output, outputs[0]) for output in outputs)


def test_blocks_are_as_large_as_makes_the_arena_smallest(tmp_path: Path) -> None:
    """Smaller ones add operators, larger ones memory; where activations are wider than any weight nothing is cut."""
    wide = torch.nn.Sequential(torch.nn.Linear(512, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 10))
    flat = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 1), torch.nn.ReLU(), torch.nn.Conv2d(64, 8, 1))
    kinds = {}
    for name, module, shape in (("wide", wide, (1, 512)), ("flat", flat, (1, 3, 16, 16))):
        model = quantize(pruned(module), "int8", example_inputs=(torch.randn(shape),))
        made = export(model, "tflite", (torch.randn(shape),), tmp_path / f"{name}.tflite", encoding="tflm")
        kinds[name] = [op.kind for op in read_tflite(made.path).ops]
        if HERE:
            assert verify(made.path, model, (torch.randn(shape),)).passed
    assert kinds["flat"].count("CONV_2D") == 2
    blocks = kinds["wide"].count("FULLY_CONNECTED") - 1
    assert blocks == 29  # of 512,000 bytes, which is no divisor of 1,000 rows
    assert kinds["wide"].count("CONCATENATION") == 4  # of ten at most, one of them what is joined so far


@pytest.mark.wide
@pytest.mark.parametrize("scheme", [None, "int8"])
def test_convolutions_in_groups_are_not_cut(scheme: str | None, tmp_path: Path) -> None:
    """A runtime works out the groups from the channels: of a part of the output channels it would make other groups."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(64, 256, 3, groups=4), torch.nn.ReLU(), torch.nn.Conv2d(256, 9, 1))
    model, inputs = pruned(net), (torch.randn(1, 64, 6, 6),)
    model = quantize(model, scheme, example_inputs=inputs) if scheme else model
    made = export(model, "tflite", inputs, tmp_path / "net.tflite", encoding="tflm")
    assert [op.kind for op in read_tflite(made.path).ops].count("CONV_2D") == 2
    if HERE:
        assert verify(made.path, model, inputs).passed


@needs_tflm
def test_the_arena_is_gated_and_densify_is_named(
    models: dict[str, CompressedModel], files: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    target, path = load_target("cortex-m"), files["int8", "tflm"]
    estimate = simulate(path, target)
    assert estimate.vendor is not None
    assert estimate.vendor.arena_bytes
    limits = [Budget("cortex-m", "tflite", "arena", estimate.vendor.arena_bytes + n, "here") for n in (0, -1)]
    checks = gate(limits, [Evidence(read_tflite(path), estimate)]).checks
    assert [check.verdict for check in checks] == ["pass", "fail"]
    sparse = export(models["float"], "tflite", INPUTS, tmp_path / "sparse.tflite")
    refused = simulate(sparse.path, target)
    assert refused.vendor is None
    assert "DENSIFY is not registered in tflite-micro" in refused.reason
    assert "--encoding tflm" in refused.reason


@pytest.mark.skipif(HERE, reason="tflite-micro is installed here")
def test_without_the_extra_the_line_to_install_it_is_named(files: dict[tuple[str, str], Path]) -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'idp-deploy\[tflm\]'"):
        run_file(files["int8", "tflm"], [(INPUTS[0].numpy(),)])


@needs_tflm
def test_from_a_checkpoint_to_a_gated_file_on_the_command_line(
    models: dict[str, CompressedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from idp_deploy.cli.app import _run
    from idp_deploy.loading import save_checkpoint

    monkeypatch.chdir(tmp_path)
    save_checkpoint(models["int8"], tmp_path / "net.pt")
    (tmp_path / "idp-deploy.toml").write_text(
        'model = "tests.test_tflite:Mobile"\ninputs = ["1x3x32x32"]\n'
        '[budgets.cortex-m.tflite]\nflash = "20 kB"\narena = "64 KiB"\n'
    )
    command = ["export", "net.pt", "--to", "tflite", "--encoding", "tflm", "--io", "int8"]
    assert _run(command, debug=False) == 0
    assert _run(["check", "net.tflite", "--target", "cortex-m"], debug=False) == 0
    (tmp_path / "idp-deploy.toml").write_text('[budgets.cortex-m.tflite]\narena = "1 kB"\n')
    assert _run(["check", "net.tflite", "--target", "cortex-m"], debug=False) == 1


@pytest.mark.parametrize("scheme", ["fp16", "int8-weights"])
def test_schemes_without_kernels_are_refused(scheme: str, models: dict[str, CompressedModel], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--encoding tflm takes float32 and int8 models"):
        export(quantize(models["float"], scheme), "tflite", INPUTS, tmp_path / "no.tflite", encoding="tflm")


def test_a_mask_that_does_not_fit_is_refused(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    tflite = parse(files["int8", "tflm"].read_bytes())
    graph = tflite.subgraphs[0]
    bits = next(t for t in graph.tensors if t.name == b"classifier.weight")
    tflite.buffers[bits.buffer].data = np.full(len(tflite.buffers[bits.buffer].data), 255, np.uint8)
    path = tmp_path / "bad.tflite"
    path.write_bytes(serialize(tflite))
    with pytest.raises(FileError):
        read_tflite(path)


@needs_tflm
def test_one_run_of_the_documentation_makes_a_gated_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "microcontrollers.md").read_text()
    found = re.search(r"```toml\n(model = .*?)```", page[page.index("## TensorFlow Lite Micro") :], re.S)
    assert found is not None
    own_project(tmp_path, monkeypatch, found[1])
    assert call("run", "--json") == 0
    said = capsys.readouterr()
    assert "tflite: weights are stored behind TFLM_DECODE for cortex-m" in said.err
    report = json.loads(said.out)
    assert {check["metric"]: check["verdict"] for check in report["checks"]} == {"flash": "pass", "arena": "pass"}
