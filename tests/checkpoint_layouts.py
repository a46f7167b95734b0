"""What other tools leave behind, by layout: files and folders that are taken; `refused_layouts` has the others."""

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

from tests.loading_fixtures import X, build, source

Write = Callable[[Path], Path]


def weights() -> OrderedDict[str, Tensor]:
    return source().state_dict()


def ema() -> OrderedDict[str, Tensor]:
    return OrderedDict((k, v + 1 if v.is_floating_point() else v) for k, v in weights().items())


def prefixed(prefix: str, state: Any = None) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + name, value) for name, value in (state or weights()).items())


def saved(make: Callable[[], Any], name: str = "m.pt", **how: Any) -> Write:
    def write(folder: Path) -> Path:
        torch.save(make(), folder / name, **how)
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


def masks(kind: torch.dtype = torch.bool) -> dict[str, Tensor]:
    return {name: (value != 0).to(kind) for name, value in weights().items()}


def sharded(kind: str, *, listed: bool = True) -> Write:
    def write(folder: Path) -> Path:
        state, weight_map = weights(), {}
        suffix = "safetensors" if kind == "model" else "bin"
        for index, names in enumerate((list(state)[:4], list(state)[4:])):
            file = f"{kind}-0000{index + 1}-of-00002.{suffix}"
            part = {name: state[name] for name in names}
            save_file(part, folder / file) if suffix == "safetensors" else torch.save(part, folder / file)
            weight_map |= dict.fromkeys(names, file)
        if not listed:
            return folder
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


def flat_moments() -> dict[str, Any]:
    moments = {f"state.{name}.exp_avg": value for name, value in weights().items()}
    return {**moments, **{f"param_groups.{name}.lr": 0.1 for name in moments}, "train_state": {"step": torch.ones(1)}}


def hub(revisions: dict[str, Callable[[], Any]], main: str = "") -> Write:
    def write(folder: Path) -> Path:
        home = folder / "models--me--net"
        for name, make in revisions.items():
            (home / "snapshots" / name).mkdir(parents=True)
            save_file(make(), home / "snapshots" / name / "model.safetensors")
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(main)
        return home

    return write


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
    "Asteroid": saved(
        lambda: {
            "model_name": "Net",
            "state_dict": weights(),
            "model_args": {"width": 8},
            "infos": {"software_versions": {"torch_version": torch.__version__}},
        }
    ),
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
    "folder of skorch": folder_of(
        params__pt=lambda path: torch.save(weights(), path),
        optimizer__pt=lambda path: torch.save(optimizer(), path),
        criterion__pt=lambda path: torch.save({}, path),
        history__json=lambda path: path.write_text("[]"),
    ),
    "folder of torchtune": folder_of(
        meta_model_0__pt=lambda path: torch.save(weights(), path),
        recipe_state__pt=lambda path: torch.save({"optimizer": optimizer(), "epochs_run": 1}, path),
    ),
    "folder of timm": lambda folder: (torch.save({"state_dict": weights()}, folder / "last.pth.tar"), folder)[1],
    "folder with one file": folder_of(best__pth=lambda path: torch.save(weights(), path)),
    "sharded safetensors": sharded("model"),
    "sharded safetensors, their folder": lambda folder: sharded("model")(folder).parent,
    "sharded bin": sharded("pytorch_model"),
    "shards without their index": sharded("model", listed=False),
    "masks whose zeros are in the weights": saved(lambda: {"model": weights(), "masks": masks()}),
    "such masks in ones and zeros": saved(lambda: {"net": weights(), "prune_mask": masks(torch.float32)}),
    "distributed checkpoint": distributed(lambda: {"model": weights(), "optim": optimizer(), "epoch": 3}),
    "distributed checkpoint, flat": distributed(weights),
    "distributed checkpoint of accelerate": distributed(lambda: {"model": weights()}, inside="pytorch_model_fsdp_0"),
    "moments and gradients by the weights' names": saved(
        lambda: {"model": weights(), "optimizer": {"exp_avg": ema()}, "momentum": ema(), "grads": ema()}
    ),
    "counters of thop": saved(lambda: {**weights(), "total_ops": torch.zeros(1), "stem.total_params": torch.zeros(1)}),
    "no batch counters": saved(lambda: OrderedDict((n, v) for n, v in weights().items() if "num_batches" not in n)),
    "float64": saved(lambda: {n: v.double() if v.is_floating_point() else v for n, v in weights().items()}),
    "a newer pickle": saved(lambda: {"model": weights(), "epoch": 3}, pickle_protocol=4),
    "the newest pickle, before zip files": saved(weights, pickle_protocol=5, _use_new_zipfile_serialization=False),
    "pairs of names and tensors": saved(lambda: [*weights().items()]),
    "every entry as a float": saved(lambda: {n: v.float() for n, v in weights().items()}),
    "an optimizer's state flattened beside the weights": distributed(lambda: {**weights(), **flat_moments()}),
    "a cache of the hub": hub({"abc": weights}),
    "a cache of the hub with two revisions": hub({"abc": ema, "def": weights}, main="def"),
    "gradients beside": saved(lambda: {"net": weights(), "gradient": ema(), "fisher": ema()}),
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
    "mmengine, which exchanges the two": (
        saved(
            lambda: {
                "state_dict": weights(),
                "ema_state_dict": {"steps": torch.tensor(5), **prefixed("module.", ema())},
            }
        ),
        "the weights before averaging that differ stand under 'ema_state_dict.module'",
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
    "observers of quantization-aware training": (
        saved(
            lambda: {
                **weights(),
                "head.weight_fake_quant.scale": torch.ones(1),
                "activation_post_process_0.zero_point": torch.zeros(1),
            }
        ),
        "the float weights at the top, without 2 entries of observers",
    ),
    "masks beside the weights": (
        saved(lambda: {"state_dict": weights(), "masks": {"head.weight": torch.ones(4, 8, dtype=torch.bool)}}),
        "without the masks of 1 of them under 'masks': save weight",
    ),
    "masks in ones and zeros that were not applied": (
        saved(lambda: {"model": weights(), "masks": {n: (v > 0).float() for n, v in weights().items()}}),
        "under 'masks': save weight",
    ),
    "an adapter beside the weights": (
        saved(lambda: {"state_dict": weights(), "lora": {"head.lora_A": torch.ones(2, 8)}}),
        "holds an adapter too ('lora.head.lora_A')",
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
