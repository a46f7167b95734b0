"""What other tools leave behind, by layout: files and folders that are taken, or refused."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.loading_fixtures import Net, X, build, source

Write = Callable[[Path], Path]


def weights() -> OrderedDict[str, Tensor]:
    return source().state_dict()


def ema() -> OrderedDict[str, Tensor]:
    return OrderedDict((k, v + 1 if v.is_floating_point() else v) for k, v in weights().items())


def prefixed(prefix: str, state: Any = None) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + name, value) for name, value in (state or weights()).items())


def saved(make: Callable[[], Any], name: str = "m.pt") -> Write:
    def write(folder: Path) -> Path:
        torch.save(make(), folder / name)
        return folder / name

    return write


def optimizer() -> dict[str, Any]:
    net = build()
    adam = torch.optim.Adam(net.parameters())
    net(X).sum().backward()
    adam.step()
    return adam.state_dict()


def averaged() -> AveragedModel:
    model = AveragedModel(source(), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    model.update_parameters(source())
    return model


def wrapped_inside() -> OrderedDict[str, Tensor]:
    return OrderedDict(
        (n.replace("stem.", "stem._orig_mod.").replace("head.", "head.module."), v) for n, v in weights().items()
    )


def folder_of(**files: Callable[[Path], Any]) -> Write:
    def write(folder: Path) -> Path:
        home = folder / "run"
        home.mkdir()
        for name, make in files.items():
            make(home / name.replace("__", "."))
        return home

    return write


def sharded(kind: str) -> Write:
    def write(folder: Path) -> Path:
        state, weight_map = weights(), {}
        suffix = "safetensors" if kind == "model" else "bin"
        for index, names in enumerate((list(state)[:4], list(state)[4:])):
            file = f"{kind}-0000{index + 1}-of-00002.{suffix}"
            part = {name: state[name] for name in names}
            save_file(part, folder / file) if suffix == "safetensors" else torch.save(part, folder / file)
            weight_map |= dict.fromkeys(names, file)
        index_file = folder / f"{kind}.{suffix}.index.json"
        index_file.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        return index_file

    return write


def distributed(content: Callable[[], Any], inside: str = "run") -> Write:
    def write(folder: Path) -> Path:
        import torch.distributed.checkpoint as dcp

        dcp.save(content(), checkpoint_id=folder / "run" / inside if inside != "run" else folder / "run")
        return folder / "run"

    return write


def deepspeed(folder: Path) -> Path:
    (folder / "global_step5").mkdir()
    (folder / "latest").write_text("global_step5")
    content = {"module": weights(), "optimizer": None, "ds_version": "0.16.0", "args": argparse.Namespace(lr=0.1)}
    torch.save(content, folder / "global_step5" / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": optimizer()}, folder / "global_step5" / "bf16_zero_pp_rank_0_optim_states.pt")
    return folder


def settings() -> dict[str, Any]:
    scores = defaultdict(list)
    scores["val"].append(np.float64(0.5))
    return {"args": argparse.Namespace(lr=0.1, out=Path("runs")), "scores": scores, "best": np.float32(0.9)}


# name → what writes it; the module loaded is `source()`, bit for bit, and nothing has to be said
TAKEN: dict[str, Write] = {
    "plain": saved(weights),
    "plain dict without versions": saved(lambda: dict(weights())),
    "safetensors": lambda folder: (save_file(weights(), folder / "m.safetensors"), folder / "m.safetensors")[1],
    "safetensors by another name": lambda folder: (save_file(weights(), folder / "m.ckpt"), folder / "m.ckpt")[1],
    "legacy tar suffix": saved(weights, "model_best.pth.tar"),
    "any key": saved(lambda: {"my_net_weights": weights(), "epoch": 3}),
    "key of a key": saved(lambda: {"checkpoint": {"nets": {"generator": weights()}}, "step": 7}),
    "key with a dot": saved(lambda: {"v1.2": weights()}),
    "list of state dicts": saved(lambda: {"models": [weights()]}),
    "state dict and optimizer": saved(lambda: {"model_state_dict": weights(), "optimizer": optimizer(), "loss": 0.1}),
    "optimizer beside the weights": saved(lambda: {**weights(), "optimizer": optimizer(), "epoch": 3}),
    "dicts by module": saved(
        lambda: {
            part: {n.removeprefix(f"{part}."): v for n, v in weights().items() if n.startswith(f"{part}.")}
            for part in ("stem", "depthwise", "head")
        }
    ),
    "settings and scores beside": saved(lambda: {"state_dict": weights(), **settings()}),
    **{
        f"prefix {prefix}": saved(lambda prefix=prefix: prefixed(prefix))
        for prefix in (
            "model.",
            "module.",
            "_orig_mod.",
            "student.",
            "net.",
            "backbone.",
            "module.model._orig_mod.",
            "a.b.c.",
        )
    },
    "wrappers inside": saved(wrapped_inside),
    "FSDP names": saved(lambda: prefixed("_fsdp_wrapped_module.", wrapped_inside())),
    "AveragedModel": saved(lambda: AveragedModel(source()).state_dict()),
    "AveragedModel, EMA with buffers": saved(lambda: {"swa_model": averaged().state_dict(), "epoch": 3}),
    "Lightning": saved(
        lambda: {
            "state_dict": prefixed("model."),
            "epoch": 1,
            "pytorch-lightning_version": "2.5.0",
            "loops": {"fit_loop": {}},
            "optimizer_states": [optimizer()],
            "hyper_parameters": {"width": 8},
            "callbacks": {"ModelCheckpoint": {}},
        }
    ),
    "timm": saved(lambda: {"epoch": 3, "arch": "net", "state_dict": weights(), "args": argparse.Namespace(lr=0.1)}),
    "torchvision": saved(
        lambda: {
            "model": weights(),
            "optimizer": optimizer(),
            "lr_scheduler": {"last_epoch": 3},
            "args": argparse.Namespace(),
        }
    ),
    "the same weights twice": saved(lambda: {"model": weights(), "state_dict": weights()}),
    "DeepSpeed folder": deepspeed,
    "folder of transformers": folder_of(
        model__safetensors=lambda path: save_file(weights(), path),
        config__json=lambda path: path.write_text("{}"),
        optimizer__pt=lambda path: torch.save(optimizer(), path),
        training_args__bin=lambda path: path.write_bytes(b"never read"),
    ),
    "folder of accelerate": folder_of(
        pytorch_model__bin=lambda path: torch.save(weights(), path),
        optimizer__bin=lambda path: torch.save(optimizer(), path),
        scheduler__bin=lambda path: torch.save({}, path),
        random_states_0__pkl=lambda path: path.write_bytes(b"never read"),
    ),
    "folder with one file": folder_of(best__pth=lambda path: torch.save(weights(), path)),
    "sharded safetensors": sharded("model"),
    "sharded safetensors, their folder": lambda folder: sharded("model")(folder).parent,
    "sharded bin": sharded("pytorch_model"),
    "distributed checkpoint": distributed(lambda: {"model": weights(), "optim": optimizer(), "epoch": 3}),
    "distributed checkpoint, flat": distributed(weights),
    "distributed checkpoint of accelerate": distributed(lambda: {"model": weights()}, inside="pytorch_model_fsdp_0"),
    "no batch counters": saved(lambda: OrderedDict((n, v) for n, v in weights().items() if "num_batches" not in n)),
    "float64": saved(lambda: {n: v.double() if v.is_floating_point() else v for n, v in weights().items()}),
    "parameters": saved(lambda: {n: nn.Parameter(v, v.is_floating_point()) for n, v in weights().items()}),
}


# several that fit, or something beside: what is taken, which words are said
SAID: dict[str, tuple[Write, str]] = {
    "timm with EMA": (
        saved(lambda: {"state_dict": weights(), "state_dict_ema": ema()}),
        "--weights-key state_dict_ema",
    ),
    "torchvision with EMA": (
        saved(lambda: {"model": weights(), "model_ema": {"n_averaged": torch.tensor(1), **prefixed("module.", ema())}}),
        "--weights-key model_ema",
    ),
    "ema-pytorch": (
        saved(lambda: {**prefixed("online_model."), **prefixed("ema_model.", ema()), "initted": torch.tensor(True)}),
        "--weights-key ema_model",
    ),
    "EMA inside of the weights": (saved(lambda: {**weights(), "ema": ema()}), "--weights-key ema"),
    "EMA without names": (
        saved(lambda: {"model": weights(), "ema": {"decay": 0.9, "shadow_params": list(ema().values())}}),
        "averaged weights",
    ),
    "EMA with names of its own": (
        saved(
            lambda: {
                "state_dict": {**prefixed("model."), **{"model_ema." + n.replace(".", ""): v for n, v in ema().items()}}
            }
        ),
        "averaged weights",
    ),
    "an average beside weights that lack one": (
        saved(lambda: {"model": {n: v for n, v in ema().items() if n != "head.bias"}, "model_ema": weights()}),
        "averaged weights under 'model_ema', since 'model' lacks 'head.bias'",
    ),
    "masks beside the weights": (
        saved(lambda: {"state_dict": weights(), "masks": {"head.weight": torch.ones(4, 8, dtype=torch.bool)}}),
        "without the masks of 1 of them under 'masks': save weight",
    ),
    "Lightning with a loss that has weights": (
        saved(lambda: {"state_dict": {**prefixed("model."), "criterion.weight": torch.ones(4)}}),
        "not part of the model: 'state_dict.criterion.weight'",
    ),
}


CHOSEN: dict[str, tuple[Write, str]] = {
    "state_dict_ema": (saved(lambda: {"state_dict": ema(), "state_dict_ema": weights()}), "state_dict_ema"),
    "a prefix": (saved(lambda: {"state_dict": {**prefixed("student."), **prefixed("teacher.", ema())}}), "student"),
    "a dotted key": (
        saved(lambda: {"state_dict": {**prefixed("student."), **prefixed("teacher.", ema())}}),
        "state_dict.student",
    ),
    "raw beside EMA": (saved(lambda: {"state_dict": weights(), "state_dict_ema": ema()}), "state_dict"),
    "a wrapped prefix": (saved(lambda: {"ema": prefixed("module."), "model": ema()}), "ema"),
    "an index in a list": (saved(lambda: {"nets": [ema(), weights()]}), "nets.1"),
    "the only one": (saved(lambda: {"model": weights()}), "model"),
    "a part of the file": (saved(lambda: {**prefixed("nets.0."), **prefixed("nets.1.", ema())}), "nets.0"),
    "several files": (
        folder_of(
            model__safetensors=lambda path: save_file(ema(), path),
            model_1__safetensors=lambda path: save_file(weights(), path),
        ),
        "model_1",
    ),
}


def nan_in_a_buffer() -> dict[str, Tensor]:
    state = weights()
    state["stem.1.running_var"][3] = float("nan")
    return state


def without_a_shard(folder: Path) -> Path:
    path = sharded("model")(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return path


def one_shard(folder: Path) -> Path:
    return sharded("model")(folder).with_name("model-00001-of-00002.safetensors")


def outside(folder: Path) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": dict.fromkeys(weights(), "../secret.safetensors")}))
    return path


def two_runs(folder: Path) -> Path:
    distributed(weights, "checkpoint-500")(folder)
    return distributed(weights, "checkpoint-1000")(folder)


def damaged_distributed(folder: Path) -> Path:
    path = distributed(weights)(folder)
    file = path / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return path


# name → what writes it, what is said, the way out
REFUSED: dict[str, tuple[Write, str, str]] = {
    "student and teacher": (
        saved(lambda: {"student": weights(), "teacher": ema()}),
        "several sets .* 'student', under 'teacher'",
        "--weights-key student",
    ),
    "last and best": (saved(lambda: {"model": weights(), "best_model": ema()}), "several sets", "--weights-key model"),
    "two models of accelerate": (CHOSEN["several files"][0], "several sets", "--weights-key model"),
    "one weight too few": (
        saved(lambda: {"model": {n: v for n, v in weights().items() if n != "head.bias"}}),
        r"'model' of .*1 missing: 'head.bias'",
        "name the factory",
    ),
    "one weight too many": (
        saved(lambda: {**weights(), "head.scale": torch.ones(4)}),
        "1 unexpected: 'head.scale'",
        "factory",
    ),
    "one renamed": (
        saved(lambda: {("head.wieght" if n == "head.weight" else n): v for n, v in weights().items()}),
        r"1 missing: 'head.weight' \(the file has 'head.wieght'\); 1 unexpected: 'head.wieght' \(did you mean",
        "factory",
    ),
    "another width": (
        saved(lambda: {"state_dict": prefixed("model.", Net(16).state_dict())}),
        r"'stem.0.weight' is \(16, 3, 3, 3\) in the file and \(8, 3, 3, 3\) in the module",
        "sizes",
    ),
    "half under one prefix, half under another": (
        saved(lambda: {("a." if i % 2 else "b.") + n: v for i, (n, v) in enumerate(weights().items())}),
        "missing",
        "factory",
    ),
    "a layer of a larger net": (
        saved(lambda: prefixed("0.") | {"1.weight": torch.ones(2)}),
        "only a part",
        "--weights-key 0",
    ),
    "NaN in a buffer": (saved(nan_in_a_buffer), "buffer 'stem.1.running_var' has values that are not finite", "train"),
    "an adapter": (
        saved(
            lambda: {
                "base_model.model.head.lora_A.weight": torch.ones(2, 8),
                "base_model.model.head.lora_B.weight": torch.ones(4, 2),
            }
        ),
        "an adapter",
        "merge_and_unload",
    ),
    "an optimizer": (
        saved(lambda: {"optimizer": optimizer()}),
        "the state of an optimizer, and no weights",
        "state_dict",
    ),
    "integers": (
        saved(
            lambda: {**weights(), "head.weight": torch.ones(4, 8, dtype=torch.int8), "head.weight_scale": torch.ones(4)}
        ),
        "packed in few bits",
        "float weights",
    ),
    "FSDP, flat": (
        saved(lambda: {"_fsdp_wrapped_module._flat_param": torch.ones(100)}),
        "one process's part",
        "FULL_STATE_DICT",
    ),
    "placeholders of ZeRO": (
        saved(lambda: {"module": {n: torch.zeros(0) for n in weights()}}),
        "placeholders",
        "zero_to_fp32",
    ),
    "arrays of numpy": (
        saved(lambda: {n: v.numpy() for n, v in weights().items()}),
        "holds no state dict",
        "torch.as_tensor|save weights",
    ),
    "npz": (
        lambda folder: (np.savez(folder / "m.npz", **{n: v.numpy() for n, v in weights().items()}), folder / "m.npz")[
            1
        ],
        "numpy arrays",
        "torch.as_tensor",
    ),
    "GGUF": (
        lambda folder: ((folder / "m.gguf").write_bytes(b"GGUF" + bytes(64)), folder / "m.gguf")[1],
        "GGUF",
        "safetensors",
    ),
    "Keras": (
        lambda folder: ((folder / "m.h5").write_bytes(b"\x89HDF\r\n" + bytes(64)), folder / "m.h5")[1],
        "HDF5",
        "torch",
    ),
    "a pointer of Git LFS": (
        lambda folder: (
            (folder / "m.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            folder / "m.bin",
        )[1],
        "Git LFS",
        "git lfs pull",
    ),
    "a pickled module beside its weights": (
        saved(lambda: {"state_dict": weights(), "net": nn.Linear(2, 2)}),
        "Linear",
        "state_dict",
    ),
    "a shard is missing": (without_a_shard, "model-00002-of-00002.safetensors, which is missing", "copy all"),
    "one shard of two": (one_shard, "part 1 of 2", "name the folder"),
    "an index that leaves its folder": (outside, "not a file beside it", "copy"),
    "a distributed checkpoint cut short": (damaged_distributed, "damaged", "copy"),
    "several checkpoints of a run": (lambda folder: two_runs(folder), "several weights", "checkpoint-1000"),
    "shards beside a whole": (
        lambda folder: (sharded("model")(folder), save_file(ema(), folder / "model.safetensors"), folder)[2],
        "several weights: model.safetensors.index.json, model.safetensors",
        "name one",
    ),
    "several files of one folder": (
        folder_of(a__pt=lambda path: torch.save(weights(), path), b__pt=lambda path: torch.save(ema(), path)),
        "several weights: a.pt, b.pt",
        "name one",
    ),
    "an adapter's folder": (
        folder_of(adapter_model__safetensors=lambda path: save_file(weights(), path)),
        "an adapter",
        "merge_and_unload",
    ),
}


class Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)
