"""A red build says what to do, and the prediction is what happens when it is done."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from idp_deploy import weighing
from idp_deploy.cli.app import _run
from idp_deploy.cli.provenance import commit
from idp_deploy.documents import line_of
from idp_deploy.exporting import export
from idp_deploy.flow import Budget, Check, CompressedModel, Model, Recipe, StoredTensor
from idp_deploy.gating import VALUES, Evidence, gate
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.remedies import remedied
from idp_deploy.shrinking import shrink_as_asked
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import Target, load_target

X = (torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),)


def build() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU6()),
        *(nn.Conv2d(32, 128, 1), nn.ReLU6(), nn.Conv2d(128, 256, 1), nn.ReLU6()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)),
    )


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(build().eval())


def pruned(model: Model, share: float, pattern: str = "unstructured") -> CompressedModel:
    compressed = one_shot(model, Recipe(sparsity=share, pattern=pattern), X)
    return shrink_as_asked(compressed, X)[0]


def measured(compressed: CompressedModel, format: str, path: Path, target: Target) -> Evidence:
    export(compressed, format, X, path)
    contents = read(path)
    return Evidence(contents, simulate(contents, target))


def broken(evidence: Evidence, target: Target, metric: str, limit: float) -> Check:
    budget = Budget(target.name, evidence.contents.format, metric, limit, "idp-deploy.toml:7 budgets")
    report = gate([budget], [evidence])
    (check,) = remedied(report, [evidence], [target]).checks
    return check


def value_of(evidence: Evidence, metric: str) -> float:
    return float(
        gate([Budget(evidence.estimate.target, evidence.contents.format, metric, 0, "")], [evidence]).checks[0].value
        or 0
    )


CHANNELS_THEN_INT8 = "prune --pattern channel --target, then shrink, then quantize --scheme int8"
DONE: dict[str, Callable[[Model, float, float], CompressedModel]] = {
    "prune --target": lambda model, _, share: pruned(model, share),
    "prune --pattern channel --target, then shrink": lambda model, _, share: pruned(model, share, "channel"),
    "prune --target, then quantize --scheme int8-weights": lambda model, _, share: quantize(
        pruned(model, share), "int8-weights", example_inputs=X
    ),
    CHANNELS_THEN_INT8: lambda model, _, share: quantize(pruned(model, share, "channel"), "int8", example_inputs=X),
    "quantize --scheme int8": lambda model, was, _: quantize(pruned(model, was), "int8", example_inputs=X),
    "quantize --scheme int8-weights": lambda model, was, _: quantize(
        pruned(model, was), "int8-weights", example_inputs=X
    ),
}


@pytest.mark.wide
@pytest.mark.parametrize(
    ("format", "device", "metric", "zeros", "over", "words"),
    [
        ("onnx", "pixel-4", "size", 0.5, 1.3, "prune --target"),
        ("onnx", "pixel-4", "size", 0.9, 1.64, "quantize --scheme int8-weights"),
        ("tflite", "pixel-4", "size", 0.8, 3.0, "prune --target, then quantize --scheme int8-weights"),
        ("onnx", "pixel-4", "gzip", 0.5, 1.3, "prune --target"),
        ("tflite", "pixel-4", "latency", 0.8, 1.2, "prune --target"),  # zeros run sparse
        ("onnx", "raspberry-pi-4", "latency", 0.5, 1.3, "quantize --scheme int8"),
        ("onnx", "raspberry-pi-4", "memory", 0.5, 1.8, "quantize --scheme int8"),
        ("onnx", "raspberry-pi-4", "latency", 0.5, 4.0, "prune --pattern channel --target, then shrink"),
        ("onnx", "raspberry-pi-4", "memory", 0.5, 8.0, "prune --pattern channel --target, then shrink"),
        ("onnx", "raspberry-pi-4", "memory", 0.5, 16.0, CHANNELS_THEN_INT8),  # neither is enough alone
    ],
)
def test_the_prediction_is_what_happens(
    format: str, device: str, metric: str, zeros: float, over: float, words: str, model: Model, tmp_path: Path
) -> None:
    if format == "tflite":
        pytest.importorskip("litert_torch")
    target = load_target(device)
    before = measured(pruned(model, zeros), format, tmp_path / f"before.{format}", target)
    limit = value_of(before, metric) / over
    check = broken(before, target, metric, limit)
    assert check.remedy is not None
    assert check.remedy.meets
    found = re.fullmatch(r"(.*?)(?: ([\d.]+)(, then .*)?)?", check.remedy.command)
    assert found is not None
    command, share, then = found.groups()
    assert command + (then or "") == words
    after = measured(DONE[words](model, zeros, float(share or 0)), format, tmp_path / f"after.{format}", target)
    assert value_of(after, metric) <= limit
    if "channel" not in words:  # which go as a whole
        assert value_of(after, metric) == pytest.approx(check.remedy.value, rel=0.1)
    elif metric == "latency":
        assert value_of(after, metric) == pytest.approx(check.remedy.value, rel=0.2)


@pytest.mark.wide
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
@pytest.mark.parametrize("over", [1.15, 1.4])
def test_red_goes_green_when_it_is_done(format: str, over: float, model: Model, tmp_path: Path) -> None:
    pytest.importorskip({"coreml": "coremltools", "tflite": "litert_torch"}.get(format, "onnx"))
    target, suffix = load_target("iphone-12"), {"coreml": "mlpackage"}.get(format, format)
    before = measured(pruned(model, 0.5), format, tmp_path / f"before.{suffix}", target)
    limit = value_of(before, "size") / over
    remedy = broken(before, target, "size", limit).remedy
    assert remedy is not None
    assert remedy.meets
    share = float(re.fullmatch(r"prune --target ([\d.]+)", remedy.command).group(1))  # type: ignore[union-attr]
    after = measured(pruned(model, share), format, tmp_path / f"after.{suffix}", target)
    assert value_of(after, "size") <= limit
    assert value_of(after, "size") == pytest.approx(remedy.value, rel=0.1)  # where zeros fall is for the allocation


@pytest.mark.wide
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_integer_weights_are_pruned_further(format: str, model: Model, tmp_path: Path) -> None:
    def file(share: float) -> Evidence:
        made = quantize(pruned(model, share), "int8", example_inputs=X)
        return measured(made, format, tmp_path / f"{share}.{format}", target)

    target = load_target("pixel-4")
    now = file(0.5)
    limit = now.contents.size_bytes * 0.8
    check = broken(now, target, "size", limit)
    assert check.remedy is not None
    told = re.fullmatch(r"prune --target ([\d.]+), then quantize --scheme int8", check.remedy.command)
    assert told, check.remedy
    then = file(float(told[1])).contents.size_bytes
    assert then <= limit
    assert check.remedy.value == pytest.approx(then, rel=0.1)


def test_integers_narrow_tables_and_depthwise_kernels_too(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.deep = nn.Embedding(800, 64), nn.Conv1d(64, 64, 9, padding=4, groups=64)
            self.line = nn.Linear(64, 32)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.line(self.deep(self.table(words).transpose(1, 2)).transpose(1, 2))

    torch.manual_seed(0)
    target, words = load_target("pixel-4"), (torch.arange(16).reshape(1, 16),)
    compressed = one_shot(Model(Words().eval()), Recipe(sparsity=0.5))

    def file(one: CompressedModel, name: str) -> Evidence:
        export(one, "onnx", words, tmp_path / name)
        contents = read(tmp_path / name)
        return Evidence(contents, simulate(contents, target))

    now = file(compressed, "now.onnx")
    remedy = broken(now, target, "size", now.contents.size_bytes * 0.6).remedy
    assert remedy is not None
    assert (remedy.command, remedy.meets) == ("quantize --scheme int8-weights", True)
    then = file(quantize(compressed, "int8-weights", example_inputs=words), "then.onnx").contents.size_bytes
    assert remedy.value == pytest.approx(then, rel=0.1)


def test_what_cannot_be_mended_says_so(model: Model, tmp_path: Path) -> None:
    target = load_target("raspberry-pi-4")
    evidence = measured(pruned(model, 0.5), "onnx", tmp_path / "m.onnx", target)
    check = broken(evidence, target, "latency", value_of(evidence, "latency") / 1000)
    assert check.remedy is not None
    assert not check.remedy.meets
    assert "not enough alone" in check.fix
    near = broken(evidence, target, "latency", check.remedy.value * 1.01)
    assert near.remedy is not None
    assert (near.remedy.meets, near.remedy.value) == (False, check.remedy.value)
    assert near.fix.endswith("by prediction, too close to it to be sure")


def test_no_command_is_named_where_none_makes_it_smaller(model: Model, tmp_path: Path) -> None:
    target = load_target("raspberry-pi-4")
    check = broken(measured(pruned(model, 0.999), "onnx", tmp_path / "m.onnx", target), target, "size", 100)
    assert check.remedy is None
    assert "neither more zeros nor int8 weights make it smaller" in check.fix


def test_no_command_is_named_that_prunes_everything(model: Model, tmp_path: Path) -> None:
    target = load_target("raspberry-pi-4")
    check = broken(measured(pruned(model, 0.5), "onnx", tmp_path / "m.onnx", target), target, "sparsity", 1.0)
    assert check.remedy is None
    assert "--target 1" not in check.fix


def test_the_layer_is_named_as_the_model_names_it(model: Model, tmp_path: Path) -> None:
    target = load_target("raspberry-pi-4")
    evidence = measured(pruned(model, 0.5), "onnx", tmp_path / "m.onnx", target)
    assert broken(evidence, target, "latency", 1e-9).layer in ("0", "2", "4")
    assert broken(evidence, target, "size", 1).layer == "4"  # 256 × 128
    assert broken(evidence, target, "sparsity", 0.99).remedy.command == "prune --target 0.99"  # type: ignore[union-attr]


# ── what `check` prints ─────────────────────────────────────────────────────────────────────────────────────────────

BUDGETS = """\
targets = ["pixel-4"]

