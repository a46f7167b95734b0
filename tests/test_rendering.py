"""Reports: every renderer takes every document, and says what the document says."""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from idp_deploy.errors import UsageError
from idp_deploy.flow import Budget, Check, FileFacts, Report, WeightProof
from idp_deploy.rendering import RENDERERS, render
from idp_deploy.rendering.artifacts import _of_a_weight
from idp_deploy.rendering.document import Bar, Case, Chart, Curves, Document, Journey, Point, Step, Table
from idp_deploy.rendering.figures import journey
from idp_deploy.rendering.lettering import written
from idp_deploy.rendering.results import page_of
from idp_deploy.rendering.verdicts import report_document

EVIL = 'a|b <script>alert("x")</script>, 100 % $x_1$\nnew: line'


# what clears a terminal, turns the direction of reading, ends an XML document, begins a command in a CI log, fetches
# a picture into a comment, mentions somebody, or is half a character
WORST = (
    "\x1b[2J\x9b\x00\x07\r\u202e\u2066\u2028\ufeff\ufffe\ud800\n::stop-commands::x\n##vso[task.complete]##teamcity[x]"
    + "![i](https://e/x.png)[a](https://e) @octocat `c` *b* __init__ a_b &lt;b> <script>alert(1)</script>\"'| $x$ "
    + "n" * 10_000
)


def document(passed: bool = False, evil: str = EVIL) -> Document:
    return Document(
        "Check",
        [Table("budgets", ("metric", "value"), [("size", "1.2 MB"), (evil, "∞")], frozenset({1}), ["good", "bad"])],
        {"checks": [{"metric": "size", "value": 1.2e6, "path": Path("a/b"), "bad": float("nan")}]},
        [evil],
        [Case("pixel-4 tflite", "size", True, "1.2 MB"), Case("pixel-4 tflite", "latency", passed, evil, "m.tflite")],
        [
            Journey("way", [Step(evil, [evil], 1.0)], [Step("onnx", ["1 MB"], 0.1, "bad")]),
            Chart(
                "latency",
                "ms",
                [evil, "other"],
                {evil: [Bar(3.0, 2.0, 4.0, 3.5, 5.0, True), Bar(0.004)], "none": [Bar(None), Bar(None, text=evil)]},
            ),
            Curves(
                "accuracy", "share", {evil: [Point(0.9, 0.7, 0.6, 0.8), Point(0.95, 0.5)], "none": []}, ("dense", 0.9)
            ),
        ],
        "idp-deploy run",
    )


@pytest.mark.parametrize("name", RENDERERS)
def test_every_renderer_is_deterministic_and_ends_in_a_newline(name: str) -> None:
    report = render(document(), name)
    assert report == render(document(), name)
    if isinstance(report, bytes):
        assert report.startswith(b"\x89PNG")
        return
    assert report.endswith("\n")
    assert "\x1b[" not in report


@pytest.mark.parametrize("name", RENDERERS)
def test_every_renderer_takes_an_empty_document(name: str) -> None:
    assert render(Document("nothing"), name)


def test_json_is_strict_and_carries_a_schema_version() -> None:
    data = json.loads(str(render(document(), "json")), parse_constant=lambda word: pytest.fail(word))
    assert data["schema_version"] == 1
    assert data["passed"] is False
    assert data["checks"][0] == {"metric": "size", "value": 1.2e6, "path": "a/b", "bad": None}


def test_junit_counts_failures_and_survives_markup() -> None:
    root = ElementTree.fromstring(render(document(), "junit"))
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    failure = root.find(".//failure")
    assert failure is not None
    assert "<script>" in (failure.text or "")


def test_github_escapes_what_would_end_a_command() -> None:
    lines = str(render(document(), "github")).splitlines()
    assert lines[0].startswith("::error file=m.tflite,title=pixel-4 tflite latency::")
    assert "%0Anew: line" in lines[0]
    assert lines[-1].endswith("Check: 1/2 passed")


