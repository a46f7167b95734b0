"""Which of the weights in a file are the module's: found by fit, whatever key or prefix they stand under."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from idp_deploy.errors import UsageError
from idp_deploy.loading.entries import Entries, looks_averaged, prefixes, same, unwrap
from idp_deploy.loading.factories import did_you_mean
from idp_deploy.loading.lazy import is_open

# by last segment: entries that a file may have too many or too few of, since no inference reads them
BEFORE_AVERAGING = ("current_model_state",)  # Lightning's WeightAveraging: the average itself is its `state_dict`
EXCHANGED = "ema_state_dict.steps"  # so is mmengine's: what stands beside these are the weights before averaging
COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")  # the last two are thop's
OBSERVERS = ("weight_fake_quant", "activation_post_process")  # of quantization-aware training, beside float weights
# segments of names under which lies a tensor for every weight, by the weight's name, that is none: an optimizer's, or
# a difference to other weights
_MOMENTS = {
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momenta", "momentum", "momentum_buffer", "momentum_buffers",
    "velocity", "square_avg", "grad_avg", "acc_delta", "grad", "grads", "gradients", "optim", "optimizer",
    "optimizer_state", "optimizer_state_dict", "gradient", "gradient_accumulator", "delta", "deltas", "task_vector",
    "fisher", "sq_mean",
}  # fmt: skip
_TRIED = 50  # prefixes that are looked at closely


@dataclass(frozen=True, eq=False)
class Wanted:
    """A module's names, as a file may spell them."""

    tensors: Mapping[str, Tensor]  # by the module's own name
    spelled: Mapping[str, str]  # as the file may have it → own name
    paths: Mapping[str, str]  # own path of a submodule → the same, spelled
    computed: frozenset[str]  # buffers that the module makes by itself and saves nowhere
    tied: Mapping[str, Sequence[str]]  # own name → all names of the same parameter, where it has several


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights under one prefix, held against the module."""

    prefix: str  # as the user may name it; "" is the top of the file
    state: Mapping[str, Tensor]  # by the module's own names
    versions: Mapping[str, Mapping[str, object]]  # by own path of a submodule
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()  # in the file's spelling, without the prefix
    shapes: Sequence[str] = ()  # own names whose shape is another one
    beside: Sequence[str] = ()  # what the same dict holds outside of the prefix, by whole name
    observers: int = 0  # entries of quantization-aware training's, which are left out

    @property
    def fits(self) -> bool:
        """Every weight of the module is there, and nothing that would be left over."""
        return not (self.missing or self.unexpected or self.shapes)


def wanted(module: nn.Module) -> list[Wanted]:
    """The module's names: without wrappers' segments, and without the prefix that all of them share, if any."""
    own = module.state_dict()
    tensors = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    submodules = [path for path, _ in module.named_modules()]
    buffers = {name for name, _ in module.named_buffers()} - tensors.keys()
    tied = tied_names(module)

    def spelled(rename: Callable[[str], str]) -> Wanted:
        return Wanted(
            tensors,
            {rename(name): name for name in tensors},
            {path: rename(path) for path in submodules},
            frozenset(map(rename, buffers)),
            tied,
        )

    unwrapped = spelled(unwrap)
    found = [unwrapped if len(unwrapped.spelled) == len(tensors) else spelled(str)]
    shared = max((p for p, count in prefixes(tensors).items() if count == len(tensors)), key=len, default="")
    parts = shared.split(".") if shared else []
    for depth in range(1, len(parts) + 1):
        start = ".".join(parts[:depth])
        if unwrap(start):
            found.append(spelled(lambda name, start=start: name.removeprefix(start).removeprefix(".")))  # type: ignore[misc]
    return found


def tied_names(module: nn.Module) -> dict[str, list[str]]:
    """Name of a parameter that has several → all of them.

    >>> net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    >>> net[1].weight = net[0].weight
    >>> tied_names(net)
    {'0.weight': ['0.weight', '1.weight'], '1.weight': ['0.weight', '1.weight']}
    """
    by_parameter: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        by_parameter.setdefault(id(parameter), []).append(name)
    return {name: names for names in by_parameter.values() if len(names) > 1 for name in names}


def fits(entries: Entries, spellings: Sequence[Wanted]) -> list[Fit]:
    """Every place that holds the module's weights; the nearest one alone where none does; best first."""
    found: list[Fit] = []
    for want in spellings:
        for view in (entries, entries.renamed(unwrap)):
            votes = _votes(view, want)
            for prefix, _ in votes.most_common(_TRIED):
                fit = _fit(view, want, prefix)
                if not any(unwrap(fit.prefix) == unwrap(other.prefix) and other.fits for other in found):
                    found.append(fit)
        if good := [fit for fit in found if fit.fits]:
            return good
    return sorted(found, key=lambda fit: len(fit.missing) + len(fit.unexpected) + len(fit.shapes))[:1]


def _kind(others: Sequence[Fit]) -> str:
    averaged = any(looks_averaged(fit.prefix) and not _is_before_averaging(fit) for fit in others)
    return "averaged ones (EMA)" if averaged else "the weights before averaging"


