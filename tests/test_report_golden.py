"""Every renderer, from one report: what it writes is kept beside this file, byte for byte, a picture dot for dot.

`python -m tests.test_report_golden` writes them again; look at the difference before keeping it.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

from idp_deploy.flow import Report
from idp_deploy.rendering import RENDERERS, render
from idp_deploy.rendering.verdicts import report_document
from tests.reports import report

FOLDER = Path(__file__).parent / "golden" / "report"
NEAR = 0.02  # of the whole range, root mean square: another build of freetype sets letters a little differently


def rendered(name: str, what: Report | None = None) -> bytes:
    """The report as kept: a page without its style, which is one file of the package."""
    written = render(report_document(what or report(), title="Run: net.pt"), name)
    if isinstance(written, bytes):
        return written
    return re.sub(r"<style>.*?</style>", "<style></style>", written, flags=re.S).encode()


def golden(name: str) -> Path:
    ends = {"text": "txt", "markdown": "md", "junit": "xml", "github": "github.txt"}
    return FOLDER / f"report.{ends.get(name, name)}"


@pytest.mark.parametrize("name", [name for name in RENDERERS if name != "png"])
def test_a_report_is_written_as_kept(name: str) -> None:
    assert rendered(name).decode() == golden(name).read_text(), "look, then: python -m tests.test_report_golden"


def test_a_picture_is_drawn_as_kept() -> None:
    from matplotlib.image import imread

    drawn, kept = imread(io.BytesIO(rendered("png"))), imread(golden("png"))
    assert drawn.shape == kept.shape
    assert float(np.sqrt(np.mean((drawn - kept) ** 2))) < NEAR


@pytest.mark.parametrize("name", [name for name in RENDERERS if name != "png"])
def test_every_figure_of_the_verdicts_is_in_every_report(name: str) -> None:
    """What the renderers are for: a number that one of them drops would go unseen."""
    written = rendered(name).decode()
    told = ["0.148", "pixel-4", "latency"] if name != "json" else ["0.148", '"latency"']
    assert all(word in written for word in told)


def test_junit_is_valid_against_its_schema() -> None:
    xmlschema = pytest.importorskip("xmlschema")
    schema = xmlschema.XMLSchema(FOLDER.parent / "junit.xsd")
    schema.validate(rendered("junit").decode())
    schema.validate(render(report_document(Report()), "junit"))
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        schema.validate(rendered("junit").decode().replace(' tests="', ' test="'))


def test_the_marker_of_a_comment_is_what_it_was() -> None:
    assert rendered("markdown").startswith(b"<!-- idp-deploy report -->\n"), "bots look for it in comments of last week"


if __name__ == "__main__":
    for one in RENDERERS:
        golden(one).write_bytes(rendered(one))
