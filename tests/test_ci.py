"""What runs in other people's pipelines: every shell step of the action, the component and the hook, run here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
import torch
import yaml
from torch import nn

import idp_deploy
from idp_deploy import commenting
from idp_deploy.commenting import main as comment
from tests.forked import program

ROOT = Path(__file__).parents[1]
BUDGETS = '[budgets.pixel-4.onnx]\nsize = "{size}"\n'
INPUTS = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}|\$\[\[ inputs\.([\w-]+) \]\]")


def title_of(body: str) -> str:
    return next(line for line in body.splitlines() if line.startswith("## "))


@dataclass
class Server:
    """The comments of one request, behind the two interfaces' addresses."""

    address: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refuses: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            state.asked.append((self.command, urlparse(self.path).path))
            state.tokens.add(self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN") or "")
            length = int(self.headers.get("Content-Length") or 0)
            sent = json.loads(self.rfile.read(length)) if length else None
            if state.refuses:
                self.send_error(state.refuses)
                return
            page = int(parse_qs(urlparse(self.path).query).get("page", ["1"])[0])
            result: Any = state.comments[(page - 1) * 100 : page * 100]
            if self.command == "POST":
                result = {"id": len(state.comments) + 1, **sent}
                state.comments.append(result)
            if self.command in ("PATCH", "PUT"):
                number = int(urlparse(self.path).path.rpartition("/")[2])
                next(one for one in state.comments if one["id"] == number).update(sent)
            content = json.dumps(result).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = answer  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32)).eval()
    idp_deploy.export(idp_deploy.one_shot(net, sparsity=0.5), "onnx", (torch.zeros(1, 64),), path)
    return path


@pytest.fixture
def project(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a model, budgets, and the command on the path as pip would put it there."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "net.onnx").write_bytes(model.read_bytes())
    (folder / "idp-deploy.toml").write_text(BUDGETS.format(size="1 MB"))
    with program(binaries / "idp-deploy"):
        yield folder


def bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As both runners do: it stops at the first command that fails."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def filled(text: Any, given: dict[str, str], defaults: dict[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = given.get(name, defaults[name])
        return str(found).lower() if isinstance(found, bool) else str(found)

    return INPUTS.sub(value, str(text))


ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "run" in step}
DEFAULTS = {name: str(one.get("default", "")) for name, one in ACTION["inputs"].items()}


def step(name: str, folder: Path, given: dict[str, str], **context: str) -> subprocess.CompletedProcess[str]:
    """One step of the action with its inputs; `context` is what GitHub fills in elsewhere."""
    environment = {key: filled(text, given, DEFAULTS) for key, text in STEPS[name].get("env", {}).items()}
    where = folder / filled(STEPS[name].get("working-directory", "."), given, DEFAULTS)
    return bash(STEPS[name]["run"], where, **{**environment, **context})


@pytest.mark.parametrize(("size", "code"), [("1 MB", 0), ("1 B", 1)])
def test_the_action_checks_and_keeps_every_report_whatever_the_verdict(size: str, code: int, project: Path) -> None:
    (project / "idp-deploy.toml").write_text(BUDGETS.format(size=size))
    output, summary, report = project / "output", project / "summary", project / "re port"
    done = step("check", project, {"artifacts": "net.onnx"}, REPORT=str(report), GITHUB_OUTPUT=str(output),
                GITHUB_STEP_SUMMARY=str(summary))  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("::error" in done.stdout) == bool(code)
    assert output.read_text() == f"report={report}\n"
    assert {path.name for path in report.iterdir()} == {f"report.{end}" for end in ("html", "md", "json", "xml", "png")}
    assert "idp-deploy report" in summary.read_text()


def test_the_action_takes_a_baseline_with_a_space_in_its_name(project: Path) -> None:
    done = bash("idp-deploy check net.onnx --json -o 'old report.json'", project)
    assert done.returncode == 0, done.stderr
    done = step("check", project, {"artifacts": "net.onnx", "baseline": "old report.json"},
                REPORT=str(project / "r"), GITHUB_OUTPUT=str(project / "o"))  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_action_gates_a_project_below_the_root(project: Path) -> None:
    inside = project / "ml" / "my net"
    inside.mkdir(parents=True)
    for name in ("net.onnx", "idp-deploy.toml"):
        (project / name).rename(inside / name)
    (inside / "idp-deploy.toml").write_text(BUDGETS.format(size="1 B"))
    report = project / "r"
    done = step("check", project, {"artifacts": "net.onnx", "working-directory": "ml/my net"},
                REPORT=str(report), GITHUB_OUTPUT=str(project / "o"))  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "idp-deploy.toml" in done.stdout
    assert (report / "report.html").is_file()


