"""What other tools leave behind and is refused, by layout."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.checkpoint_layouts import (
    CHOSEN,
    Write,
    distributed,
    ema,
    folder_of,
    optimizer,
    prefixed,
    saved,
    sharded,
    weights,
)
from tests.loading_fixtures import Net


def nan_in_a_buffer() -> dict[str, Tensor]:
    state = weights()
    state["stem.1.running_var"][3] = float("nan")
    return state


def cut_short(folder: Path) -> Path:
    path = folder / "m.safetensors"
    save_file(weights(), path)
    path.write_bytes(path.read_bytes()[:-9])
    return path


def without_a_shard(folder: Path) -> Path:
    path = sharded("model")(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return path


def one_shard(folder: Path) -> Path:
    return sharded("model")(folder).with_name("model-00001-of-00002.safetensors")


def a_shard_without_the_others_or_an_index(folder: Path) -> Path:
    (sharded("model", listed=False)(folder) / "model-00001-of-00002.safetensors").unlink()
    return folder


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


def written(name: str, content: bytes = b"other") -> Write:
    return lambda folder: ((folder / name).write_bytes(content), folder / name)[1]


def inside(*names: str) -> Write:
    def write(folder: Path) -> Path:
        (folder / "run").mkdir()
        for name in names:
            (folder / "run" / name).write_bytes(b"other")
        return folder / "run"

    return write


def zipped(*members: str, name: str = "m.zip") -> Write:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member in members:
                archive.writestr(member, b"other")
        return folder / name

    return write


def with_a_password(folder: Path) -> Path:
    path = zipped("run/best.pth")(folder)
    data = bytearray(path.read_bytes())
    for start, flags in ((data.find(b"PK\x03\x04"), 6), (data.rfind(b"PK\x01\x02"), 8)):
        data[start + flags] |= 1
    path.write_bytes(bytes(data))
    return path


def of_deepspeed(*others: str) -> Write:
    def write(folder: Path) -> Path:
        run = folder / "global_step5"
        for name in others:
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            torch.save({}, run / name)
        torch.save({"module": None, "ds_version": "0.16.0"}, run / "mp_rank_00_model_states.pt")
        (folder / ("latest_universal" if "/" in others[0] else "latest")).write_text(run.name)
        return folder

    return write


class Strange(Tensor):
    """A kind of tensor that a library brings along, and allows to be read."""

    @staticmethod
    def of(tensor: Tensor) -> Strange:
        return tensor.detach().as_subclass(Strange)


torch.serialization.add_safe_globals([Strange])


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
        r"factory.*served training alone.*strict=False",
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
    "an optimizer's moments by name": (
        saved(lambda: {"epoch": 1, "optimizer": {"exp_avg": weights()}}),
        r"stands under 'optimizer.exp_avg': an optimizer's, or changes, and no weights",
        "model.state_dict",
    ),
    "an average without names": (
        saved(lambda: {"decay": 0.9, "shadow_params": list(weights().values())}),
        "averaged weights without their names",
        "copy_to",
    ),
    "gradients by name": (saved(lambda: {"grads": weights()}), "under 'grads': an optimizer's", "model.state_dict"),
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
        "which is a numpy array",
        "torch.as_tensor",
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
    "a web page": (written("m.pt", b"<!DOCTYPE html><html>404</html>"), "a web page", "fetch it again"),
    "a tar archive": (written("m.pth.tar", b"m.pth".ljust(257, b"\0") + b"ustar" + bytes(250)), "a tar", "unpack"),
    "weights in a zip file": (zipped("run/best.pth"), "a zip file around 'run/best.pth'", "unpack"),
    "Stable-Baselines3": (
        zipped("data", "pytorch_variables.pth", "policy.pth", "policy.optimizer.pth"),
        "a zip file around 'policy.optimizer.pth', 'policy.pth', 'pytorch_variables.pth'",
        "name the one with the model's weights",
    ),
    "Keras, zipped": (zipped("model.weights.h5", name="m.keras"), "a model of Keras", "PyTorch model"),
    "TensorFlow, by the name of its checkpoint": (
        lambda folder: (written("m.ckpt.index")(folder), folder / "m.ckpt")[1],
        "of TensorFlow",
        "PyTorch model",
    ),
    "TensorFlow, its folder": (inside("checkpoint", "m.ckpt.index", "m.ckpt.data-00000-of-00001"), "TensorFlow", "own"),
    "TensorFlow, a SavedModel": (inside("saved_model.pb", "fingerprint.pb"), "a SavedModel", "PyTorch model"),
    "Flax": (written("flax_model.msgpack", b"\x82\xa6params"), "weights of Flax", "PyTorch model"),
    "Orbax": (inside("_CHECKPOINT_METADATA", "manifest.ocdbt"), "Orbax", "PyTorch model"),
    "Megatron": (inside("latest_checkpointed_iteration.txt"), "a run of Megatron", "model_optim_rng.pt"),
    "PaddlePaddle": (
        lambda folder: (
            (folder / "m.pdparams").write_bytes(pickle.dumps({"w": weights()["head.bias"].numpy()})),
            folder / "m.pdparams",
        )[1],
        "weights of PaddlePaddle",
        "PyTorch model",
    ),
    "a model of ours": (written("m.onnx", b"\x08\x0e:\x03\x12\x01g"), "an ONNX model", "inspect"),
    "integers of bitsandbytes": (
        saved(lambda: {**weights(), "head.weight": torch.ones(4, 8, dtype=torch.int8), "head.SCB": torch.ones(4)}),
        "packed in few bits",
        "float weights",
    ),
    "a tensor of another kind": (
        saved(lambda: {**weights(), "head.weight": Strange.of(weights()["head.weight"])}),
        "a Strange",
        "plain float",
    ),
    "a model and an adapter to it": (
        folder_of(
            model__safetensors=lambda path: save_file(weights(), path),
            adapter_model__safetensors=lambda path: save_file(weights(), path),
            adapter_config__json=lambda path: path.write_text("{}"),
        ),
        "a model and an adapter to it",
        "merge_and_unload",
    ),
    "other adapters": (saved(lambda: {**weights(), "head.ia3_l": torch.ones(8, 1)}), "an adapter", "merge_and_unload"),
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
    "shards without an index, one missing": (
        a_shard_without_the_others_or_an_index,
        "lacks part 1 of 2 of the weights",
        "copy all",
    ),
    "one shard of two": (one_shard, "part 1 of 2", "name the folder"),
    "an index that leaves its folder": (outside, "not a file beside it", "copy"),
    "a distributed checkpoint cut short": (damaged_distributed, "damaged", "copy"),
    "a folder of timm with the best and the last": (
        lambda folder: (
            torch.save({"state_dict": weights()}, folder / "last.pth.tar"),
            torch.save({"state_dict": ema()}, folder / "model_best.pth.tar"),
            folder,
        )[2],
        "several sets of weights that fit .* 'last.state_dict', under 'model_best.state_dict'",
        "--weights-key last.state_dict",
    ),
    "a safetensors file cut short": (
        lambda folder: cut_short(folder),
        "not a valid safetensors file",
        "copy or save it again",
    ),
    "several checkpoints of a run": (lambda folder: two_runs(folder), "several weights", "checkpoint-1000"),
    "shards beside a whole": (
        lambda folder: (sharded("model")(folder), save_file(ema(), folder / "model.safetensors"), folder)[2],
        "several weights: model.safetensors.index.json, model.safetensors",
        "name one",
    ),
    "several files of one folder": (
        folder_of(a__pt=lambda path: torch.save(weights(), path), b__pt=lambda path: torch.save(ema(), path)),
        "several sets of weights that fit .* 'a', under 'b'",
        "--weights-key a",
    ),
    "a file of each process": (
        folder_of(rank0__pt=lambda path: torch.save(weights(), path), rank1__pt=lambda path: torch.save(ema(), path)),
        "of each process .* of one training: rank0.pt, rank1.pt",
        "saved the whole model",
    ),
    "xz": (written("m.pt.xz", b"\xfd7zXZ\0other"), "compressed with xz", "unpack it"),
    "zstd": (written("m.pt.zst", b"\x28\xb5\x2f\xfdother"), "compressed with zstd", "unpack it"),
    "7-Zip": (written("m.7z", b"7z\xbc\xaf\x27\x1cother"), "compressed with 7-Zip", "unpack it"),
    "a zip file with a password": (with_a_password, "an encrypted zip file", "its password"),
    "changes of weights": (
        saved(lambda: {"delta": weights()}),
        "stands under 'delta': an optimizer's, or changes",
        "--weights-key delta",
    ),
    "DeepSpeed, universal": (of_deepspeed("zero/head.weight/fp32.pt"), "a universal checkpoint of", "zero_to_fp32.py"),
    "DeepSpeed, a pipeline": (of_deepspeed("layer_00-model_00-model_states.pt"), "a pipeline of DeepSpeed", "gather"),
    "DeepSpeed, experts": (of_deepspeed("layer_0_expert_0_mp_rank_00_model_states.pt"), "experts of DeepSp", "gather"),
    "DeepSpeed, halves": (of_deepspeed("mp_rank_01_model_states.pt"), "a model in parts", "merge"),
    "half of every weight": (
        saved(lambda: {"model": {n: v.chunk(2)[0] if v.dim() else v for n, v in weights().items()}}),
        r"one process's part .*: all have 1/2 of the module's rows, as 'stem.0.weight' \(4, 3, 3, 3\) of \(8, 3,",
        "get_model_state_dict",
    ),
    "peft's copies of whole layers": (
        saved(lambda: {n.replace("head.", "head.modules_to_save.default."): v for n, v in weights().items()}),
        "a model that peft has wrapped",
        "merge_and_unload",
    ),
    "fused for quantization-aware training": (
        saved(
            lambda: {
                **{n.replace("stem.1", "stem.0.bn"): v for n, v in weights().items()},
                "stem.0.weight_fake_quant.zero_point": torch.zeros(1),
            }
        ),
        r"missing: 'stem.1.weight' \(the file has 'stem.0.bn.weight'\)",
        "factory",
    ),
    "a folder around another": (
        lambda folder: ((folder / "data").mkdir(), saved(weights)(folder / "data"), folder)[2],
        "lie deeper",
        "data",
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
