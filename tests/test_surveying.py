"""`init` in folders of strangers: what it finds by reading alone runs without an edit."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from idp_deploy.configuration import load
from idp_deploy.surveying import survey
from tests.forked import command, script
from tests.strangers import HEAD, SMALL, TRAINING, WIDE
from tests.strangers_folders import FOLDERS
from tests.strangers_registered import REGISTRY


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a row, with its weights saved."""
    root = tmp_path_factory.mktemp("strangers")

    def make(name: str) -> Path:
        folder = root / f"a folder {list(FOLDERS).index(name)}"
        if not folder.exists():
            folder.mkdir()
            for file, text in FOLDERS[name].files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(text)
            if FOLDERS[name].saves:
                script(FOLDERS[name].saves, folder)
            (folder / "ran.txt").unlink(missing_ok=True)
        return folder

    return make


@pytest.mark.wide
@pytest.mark.parametrize("name", FOLDERS)
def test_what_a_folder_holds_is_told_without_running_it(name: str, made: Callable[[str], Path]) -> None:
    row, folder = FOLDERS[name], made(name)
    found = survey(folder)
    choice = found.choice
    assert (choice.spec if choice else None) == row.model
    assert not (choice and choice.unknown)
    weights = choice.weights.path.relative_to(folder).as_posix() if choice and choice.weights else None
    assert (found.inputs.inputs, weights) == (row.inputs, row.weights)
    assert row.said in " | ".join(found.notes)
    assert row.unsaid not in " | ".join(found.notes)
    assert not (folder / "ran.txt").exists()


@pytest.mark.parametrize("name", ["net.mlpackage", "net.mlmodelc"])
def test_weights_inside_a_package_are_no_checkpoints(name: str, tmp_path: Path) -> None:
    inside = tmp_path / name / "Data" / "com.apple.CoreML" / "weights"
    inside.mkdir(parents=True)
    (inside / "weight.bin").write_bytes(b"\x0f\x00\x00\x00" * 16)
    assert "weight.bin" not in " | ".join(survey(tmp_path).notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in FOLDERS.items() if row.model and row.inputs])
def test_init_run_check_without_an_edit(name: str, made: Callable[[str], Path]) -> None:
    folder = made(name)
    for line in (["init"], ["run"], ["check"]):
        done = command(*line, folder=folder)
        assert done.returncode == 0, done.stderr + done.stdout
    assert load(folder / "idp-deploy.toml", environment={}).budget_list()


def test_loaders_are_pointed_out_and_a_part_is_no_rival(made: Callable[[str], Path]) -> None:
    found = survey(made("a package below src, with loaders and means"))
    assert found.loaders == ("segm.data:loaders",)
    assert "fit" not in " ".join(found.notes)  # Unit fits `heads` alone


def test_a_dict_is_named_by_its_keys(made: Callable[[str], Path]) -> None:
    found = survey(made("a forward that takes a dict")).inputs
    assert found.source == "forward takes a dict with 'tokens', 'image': a function that returns (dict,)"
    assert found.template == "my_data:example_inputs"


def test_a_task_is_found_and_trains(tmp_path: Path) -> None:
    tiny = Path(__file__).parent / "tiny_project" / "tiny.py"
    (tmp_path / "tiny.py").write_text(tiny.read_text())
    found = survey(tmp_path)
    assert found.task == "tiny:task"
    assert found.choice is not None
    assert found.choice.spec == "tiny:build"


def test_an_export_of_another_tool_tells_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(HEAD + WIDE)
    code = (
        "from net import *; n = Net(4).eval(); torch.save(n.state_dict(), 'w.pt');"
        "torch.onnx.export(n, (torch.zeros(1, 3, 48, 40),), 'net.onnx', dynamo=True)"
    )
    script(code, tmp_path)
    assert survey(tmp_path).inputs.inputs == ("1x3x48x40",)


