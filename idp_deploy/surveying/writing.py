"""A survey as a configuration that runs, with comments; what nothing tells is left as a line to fill in."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from idp_deploy import files
from idp_deploy.errors import IdpDeployError
from idp_deploy.formats import FORMATS, format_of
from idp_deploy.reading import read
from idp_deploy.surveying import Choice, Survey
from idp_deploy.surveying.layers import call_kind, leaves
from idp_deploy.surveying.trials import stored

UNTRAINED = 0.5  # share of zeros where no data is known to train with
HEADROOM = 1.1
DEVICES = ("pixel-4", "iphone-12")
OVERHEAD = 64_000  # bytes of a graph beside its weights


def write_toml(found: Survey, folder: Path, formats: Sequence[str], missing: Sequence[str]) -> str:
    """The text of `idp-deploy.toml` in `folder`.

    Args:
        formats: those that can be written here. missing: those whose extra is not installed.
    """
    choice = found.choice
    if choice is None and found.weights is None and found.exports:
        return _as_it_is(found.exports[0], folder)
    weights = found.weights
    one_shot = found.task is None
    lines = ["# idp-deploy configuration: flags beat IDP_DEPLOY_* variables, which beat this file."]
    if choice is None:
        lines.append('model = "my_package.model:build"  # fill in: a callable that returns the nn.Module')
    elif choice.unknown:
        given = ", ".join(
            [*(f"{k}={v!r}" for k, v in choice.arguments.items()), *(f"{k}=…".lstrip("*") for k in choice.unknown)]
        )
        lines.append(f"# model = {quoted(f'{choice.definition.spec}({given})')}  # fill in what nothing here tells")
    else:
        lines.append(f"model = {quoted(choice.spec)}  # {_where(_file(choice), folder)}")
    if found.task:
        lines.append(f"task = {quoted(found.task)}  # data, loss and metric")
    else:
        around = f" around {found.loaders[0]}" if found.loaders else ""
        lines.append(f'# task = "my_data:task"  # data, loss and metric{around}; with one, remove one-shot: IDP trains')
    if weights is not None:
        lines.append(f"weights = {quoted(_where(weights.path, folder))}")
    else:
        lines.append('# weights = "model.pt"  # fill in: a state dict (.pt or .safetensors)')
    if found.inputs.inputs:
        lines.append(f"inputs = {json.dumps(list(found.inputs.inputs))}  # {found.inputs.source}")
    elif not found.task:
        lines.append(f'# inputs = ["{found.inputs.template}"]  # fill in: {found.inputs.source}')
    lines += [
        'output = "build"',
        f"targets = {json.dumps(list(DEVICES))}  # 'idp-deploy targets' lists them all",
        "",
        "[prune]",
    ]
    if one_shot:
        lines += [
            f"target = {UNTRAINED}  # share of zeros over the prunable weights; 0.9 and more where a task trains",
            "one-shot = true  # by magnitude, without data: accuracy is not measured",
        ]
    else:
        lines += ["target = 0.9  # share of zeros over the prunable weights", "# epochs = 20"]
    if choice is not None and _of_no_layer(choice):
        lines += ["", "[prune.rules]", 'matrix = "unstructured"  # its matrices are parameters of no layer of PyTorch']
    lines += ["", "[export]", f"to = {json.dumps(list(formats))}"]
    lines += [f"# {name}: pip install 'idp-deploy[{name}]'" for name in missing]
    lines += ["", "# [quantize]", '# scheme = "int8-weights"', ""]
    # TFLite writes steps one by one
    steps = weights is not None and any("weight_hh" in name for name in weights.shapes)
    likely = ("onnx", "tflite") if steps else ("tflite", "onnx")
    format = next((name for name in likely if name in formats), "onnx")
    dense = weights.size_bytes(choice.prefix if choice else "") if weights else 0
    limit = f"{(dense * HEADROOM + OVERHEAD) / 1e6:.2f} MB" if weights else "1 MB"
    lines += [
        f"[budgets.pixel-4.{format}]  # what 'check' fails on: lower them to what you can afford",
        f'size = "{limit}"'
        + ("  # what the dense weights take, a tenth more, and 64 kB for the rest" if weights else ""),
        '# latency = "20 ms"',
    ]
    return "\n".join(lines) + "\n"


def _of_no_layer(choice: Choice) -> bool:
    """Whether all matrices are parameters, such as graph layers have, which only a rule prunes."""
    kinds = {name: call_kind(call) for name, call in leaves(choice.layers)}
    matrices = [name for name, shape in stored(choice).items() if len(shape) > 1]
    return bool(matrices) and all(kinds.get(name) == "Parameter" for name in matrices)


def _as_it_is(shipped: Path, folder: Path) -> str:
    """The text where all there is is a file of another tool: it can be checked, not pruned."""
    format = format_of(shipped)
    device = DEVICES[FORMATS[format].package]  # packages are Apple's
    try:
        size = read(shipped).size_bytes  # with the weights that may lie beside it
    except IdpDeployError:
        size = files.size_bytes(shipped)
    limit = f"{math.ceil(size * HEADROOM / 1e3)} kB"
    where = _where(shipped, folder)
    return f"""# idp-deploy configuration: flags beat IDP_DEPLOY_* variables, which beat this file.
# idp-deploy check {where}
# To prune it, name what it was made from; 'idp-deploy init --force' finds it once it is in this folder:
# model = "my_package.model:build"
# weights = "model.pt"
targets = ["{device}"]  # 'idp-deploy targets' lists them all

[budgets.{device}.{format}]  # what 'check' fails on: lower them to what you can afford
size = "{limit}"  # what it takes, and a tenth more
# latency = "20 ms"
"""


def _file(choice: Choice) -> Path:
    copy = choice.definition.copy
    return copy.path if copy else choice.definition.file


def quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False)


def _where(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