def test_markdown_keeps_a_row_on_a_line() -> None:
    rows = [line for line in str(render(document(), "markdown")).splitlines() if line.startswith("| ")]
    assert len(rows) == 4
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows)


def test_files_of_one_format_are_told_apart() -> None:
    limit = Budget("pixel-4", "onnx", "size", 100.0, "test")
    checks = [Check(limit, Path(name), 200.0, "fail", "", "") for name in ("a.onnx", "b.onnx")]
    document = report_document(Report(checks))
    assert [row[1] for row in document.tables[-1].rows] == ["onnx a.onnx", "onnx b.onnx"]
    assert [case.suite for case in document.cases] == ["pixel-4 onnx a.onnx", "pixel-4 onnx b.onnx"]
    assert document.pictures[0].rows == ["pixel-4 onnx a.onnx size", "pixel-4 onnx b.onnx size"]  # type: ignore[union-attr]


def test_files_of_one_format_are_told_apart_on_their_way_from_dense() -> None:
    files = [FileFacts(Path(name), "onnx", 100, 200, 90.0, 5, 10, ()) for name in ("a.onnx", "b.onnx")]
    assert [step.name for step in journey(files, [], [], {}).ends] == ["a.onnx", "b.onnx"]
    assert [step.facts[0] for step in journey(files, [], [], {}).stages] == ["a.onnx", "a.onnx"]
    assert journey(files[:1], [], [], {}).ends[0].name == "onnx"


def test_letters_that_no_font_has_are_codes() -> None:
    assert written("größe $x$") == r"größe \$x\$"
    assert written("\ue123") == r"\ue123"


def test_html_is_one_file_without_foreign_markup() -> None:
    html = str(render(document(), "html"))
    assert "<script>" not in html
    assert "http" not in html.replace("http://www.w3.org", "")
    assert html.count("<svg") == 1
    assert "90.00 % zeros" in html
    assert "dense" in html


