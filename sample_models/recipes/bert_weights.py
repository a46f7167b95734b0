"""Published BERT weights under the names of `sample_models.bert`.

    python -m sample_models.recipes.bert_weights bert-base-uncased.safetensors -o bert.pt

The network is the same, but for the ε of its layer norms (1e-5 here, which float16 can hold, 1e-12 there). A file
without a classifier, one that was only pre-trained, gets a fresh one. Heads for other tasks are left out and listed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from idp_deploy.errors import FileError, IdpDeployError
from idp_deploy.files import replacing
from idp_deploy.loading.reading_files import read_bytes, read_content

NAMES = (
    (r"(?:bert\.)?embeddings\.word_embeddings\.", "tokens."),
    (r"(?:bert\.)?embeddings\.position_embeddings\.", "positions."),
    (r"(?:bert\.)?embeddings\.token_type_embeddings\.", "segments."),
    (r"(?:bert\.)?embeddings\.LayerNorm\.", "norm."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.self\.", r"layers.\1.attention."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.attention.output."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"layers.\1.attention_norm."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.up."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.down."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"layers.\1.norm."),
    (r"(?:bert\.)?pooler\.dense\.", "pooler."),
    (r"classifier\.", "classifier."),
)
LEAVES = {"gamma": "weight", "beta": "bias"}  # as the first release called a norm's


def convert(published: Mapping[str, Tensor], classes: int = 3, seed: int = 0) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of `sample_models.bert`, and the published names that have no place in it.

    >>> convert({"bert.embeddings.LayerNorm.gamma": torch.ones(4), "cls.bias": torch.ones(9)})
    Traceback (most recent call last):
    ...
    idp_deploy.errors.FileError: these weights are not those of a BERT: no tokens.weight — give an encoder with a pooler

    Args:
        classes, seed: of the fresh classifier, where there is none.

    Raises:
        FileError: a part of the encoder or the pooler is missing.
    """
    state, left = {}, []
    for name, tensor in published.items():
        stem, _, leaf = name.rpartition(".")
        name_here = next((re.sub(f"^{old}", new, f"{stem}.") for old, new in NAMES if re.match(old, f"{stem}.")), None)
        if name_here is None or leaf not in ("weight", "bias", *LEAVES):
            left.append(name)
        else:
            state[f"{name_here}{LEAVES.get(leaf, leaf)}"] = tensor.detach().float()
    for needed in ("tokens.weight", "layers.0.up.weight", "pooler.weight"):
        if needed not in state:
            raise FileError(
                f"these weights are not those of a BERT: no {needed}", way_out="give an encoder with a pooler"
            )
    if "classifier.weight" not in state:
        width = state["pooler.weight"].shape[0]
        drawn = torch.randn(classes, width, generator=torch.Generator().manual_seed(seed))
        state |= {"classifier.weight": 0.02 * drawn, "classifier.bias": torch.zeros(classes)}
    return state, left


def main(arguments: list[str] | None = None) -> int:
    """Convert a file; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sample_models.recipes.bert_weights", description=__doc__)
    parser.add_argument("weights", type=Path, help=".safetensors, or a state dict as .pt or .bin")
    parser.add_argument("-o", "--output", type=Path, default=Path("bert.pt"))
    parser.add_argument("--classes", type=int, default=3, help="of a fresh classifier")
    given = parser.parse_args(arguments)
    try:
        content = read_content(given.weights, read_bytes(given.weights))
        if not isinstance(content, Mapping):
            raise FileError(f"{given.weights} holds a {type(content).__name__}, not a state dict")
        state, left = convert({n: t for n, t in content.items() if isinstance(t, Tensor)}, given.classes)
        with replacing(given.output) as temporary:
            torch.save(state, temporary)
    except IdpDeployError as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    sys.stderr.write(f"{len(state)} tensors written, {len(left)} left out: {', '.join(left) or 'none'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
