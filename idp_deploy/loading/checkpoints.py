"""The file between two stages, and every other way a model comes in."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idp_deploy import files, ledger
from idp_deploy.arguments import FilePath, path_of
from idp_deploy.errors import FileError, UsageError
from idp_deploy.flow import CompressedModel, MaskedModel, Model, Provenance
from idp_deploy.flow.model import gathered
from idp_deploy.loading import fields
from idp_deploy.loading.factories import as_module, load_module
from idp_deploy.loading.finding import is_observer
from idp_deploy.loading.several import is_ours
from idp_deploy.loading.sources import Source, read_source
from idp_deploy.loading.state_dicts import Announce, fill, integers, resize, take
from idp_deploy.masks import in_parts, join_in, prunable_weights, whole_copy
from idp_deploy.ownership import CHECKPOINT

TRAINER_STATE = "idp_deploy_pruner.pt"  # what TrainerPruning writes into a checkpoint folder
_OF_ACCELERATE = "custom_checkpoint_*.pkl"  # whatever was registered with it
Factory = str | Callable[[], nn.Module]


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def load_model(
    path: FilePath,
    factory: Factory | None,
    *,
    trust: bool = False,
    weights_key: str | None = None,
    announce: Announce = _warn,
) -> Model:
    """A trained model from its weights, in eval mode.

    Args:
        path: a state dict (.pt, .pth, …) under any keys and prefixes, .safetensors, or a folder of weights.
        factory: "pkg.mod:callable", or the callable, that builds the module; every weight of it must be in the file.
        trust: take the weights of a .pt2 archive too, whose loading can run code.
        weights_key: which weights, where the file holds several that fit; a key, or a part of a dotted one.
        announce: told what the file holds beside the weights taken, such as an average of them.

    Raises:
        UnsafeFileError: a pickled module. FileError: anything else wrong with the file. UsageError: the factory, or
            none (said last: whether the file is fit does not depend on it), or several weights that fit.
    """
    path = path_of("path", path)
    source = read_source(path, trust=trust)
    return _plain_model(path, source, factory, weights_key, announce)


def load_any(
    path: FilePath,
    factory: Factory | None,
    *,
    trust: bool = False,
    weights_key: str | None = None,
    announce: Announce = _warn,
) -> CompressedModel:
    """A checkpoint of ours, or any other weights, whose zeros are taken as they stand.

    Raises:
        UsageError: the checkpoint holds soft masks and is to be hardened first. Otherwise as for `load_model`.
    """
    path = path_of("path", path)
    source = read_source(path, trust=trust)
    content = source.content
    if is_ours(content):
        try:
            found = _restore(path, content, factory)
        except FileError:
            if not _is_of_a_part(content, factory):
                raise
            source = Source(content["state_dict"], source.sha256)
        else:
            _refuse_key(path, weights_key)
            if isinstance(found, MaskedModel):
                raise UsageError(
                    f"{path} holds soft masks, not zeros", way_out=f"harden it first: idp-deploy harden {path}"
                )
            return found
    model = _plain_model(path, source, factory, weights_key, announce)
    ledger.refuse_unhardened(str(path), _beside(path, content), dict(model.module.named_parameters()))
    return as_it_stands(model)


def as_it_stands(model: Model) -> CompressedModel:
    """The model with every zero of its prunable weights taken as pruned."""
    masks, module = {}, whole_copy(model.module) if in_parts(model.module) else model.module
    for name, weight in prunable_weights(module, embeddings=True).items():
        mask = module.get_parameter(name).detach() != 0
        # a table's rows of zeros are tokens that are not there, such as padding
        if weight.kind != "embedding" or not bool(mask[mask.any(1)].all()):
            masks[name] = mask
    return CompressedModel(module, masks, provenance=model.provenance)


def load_checkpoint(path: FilePath, factory: Factory | None = None) -> CompressedModel | MaskedModel:
    """What `save_checkpoint` wrote. Nothing in the file is believed before it is checked.

    Args:
        factory: "pkg.mod:callable", or the callable, that builds the module. After channel removal it builds the module
            of full width, which is then given the recorded shapes.

    Raises:
        UsageError: no factory. FileError: not such a checkpoint, damaged, or its parts contradict each other.
    """
    path = path_of("path", path)
    content = read_source(path).content
    if not is_ours(content):
        raise FileError(
            f"{path} is not a checkpoint of idp-deploy", way_out="plain weights go to 'idp-deploy prune' or 'export'"
        )
    return _restore(path, content, factory)


def save_checkpoint(model: CompressedModel | MaskedModel, path: FilePath) -> None:
    """Write one file that `torch.load(path, weights_only=True)` reads; the same content gives the same bytes.

    It is a dict: "format", "stage" (compressed or masked), "state_dict", "shapes" of its tensors, "attributes" (the
    modules' integers, to rebuild after channel removal), "recipe", "provenance"; then "soft_masks", or "masks" (name →
    shape and bits, eight entries a byte, the first in the highest bit) and "quantization", with a scale or a palette
    for each weight in few bits: its integers are the weight divided by that.

    Weights of which every process holds a part are written whole, where every process calls this.

    Raises:
        FileError: the path cannot be written. UsageError: the module's state holds something that is not a tensor, or
            weights were written to after they were hardened.
    """
    ledger.refuse_plain(model)
    ledger.refuse_filled(model)
    path = path_of("path", path)
    if path.is_dir():
        raise FileError(f"{path} is a directory", way_out="name a file to write, such as model.pruned.pt")
    state = model.module.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"'{name}' in the module's state is {type(value).__name__}, not a tensor")
        whole = gathered(value)
        state[name] = whole if type(whole) is torch.Tensor else whole.as_subclass(torch.Tensor)
    content = {
        "format": CHECKPOINT,
        "state_dict": state,
        "shapes": {name: list(tensor.shape) for name, tensor in state.items()},
        "attributes": {name: found for name, module in model.module.named_modules() if (found := integers(module))},
        "recipe": fields.pack_recipe(model.recipe),
        "provenance": fields.pack_provenance(model.provenance),
    }
    if isinstance(model, MaskedModel):
        content |= {"stage": "masked", "soft_masks": fields.pack_soft_masks(model.soft_masks)}
    else:
        quantization = fields.pack_quantization(model.quantization)
        content |= {"stage": "compressed", "masks": fields.pack_masks(model.masks), "quantization": quantization}
    buffer = io.BytesIO()
    torch.save(fields.canonical(content), buffer)
    try:
        files.write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}", way_out="name another place") from None


def _plain_model(
    path: Path, source: Source, factory: Factory | None, weights_key: str | None, announce: Announce
) -> Model:
    """A model from any weights; from a checkpoint of ours only the weights are taken."""
    content = source.content
    ours = is_ours(content)
    if factory is None:
        raise _no_factory(path, fields.provenance(path, content.get("provenance")).factory if ours else "")
    module, name = _build(factory)
    if ours:
        _refuse_key(path, weights_key)
        _take_ours(path, content, module, name)
    else:
        take(path, content, module, name, key=weights_key, announce=announce)
    versions = {package: _version(package) for package in ("idp-deploy", "torch")}
    return Model(module.eval(), Provenance(name, input_sha256=source.sha256, versions=versions))


def _take_ours(path: Path, content: Mapping[str, Any], module: nn.Module, name: str) -> None:
    """The state dict of a checkpoint of ours into the factory's module, with the shapes it was saved in.

    Observers of quantization-aware training are left out where the factory builds the float model.
    """
    state, own = fields.state_dict(path, content.get("state_dict")), module.state_dict()
    state = {entry: value for entry, value in state.items() if entry in own or not is_observer(entry)}
    if state.keys() != own.keys():
        join_in(module)  # weights that it computes from parts were put together before
    resize(module, state, fields.attributes(path, content.get("attributes")))
    fill(module, state, path, name, versions=getattr(content.get("state_dict"), "_metadata", {}))


def _restore(path: Path, content: Mapping[str, Any], factory: Factory | None) -> CompressedModel | MaskedModel:
    provenance = fields.provenance(path, content.get("provenance"))
    if factory is None:
        raise _no_factory(path, provenance.factory)
    stage = content.get("stage")
    if stage not in ("compressed", "masked"):
        raise FileError(f"{path}: stage is {stage!r}", way_out="expected 'compressed' or 'masked'")
    module, name = _build(factory)
    fields.check_shapes(path, content.get("shapes"), fields.state_dict(path, content.get("state_dict")))
    recipe = fields.recipe(path, content.get("recipe"))
    _take_ours(path, content, module, name)
    weights = dict(module.named_parameters(remove_duplicate=False))
    if stage == "masked":
        if recipe is None:
            raise FileError(f"{path}: a checkpoint with soft masks has no recipe")
        soft_masks = fields.soft_masks(path, content.get("soft_masks"), weights)
        return MaskedModel(module.eval(), soft_masks, recipe, provenance)
    return CompressedModel(
        module.eval(),
        fields.masks(path, content.get("masks"), weights),
        recipe,
        fields.quantization(path, content.get("quantization"), weights),
        provenance,
    )


def _refuse_key(path: Path, key: str | None) -> None:
    """Raise `UsageError` where a key is to choose among weights of which there is one set."""
    if key not in (None, "state_dict"):
        raise UsageError(
            f"--weights-key {key}: {path} is a checkpoint of idp-deploy, and holds one set of weights",
            way_out="leave the key out; it chooses in files of other tools, before pruning",
        )


def _is_of_a_part(content: Mapping[str, Any], factory: Factory | None) -> bool:
    """Whether `factory` builds a part of the model in a checkpoint of ours, such as the generator of a GAN."""
    state = content.get("state_dict")
    if factory is None or not isinstance(state, Mapping) or content.get("stage") != "compressed":
        return False
    own = _build(factory)[0].state_dict()
    tail = next(iter(own), "")
    starts = [name.removesuffix(tail) for name in state if isinstance(name, str) and name.endswith(f".{tail}")]
    fit = any(all(f"{start}{name}" in state for name in own) for start in starts)
    return fit and content.get("quantization") is None and not own.keys() <= state.keys()


def _beside(path: Path, content: Any) -> Any:
    """The content, and the pruners' states that a folder of the Trainer or of accelerate has beside the weights."""
    folder = path if path.is_dir() else path.parent
    if folder.name.startswith("pytorch_model"):  # accelerate's, with sharded weights
        folder = folder.parent
    ours = folder / TRAINER_STATE
    found = [content, *([read_source(ours).content] if ours.is_file() else [])]
    for file in sorted(folder.glob(_OF_ACCELERATE)):
        with suppress(FileError):  # of something else than a pruner
            found.append(read_source(file).content)
    return found


def _no_factory(path: Path, made_with: str) -> UsageError:
    hint = f" (it was made with --model {made_with})" if made_with else ""
    return UsageError(
        f"{path} holds weights, not code, and no model factory is named{hint}",
        way_out='pass --model pkg.mod:factory, or set model = "pkg.mod:factory" in configuration',
    )


def _build(factory: Factory) -> tuple[nn.Module, str]:
    """The factory's module and the factory's name."""
    if isinstance(factory, str):
        return load_module(factory), factory
    with torch.random.fork_rng(devices=[]):
        name = f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', type(factory).__name__)}"
        return as_module(factory(), name), name


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