class Page(HTMLParser):
    """Elements with their attributes, and the text under each kind."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_what_a_page_draws_is_also_read_and_reached_by_keyboard() -> None:
    page = Page(str(render(document(), "html")))
    said = " ".join("".join(page.text).split())
    assert "3.00, runs sparse, interval 2.00 to 4.00 ms, limit 3.50 ms" in said
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")
    wide = [attributes for _, attributes in page.elements if attributes.get("class") == "wide"]
    assert wide
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in wide if "role" in a)
    drawn = [a for _, a in page.elements if a.get("class") in ("track", "curves", "legend")]
    assert all(a.get("aria-hidden") == "true" for a in drawn)
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    jumps = {str(a["href"]) for tag, a in page.elements if tag == "a"}
    assert jumps <= {f"#{name}" for name in identifiers}


def test_an_axis_has_one_unit() -> None:
    html = str(render(Document("t", pictures=[Chart("c", "ms", ["a", "b"], {"s": [Bar(0.005), Bar(0.0104)]})]), "html"))
    assert "in µs" in html
    assert "5.0" in html
    assert "10.4" in html
    assert "ms<" not in html


def test_an_axis_of_shares_ends_at_the_whole() -> None:
    chart = Chart("zeros", "share", ["a"], {"": [Bar(0.665)]}, least=1.0)
    assert chart.end == 1.0
    assert Chart("budgets", "share", ["a"], {"": [Bar(3.0)]}, reach=2.0).end == 2.0


@pytest.mark.parametrize("format", ["html", "png"])
def test_a_bar_is_measured_once_however_many_there_are(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = Counter[int](), Bar.extents
    monkeypatch.setattr(Bar, "extents", lambda bar: asked.update([id(bar)]) or real(bar))
    bars = [Bar(float(i), i / 2, 2.0 * i, beside=3.0 * i) for i in range(60)]
    chart = Chart("c", "ms", [*map(str, range(60))], {"one": bars[:], "other": [Bar(1.0) for _ in bars]}, reach=50.0)
    render(Document("t", pictures=[chart]), format)  # type: ignore[arg-type]
    assert max(asked.values()) <= 4


def test_a_comment_that_would_be_too_long_says_what_it_leaves_out() -> None:
    tables = [Table(f"t{i}", ("a",), [("x" * 300,)] * 30) for i in range(9)]
    text = str(render(Document("t", tables, notes=["last"]), "markdown"))
    assert len(text) < 65_536
    assert "<details><summary>t0: 30 rows</summary>" in text
    assert "3 parts are left out" in text
    assert "last" in text


def test_text_is_plain_when_piped_and_names_the_next_command() -> None:
    text = render(document(), "text")
    assert "Next: idp-deploy run" in text
    assert "1.2 MB" in text


def test_a_row_stays_on_its_line_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    columns = ("target", "latency", "rests on", "size")
    table = Table(
        "t", columns, [("pixel-4", "0.47 ms", "word " * 30, "1 MB"), ("b", "1 ms", "–", "2 MB")], frozenset({1, 3})
    )
    lines = str(render(Document("t", [table]), "text")).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line.split() for line in lines if "MB" in line] == [
        ["pixel-4", "0.47", "ms", "1", "MB"],
        ["b", "1", "ms", "2", "MB"],
    ]
    assert "    rests on: word word" in "\n".join(lines)
    assert "\x1b" not in "".join(lines)


def test_what_names_a_row_stays_beside_it_and_long_reasons_go_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    reason = "not estimable: operators of unknown cost do 18% of the multiplications"
    rows = [("pixel-4", "onnxruntime (onnx)", reason, "194 kB"), ("pixel-4", "litert-xnnpack", "1.23 ms", "261 kB")]
    lines = str(
        render(Document("t", [Table("", ("target", "runtime", "latency", "size"), rows, frozenset({2, 3}))]), "text")
    )
    assert lines.splitlines()[2].split() == ["pixel-4", "onnxruntime", "(onnx)", "194", "kB"]
    assert f"    latency: {reason}"[:60] in lines


def test_a_text_beside_a_name_is_folded_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    table = Table("", ("what", "found"), [("task", "not found, " * 10), ("model", "net:Net")])
    lines = str(render(Document("t", [table]), "text")).splitlines()
    assert lines[2].startswith("task   not found, not found")
    assert lines[3].startswith("       found, not found")
    assert lines[-1] == "model  net:Net"


def test_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("t", ("target", "rests on"), [("pixel-4", "word " * 30), ("b", "word " * 30)])
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(map(len, str(render(Document("", [table]), "text")).splitlines())) > 80
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, str(render(Document("", [table]), "text")).splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "wide")
    assert max(map(len, str(render(Document("", [table]), "text")).splitlines())) > 80


@pytest.mark.parametrize("name", RENDERERS)
def test_a_name_does_nothing_to_what_shows_it(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a picture without room for its bars
        report = render(replace(document(evil=WORST), title=WORST, summary=WORST, next=WORST), name)
    if isinstance(report, bytes):
        return
    report.encode()
    shown = {c for c in report if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn", "Zl") and c != "\n"}
    assert not shown
    if name == "json":
        assert json.loads(report)["notes"] == [WORST]
        return
    assert len(report) < 100_000
    assert "octocat" in report
    if name == "junit":
        ElementTree.fromstring(report)
    if name in ("html", "markdown"):
        assert "<script>" not in report
    if name != "github":  # whose lines are commands, of ours
        assert not [line for line in report.splitlines() if line.lstrip().startswith("::")]
    if name == "text":
        assert "##" not in report
    if name == "markdown":
        assert "@octocat" not in report
        assert not re.search(r"(?<!\\)\]\(", report)
        assert r"\_\_init\_\_ a_b &amp;lt;b" in report


def test_a_page_within_a_notebook_does_the_same() -> None:
    assert "\x1b" not in page_of(document(evil=WORST))


def test_an_unknown_renderer_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'json'"):
        render(document(), "jsn")


def test_a_proof_without_numbers_shows_none() -> None:
    proof = WeightProof("the file", "the file", "", 0, 0, 0, float("nan"), passed=False)
    assert _of_a_weight(proof).startswith("not what a fresh export of the model holds, or none could be made")
    assert "no tensor of the file is like it" in _of_a_weight(replace(proof, tensor=""))


def test_a_share_is_short_by_points_and_no_flag_is_parted_from_its_dashes(tmp_path: Path) -> None:
    from idp_deploy.flow import Budget, Check
    from idp_deploy.rendering.verdicts import check_case

    budget = Budget("pixel-4", "onnx", "sparsity", 0.8, "here:1")
    case = check_case(Check(budget, tmp_path, 0.5, "fail", "", "prune to 80 % zeros (prune --target 0.8)"))
    assert "short by 30.0 points" in case.message
    large = check_case(Check(Budget("pixel-4", "onnx", "size", 2e3, "here:1"), tmp_path, 5.27e6, "fail"))
    assert "; 2,635 times the limit; " in large.message
    page = str(render(Document("Check", cases=[case]), "html"))
    assert '(prune <span class="flag">--target</span> 0.8)' in page


def test_a_long_chart_shows_some_of_every_column_and_folds_the_rest() -> None:
    early, late = (
        [Bar(1.0) if (row < 60) == is_early else Bar(None) for row in range(90)] for is_early in (True, False)
    )
    rows = [f"layer{row}" for row in range(90)]
    chart = Chart("Time of each layer", "ms", rows, {"a": early, "b": late}, "layer")
    shown = chart.telling(40)
    assert shown == sorted({*shown})
    assert [sum(bars[row].value is not None for row in shown) for bars in (early, late)] == [20, 20]
    assert replace(chart, series={"a": early}).telling(40) == [*range(40)]
    assert replace(chart, rows=rows[:9], series={"a": early[:9]}).telling(40) == [*range(9)]
    page = render(Document("Check", [], {}, pictures=[chart]), "html")
    above, _, folded = page.partition("<summary>50 more</summary>")
    assert [part.count('role="rowheader"') for part in (above, folded)] == [40, 50]
    assert all(f">{row}<" in page for row in rows)


def test_a_picture_has_as_many_columns_as_can_be_read_and_says_so() -> None:
    from idp_deploy.rendering.document import Bar, Chart
    from idp_deploy.rendering.drawing import _narrowed, _plain

    chart = Chart("Time", "ms", ["a"], {f"target {i}": [Bar(1.0)] for i in range(9)})
    narrow = _narrowed(chart)
    assert (narrow.title, [*narrow.series]) == ("Time (6 of 9 columns)", [f"target {i}" for i in range(6)])
    assert _narrowed(narrow) == narrow
    assert len(_plain("\ue123" * 40)) <= 48  # letters that no font has are spelled by their codes


def test_a_hundred_layers_left_dense_are_one_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from idp_deploy.flow import CompressedModel
    from idp_deploy.rendering.models import compression_document

    layers = [torch.nn.Conv2d(4, 4, 3, groups=4) for _ in range(100)]
    model = CompressedModel(torch.nn.ModuleDict({"body": torch.nn.Sequential(*layers)}), {})
    reasons = {f"body.{i}.weight": "depthwise" for i in range(100)}
    (note,) = compression_document(model, tmp_path / "w.pt", accuracies={}, left=reasons).notes
    assert note == "not pruned (depthwise): body.{0..99}.weight"


def test_long_names_of_rows_are_told_apart_in_a_picture() -> None:
    from idp_deploy.rendering.drawing import _row

    names = [f"feature_extraction_backbone.{i}.pointwise_expansion_convolution" for i in range(3)]
    assert len({_row(name) for name in names}) == 3
