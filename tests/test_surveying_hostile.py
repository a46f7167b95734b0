"""Sources that have no end, or that say what is not so: `init` ends soon, runs nothing, and tells no size unsure."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from idp_deploy.surveying import survey
from idp_deploy.surveying.writing import write_toml
from tests.forked import script
from tests.strangers import HEAD, SMALL, TRIPWIRE

MOST_SECONDS = 6.0  # of the processor, on a slow machine: without an end it would be hours
LAYERS = "self.conv = nn.Conv2d(3, 8, 3)\n        self.fc = nn.Linear(8, 2)"
END = "\nreturn self.fc(self.conv(x).mean((2, 3)))"
SHAPES = {"conv.weight": (8, 3, 3, 3), "fc.weight": (2, 8)}


def _net(forward: str, init: str = LAYERS, more: str = "") -> str:
    body = "\n".join(f"        {line}" for line in forward.splitlines())
    start = f"class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        {init}\n"
    return f"{HEAD}{start}    def forward(self, x):\n{body}\n{more}{TRIPWIRE}"


def _loops(over: str, depth: int, inside: str) -> str:
    heads = [f"{'    ' * place}for i{place} in {over}:" for place in range(depth)]
    return "\n".join([*heads, f"{'    ' * depth}{inside}"])


POOLED = {  # the model pools over whatever it is given, and what surrounds that does not matter
    "numbers without end": "a = 2**(10**9)\nb = 10**10**10\nc = 'a' * 10**10\nd = [0] * 10**10\ne = 0x" + "f" * 50_000,
    "a number that grows": "a = 3\nfor i in range(64):\n    a = a * a",
    "ranges without end": "a = [*range(10**10)]\nb = sum(range(10**9))\nc = len(range(10**30))\nd = range(10**30)[5]",
    "a list that grows": "y = [1]\nfor i in range(60):\n    y += y\n    y = y + y",
    "a list that holds itself": "y = []\ny.append(y)\nz = print(y)",
    "lists within lists": "y = [x]\nfor i in range(60):\n    y = [y, y]\nz = print(y)",
    "a loop over what it makes": "y = [1]\nfor i in y:\n    y.append(i)",
    "thousands of lines": "\n".join("x = F.relu(x)" for _ in range(5_000)),
    "names of builtins": "range = 5\nlist = x\nzip = print\nfor i in range:\n    y = list(zip)",
    "a lambda and a walrus": "f = lambda a: a\nif (y := x) is not None:\n    x = y",
    "what cannot be": "y = [1, 2][::0]\nz = range(1, 2, 0)\nw = int(1e400)\nv = [].pop()\nu = (1, 2)[10**30]",
}
OPEN = {  # whatever size init would tell is not borne out
    "a forward that calls itself": "return self.forward(self.forward(x)) + self.forward(self.forward(x))",
    "loops within loops": _loops("range(10**9)", 5, "y = [i0, i1]") + "\nreturn self.fc(self.conv(x).flatten(1))",
    "a tensor with too many axes": "for i in range(64):\n    x = x[None, None]\nreturn self.fc(x)",
    "a tensor that grows": "for i in range(64):\n    x = torch.cat([x] * 64, 1)\nreturn self.fc(x)",
    "no axis left": "x = x.mean()\nx = x.flatten()\nreturn self.fc(torch.cat([x, x.transpose(0, 1)], 99))",
    "a match": "match x.shape[1]:\n    case 3:\n        x = self.conv(x)\nreturn self.fc(x.flatten(1))",
    "a while": "while True:\n    x = self.conv(x)\nreturn self.fc(x.flatten(1))",
    "an assertion": "x = self.conv(x)\nassert x.shape[2] == 1\nreturn self.fc(x.mean((2, 3)))",
    "more axes than it has": "b, t, c, h, w = x.shape\nreturn self.fc(self.conv(x.view(b * t, c, h, w)).mean((2, 3)))",
}  # fmt: skip
WHOLE = {  # source that is not only a forward
    "methods that call one another": _net(
        "return self.a(x)",
        more="    def a(self, x):\n        return self.b(x) + self.b(x)\n"
        "    def b(self, x):\n        return self.a(x) + self.a(x)\n",
    ),
    "attributes of attributes": _net(
        "return self.fc(self.a0)",
        init="\n        ".join(f"self.a{i} = (self.a{i + 1}, self.a{i + 1}, self.a{i})" for i in range(40)),
    ),
    "classes of one another": HEAD + "".join(
        f"class {one}(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.conv = {two}()\n"
        f"        self.fc = {two}()\n    def forward(self, x):\n        return self.conv(self.fc(x))\n"
        for one, two in (("A", "B"), ("B", "A"))
    ),
    "lines made of lines above": HEAD
    + "class Net(nn.Module):\n    def __init__(self, n=4):\n        super().__init__()\n"
    + "".join(f"        {one} = {' + '.join([other] * 60)}\n" for one, other in ("an", "ba", "cb", "dc"))
    + f"        {LAYERS}\n        self.places = nn.Parameter(torch.zeros(1, d, 8))\n"
    "    def forward(self, x):\n        return self.fc(x)\n",
    "numbers that cannot be written": HEAD + "class Net(nn.Module):\n    def __init__(self, n=3):\n"
    f"        super().__init__()\n        {LAYERS}\n    def forward(self, x):\n        return self.fc(x)\n"
    f"net = Net(n=0x{'e' * 50_000})\nx = torch.randn(1, 3, 0x{'f' * 50_000}, 5)\nconf = {{'n': 0x{'d' * 50_000}}}\n",
}  # fmt: skip
SOURCES = {
    **{name: _net(text + END) for name, text in POOLED.items()},
    **{name: _net(text) for name, text in OPEN.items()},
    **WHOLE,
}


@pytest.mark.wide
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_without_end_is_followed_for_a_while(name: str, weights: bool, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCES[name])
    if weights:
        torch.save({key: torch.zeros(shape) for key, shape in SHAPES.items()}, tmp_path / "w.pt")
    start = time.process_time()
    found = survey(tmp_path)
    write_toml(found, tmp_path, ["onnx"], [])
    assert time.process_time() - start < MOST_SECONDS
    assert not (tmp_path / "ran.txt").exists()
    if name in POOLED:
        assert found.inputs.inputs == ("1x3x224x224",)
    elif name in OPEN and weights:
        assert found.inputs.inputs == ()


def test_thousands_of_layers_are_followed(tmp_path: Path) -> None:
    calls = "\n".join(f"x = self.c{place}(x)" for place in range(2_000)) + "\nreturn self.fc(x.mean((2, 3)))"
    made = [f"self.c{place} = nn.Conv2d(8, 8, 3, padding=1)" for place in range(2_000)]
    (tmp_path / "net.py").write_text(_net(calls, "\n        ".join([*made, "self.fc = nn.Linear(8, 2)"])))
    shapes = {f"c{place}.weight": (8, 8, 3, 3) for place in range(2_000)} | {"fc.weight": (2, 8)}
    torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "w.pt")
    start = time.process_time()
    assert survey(tmp_path).inputs.inputs == ("1x8x28x28",)
    assert time.process_time() - start < 3 * MOST_SECONDS


def test_lists_that_hold_themselves_have_an_end(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(HEAD + SMALL)
    (tmp_path / "conf.yaml").write_text("seed: &a [1, *a]\nsizes: &b {inner: [*b]}\nimage_size: 40\n")
    assert survey(tmp_path).choice is not None


def test_folders_of_data_tell_no_sizes_and_hide_no_weights(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(HEAD + SMALL)
    (tmp_path / "marks").mkdir()
    (tmp_path / "features").mkdir()
    for number in range(60):
        (tmp_path / "marks" / f"{number}.json").write_text('{"width": 640, "height": 480}')
        (tmp_path / "features" / f"{number}.pt").write_bytes(b"no checkpoint")
    (tmp_path / "logs" / "run").mkdir(parents=True)
    made = "import os; from net import *; torch.save(Net().state_dict(), 'logs/run/old.pt')"
    script(f"{made}; os.utime('logs/run/old.pt', (0, 0))", tmp_path)
    found = survey(tmp_path)
    assert found.weights is not None
    assert found.weights.path.name == "old.pt"
    assert found.inputs.inputs == ("1x1x28x28",)
    assert len([note for note in found.notes if "features" in note]) == 4


@pytest.mark.parametrize("newest", ["sound", "vision"])
def test_weights_belong_to_the_code_of_their_own_folder(newest: str, tmp_path: Path) -> None:
    for name in ("sound", "vision"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(HEAD + SMALL)
        script(f"from net import *; torch.save(Net().state_dict(), '{name}.pt')", tmp_path / name)
        os.utime(tmp_path / name / f"{name}.pt", (name == newest, name == newest))
    found = survey(tmp_path)
    assert found.choice is not None
    assert found.weights is not None
    assert (found.choice.spec, found.weights.path.name) == (f"{newest}.net:Net", f"{newest}.pt")
    other = {"sound": "vision", "vision": "sound"}[newest]
    assert not [note for note in found.notes if "would" in note and "fit" in note]
    assert [note for note in found.notes if note.startswith(f"{other}/{other}.pt belongs to {other}.net:Net")]


def test_modules_that_each_may_be_given_are_tried_once(tmp_path: Path) -> None:
    text = "".join(
        f"class Net{i}(nn.Module):\n    def __init__(self, one, two, n={i + 3}):\n        super().__init__()\n"
        "        self.one = one\n        self.two = two\n        self.fc = nn.Linear(n, n)\n"
        "    def forward(self, x):\n        return self.fc(self.one(self.two(x)))\n"
        for i in range(60)
    )
    (tmp_path / "net.py").write_text(HEAD + text)
    places = ("", "one.", "two.", "one.one.", "one.two.", "two.one.", "one.one.one.", "one.two.two.")
    torch.save({f"{place}fc.weight": torch.zeros(7, 7) for place in places}, tmp_path / "w.pt")
    start = time.process_time()
    survey(tmp_path)
    assert time.process_time() - start < MOST_SECONDS


def test_tables_that_name_a_class_and_have_no_end_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(f"{HEAD}class Net(nn.Module):\n    def __init__(self, part):\n"
                                     "        super().__init__()\n        self.part = build(part)\n")  # fmt: skip
    laughs = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['1'])}]" for i in range(12))
    (tmp_path / "a.yaml").write_text(f"{laughs}\ntype: Net\npart: &part {{type: Net, part: *a11}}\n")
    (tmp_path / "b.yaml").write_text("model: &m\n  type: Net\n  part: *m\n")
    (tmp_path / "c.py").write_text("m = " + "dict(type='Net', part=" * 60 + "1" + ")" * 60 + "\nx = [m] * 3\n")
    (tmp_path / "d.py").write_text("n = [" + "{'type': 'Net'}," * 20_000 + "]")
    assert survey(tmp_path).choice is not None
