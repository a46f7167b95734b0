"""What holds a share of a model: one process's rows, an index without its parts; and masks beside weights."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from idp_deploy.errors import FileError
from idp_deploy.loading import load_any, load_model
from tests.checkpoint_layouts import distributed, prefixed, saved, weights
from tests.loading_fixtures import build, same, source

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
Write = Callable[[Path], Path]


def rows(parts: int, rank: int) -> Callable[[], dict[str, Tensor]]:
    """What a process of FSDP holds as local tensors: chunks of rows, and buffers whole."""

    def make() -> dict[str, Tensor]:
        return {n: v if n.endswith(BUFFERS) else (*v.chunk(parts), v[:0])[rank] for n, v in weights().items()}

    return make


def of_the_first_process_alone(folder: Path) -> Path:
    """Half of each weight's rows in the file, and an index that knows how large the whole is."""
    run = distributed(rows(2, 0))(folder)
    index = pickle.loads((run / ".metadata").read_bytes())
    for name, entry in index.state_dict_metadata.items():
        entry.size = weights()[name].shape
    (run / ".metadata").write_bytes(pickle.dumps(index))
    return run


def without_its_index(folder: Path) -> Path:
    run = distributed(weights)(folder)
    (run / ".metadata").unlink()
    return run


def archived(folder: Path) -> Path:
    (folder / "model.tar.gz").write_bytes(b"\x1f\x8bother")
    return folder


GATHER = "get_model_state_dict"
REFUSED: dict[str, tuple[Write, str, str]] = {
    "the first process's rows": (saved(rows(2, 0)), r"one process's part .* 1/2 of the .* \(4, 3, 3, 3\) of", GATHER),
    "the last process's rows": (saved(rows(2, 1)), "one process's part .* 1/2 of the module's rows", GATHER),
    "rows that do not divide": (saved(rows(3, 0)), "one process's part .* 1/3 of the module's rows", GATHER),
    "fewer rows of the last": (saved(rows(3, 2)), "one process's part", GATHER),
    "saved by the first process alone": (
        of_the_first_process_alone,
        "parts of 'stem.0.weight' have 108 values, where shape .* has 216",
        "let every process call save",
    ),
    "an index left behind": (without_its_index, "__0_0.distcp is one process's part", r"name its folder, .*\.metadata"),
    "one file of it": (lambda f: distributed(weights)(f) / "__0_0.distcp", "is one process's part", "name its folder"),
    "an archive in a folder": (archived, "holds no weights of PyTorch: model.tar.gz is a tar archive", "unpack it"),
    "a mask that is none": (
        saved(lambda: {**weights(), "head.weight_mask": weights()["head.weight"]}),
        "1 unexpected: 'head.weight_mask'",
        r"weight \* mask",
    ),
    "torchtune's adapter": (
        saved(lambda: {**weights(), "head.lora_a.weight": torch.ones(2, 8)}), "an adapter", "merge",
    ),
    "any adapter of peft": (
        saved(lambda: {"base_model.model.head.lokr_w1": torch.ones(2, 2)}), "peft has wrapped", "merge_and_unload",
    ),
    "a layer under an adapter": (
        saved(lambda: {n.replace("head.", "head.base_layer."): v for n, v in weights().items()}), "adapter", "merge",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("write", "words", "way_out"), REFUSED.values(), ids=REFUSED)
def test_a_share_is_refused_with_the_way_to_the_whole(write: Write, words: str, way_out: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=words) as caught:
        load_model(write(tmp_path), build)
    assert re.search(way_out, caught.value.way_out), caught.value
    assert "\n" not in str(caught.value)


def test_the_index_of_a_distributed_checkpoint_stands_for_its_folder(tmp_path: Path) -> None:
    assert same(load_model(distributed(weights)(tmp_path) / ".metadata", build).module, source())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_are_told_how_they_become_floats(tmp_path: Path) -> None:
    integers = torch.quantize_per_tensor(weights()["head.weight"], 0.1, 0, torch.qint8)
    with pytest.raises(FileError, match=r"'head.weight' is not .* \(tensor.dequantize\(\)\)"):
        load_model(saved(lambda: {**weights(), "head.weight": integers})(tmp_path), build)


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.uint8])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_masks_by_the_names_of_their_weights_are_applied(kind: torch.dtype, prefix: str, tmp_path: Path) -> None:
    masks = {f"{name}_mask": weights()[name] > 0 for name in ("stem.0.weight", "head.weight", "head.bias")}
    state = prefixed(prefix, {**weights(), **{name: mask.to(kind) for name, mask in masks.items()}})
    found = load_any(saved(lambda: {"state_dict": state})(tmp_path), build, announce=lambda _: None)
    for name, mask in masks.items():
        weight = found.module.get_parameter(name.removesuffix("_mask"))
        assert torch.equal(weight, source().get_parameter(name.removesuffix("_mask")) * mask + 0.0)
    assert found.zeros == sum(int((~mask).sum()) for name, mask in masks.items() if "weight" in name)