@pytest.mark.wide
@pytest.mark.parametrize("suffix", ["onnx", "pt2", "ts"])
def test_what_another_tool_exported_is_checked_as_it_is_or_named(suffix: str, tmp_path: Path) -> None:
    code = {
        "onnx": "torch.onnx.export(n, x, 'net.onnx', dynamo=True, external_data=True)",
        "pt2": "torch.export.save(torch.export.export(n, x), 'net.pt2')",
        "ts": "torch.jit.trace(n, x).save('net.pt')",
    }[suffix]
    made = f"import torch; n = torch.nn.Linear(40, 50).eval(); x = (torch.zeros(1, 40),); {code}"
    script(made, tmp_path)
    done = [command(*line, folder=tmp_path) for line in (["init"], ["check", "net.onnx"])]
    assert done[0].returncode == 0
    if suffix == "onnx":
        assert "Next: idp-deploy check net.onnx" in done[0].stdout
        assert done[1].returncode == 0, done[1].stdout
    else:
        assert "net.pt" in done[0].stdout
        assert "save weights instead" in " ".join(done[0].stdout.split())


@pytest.mark.parametrize("file", ["w.npz", "weights/model.h5", "saved_model.pb", "net.engine"])
def test_models_of_other_tools_are_named_where_no_weights_are_found(file: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(HEAD + WIDE)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"\x89HDF")
    (note,) = survey(tmp_path).notes
    assert re.match(rf"{file} is left out: it is an? .* — \w+", note)


def test_a_copy_is_written_and_not_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(HEAD + SMALL + TRAINING)

    def init(*flags: str) -> CompletedProcess[str]:
        return command("init", *flags, folder=tmp_path)

    (tmp_path / "main_model.py").write_text("# mine\n")
    refused = init()
    assert (refused.returncode, "main_model.py exists already" in refused.stderr) == (2, True)
    assert (tmp_path / "main_model.py").read_text() == "# mine\n"
    assert not (tmp_path / "idp-deploy.toml").exists()
    refused = init("--force")  # which speaks of the configuration, not of somebody's own file
    assert (refused.returncode, "move it away" in refused.stderr) == (2, True)
    assert (tmp_path / "main_model.py").read_text() == "# mine\n"
    (tmp_path / "main_model.py").rename(tmp_path / "mine.txt")
    assert init().returncode == 0
    copied = (tmp_path / "main_model.py").read_text()
    assert "class Net" in copied
    assert "backward" not in copied.split('"""', 2)[2]
    again = init("--force")
    assert "Net is copied" not in again.stdout  # what was copied is found by itself
    assert "earlier copy" not in again.stdout
    copy = tmp_path / "main_model.py"
    copy.write_text(copied + "# edited\n")
    again = init("--force")
    assert "main_model.py is an earlier copy, and main.py or the copy was edited since" in again.stdout
    assert copy.read_text() == copied + "# edited\n"
    assert not (tmp_path / "ran.txt").exists()


@pytest.mark.parametrize("link", ["net.py", "deep/er/net.py"])
def test_a_link_to_a_file_is_no_rival_of_it(link: str, tmp_path: Path) -> None:
    file = tmp_path / "my code" / "net.py" if link == "net.py" else tmp_path / "real" / "net.py"
    for path in (file, tmp_path / link):
        path.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(HEAD + SMALL)
    (tmp_path / link).symlink_to(file)
    script(HEAD + SMALL + "torch.save(Net().state_dict(), 'w.pt')", tmp_path)
    found = survey(tmp_path)
    assert found.choice is not None
    assert found.choice.definition.spec == ("net:Net" if link == "net.py" else "real.net:Net")
    assert not found.notes