def _is_before_averaging(fit: Fit) -> bool:
    return fit.prefix.partition(".")[0] in BEFORE_AVERAGING or EXCHANGED in fit.beside


def choose(path: Path, fitting: Sequence[Fit], key: str | None, factory: str) -> tuple[Fit, list[str]]:
    """The one that is meant, and what should be said about the others.

    Args:
        fitting: places that fit.
        key: what the user chose; None takes the only one, or the only one that is not an average.

    Raises:
        UsageError: several that differ, and nothing says which; or none is under `key`.
    """
    if key is not None:
        named = [fit for fit in fitting if _names(key, fit.prefix)]
        exact = [fit for fit in named if unwrap(fit.prefix) == unwrap(key)] or named
        if not exact:
            labels = [fit.prefix for fit in fitting if fit.prefix]
            raise UsageError(
                f"--weights-key {key}: {path} holds no weights of {factory} under that key",
                way_out=did_you_mean(key, labels) or f"those that fit stand {_listed(fitting)}",
            )
        fitting = exact
    else:
        fitting = [fit for fit in fitting if not _are_masks(fit.prefix, fit.state.values())] or fitting
    if key is None and (moments := [fit for fit in fitting if _MOMENTS & set(fit.prefix.split("."))]):
        if len(moments) == len(fitting):
            raise UsageError(
                f"what fits {factory} in {path} stands {_listed(moments)}: an optimizer's, or changes, and no weights",
                way_out=f"save model.state_dict(); were they weights, --weights-key {moments[0].prefix}",
            )
        fitting = [fit for fit in fitting if fit not in moments]
    distinct: list[Fit] = []
    for fit in fitting:
        if not any(same(fit.state, other.state) for other in distinct):
            distinct.append(fit)
    raw = [fit for fit in distinct if not looks_averaged(fit.prefix)] or distinct
    raw = [fit for fit in raw if not _is_before_averaging(fit)] or raw
    if len(raw) > 1:
        raise UsageError(
            f"{path} holds several sets of weights that fit {factory}: {_listed(raw)}",
            way_out=f"choose one: --weights-key {raw[0].prefix or raw[1].prefix}",
        )
    (chosen,) = raw
    said = []
    if others := [fit for fit in distinct if fit is not chosen]:
        said.append(
            f"{path}: taking the weights {_listed([chosen])}; {_kind(others)} that differ stand {_listed(others)}: "
            f"--weights-key {others[0].prefix} takes those"
        )
    if EXCHANGED in chosen.beside:
        said.append(
            f"{path}: the weights {_listed([chosen])} are those before averaging: mmengine exchanges them with those "
            "under 'state_dict' as it saves, and the average stands there"
        )
    if chosen.observers:
        said.append(
            f"{path}: taking the float weights {_listed([chosen])}, without {chosen.observers} entries of observers of "
            "quantization-aware training"
        )
    taken = {fit.prefix for fit in fitting}
    if beside := [name for name in chosen.beside if not any(f"{name}.".startswith(f"{p}.") for p in taken if p)]:
        last = chosen.prefix.rpartition(".")[2]
        if key is None and (last.isdigit() or len(beside) > len(chosen.state)):
            raise UsageError(
                f"{factory} fits only a part of {path}, '{chosen.prefix}': beside it stand {_named(beside)}",
                way_out=f"name the factory of the whole model, or pass --weights-key {chosen.prefix}",
            )
        said.append(f"{path}: taking the weights {_listed([chosen])}; not part of the model: {_named(beside)}")
    return chosen, said


def passed_over(path: Path, entries: Entries, chosen: Fit) -> list[str]:
    """What should be said of tensors elsewhere that have the names and shapes of the weights taken: masks that are not
    applied, and weights that lack a few where those taken are an average."""
    alike: dict[str, dict[str, Tensor]] = {}
    for name, tensor in entries.tensors.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            prefix, wanted = ".".join(parts[:depth]), ".".join(parts[depth:])
            if wanted in chosen.state and prefix != chosen.prefix and tensor.shape == chosen.state[wanted].shape:
                alike.setdefault(prefix, {})[wanted] = tensor
    said = []
    for prefix, tensors in alike.items():
        lost = [wanted for wanted in chosen.state if wanted not in tensors]
        if _are_masks(prefix, tensors.values()):
            pruned = [wanted for wanted, tensor in tensors.items() if bool((tensor == 0).any())]
            if pruned and not any(bool((chosen.state[w][tensors[w] == 0] != 0).any()) for w in pruned):
                continue  # their zeros are in the weights
            said.append(
                f"{path}: taking the weights {_listed([chosen])} without the masks of {len(tensors)} of them under "
                f"'{prefix}': save weight * mask"
            )
        elif looks_averaged(chosen.prefix) and not looks_averaged(prefix) and 0 < len(lost) < len(tensors):
            said.append(
                f"{path}: taking the averaged weights {_listed([chosen])}, since '{prefix}' lacks {_named(lost)}"
            )
    return said