def test_the_actions_comment_is_written_once_and_then_updated(project: Path, server: Server) -> None:
    server.comments += [{"id": n, "body": f"of somebody {n}"} for n in range(1, 131)]  # more than a page
    bash("idp-deploy check net.onnx --format markdown -o report.md", project)
    around = {"GITHUB_API_URL": server.address, "GITHUB_REPOSITORY": "a/b", "PULL_REQUEST": "7", "REPORT": "."}
    for _ in range(2):
        done = step("comment", project, {"token": "secret"}, **around)
        assert done.returncode == 0
        assert "could not be written" not in done.stdout
        assert "secret" not in done.stdout + done.stderr
    assert len(server.comments) == 131
    assert server.comments[-1]["body"].startswith("<!-- idp-deploy report -->")
    assert [method for method, _ in server.asked] == ["GET", "GET", "POST", "GET", "GET", "PATCH"]
    assert server.asked[-1] == ("PATCH", "/repos/a/b/issues/comments/131")
    assert server.tokens == {"Bearer secret"}


def test_a_comment_that_is_refused_fails_no_build(project: Path, server: Server) -> None:
    server.refuses = 403
    bash("idp-deploy check net.onnx --format markdown -o report.md", project)
    done = step("comment", project, {"token": "x"}, GITHUB_API_URL=server.address, GITHUB_REPOSITORY="a/b",
                PULL_REQUEST="7", REPORT=".")  # fmt: skip
    assert done.returncode == 0
    assert "::warning::" in done.stdout
    assert "403" in done.stderr
    assert "the token may not write comments" in done.stderr


def test_two_uses_of_the_action_keep_a_comment_and_a_folder_each(project: Path, server: Server) -> None:
    around = {"GITHUB_API_URL": server.address, "GITHUB_REPOSITORY": "a/b", "PULL_REQUEST": "7"}
    folders = set()
    for name, size in [("eyes", "1 B"), ("ears", "1 MB"), ("idp-deploy-report", "1 MB"), ("eyes", "1 B")]:
        (project / "idp-deploy.toml").write_text(BUDGETS.format(size=size))
        given = {"artifacts": "net.onnx", "report-name": name}
        report = filled(STEPS["check"]["env"]["REPORT"], given, DEFAULTS).replace("${{ runner.temp }}", str(project))
        folders.add(report)
        step("check", project, given, REPORT=report, GITHUB_OUTPUT=str(project / "o"))
        assert step("comment", project, {"token": "t", **given}, REPORT=report, **around).returncode == 0
    assert len(folders) == 3
    titles = [title_of(one["body"]) for one in server.comments]
    assert titles == ["## Check: OVER BUDGET – eyes", "## Check: within budget – ears", "## Check: within budget"]


def test_a_comment_is_written_whatever_modules_the_repository_has(project: Path, server: Server) -> None:
    bash("idp-deploy check net.onnx --format markdown -o report.md", project)
    (project / "email.py").write_text("raise SystemExit('of the project')")
    done = step("comment", project, {"token": "t"}, GITHUB_API_URL=server.address, GITHUB_REPOSITORY="a/b",
                PULL_REQUEST="7", REPORT=".")  # fmt: skip
    assert "could not be written" not in done.stdout, done.stderr
    assert len(server.comments) == 1