def test_a_package_that_is_needed_and_missing_is_named_and_nothing_copied_for_it(tmp_path: Path) -> None:
    head = "from absent.registry import MODELS\nfrom absent.model import Base\n" + HEAD
    (tmp_path / "net.py").write_text(head + SMALL.replace("class Net", "@MODELS.register_module()\nclass Net"))
    found = survey(tmp_path)
    assert found.choice is not None
    assert (found.choice.spec, found.choice.definition.copy) == ("net:Net", None)
    assert found.notes == ("net.py imports absent, not installed here: install it beside idp-deploy",)
    (tmp_path / "net.py").write_text(head + SMALL)  # which does without
    found = survey(tmp_path)
    assert found.choice is not None
    assert (found.choice.spec, found.choice.definition.missing) == ("net_model:Net", ())


def test_functions_around_a_library_and_its_calls_are_models() -> None:
    from idp_deploy.surveying.libraries import in_source

    text = (
        "import torchvision\nfrom timm import create_model as make\nfrom torch import nn, optim\n"
        "def build_net(classes=3):\n    net = torchvision.models.resnet18(weights=None)\n"
        "    net.fc = nn.Linear(net.fc.in_features, classes)\n    return net\n"
        "def get_optimizer(net):\n    return optim.Adam(net.parameters())\n"
        "def main():\n    model = torchvision.models.vgg11(weights='DEFAULT', num_classes=7).to('cuda')\n"
        "    model.load_state_dict({})\n    other = make(model_name='a', pretrained=True)\n    other.parameters()\n"
    )
    found = in_source(ast.parse(text), Path("net.py"), "net", set())
    told = {one.spec: [name for name, node in one.parameters.items()] for one in found}
    assert told == {
        "net:build_net": ["classes"],
        "torchvision.models:vgg11": ["num_classes"],
        "timm:create_model": ["model_name"],
    }


def test_an_expression_without_end_is_left_out(tmp_path: Path) -> None:
    text = HEAD + SMALL
    (tmp_path / "deep.py").write_text(text.replace("super().__init__()", f"self.n = {'1 + ' * 900}1", 1))
    (tmp_path / "net.py").write_text(text)
    found = survey(tmp_path)
    assert getattr(found.choice, "spec", None) == "net:Net"
    assert "deep.py is left out: an expression in it is nested too deeply" in found.notes
    (tmp_path / "deep.py").write_text(HEAD + f"class Deep(nn.Module):\n    pass\nx = {'1 + ' * 900}1\n")
    assert getattr(survey(tmp_path).choice, "spec", None) == "net:Net"


def test_settings_that_hold_each_other_have_an_end(tmp_path: Path) -> None:
    shared = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9) if i else 1}]\n" for i in range(30))
    (tmp_path / "conf.yaml").write_text(f"a: &a [1, *a]\nb: &b {{k: *b}}\n{shared}")
    (tmp_path / "net.py").write_text(HEAD + SMALL)
    assert getattr(survey(tmp_path).choice, "spec", None) == "net:Net"


def test_a_folder_that_takes_no_files_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from idp_deploy import files
    from idp_deploy.cli import session
    from idp_deploy.cli.app import _run
    from idp_deploy.errors import FileError

    def refused(path: Path, *_: object, **__: object) -> Path:
        raise FileError(f"{path} cannot be written: {path.parent} takes no new files", way_out="another place with -o")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(HEAD + SMALL)
    assert _run(["init", "elsewhere/idp.toml"], debug=False) == 0
    monkeypatch.setattr(files, "write_bytes", refused)
    session.remember("artifacts", [tmp_path / "net.onnx"])  # says so, and that is all
    monkeypatch.setattr(files, "landing", refused)
    assert _run(["init"], debug=False) == 3


def test_what_follows_names_a_configuration_that_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from idp_deploy.cli.app import _run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(HEAD + SMALL)
    assert _run(["init", "my conf.toml"], debug=False) == 0
    assert capsys.readouterr().out.rstrip().endswith("then: idp-deploy run 'my conf.toml'")


