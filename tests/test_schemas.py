"""docs/schemas: current, right about what is written, and strict where a mistake is likely."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

import idp_deploy
from idp_deploy.cli.app import _run
from idp_deploy.cli.schemas import NAMES
from idp_deploy.configuration import Configuration
from idp_deploy.flow import Report
from idp_deploy.rendering.verdicts import check_data
from idp_deploy.schemas import SCHEMAS, WHAT, CheckRow, ReportJson, _keys
from tests.reports import report

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "schemas"


def kept(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text())
    return content


def validate(name: str, value: object) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(kept(name)).validate(value)


def written(result: object) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(str(idp_deploy.render(result, "json")))
    return content


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_current_and_is_one(name: str) -> None:
    assert kept(name) == json.loads(json.dumps(SCHEMAS[name]())), "run 'make docs'"
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(kept(name))


def test_the_command_prints_every_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(NAMES) == set(SCHEMAS)
    assert _run(["schema", "report"], debug=False) == 0
    assert json.loads(capsys.readouterr().out) == kept("report")
    assert _run(["schema", "raport"], debug=False) == 2


def test_the_types_of_a_report_are_those_that_are_written() -> None:
    TypeAdapter(ReportJson).validate_json(str(idp_deploy.render(report(), "json")))
    data = written(report())
    del data["checks"][0]["limit"]
    with pytest.raises(ValidationError):
        TypeAdapter(ReportJson).validate_python(data)
    assert set(CheckRow.__annotations__) <= set(check_data(report().checks[0]))


@pytest.mark.parametrize("what", [report(), Report()], ids=["full", "empty"])
def test_a_report_is_valid_and_serves_as_a_baseline(what: Report) -> None:
    validate("report", written(what))
    validate("baseline", written(what))


def test_what_the_command_line_writes_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32)).eval()
    artifact = idp_deploy.export(idp_deploy.one_shot(net, sparsity=0.5), "onnx", (torch.zeros(1, 64),), "net.onnx")
    assert _run(["check", "net.onnx", "--target", "pixel-4", "--target", "custom", "--json"], debug=False) == 0
    out = capsys.readouterr().out
    TypeAdapter(ReportJson).validate_json(out)
    validate("report", json.loads(out))
    validate("manifest", json.loads(json.dumps(dict(artifact.manifest))))


def test_a_damaged_report_is_not_valid() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for key in ("checks", "schema_version", "passed"):
        data = written(report())
        del data[key]
        with pytest.raises(jsonschema.ValidationError):
            validate("report", data)
    data = written(report())
    data["checks"][0]["value"] = "21 kB"
    with pytest.raises(jsonschema.ValidationError):
        validate("report", data)


def blocks() -> list[str]:
    """Every configuration that the documentation shows."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    found = [block for page in pages for block in re.findall(r"```toml\n(.*?)```", page.read_text(), flags=re.S)]
    return [block for block in found if "[tool.idp-deploy" in block or "#:schema" in block]


@pytest.mark.parametrize("text", [*blocks(), (ROOT / "pyproject.toml").read_text()])
def test_a_configuration_that_is_shown_is_valid(text: str) -> None:
    content = tomllib.loads(text)
    validate("configuration", content.get("tool", {}).get("idp-deploy", content))


@pytest.mark.parametrize(
    "wrong",
    [
        {"modle": "a:b"},
        {"prune": {"method": "idb"}},
        {"prune": {"learning_rate": 0.1}},
        {"budgets": {"pixel-4": {"onxx": {"size": "1 MB"}}}},
        {"budgets": {"pixel-4": {"onnx": {"sise": "1 MB"}}}},
        {"export": {"to": ["onxx"]}},
    ],
    ids=str,
)
def test_what_the_reader_refuses_an_editor_underlines(wrong: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(jsonschema.ValidationError):
        validate("configuration", wrong)


def test_every_key_has_a_word_for_an_editor() -> None:
    schema = Configuration.model_json_schema(by_alias=True)
    schema["properties"].pop("source")
    assert set(WHAT) == set(_keys(schema))


def test_the_page_of_the_manifest_shows_its_schema() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "manifest.md").read_text(), flags=re.S)
    assert json.loads(block) == kept("manifest")
