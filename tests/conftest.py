"""litert-torch converts one graph once, however many encodings and schemes of its weights are asked for, but in tests
marked `anew`.

Of a test marked `wide`, a table whose rows repeat a kind, a run of the whole suite takes one row of ten, at least one
and the same ones every time; `make test-wide` takes all, and so does a run that names files.

Every test draws the same random numbers each time it runs, alone or among others.

What a test imports from a folder of its own is forgotten after it: the next one may have another `net.py`.
"""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Iterator
from hashlib import sha256
from types import ModuleType, SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.cli_project"]  # the folder `project` of whatever is typed

os.environ.pop("COLUMNS", None)  # some runners set it; answers that tests read are as wide as they come
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

_ONE_OF = 10
_anew = False  # whether this test has every graph converted
_GRAPHS = 16


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


_others: dict[str, ModuleType] = {}  # modules that no test wrote, all looked at before: some thousands


@pytest.fixture(autouse=True)
def forget_what_tests_wrote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No module and no place to import from outlives the test whose folder it lies in."""
    yield
    made = f"{tmp_path_factory.getbasetemp()}{os.sep}"
    for name, module in list(sys.modules.items()):
        if _others.get(name) is not module:
            if str(getattr(module, "__file__", None)).startswith(made):
                del sys.modules[name]
            else:
                _others[name] = module
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
    """Seed what draws random numbers. Put a cache in front of litert-torch once it is loaded; nothing is imported."""
    global _anew
    seed = _number(item)
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(
        seed
    )  # torch.manual_seed also keeps a traceback for each device that is not there
    _anew = item.get_closest_marker("anew") is not None
    library: Any = sys.modules.get("litert_torch")
    plain = getattr(library, "convert", None)
    if plain is not None and not hasattr(plain, "built"):
        library.convert = _for_a_graph(plain)
        library.convert.built = True


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