@pytest.mark.parametrize("where", ['"cuda"', "torch.device('cuda:0')"])
@pytest.mark.parametrize("line", ["model = Net().to(device)", "x = torch.zeros(1, device=device)"])
def test_a_file_that_asks_for_a_gpu_as_it_is_imported_is_copied(where: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(f"{HEAD}{SMALL}\ndevice = {where}\n{line}\n")
    script("from torch import nn; import torch; exec(open('net.py').read().split('device =')[0]);"
           "torch.save(Net().state_dict(), 'w.pt')", tmp_path)  # fmt: skip
    found = survey(tmp_path).choice
    assert found is not None
    assert found.spec == "net_model:Net"
    assert found.definition.copy is not None
    assert "would ask for a GPU" in found.definition.copy.why


def test_a_file_that_takes_a_gpu_where_there_is_one_is_imported(tmp_path: Path) -> None:
    usual = 'device = "cuda" if torch.cuda.is_available() else "cpu"\nmodel = Net().to(device)\n'
    (tmp_path / "net.py").write_text(f"{HEAD}{SMALL}\n{usual}")
    found = survey(tmp_path).choice
    assert found is not None
    assert found.spec == "net:Net"


def test_sizes_without_a_number_are_left_to_fill_in(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        f"{HEAD}class Net(nn.Module):\n    def __init__(self, *sizes, classes=3):\n        super().__init__()\n"
        "        self.rows = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))\n"
        "        self.last = nn.Linear(sizes[-1], classes)\n"
    )
    script("from net import *; torch.save(Net(8, 6, 4).state_dict(), 'w.pt')", tmp_path)
    done = command("init", folder=tmp_path)
    assert "net:Net needs *sizes, which nothing here tells" in done.stdout
    assert load(tmp_path / "idp-deploy.toml").model is None


def test_a_part_is_not_taken_for_the_model_that_a_registry_builds(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(HEAD + REGISTRY.replace("KEY", "'type'").replace("NAMED", ""))
    made = "body, top = dict(type='Body', depth=2), dict(type='Top', seen=8, classes=3)"
    script(f"from net import *; {made}; torch.save(Whole(body, top).state_dict(), 'w.pt')", tmp_path)
    assert "net:Whole needs body, top, which nothing here tells" in command("init", folder=tmp_path).stdout


def test_layers_under_names_of_the_file_are_known(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch.nn import Conv2d as C, Linear as L, Module as M\n\n\nclass Net(M):\n"
        "    def __init__(self, wide=4):\n        super().__init__()\n        self.c = C(3, wide, 3)\n"
        "        self.l = L(wide, 5)\n\n    def forward(self, x):\n        return self.l(self.c(x).mean((2, 3)))\n"
        "\n\nNet().eval()\nexit()\n"
    )
    script("text = open('net.py').read().split('Net().eval')[0]; exec(text); torch.save(Net(6).state_dict(), 'w.pt')",
           tmp_path)  # fmt: skip
    assert command("init", folder=tmp_path).returncode == 0
    assert load(tmp_path / "idp-deploy.toml", environment={}).model == "net_model:Net(wide=6)"
    script("import net_model; net_model.Net(6)", tmp_path)


def test_weights_of_a_layer_that_was_renamed_since_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(HEAD + SMALL)
    code = "s = Net().state_dict(); s['old.weight'] = s.pop('fc.weight'); torch.save(s, 'w.pt')"
    script(f"from net import *; {code}", tmp_path)
    (note,) = survey(tmp_path).notes
    assert note == "w.pt may be another model's: net:Net has 'fc.weight', and the file 'old.weight'"


def test_a_class_inside_of_a_function_is_named(tmp_path: Path) -> None:
    text = "".join(f"    {line}" for line in SMALL.splitlines(keepends=True))
    (tmp_path / "train.py").write_text(f"{HEAD}def main():\n{text}")
    (note,) = survey(tmp_path).notes
    assert note.startswith("train.py defines Net inside of main(), where it cannot be imported: move it")