def test_a_comment_too_long_for_the_server_is_cut_at_a_line(server: Server, tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    report.write_text("<!-- idp-deploy report -->\n## Check: OVER BUDGET\n" + "- ❌ a line of it\n" * 9000)
    around = {"GITHUB_API_URL": server.address, "GITHUB_REPOSITORY": "a/b", "PULL_REQUEST": "7", "GITHUB_TOKEN": "t"}
    commenting.comment("github", report, around)
    *lines, last = server.comments[0]["body"].splitlines()
    assert len(server.comments[0]["body"].encode()) <= 65_536
    assert {*lines[2:]} == {"- ❌ a line of it", "…", ""}
    assert "the whole of it" in last


def test_the_actions_steps_refer_to_inputs_and_steps_that_exist() -> None:
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    assert set(re.findall(r"steps\.(\w+)\.", text)) <= {one.get("id") for one in ACTION["runs"]["steps"]}
    for one in STEPS.values():
        assert "${{" not in one["run"], "what a user gives is no code: it goes through the environment"
        assert bash(f"bash -n <<'END'\n{one['run']}\nEND", ROOT).returncode == 0


@pytest.mark.parametrize(("size", "code"), [("1 MB", 0), ("1 B", 1)])
def test_the_component_checks_and_comments(size: str, code: int, project: Path, server: Server) -> None:
    (project / "idp-deploy.toml").write_text(BUDGETS.format(size=size))
    spec, jobs = yaml.safe_load_all((ROOT / "templates" / "check.yml").read_text())
    defaults = {name: one.get("default") for name, one in spec["spec"]["inputs"].items()}
    job = jobs["$[[ inputs.name ]]"]
    variables = {name: filled(text, {"artifacts": "net.onnx"}, defaults) for name, text in job["variables"].items()}
    around = {"CI_API_V4_URL": server.address, "CI_PROJECT_ID": "5", "CI_MERGE_REQUEST_IID": "3", "GITLAB_TOKEN": "t"}
    for _ in range(2):
        done = bash("\n".join(job["script"]), project, **variables, **around)
        assert done.returncode == code, done.stderr
    assert len(server.comments) == 1
    assert server.asked[-1] == ("PUT", "/projects/5/merge_requests/3/notes/1")
    report = project / job["artifacts"]["reports"]["junit"]
    assert f'failures="{code}"' in report.read_text()
    assert (report.parent / "report.html").is_file()


def test_the_component_is_included_as_often_as_there_are_models(project: Path, server: Server) -> None:
    text = (ROOT / "templates" / "check.yml").read_text()
    spec, _ = yaml.safe_load_all(text)
    defaults = {name: one.get("default") for name, one in spec["spec"]["inputs"].items()}
    around = {"CI_API_V4_URL": server.address, "CI_PROJECT_ID": "5", "CI_MERGE_REQUEST_IID": "3", "GITLAB_TOKEN": "t"}
    jobs = {}
    for name in ("eyes", "ears"):
        given = {"name": name, "artifacts": "net.onnx"}
        jobs |= yaml.safe_load(filled(text.partition("---\n")[2], given, defaults))
    assert set(jobs) == {"eyes", "ears"}, "jobs of one name are one job"
    for name, job in jobs.items():
        variables = {key: str(value or "") for key, value in job["variables"].items()}
        done = bash("\n".join(job["script"]), project, CI_JOB_NAME=name, **variables, **around)
        assert done.returncode == 0, done.stderr
    assert [title_of(one["body"]) for one in server.comments] == [f"## Check: within budget – {n}" for n in jobs]


def test_the_component_gates_a_project_below_the_root_and_a_refused_note_fails_nothing(
    project: Path, server: Server
) -> None:
    inside = project / "ml" / "my net"
    inside.mkdir(parents=True)
    for name in ("net.onnx", "idp-deploy.toml"):
        (project / name).rename(inside / name)
    server.refuses = 403
    spec, jobs = yaml.safe_load_all((ROOT / "templates" / "check.yml").read_text())
    defaults = {name: one.get("default") for name, one in spec["spec"]["inputs"].items()}
    job, given = jobs["$[[ inputs.name ]]"], {"artifacts": "net.onnx", "directory": "ml/my net"}
    variables = {name: filled(text, given, defaults) for name, text in job["variables"].items()}
    around = {"CI_API_V4_URL": server.address, "CI_PROJECT_ID": "5", "CI_MERGE_REQUEST_IID": "3", "GITLAB_TOKEN": "t"}
    done = bash("\n".join(job["script"]), project, **variables, **around)
    assert done.returncode == 0, done.stderr
    assert "403" in done.stderr
    assert (project / job["artifacts"]["reports"]["junit"]).is_file()


def test_the_hook_gates_the_files_it_is_given(project: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    files = [path.name for path in project.iterdir() if re.search(hook["files"], path.name)]
    assert files == ["net.onnx"]
    assert bash(f"{hook['entry']} {files[0]}", project).returncode == 0
    (project / "idp-deploy.toml").write_text(BUDGETS.format(size="1 B"))
    assert bash(f"{hook['entry']} {files[0]}", project).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        (["github"], {}, 2, "usage"),
        (["gitea", "report.md"], {}, 2, "one of github, gitlab"),
        (["github", "report.md"], {}, 2, "GITHUB_API_URL is not set"),
        (["github", "plain.md"], {}, 2, "no marker"),
        (["github", "none.md"], {}, 3, "none.md"),
        (["gitlab", "report.md"], {"CI_API_V4_URL": "file:///etc"}, 2, "no web address"),
        (["gitlab", "report.md"], {"CI_API_V4_URL": "http://127.0.0.1:9"}, 3, "check the address"),
    ],
)
def test_what_stops_a_comment_is_said(
    arguments: list[str], environment: dict[str, str], code: int, says: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_API_URL", raising=False)
    (tmp_path / "report.md").write_text("<!-- idp-deploy report -->\nfine\n")
    (tmp_path / "plain.md").write_text("fine\n")
    for name, value in {"CI_PROJECT_ID": "1", "CI_MERGE_REQUEST_IID": "1", "GITLAB_TOKEN": "t", **environment}.items():
        monkeypatch.setenv(name, value)
    assert comment(arguments) == code
    assert says in capsys.readouterr().err


def test_what_the_page_shows_names_nothing_that_a_reader_would_have_to_find_out() -> None:
    page = (ROOT / "docs/journeys/ci.md").read_text()
    github, gitlab, hook = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    assert not re.search(r"OWNER|GROUP|example\.com", page)
    copy = github[1]["uses"].removeprefix("./")
    assert github[0]["with"] == {"submodules": True}
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert set(github[1]["with"]) <= set(action["inputs"])
    component = (ROOT / gitlab["include"][0]["local"].removeprefix(f"{copy}/")).read_text()
    assert set(gitlab["include"][0]["inputs"]) <= set(next(yaml.safe_load_all(component))["spec"]["inputs"])
    ours, shown = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())[0], hook["repos"][0]["hooks"][0]
    assert {key: shown[key] for key in ours if key != "description"} == {k: ours[k] for k in ours if k != "description"}
