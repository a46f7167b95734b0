"""What every export of a test process would build anew is built once: two tables of torch's, which come out the same.

The ONNX functions, whose sources are parsed for half a second an export; and the operators that a decomposition may
keep, fetched one by one for each of some thirty namespaces, four or five times an export. And litert-torch converts one
graph once, however many encodings and schemes of its weights are asked for, but in tests marked `anew`.

Of a test marked `wide`, a table of many rows, a run of the whole suite takes one row of six, at least one and the same
ones every time; `make test-wide` takes all, and so does a run that names files.

What a test imports from a folder of its own is forgotten after it: the next one may have another `net.py`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from copy import copy
from functools import cache
from hashlib import sha256
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.cli_project"]  # the folder `project` of whatever is typed

os.environ.pop("COLUMNS", None)  # some runners set it; answers that tests read are as wide as they come
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

_ONE_OF = 6
_anew = False  # whether this test has every graph converted
_GRAPHS = 16
_ONNX, _EXPORT = "torch.onnx._internal.exporter._registration", "torch._export.utils"


def _narrow(config: pytest.Config) -> bool:
    """Whether the suite runs as a whole and nobody asked for every row. Workers are told by who starts them."""
    if hasattr(config, "workerinput"):
        return bool(config.workerinput["narrow"])
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and "wide" not in config.option.markexpr


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist."""
    node.workerinput["narrow"] = _narrow(node.config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out most rows of wide tables, chosen by what they are called."""
    if not _narrow(config):
        return
    rows: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("wide"):
            rows.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left = {item for table in rows.values() for item in sorted(table, key=_number)[math.ceil(len(table) / _ONE_OF) :]}
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


def _number(item: pytest.Item) -> int:
    return crc32(item.nodeid.encode())


@pytest.fixture(autouse=True)
def forget_what_tests_wrote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No module and no place to import from outlives the test whose folder it lies in."""
    yield
    made = f"{tmp_path_factory.getbasetemp()}{os.sep}"
    for name, module in list(sys.modules.items()):  # some thousands, after every test
        if str(getattr(module, "__file__", None)).startswith(made):
            del sys.modules[name]
    sys.path[:] = [place for place in sys.path if not place.startswith(made)]


@pytest.fixture
def exact_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime as on ARM and on x86 with VNNI, so that a test of int8 numbers measures the file and not this CPU."""
    import onnxruntime

    from idp_deploy.formats.onnx.run import EXACT_INTEGERS

    plain = onnxruntime.InferenceSession.__init__

    def opened(self: Any, source: Any, options: Any = None, *more: Any, **words: Any) -> None:
        options = words.pop("sess_options", options) or onnxruntime.SessionOptions()
        options.add_session_config_entry(*EXACT_INTEGERS)
        plain(self, source, options, *more, **words)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", opened)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Put a cache in front of each once its library has loaded it; nothing is imported for it."""
    global _anew
    _anew = item.get_closest_marker("anew") is not None
    for place, name, cached in (
        (getattr(sys.modules.get(_ONNX), "ONNXRegistry", None), "from_torchlib", _copied),
        (sys.modules.get(_EXPORT), "_materialize_cpp_cia_ops", _fetched),
        (sys.modules.get("litert_torch"), "convert", _for_a_graph),
    ):
        plain = getattr(place, name, None)
        if plain is not None and not hasattr(plain, "built"):
            once = cached(plain)
            once.built = True
            setattr(place, name, staticmethod(once) if isinstance(place, type) else once)


def _copied(plain: Any) -> Any:
    """The table as it was built first, a copy for each export."""
    built = cache(plain)

    def from_torchlib(*args: Any, **kwargs: Any) -> Any:
        table = copy(built(*args, **kwargs))
        table.functions = {target: list(entries) for target, entries in table.functions.items()}
        return table

    return from_torchlib


def _fetched(plain: Any) -> Any:
    """As during one export, for all of them: fetched again once a library has registered more."""
    from idp_deploy.exporting.sparing import Fetched

    return Fetched(plain)


def _for_a_graph(plain: Any) -> Any:
    """What litert-torch made of the same operators with the same numbers, for the last few graphs."""
    kept: dict[bytes, bytes] = {}

    def convert(model: Any, example: tuple[torch.Tensor, ...], **more: Any) -> Any:
        graph = getattr(model, "module", None)
        if _anew or more or not isinstance(graph, torch.fx.GraphModule):
            return plain(model, example, **more)
        numbers = [*model.state_dict().items(), *enumerate(example)]
        said = (graph.code, model.channel_last, model.spec, [x for x in model.leaves if not torch.is_tensor(x)])
        key = sha256(repr((said, [(name, x.dtype, x.shape, x.stride()) for name, x in numbers])).encode())
        for _, x in numbers:
            key.update(x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        if key.digest() not in kept:
            kept[key.digest()] = plain(model, example).model_content()
            if len(kept) > _GRAPHS:
                del kept[next(iter(kept))]
        content = kept[key.digest()]
        return SimpleNamespace(model_content=lambda: content)

    return convert
