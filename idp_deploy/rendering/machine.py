"""Reports that programs read: JSON with a schema version, JUnit, GitHub workflow commands."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import PurePath
from typing import Any
from xml.etree import ElementTree

from idp_deploy.flow import REPORT_VERSION
from idp_deploy.rendering.document import Case, Document


def to_json(document: Document) -> str:
    """The document's data. Sorted keys; a number that is not finite becomes null."""
    data = {
        "schema_version": REPORT_VERSION,
        "title": document.title,
        "passed": document.passed,
        **({"summary": document.summary} if document.summary else {}),
        **document.data,
        "notes": list(document.notes),
    }
    return json.dumps(_plain(data), indent=2, sort_keys=True, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "item"):
        return _plain(value.item())
    return value


def to_junit(document: Document) -> str:
    """One suite a target and format, one case a metric."""
    suites: dict[str, list[Case]] = defaultdict(list)
    for case in document.cases:
        suites[case.suite].append(case)
    failures = sum(not case.passed for case in document.cases)
    root = ElementTree.Element(
        "testsuites", name="idp-deploy", tests=str(len(document.cases)), failures=str(failures), errors="0"
    )
    for name, cases in suites.items():
        failed = sum(not case.passed for case in cases)
        suite = ElementTree.SubElement(
            root, "testsuite", name=name, tests=str(len(cases)), failures=str(failed), errors="0", skipped="0"
        )
        for case in cases:
            node = ElementTree.SubElement(suite, "testcase", classname=f"idp-deploy.{name}", name=case.name)
            if not case.passed:
                ElementTree.SubElement(node, "failure", message=case.message, type="budget").text = case.message
            elif case.message:
                ElementTree.SubElement(node, "system-out").text = case.message
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def to_github(document: Document) -> str:
    """Workflow commands: an error a failed case, a notice for the total."""
    lines = []
    for case in document.cases:
        if not case.passed:
            title = _property(f"{case.suite} {case.name}")
            where = f"file={_property(case.file)}," if case.file else ""
            lines.append(f"::error {where}title={title}::{_message(case.message)}")
    passed = sum(case.passed for case in document.cases)
    lines.append(f"::notice title=idp-deploy::{_message(f'{document.title}: {passed}/{len(document.cases)} passed')}")
    return "\n".join(lines) + "\n"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
