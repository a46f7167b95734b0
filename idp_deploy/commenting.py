"""One comment on a pull or merge request that is written again instead of beside: `python -m idp_deploy.commenting`.

The comment is known by its first line, a hidden marker that every Markdown report begins with, and its name where one
request has several. Where to, and the token that allows it, are read from the environment that GitHub Actions and
GitLab CI set; standard library alone.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from idp_deploy.errors import ExitCode, FileError, IdpDeployError, UsageError
from idp_deploy.legible import on_a_line

TIMEOUT_S = 30
PAGE, PAGES = 100, 20  # comments that are looked through: a hundred a page
MARK = "<!-- idp-deploy"
MOST_BYTES = 65_000  # GitHub takes 65,536 characters
CUT = "\n…\n\nToo long for a comment: the whole of it is in the report that the pipeline keeps.\n"


@dataclass(frozen=True)
class Thread:
    """The comments of one request: where they are listed and added, where one is changed, and how."""

    comments: str
    comment: str  # with {id}
    change: str  # PATCH or PUT
    headers: Mapping[str, str]


def github(environment: Mapping[str, str]) -> Thread:
    """From what a workflow sets, and GITHUB_TOKEN and PULL_REQUEST, its number."""
    api, repository, number, token = _needed(
        environment, "GITHUB_API_URL", "GITHUB_REPOSITORY", "PULL_REQUEST", "GITHUB_TOKEN"
    )
    base = f"{api}/repos/{repository}/issues"
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
    return Thread(f"{base}/{number}/comments", f"{base}/comments/{{id}}", "PATCH", headers)


def gitlab(environment: Mapping[str, str]) -> Thread:
    """From what a merge request's pipeline sets, and GITLAB_TOKEN, a token with the scope `api`."""
    api, project, number, token = _needed(
        environment, "CI_API_V4_URL", "CI_PROJECT_ID", "CI_MERGE_REQUEST_IID", "GITLAB_TOKEN"
    )
    base = f"{api}/projects/{project}/merge_requests/{number}/notes"
    return Thread(base, f"{base}/{{id}}", "PUT", {"PRIVATE-TOKEN": token})


PLACES: Mapping[str, Callable[[Mapping[str, str]], Thread]] = {"github": github, "gitlab": gitlab}


def comment(place: str, report: Path, environment: Mapping[str, str] = os.environ, *, name: str = "") -> str:
    """Write the report as the request's comment, over the one of an earlier run; says which of the two it did.

    Args:
        name: of the check, where several of one request have a comment each.

    Raises:
        UsageError: no such place, no such variable, or a file that is no Markdown report.
        FileError: the server refuses, or cannot be reached.
    """
    if place not in PLACES:
        raise UsageError(f"unknown place {place!r}", way_out=f"one of {', '.join(PLACES)}")
    body = report.read_text(encoding="utf-8")
    if not body.startswith(MARK):
        raise UsageError(f"{report} has no marker in its first line", way_out="write it with --format markdown")
    body = _cut(_named(body, name))
    marker = body.partition("\n")[0]
    thread = PLACES[place](environment)
    for page in range(1, PAGES + 1):
        found = _send(thread, "GET", f"{thread.comments}?per_page={PAGE}&page={page}")
        ours = [one["id"] for one in found if str(one.get("body") or "").startswith(marker)]
        if ours:
            _send(thread, thread.change, thread.comment.format(id=int(ours[0])), {"body": body})
            return "updated the comment"
        if len(found) < PAGE:
            break
    _send(thread, "POST", thread.comments, {"body": body})
    return "wrote a comment"


def _named(body: str, name: str) -> str:
    """The report under a marker, and a title, of its own."""
    plain = re.sub(r"[^\w .-]+|-(?=-)", "", name).strip(" .-_")  # it ends no marker and is no markup
    if not plain:
        return body
    titled = re.sub(r"^## .*", lambda title: f"{title[0]} – {plain}", body, count=1, flags=re.MULTILINE)
    return titled.replace(" -->", f" {plain} -->", 1)


def _cut(body: str) -> str:
    """At the end of a line, where a server would refuse the whole."""
    content = body.encode()
    if len(content) <= MOST_BYTES:
        return body
    return content[: content.rindex(b"\n", 0, MOST_BYTES - len(CUT.encode()))].decode() + CUT


def _needed(environment: Mapping[str, str], *names: str) -> list[str]:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UsageError(f"{missing[0]} is not set", way_out="run this in the pipeline of a request, with its token")
    return [environment[name] for name in names]


def _send(thread: Thread, method: str, address: str, body: Mapping[str, str] | None = None) -> Any:
    if not address.startswith(("https://", "http://")):
        raise UsageError(f"{address} is no web address", way_out="check the API's variable")
    content = None if body is None else json.dumps(body).encode()
    headers = {**thread.headers, "Content-Type": "application/json"}
    try:
        with urlopen(Request(address, content, headers, method=method), timeout=TIMEOUT_S) as answer:
            return json.loads(answer.read() or b"null")
    except HTTPError as error:
        hint = "the token may not write comments" if error.code in (401, 403, 404) else "try again"
        raise FileError(f"{method} {address}: {error.code} {error.reason}", way_out=hint) from None
    except (URLError, TimeoutError, ValueError) as error:
        raise FileError(f"{method} {address}: {error}", way_out="check the address and the network") from None


def main(arguments: list[str]) -> int:
    """`python -m idp_deploy.commenting github|gitlab REPORT.md [NAME]`"""
    if len(arguments) not in (2, 3):
        sys.stderr.write("error: usage: python -m idp_deploy.commenting github|gitlab REPORT.md [NAME]\n")
        return ExitCode.USAGE
    place, report, *name = arguments
    try:
        sys.stderr.write(f"{comment(place, Path(report), name=''.join(name))}\n")
    except (IdpDeployError, OSError) as error:
        sys.stderr.write(f"error: {on_a_line(str(error))}\n")
        return error.exit_code if isinstance(error, IdpDeployError) else ExitCode.FILE
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
