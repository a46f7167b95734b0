"""Why the weights in a file do not fit a module, in words, with the way out."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from idp_deploy.errors import FileError
from idp_deploy.loading.entries import Entries
from idp_deploy.loading.factories import did_you_mean
from idp_deploy.loading.finding import Fit, cut
from idp_deploy.loading.foreign import GATHER, SAVE_WEIGHTS
from idp_deploy.loading.lazy import is_open
from idp_deploy.loading.sources import SHARD

ADAPTER = r"lora_[ABab]|lora_(up|down)|lora_magnitude|(^|[._])ia3_l|hada_w|oft_[RS]|vera_lambda"
# a name in the file → what it shows, and the way out; asked where no weights fit
SIGNS: dict[str, tuple[str, str]] = {
    rf"{ADAPTER}|\.base_layer\.": (
        "an adapter, not a model", "merge it into its model and save that: model.merge_and_unload()",
    ),
    r"\.(modules_to_save|original_module)\.|^base_model\.model\.": (
        "a model that peft has wrapped", "take that off and save the model: model.merge_and_unload()",
    ),
    r"^(?!.*(fake_quant|activation_post_process)).*(_packed_params|\.zero_point$)": (
        "weights that torch has quantized", "save the float weights; idp-deploy quantize makes integers",
    ),
    r"qweight|qzeros|absmax|quant_map|quant_state|weight_scale|\.SCB$": (
        "weights that are packed in few bits", "save the float weights; idp-deploy quantize packs them",
    ),
    r"shadow_params\.\d+$": (
        "averaged weights without their names",
        "save them by name: ema.copy_to(model.parameters()), then torch.save(model.state_dict(), 'model.pt')",
    ),
    r"flat_param": (
        "one process's part of a sharded model", "save it whole: FSDP.state_dict_type(model, FULL_STATE_DICT)",
    ),
    r"parametrizations\.": (
        "weights that are computed from parts",
        "name the factory that builds the model with its parametrizations, or take them off before saving: "
        "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
    ),
}  # fmt: skip


def of_an_optimizer(name: str) -> bool:
    """Whether an entry of a checkpoint is an optimizer's: by its key, or as torch.optim numbers its parameters.

    >>> [of_an_optimizer(name) for name in ("optimizer.0", "opt.state.3.exp_avg", "net.state.3.running_mean")]
    [True, True, False]
    """
    return "optim" in name.partition(".")[0] or re.search(_NUMBERED, name) is not None


_MOST_PARTS = 16  # processes that share the rows of small weights
# a layer of a part that is called `state` has none of these
_NUMBERED = r"(^|\.)state\.\d+\.(?!running_|num_batches_tracked$)(?!\w*(weight|bias))\w+$"


def misfit(path: Path, factory: str, fit: Fit, entries: Entries, module: nn.Module) -> FileError:
    """The error for weights that do not fit: what they show by their names, or how they differ from the module's.

    Args:
        fit: the nearest.
    """
    own = module.state_dict()
    where = f"'{fit.prefix}' of {path}" if fit.prefix else f"{path}"
    for pattern, (what, way) in SIGNS.items():
        if signs := [name for name in entries.tensors if re.search(pattern, name)]:
            return FileError(f"{path} holds {what} ('{signs[0]}')", way_out=way)
    if entries.tensors and all(map(of_an_optimizer, entries.tensors)):
        return FileError(f"{path} holds the state of an optimizer, and no weights", way_out=SAVE_WEIGHTS)
    if parts := _parts(fit, own, {name for name, _ in module.named_buffers()}):
        name = fit.shapes[0]
        return FileError(
            f"{where} holds one process's part of the weights: all have 1/{parts} of the module's rows, as '{name}' "
            f"{tuple(fit.state[name].shape)} of {tuple(own[name].shape)}",
            way_out=f"{GATHER}; or name the factory of a model that is narrower by as much",
        )
    empty = [
        name for name, tensor in fit.state.items() if not tensor.numel() and (is_open(own[name]) or own[name].numel())
    ]
    if empty:
        return FileError(
            f"{where} holds placeholders without values, as '{empty[0]}': the weights lie in other files",
            way_out="gather them first, for DeepSpeed with the zero_to_fp32.py beside it",
        )
    if part := re.fullmatch(SHARD, path.name):
        return FileError(
            f"{path} is part {int(part['number'])} of {int(part['of'])} of the weights",
            way_out="name the folder, or the index beside it",
        )
    for name in own:
        if kind := entries.others.get(f"{fit.prefix}.{name}".lstrip(".")):
            return FileError(
                f"{where} holds no state dict: entry '{name}' is {kind}, not a tensor", way_out=SAVE_WEIGHTS
            )
    return FileError(
        f"{where} does not fit the module of {factory}: {'; '.join(differences(fit, own))}",
        way_out=way_out(fit),
    )


def _parts(fit: Fit, own: Mapping[str, Tensor], buffers: Collection[str]) -> int:
    """Among how many processes every weight of `fit` is shared out by its rows; 0 where it is not so.

    Buffers, such as means of batch norms, stay whole in each process; the last one may have fewer rows, or none.
    """
    if fit.missing or fit.unexpected or any(map(is_open, own.values())):
        return 0
    shared = {
        name: value
        for name, value in fit.state.items()
        if own[name].dim() and own[name].shape[0] > 1 and not (name in buffers and value.shape == own[name].shape)
    }
    if len(shared) < 2 or any(
        value.dim() != own[name].dim() or value.shape[1:] != own[name].shape[1:] for name, value in shared.items()
    ):
        return 0
    rows = [(own[name].shape[0], value.shape[0]) for name, value in shared.items()]
    for parts in range(2, _MOST_PARTS + 1):
        for rank in (0, parts - 1, *range(1, parts - 1)):
            if all(min(max(n - rank * math.ceil(n / parts), 0), math.ceil(n / parts)) == held for n, held in rows):
                return parts
    return 0


def way_out(fit: Fit) -> str:
    """To the right factory; where the module lacks nothing, to a file without what it does not have."""
    said = "name the factory, and the sizes in it, that these weights were trained with"
    if fit.missing or fit.shapes or not fit.unexpected:
        return said
    if all(name.endswith("mask") for name in fit.unexpected):
        return "save the weights with their masks applied, weight * mask, and without the masks"
    return (
        f"{said}; or, if what is left over served training alone, leave it out of the file: "
        "load with strict=False and save module.state_dict()"
    )


def differences(fit: Fit, tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps `fit` from fitting, in words, each name with the nearest on the other side."""
    reasons = []
    if fit.missing:
        near = [repr(name) + _hint(name, fit.unexpected, "the file has") for name in fit.missing[:5]]
        reasons.append(f"{len(fit.missing)} missing: {cut(near, len(fit.missing))}")
    if fit.unexpected:
        near = [repr(name) + _hint(name, fit.missing, "did you mean") for name in fit.unexpected[:5]]
        reasons.append(f"{len(fit.unexpected)} unexpected: {cut(near, len(fit.unexpected))}")
    if fit.shapes:
        shapes = [
            f"'{name}' is {tuple(fit.state[name].shape)} in the file and {tuple(tensors[name].shape)} in the module"
            for name in fit.shapes[:5]
        ]
        reasons.append(f"{len(fit.shapes)} of another shape: {cut(shapes, len(fit.shapes))}")
    return reasons


def _hint(name: str, candidates: Sequence[str], word: str) -> str:
    hint = did_you_mean(name, candidates[:1000])
    return f" ({hint if word == 'did you mean' else hint.replace('did you mean', word).rstrip('?')})" if hint else ""
