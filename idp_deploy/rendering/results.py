"""Any result → its document, whichever verb returned it: what `render` and notebooks go through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from idp_deploy.errors import UsageError, a_type
from idp_deploy.rendering import shown
from idp_deploy.rendering.artifacts import parity_document
from idp_deploy.rendering.comparisons import comparison_document
from idp_deploy.rendering.differences import difference_document, folders_document
from idp_deploy.rendering.document import Document
from idp_deploy.rendering.estimates import estimate_document
from idp_deploy.rendering.html import to_fragment
from idp_deploy.rendering.inspections import inspection_document
from idp_deploy.rendering.verdicts import report_document

# where the type is → its document
DOCUMENTS: Mapping[str, Callable[[Any], Document]] = {
    "flow.gate.Report": lambda report: report_document(report, title="Report"),
    "flow.answers.Estimate": lambda estimate: estimate_document({"estimates": [estimate]}, layers=True),
    "flow.answers.Parity": parity_document,
    "inspection.Inspection": inspection_document,
    "diffing.Difference": difference_document,
    "diffing.FolderDifference": folders_document,
    "pruning.comparing.Comparison": lambda comparison: comparison_document(comparison, "score"),
    "stages.Deployment": lambda deployment: report_document(deployment.report, title=f"Run: {deployment.checkpoint}"),
}


def document_of(result: object) -> Document:
    """The document of what a verb returned, or of several estimates.

    Raises:
        UsageError: there is no report of such a thing.
    """
    if isinstance(result, Document):
        return result
    if isinstance(result, (list, tuple)) and result and all(_where(one) == "flow.answers.Estimate" for one in result):
        return estimate_document({"estimates": result}, layers=True)
    if _where(result) not in DOCUMENTS:
        known = ", ".join(name.rpartition(".")[2] for name in DOCUMENTS)
        raise UsageError(f"there is no report of {a_type(result)}", way_out=f"render one of {known}")
    return DOCUMENTS[_where(result)](result)


def page_of(result: object) -> str:
    """HTML for the inside of a notebook."""
    return to_fragment(shown(document_of(result)))


def _where(result: object) -> str:
    return f"{type(result).__module__.removeprefix('idp_deploy.')}.{type(result).__qualname__}"
