"""Configuration: precedence, unknown keys, quantities."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from idp_deploy.cli.session import open_session
from idp_deploy.configuration import environment_keys, load, tolerances
from idp_deploy.errors import IdpDeployError, UsageError
from idp_deploy.units import parse


def write(folder: Path, text: str, name: str = "idp-deploy.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("IDP_DEPLOY_EXPORT_TO", "onnx,foo", "'export.to.1' is 'foo'"),
        ("IDP_DEPLOY_PRUNE_ONE_SHOT", "often", "'prune.one-shot' is 'often'"),
    ],
)
def test_a_wrong_variable_is_named_and_not_the_file(variable: str, value: str, key: str, tmp_path: Path) -> None:
    path = write(tmp_path, '[export]\nto = ["onnx"]\n')
    with pytest.raises(UsageError, match=f"^{variable}: {re.escape(key)}: "):
        load(path, environment={variable: value})


def test_all_formats_are_spelled_out(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[export]\nto = ["Ethos-U", "ALL", "onnx"]\n'), environment={}).export.to == (
        "ethos-u", "onnx", "coreml", "tflite",
    )  # fmt: skip


def test_defaults_without_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configuration = load(environment={})
    assert configuration.prune.target == 0.9
    assert configuration.export.to == ("onnx", "coreml", "tflite")


def test_pyproject_above_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, '[tool.idp-deploy]\nmodel = "a.b:c"\nweights = "m.pt"\n', "pyproject.toml")
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    configuration = load(environment={})
    assert configuration.model == "a.b:c"
    assert configuration.path(configuration.weights) == tmp_path / "m.pt"


def test_a_pyproject_without_our_table_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'model = "outer.m:f"\n')
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner", "[project]\nname = 'x'\n", "pyproject.toml")
    monkeypatch.chdir(tmp_path / "inner")
    assert load(environment={}).model == "outer.m:f"


@pytest.mark.parametrize("text", ["tool = 3", "tool = [1]", "[[tool]]\nx = 1"])
def test_a_pyproject_whose_tools_are_no_table_is_passed_over(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, text, "pyproject.toml")
    monkeypatch.chdir(tmp_path)
    assert load(environment={}).source is None
    assert load(path, environment={}).model is None


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"pyproject.toml: 'tool.idp-deploy' is 3, no table — write \[tool.idp-deploy\]"
    ):
        load(write(tmp_path, "tool.idp-deploy = 3", "pyproject.toml"), environment={})
    with pytest.raises(UsageError, match=r"'prune' is 3, no table — write \[prune\]"):
        load(write(tmp_path, "prune = 3"), environment={"IDP_DEPLOY_PRUNE_TARGET": "0.5"})


def test_environment_beats_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[prune]\nmethod = "gmp"\nepochs = 3\n')
    configuration = load(path, environment={"IDP_DEPLOY_PRUNE_METHOD": "idp", "IDP_DEPLOY_TARGETS": "a, b"})
    assert (configuration.prune.method, configuration.prune.epochs) == ("idp", 3)
    assert configuration.targets == ("a", "b")


@pytest.mark.parametrize("variable", sorted(environment_keys()))
def test_every_variable_reaches_its_key(variable: str, tmp_path: Path) -> None:
    sample = {
        "IDP_DEPLOY_EXPORT_TO": "onnx",
        "IDP_DEPLOY_PRUNE_LEARNING_RATE": "0.5",
        "IDP_DEPLOY_PRUNE_ONE_SHOT": "True",
    }.get(variable, "7")
    configuration = load(write(tmp_path, ""), environment={variable: sample})
    value: object = configuration
    for part in environment_keys()[variable]:
        value = getattr(value, part)
    assert str(value).strip("(),'") in {sample, "7.0"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 'a:b'\n", "unknown key 'modle' — did you mean 'model'?"),
        ("[prune]\nsparsty = 0.9\n", "unknown key 'prune.sparsty'"),
        ("[prune]\nsparsity = 0.9\n", "unknown key 'prune.sparsity' — did you mean 'prune.target'?"),
        ("scheme = 'int8'\n", "did you mean 'quantize.scheme'?"),
        ("[prune]\nweights = 'w.pt'\n", "did you mean 'weights', above the first [table]?"),
        ("[quantize]\nfloat = 3\n", "'quantize.float' is 3"),
        ("inputs = [1, 64]\n", 'write each as text: inputs = ["1x64"]'),
        ("Inputs = ['1x64']\n", "unknown key 'Inputs' — did you mean 'inputs'?"),
        ("seed = 1\n", "unknown key 'seed' — did you mean 'prune.seed'?"),
        ("inputs = ['1x64x']\n", "idp-deploy.toml:1: cannot read the input '1x64x'"),
        ("inputs = ['1,64x3']\n", "the input '1,64x3' may be one shape or several"),
        ("[prune]\nlearning_rte = 1\n", "did you mean 'learning-rate'"),
        ("[prune]\nepochs = 'many'\n", "'prune.epochs' is 'many'"),
        ("targets = 'pixel-4, iphone-12'\n", 'write a list: ["pixel-4", "iphone-12"]'),
        ("[export]\nto = 'onnx'\n", 'write a list: ["onnx"]'),
        ("[export]\nto = ['onxx']\n", "one of onnx, coreml, tflite, coreai, ethos-u"),
        ("[export]\nto = ['executorch']\n", "one of onnx, coreml, tflite, coreai, ethos-u"),
        ("[export]\nto = []\n", "'export.to' is []"),
        ("export = ['onnx']\n", "'export' is ['onnx'], no table — write [export]"),
        ("budgets.pixel-4 = 3\n", "'budgets.pixel-4' is 3, no table — write [budgets.pixel-4.onnx]"),
        ("[budgets]\nsize = '1 MB'\n", "'budgets.size' is '1 MB', no table — write [budgets.pixel-4.onnx]"),
        (
            "[budgets.my-phone]\nsize = '1 MB'\n",
            "'size' in budgets.my-phone is no format — write [budgets.my-phone.onnx]",
        ),
        ("[budgets.pixel-4.TFLite]\n", "'TFLite' in budgets.pixel-4 is no format — did you mean 'tflite'?"),
        ("[tool.idp-deploy]\nweights = 'w.pt'\n", "unknown key 'tool' — [tool.idp-deploy] is for pyproject.toml"),
        ("[prune.rules]\nlinear = 3\n", "'prune.rules.linear' is 3"),
        ("[prune.options]\nkappa = [1]\n", "'prune.options.kappa"),
        ("[prune]\nlearning-rate = inf\n", "'prune.learning-rate' is inf"),
        ("[prune]\nlearning-rate = nan\n", "'prune.learning-rate' is nan"),
        ("[prune]\nepochs = 99999999999999999999\n", "'prune.epochs' is 99999999999999999999"),
        ("[prune]\ntarget = 1979-05-27\n", "'prune.target' is datetime.date(1979, 5, 27)"),
    ],
)
def test_a_wrong_key_names_the_nearest(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(write(tmp_path, text), environment={})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "inputs = [1, 3, 32, 32]\n",
            "'inputs' holds [1, 3, 32, 32]: each should be a text — write each as text: inputs = [\"1x3x32x32\"]",
        ),
        (
            "targets = [4, 'pixel-4', 5]\n",
            '\'targets\' holds [4, 5]: each should be a text — write each in quotes: targets = ["4", "5"]',
        ),
        ("targets = [4, 'pixel-4']\n", "'targets.0' is 4: it should be a text — write it in quotes: targets = [\"4\"]"),
        (
            "[prune]\nskip = [1, 2]\n",
            '\'prune.skip\' holds [1, 2]: each should be a text — write each in quotes: skip = ["1", "2"]',
        ),
    ],
)
def test_entries_of_one_list_are_one_mistake(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(write(tmp_path, text), environment={})
    assert str(caught.value) == f"{tmp_path / 'idp-deploy.toml'}:{text.count(chr(10))}: {message}"


def test_every_mistake_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    text = """weigths = "w.pt"
inputs = ["1x"]