[budgets.pixel-4.onnx]
size = "{size} B"  # a comment
latency = "{latency} ms"

[budgets.raspberry-pi-4.onnx]
size = "10 B"
"""


@pytest.fixture
def folder(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    export(pruned(model, 0.5), "onnx", X, tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = _run(["check", "m.onnx", *arguments], debug=False)
    return code, capsys.readouterr().out


def test_violations_are_a_line_each_the_worst_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = (folder / "m.onnx").stat().st_size
    (folder / "idp-deploy.toml").write_text(BUDGETS.format(size=round(size / 1.2), latency=1000))
    code, out = check(capsys)
    lines = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert code == 1
    assert [line.split()[1] for line in lines] == ["raspberry-pi-4", "pixel-4"]
    assert "over by 20.0 %" in lines[1]
    assert "limit from idp-deploy.toml:4 budgets.pixel-4.onnx" in lines[1]
    assert re.search(r"prune to \d+ % zeros \(prune --target 0\.\d\d\): size [\d.]+ kB by prediction, within", lines[1])
    assert "limit from idp-deploy.toml:8 " in lines[0]


def test_an_interval_that_straddles_the_limit_is_marginal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    estimate = simulate(folder / "m.onnx", load_target("pixel-4")).latency_ms
    assert estimate is not None
    for factor, code in ((1.01, 0), (0.99, 1)):
        (folder / "idp-deploy.toml").write_text(
            f'[budgets.pixel-4.onnx]\nlatency = "{estimate.middle * factor:.6f} ms"\n'
        )
        done, out = check(capsys)
        assert done == code
        assert "marginal" in out
        (row,) = json.loads(check(capsys, "--json")[1])["checks"]
        assert row["marginal"] is True


def test_a_baseline_says_where_it_comes_from_and_has_a_tolerance_a_metric(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_SHA", "0123456789abcdef0123456789abcdef01234567")
    (folder / "idp-deploy.toml").write_text(BUDGETS.format(size=10**6, latency=1000).partition("[budgets.rasp")[0])
    assert _run(["check", "m.onnx", "--json", "-o", "last.json"], debug=False) == 0
    content = json.loads((folder / "last.json").read_text())
    assert content["provenance"]["commit"].startswith("0123456789")
    for row in content["checks"]:
        row["value"] *= 0.97
    (folder / "last.json").write_text(json.dumps(content))
    code, out = check(capsys, "--baseline", "last.json")
    assert code == 1
    assert "idp-deploy 0.1.0, 20" in out
    assert "commit 0123456789" in out
    assert check(capsys, "--baseline", "last.json", "--tolerance", "size=5%")[0] == 1
    assert check(capsys, "--baseline", "last.json", "--tolerance", "size=5%", "--tolerance", "latency=0.05")[0] == 0
    with (folder / "idp-deploy.toml").open("a") as file:
        file.write('[baseline.tolerances]\nsize = "5 %"\nlatency = "5 %"\n')
    assert check(capsys, "--baseline", "last.json")[0] == 0
    assert check(capsys, "--baseline", "last.json", "--tolerance", "speed=5%")[0] == 2
    (folder / "idp-deploy.toml").rename(folder / "limits.toml")  # tolerances stand beside the budgets they go with
    assert check(capsys, "--budgets", "limits.toml", "--baseline", "last.json")[0] == 0


def test_the_commit_is_read_without_running_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT", "BUILDKITE_COMMIT", "CIRCLE_SHA1"):
        monkeypatch.delenv(name, raising=False)
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / "deep").mkdir()
    assert commit(tmp_path / "deep") == ""
    (git / "packed-refs").write_text(f"# pack-refs\n{'b' * 40} refs/heads/main\n")
    assert commit(tmp_path / "deep") == "b" * 40
    (git / "refs" / "heads" / "main").write_text("a" * 40 + "\n")
    assert commit(tmp_path / "deep") == "a" * 40


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[a.b]\nc = 1\n", 2),
        ('["a"."b"] # x\n\n  c=1\n', 3),
        ("[a]\nb.c = 1\n", 2),
        ("a = {b = {c = 1}}\n", None),
        ("[a.bb]\nc = 1\n[a.b]\nd = 1\n", None),
    ],
)
def test_the_line_of_a_key(text: str, line: int | None) -> None:
    assert line_of(text, ("a", "b", "c")) == line


def test_a_check_that_passes_has_no_remedy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "idp-deploy.toml").write_text(BUDGETS.format(size=10**6, latency=1000).partition("[budgets.rasp")[0])
    rows = json.loads(check(capsys, "--json")[1])["checks"]
    assert [(row["verdict"], row["remedy"], row["over"]) for row in rows] == [("pass", None, None)] * 2


@pytest.mark.skipif(find_spec("ethosu") is None, reason="needs the extra [ethos-u]: make ethos-u")
@pytest.mark.parametrize(("metric", "within"), [("flash", 0.1), ("sram", 0.25), ("latency", 0.25)])
def test_what_a_compiler_is_asked_again_about_is_what_it_says_then(
    metric: str, within: float, model: Model, tmp_path: Path
) -> None:
    target = load_target("ethos-u55-128")
    micro_red_to_green(target, metric, within, model, tmp_path, encoding="dense", io="int8")


@pytest.mark.skipif(find_spec("tflite_micro") is None, reason="needs the extra [tflm]: make tflm")
@pytest.mark.parametrize(("metric", "within"), [("flash", 0.1), ("arena", 0.25)])
def test_an_arena_and_its_flash_go_green(metric: str, within: float, model: Model, tmp_path: Path) -> None:
    micro_red_to_green(load_target("cortex-m"), metric, within, model, tmp_path, encoding="tflm", io="int8")


def micro_red_to_green(target: Target, metric: str, within: float, model: Model, folder: Path, **options: str) -> None:
    """A limit a fifth below what the file takes, the suggestion, and the same after it was followed."""

    def file(share: float, pattern: str = "unstructured") -> Evidence:
        made = quantize(pruned(model, share, pattern), "int8", example_inputs=X)
        path = folder / f"{share}{pattern}.tflite"
        export(made, "tflite", X, path, **options)
        contents = read(path)
        return Evidence(contents, simulate(contents, target))

    def value(evidence: Evidence) -> float:
        found = VALUES[metric](evidence)[0]
        assert found is not None
        return found

    now = file(0.5)
    limit = value(now) * 0.8
    check = broken(now, target, metric, limit)
    assert check.remedy is not None, check
    told = re.match(r"prune (?:--pattern (\w+) )?--target ([\d.]+)", check.remedy.command)
    assert told, check.remedy
    then = value(file(float(told[2]), *([told[1]] if told[1] else [])))
    assert check.remedy.value == pytest.approx(then, rel=within)
    assert then <= limit


def test_a_size_is_computed_once_however_many_budgets_and_devices_ask(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [load_target(name) for name in ("pixel-4", "pixel-6", "raspberry-pi-4")]
    export(pruned(model, 0.5), "onnx", X, tmp_path / "m.onnx")
    contents = read(tmp_path / "m.onnx")
    evidence = [Evidence(contents, simulate(contents, device)) for device in devices]
    budgets = [Budget(d.name, "onnx", metric, 1, "") for d in devices for metric in ("size", "gzip", "brotli")]
    priced: list[str] = []
    real = weighing._priced

    def counted(tensor: StoredTensor, *more: Any) -> float:
        priced.append(tensor.name)
        return real(tensor, *more)

    monkeypatch.setattr(weighing, "_priced", counted)
    counts = []
    for some in (budgets[:1], budgets):
        priced.clear()
        checks = remedied(gate(some, evidence), evidence, devices).checks
        assert all(check.remedy for check in checks)
        counts.append(len(priced))
    assert counts[0] == counts[1] > 0