def averaged_elsewhere(entries: Entries, fitting: Sequence[Fit]) -> dict[str, int]:
    """Prefixes that speak of an average and are none of those that fit, with how many tensors each holds."""
    known = [fit.prefix for fit in fitting]
    if any(map(looks_averaged, known)):
        return {}
    found: Counter[str] = Counter()
    for name in entries.tensors:
        parts = name.split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            prefix = ".".join(parts[:depth])
            if looks_averaged(parts[depth - 1]) and not any(f"{prefix}.".startswith(f"{p}.") for p in known if p):
                found[prefix] += 1
                break
    return {prefix: count for prefix, count in found.items() if count > 1}


def _are_masks(prefix: str, tensors: Collection[Tensor]) -> bool:
    """Which entries are kept, and no weights: truths, or ones and zeros under a key that says so."""
    if all(tensor.dtype == torch.bool for tensor in tensors):
        return True
    return "mask" in prefix.lower() and all(bool(((tensor == 0) | (tensor == 1)).all()) for tensor in tensors)


def _votes(view: Entries, want: Wanted) -> Counter[str]:
    """Prefix → how many of the module's names stand under it; only those with at least half as many as the best."""
    votes: Counter[str] = Counter()
    for name in view.tensors:
        parts = name.split(".")
        for depth in range(len(parts)):
            if ".".join(parts[depth:]) in want.spelled:
                votes[".".join(parts[:depth])] += 1
    most = max(votes.values(), default=0)
    return Counter({prefix: count for prefix, count in votes.items() if 2 * count >= most}) or Counter(
        {_fullest(view): 0}
    )


def _fullest(view: Entries) -> str:
    """The dict with the most tensors."""
    homes = Counter(view.homes.values())
    return homes.most_common(1)[0][0] if homes else ""


def _fit(view: Entries, want: Wanted, prefix: str) -> Fit:
    below = view.below(prefix)
    state = {own: view.tensors[below[name]] for name, own in want.spelled.items() if name in below}
    for own in want.tensors:  # safetensors stores tied weights once
        if own not in state and (other := next((o for o in want.tied.get(own, ()) if o in state), None)):
            state[own] = state[other]
    # dicts that hold none of the module's weights, such as an optimizer's, are things of their own
    homes = {view.homes[below[name]] for name in want.spelled if name in below}
    if not state:
        homes = {prefix}
    tolerated = {*want.spelled, *want.computed}
    unexpected = [
        name for name, whole in below.items()
        if name not in tolerated and name.rpartition(".")[2] not in COUNTERS and view.homes[whole] in homes
        and not _is_flat_moment(name, want.spelled)
    ]  # fmt: skip
    observed = [name for name in unexpected if is_observer(name)]
    inside = set(below.values())
    beside = [
        name for name, home in view.homes.items()
        if state and home in homes and name not in inside and name.rpartition(".")[2] not in COUNTERS
    ]  # fmt: skip
    versions = {
        own: version
        for own, short in want.paths.items()
        if isinstance(version := view.versions.get(".".join(filter(None, (prefix, short)))), Mapping)
    }
    return Fit(
        prefix,
        state,
        versions,
        missing=[own for own in want.tensors if own not in state and own.rpartition(".")[2] not in COUNTERS],
        unexpected=[name for name in unexpected if name not in observed],
        shapes=[own for own, tensor in state.items() if not _same_shape(tensor, want.tensors[own])],
        beside=beside,
        observers=len(observed),
    )


def _is_flat_moment(name: str, weights: Collection[str]) -> bool:
    """Whether it is an optimizer's, flattened beside the weights as torch.distributed.checkpoint does for torchtitan.

    >>> [_is_flat_moment(name, {"net.0.weight"}) for name in ("state.net.0.weight.exp_avg", "state.0.bias")]
    [True, False]
    """
    first, _, rest = name.partition(".")
    return first in ("state", "param_groups") and rest.rpartition(".")[0] in weights


def is_observer(name: str) -> bool:
    """
    >>> is_observer("0.weight_fake_quant.scale"), is_observer("0.weight")
    (True, False)
    """
    return any(part.startswith(OBSERVERS) for part in name.split("."))


def _same_shape(stored: Tensor, own: Tensor) -> bool:
    return stored.numel() > 0 if is_open(own) else stored.shape == own.shape


def _names(key: str, prefix: str) -> bool:
    """Whether `key` is, or is a run of segments of, `prefix`.

    >>> [_names(key, "state_dict.student.net") for key in ("student", "state_dict.student", "net", "stu")]
    [True, True, True, False]
    """
    return f".{unwrap(key)}." in f".{unwrap(prefix)}." if unwrap(key) else not unwrap(prefix) or key in prefix


def cut(items: Sequence[str], count: int) -> str:
    return ", ".join(items) + (f" and {count - len(items)} more" if count > len(items) else "")


def _named(names: Sequence[str]) -> str:
    return cut([repr(name) for name in names[:5]], len(names))


def _listed(some: Sequence[Fit]) -> str:
    return ", ".join(f"under '{fit.prefix}'" if fit.prefix else "at the top" for fit in some)
