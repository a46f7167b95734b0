"""Folders in which several files of weights lie side by side, as training tools and hubs leave them."""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from idp_deploy import one_shot, save_checkpoint
from idp_deploy.flow import Model
from tests.checkpoint_layouts import Write, ema, optimizer, weights
from tests.loading_fixtures import source


def laid(**files: Any) -> Write:
    """A folder of these files, by name with `__` for dots: text, bytes, what is to be saved, or a folder of such."""

    def write(folder: Path) -> Path:
        home = folder / "run"
        lay(home, files)
        return home

    return write


def lay(home: Path, files: dict[str, Any]) -> None:
    home.mkdir(parents=True)
    for name, content in files.items():
        path = home / name.replace("__", ".")
        content = content() if callable(content) else content
        if isinstance(content, dict) and content.get("folder"):
            lay(path, {inner: value for inner, value in content.items() if inner != "folder"})
        elif isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)


def inside(**files: Any) -> dict[str, Any]:
    return {"folder": True, **files}


def other() -> dict[str, torch.Tensor]:
    """Weights that are no part of the module."""
    return nn.Linear(3, 5).state_dict()


def moments() -> dict[str, Any]:
    return torch.optim.Adam(source().parameters()).state_dict()


def of_fairseq(state: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: {"args": argparse.Namespace(lr=0.1), "model": state(), "last_optimizer_state": optimizer()}


def nemo(kind: str) -> Write:
    def write(folder: Path) -> Path:
        lay(folder / "in", {"model_weights__ckpt": weights, "model_config__yaml": "a: 1"})
        with tarfile.open(folder / "m.nemo", kind) as archive:  # type: ignore[call-overload]
            archive.add(folder / "in" / "model_weights.ckpt", "./model_weights.ckpt")
        return folder / "m.nemo"

    return write


def dense_and_shrunk(folder: Path) -> Path:
    """What a model was, beside what it became, which is narrower than the factory builds it."""
    lay(folder / "run", {"model__pt": ema})
    save_checkpoint(one_shot(Model(source()), sparsity=0.5), folder / "run" / "model.pruned.pt")
    return folder / "run"


def listed(text: str) -> Write:
    return laid(model__safetensors=weights, modules__json=text)


LAYERS = json.dumps([{"idx": i, "path": path} for i, path in enumerate(("", "1_Pooling", "2_Dense"))])
SPEECHBRAIN = {
    "model__ckpt": weights,
    "normalizer__ckpt": lambda: {"count": 3, "glob_mean": torch.zeros(20), "spk_dict_mean": {}},
    "modelopt__ckpt": moments,
    "counter__ckpt": "3",
    "brain__ckpt": "avg_train_loss: 0.1\nstep: 3\n",
    "dataloader-TRAIN__ckpt": "12",
    "CKPT__yaml": "end-of-epoch: true",
}

# name → what writes it; the module loaded is `source()`, bit for bit, and nothing has to be said
TAKEN: dict[str, Write] = {
    "SpeechBrain": laid(**SPEECHBRAIN),
    "SpeechBrain, two networks": laid(**SPEECHBRAIN, classifier__ckpt=other),
    "sentence-transformers": laid(
        model__safetensors=weights, modules__json=LAYERS, **{"1_Pooling": inside(config__json="{}")},
        **{"2_Dense": inside(model__safetensors=other, config__json="{}")},
    ),
    "diffusers": laid(
        model_index__json="{}", scheduler=inside(scheduler_config__json="{}"),
        unet=inside(diffusion_pytorch_model__safetensors=weights), vae=inside(diffusion_pytorch_model__bin=other),
    ),
    "both kinds of file of one model": laid(model__safetensors=weights, pytorch_model__bin=weights),
    "both kinds of file of one diffuser": laid(
        diffusion_pytorch_model__safetensors=weights, diffusion_pytorch_model__bin=weights
    ),
    "the best and the last are one": laid(best__pt=weights, last__pt=lambda: {"model": weights(), "epoch": 3}),
    "beside a GGUF file": laid(model__gguf=b"GGUF" + bytes(64), model__pt=weights),
    "NeMo, unpacked": laid(model_weights__ckpt=weights, model_config__yaml="a: 1"),
}  # fmt: skip

# several that fit → the key of the right ones
CHOSEN: dict[str, tuple[Write, str]] = {
    "fairseq": (
        laid(checkpoint_best__pt=of_fairseq(weights), checkpoint_last__pt=of_fairseq(ema)), "checkpoint_best",
    ),
    "ESPnet": (
        laid(**{"valid__acc__ave_10best__pth": weights, "30epoch__pth": ema, "config__yaml": "a: 1"}),
        "valid.acc.ave_10best",
    ),
    "mmengine": (
        laid(
            best_acc_epoch_1__pth=lambda: {"state_dict": weights()}, epoch_2__pth=lambda: {"state_dict": ema()},
            last_checkpoint="epoch_2.pth",
        ),
        "best_acc_epoch_1.state_dict",
    ),
    "both kinds of file of two moments": (
        laid(model__safetensors=weights, pytorch_model__bin=ema), "model.safetensors",
    ),
    "folders": (laid(best=inside(a__pt=weights), last=inside(a__pt=ema)), "best"),
}  # fmt: skip

# name → what writes it, what is said, the way out
REFUSED: dict[str, tuple[Write, str, str]] = {
    "moments of one run": (laid(epoch_9__pth=weights, epoch_12__pth=ema), "epoch_12.pth, epoch_9.pth", "epoch_12"),
    "a damaged one beside": (laid(a__pt=weights, b__pt=b"\x80\x02broken"), "several weights: a.pt, b.pt", "name one"),
    "one that was never fetched": (
        laid(a__pt=weights, b__pt="version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "several weights: a.pt, b.pt",
        "name one",
    ),
    "an empty one beside": (laid(a__pt=weights, b__pt=""), "several weights: a.pt, b.pt", "name one"),
    "ultralytics": (
        laid(best__pt=lambda: {"model": nn.Linear(2, 2)}, last__pt=lambda: {"model": nn.Linear(2, 2)}),
        "best.pt holds more than tensors",
        "state_dict",
    ),
    "what was pruned beside what it was": (dense_and_shrunk, "several weights: model.pruned.pt, model.pt", "name one"),
    "none that fits": (
        laid(encoder__pt=other, decoder__pt=other),
        "does not fit the module",
        "factory",
    ),
    "NeMo": (nemo("w"), "an archive of NeMo", "tar -xf FILE.nemo"),
    "NeMo, compressed": (nemo("w:gz"), "an archive of NeMo", "tar -xf FILE.nemo"),
    "GGUF alone": (laid(model__gguf=b"GGUF" + bytes(64)), "model.gguf is a GGUF file", "safetensors"),
    "Keras alone": (laid(model__weights__h5=b"\x89HDF\r\n"), "no weights of PyTorch: model.weights.h5", "own tools"),
    "layers that leave their folder": (listed('[{"idx": 0, "path": "../x"}]'), "which is not beside it", "copy"),
    "layers above their folder": (listed('[{"idx": 0, "path": ".."}]'), "which is not beside it", "copy"),
    "layers that are missing": (listed('[{"idx": 0, "path": "no"}]'), "which is missing", "copy all"),
    "no list of layers": (listed('[{"idx": "first"}, 3]'), "is not a list of layers", "copy"),
    "layers too deep to be read": (listed("[" * 100_000), "is not a list of layers", "copy"),
    "no layers": (listed("[]"), "without weights", "copy all"),
}