[prune]
epochs = "many"
rules = {linear = 3}
"layers.*" = 1
[export]
to = ["onxx"]
[budgets.pixel-4.onnx]
size = "1 MBB"
# sizes = 1
latncy = "4 ms"
[baseline.tolerances]
size = 5
"""
    with pytest.raises(UsageError) as caught:
        load(path := write(tmp_path, text), environment={"IDP_DEPLOY_PRUNE_SEED": "x"})
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("IDP_DEPLOY_PRUNE_SEED: 'prune.seed' is 'x'")
    assert [int(line.removeprefix(f"{path}:").partition(":")[0]) for line in lines] == [1, 2, 5, 6, 7, 9, 11, 13, 15]
    project = tmp_path / "pyproject.toml"
    project.write_text("[tool.idp-deploy]\na = 1\n[tool.idp-deploy.prune]\nb = 1\n")
    with pytest.raises(UsageError, match=rf"(?s){project}:2: unknown key 'a'.*{project}:4: unknown key 'prune.b'"):
        load(project, environment={})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('inputs = ["1,64"]', ("1x64",)),
        ('inputs = ["(1, 64)", "1X8:long"]', ("1x64", "1x8:int64")),
        ("inputs = [[1, 64], [1, 8]]", ("1x64", "1x8")),
        ('inputs = ["1x64, 1x8:int64"]', ("1x64", "1x8:int64")),
        ('inputs = ["my.data:example"]', ("my.data:example",)),
    ],
)
def test_inputs_are_read_however_they_are_written(text: str, told: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert load(path, environment={}).inputs == told
    assert load(path, environment={"IDP_DEPLOY_INPUTS": "1,3,8,8"}).inputs == ("1x3x8x8",)


def test_a_folder_is_taken_for_the_configuration_in_it(tmp_path: Path) -> None:
    write(tmp_path, '[tool.idp-deploy]\nmodel = "a.b:c"\n', "pyproject.toml")
    assert load(tmp_path, environment={}).model == "a.b:c"
    with pytest.raises(UsageError, match="no such configuration file"):
        load(tmp_path.parent / "nowhere", environment={})


def test_unknown_environment_variable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"IDP_DEPLOY_MODLE.*IDP_DEPLOY_MODEL"):
        load(write(tmp_path, ""), environment={"IDP_DEPLOY_MODLE": "x"})


def test_budgets_are_in_base_units(tmp_path: Path) -> None:
    path = write(tmp_path, '[budgets.pixel-4.tflite]\nsize = "600 kB"\nlatency = "4 ms"\nsparsity = "90 %"\n')
    budgets = {budget.metric: budget for budget in load(path, environment={}).budget_list()}
    assert (budgets["size"].limit, budgets["latency"].limit, budgets["sparsity"].limit) == (600_000, 4, 0.9)
    assert budgets["size"].source == "idp-deploy.toml:2 budgets.pixel-4.tflite"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("size = 600", 'write it like "600 kB"'),
        ('size = "600 kilo"', "600 kilo"),
        ('sizes = "600 kB"', "did you mean 'size'"),
        ('latency = "-4 ms"', "-4 ms"),
        ('latency = "1..2 ms"', "1..2"),
        ('sparsity = "150 %"', "more than all"),
        ("sparsity = 1.5", "more than all"),
        ("sparsity = nan", "nan"),
        ('size = "1e999 MB"', "not finite"),
        ('size = "1,8 MB"', 'did you mean "1.8 MB"?'),
        ('size = "1,800 kB"', "cannot read '1,800 kB' as a quantity in bytes — write"),
        ('size = "600 kb"', 'did you mean "600 kB"?'),
        ('size = "1 000 kB"', 'did you mean "1000 kB"?'),
        ('latency = "20 msec"', 'did you mean "20 ms"?'),
        (f"sparsity = 1{'0' * 400}", "should be a valid number"),
        ("sparsity = true", "sparsity is true"),
    ],
)
def test_a_wrong_budget_says_how_to_write_it(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(path := write(tmp_path, f"[budgets.pixel-4.tflite]\n{line}\n"), environment={})
    assert message in str(caught.value)
    assert f"{path}:2: " in str(caught.value)


@pytest.mark.parametrize("value", ["nan", "-1", "inf %", True])
def test_a_wrong_tolerance_is_named(value: str | bool) -> None:
    with pytest.raises(UsageError, match="tolerance of size"):
        tolerances({"size": value})


@pytest.mark.parametrize("value", [5, "5", 1, "2.5"])
def test_a_tolerance_of_percent_is_never_taken_for_a_share(value: str | int) -> None:
    with pytest.raises(UsageError, match=rf'would be \d+% — write "{value} %"'):
        tolerances({"size": value})
    assert tolerances({"size": f"{value} %"}) == {"size": pytest.approx(float(value) / 100)}


def test_either_letter_for_micro_is_read_and_numbers_are_quoted_as_written() -> None:
    assert parse("1200 \u00b5s", "ms") == parse("1200 \u03bcs", "ms") == pytest.approx(1.2)
    with pytest.raises(UsageError, match=r"cannot read 69199 as"):
        parse(69199.0, "bytes")
    with pytest.raises(UsageError, match=r"1\.5 is no whole number"):
        parse(1.5, "count")


@pytest.mark.parametrize(("table", "said"), [("[tool.idp-deploy]\n", True), ("[tool.ruff]\n", False)])
def test_a_configuration_that_another_one_hides_is_said(
    table: str, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 'targets = ["pixel-4"]\n')
    write(tmp_path, table, "pyproject.toml")
    assert open_session().configuration.targets == ("pixel-4",)
    assert ("pyproject.toml is not read: idp-deploy.toml stands beside it" in capsys.readouterr().err) is said


def test_broken_toml_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"idp-deploy\.toml:1:7: this is not valid TOML: Expected"):
        load(write(tmp_path, "[prune\n"), environment={})
    with pytest.raises(UsageError, match="no such configuration file"):
        load(tmp_path / "none.toml", environment={})


def test_capitals_and_empty_parts_are_taken_as_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, '[export]\nto = ["ONNX", "Ethos-U"]\n[quantize]\nscheme = "INT8"\n')
    configuration = load(path, environment={"IDP_DEPLOY_TARGETS": "pixel-4,, iphone-12,"})
    assert configuration.export.to == ("onnx", "ethos-u")
    assert configuration.quantize.scheme == "int8"
    assert configuration.targets == ("pixel-4", "iphone-12")
    told = load(path, environment={"IDP_DEPLOY_EXPORT_TO": "TFLite,", "IDP_DEPLOY_QUANTIZE_SCHEME": "Fp16"})
    assert (told.export.to, told.quantize.scheme) == (("tflite",), "fp16")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (r'weights = "ckpt\w.pt"', "not valid TOML: Unescaped"),
        (r'weights = "C:\Users\me\w.pt"', "not valid TOML: Invalid hex value"),
        (r'weights = "ckpt\best.pt"', r"'weights' is 'ckpt\x08est.pt'"),
        (r'output = "out\new"', r"'output' is 'out\new'"),
    ],
)
def test_a_folder_with_backslashes_is_told_how_to_be_written(line: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "idp-deploy.toml").write_text(line + "\n")
    with pytest.raises(IdpDeployError, match="write folders with '/'") as error:
        load(tmp_path / "idp-deploy.toml", environment={})
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('size = ["1 MB"]', "write [budgets.pixel-4.onnx] above size = …"),
        ('[budgets.pixel-4.onnx]\nsize = ["1 MB"]', 'write one value: size = "1 MB"'),
        ('[budgets.pixel-4.onnx.size]\nmax = "1 MB"', 'write one value: size = "1 MB"'),
        ('[budgets.onnx.pixel-4]\nsize = "1 MB"', "the device comes first: write [budgets.pixel-4.onnx]"),
        ('[budgets.tflite]\nsize = "1 MB"', "the device comes first: write [budgets.pixel-4.tflite]"),
        ('[idp-deploy]\nmodel = "a:b"', "this file is for idp-deploy alone: leave [idp-deploy] out"),
        ("[prune]\ntarget = true", "'prune.target' is True: it should be a valid number"),
        ("[prune]\nepochs = true", "'prune.epochs' is True: it should be a whole number"),
        ("[prune]\nepochs = [3]", "it should be a whole number — write one value: epochs = 3"),
        ("[prune]\nepochs = 1.5", "write a whole number, such as epochs = 10"),
        ("[prune]\nskip = {stem = 1}", 'write a list: ["stem"]'),
        ('targets = [["pixel-4"]]', 'write one value: targets = ["pixel-4"]'),
        ("weights = 3", 'should be the path of one file — write it in quotes: weights = "3"'),
        ("[quantize]\nscheme = 8", 'write it in quotes: scheme = "8"'),
    ],
)
def test_a_value_of_the_wrong_kind_or_place_is_told_how_it_is_written(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "idp-deploy.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load(tmp_path, environment={})
    assert told in str(caught.value)
    assert "correct the value" not in str(caught.value)
