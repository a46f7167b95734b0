"""Inputs of a model of transformers, by the config.json that lies beside its weights.

{"image_size": 224, "num_channels": 3, …}     ──▶ 1x3x224x224
{"vocab_size": 30522, "max_position_embeddings": 512, …} ──▶ 1x32:int64
{"conv_dim": […], "conv_stride": […], …}       ──▶ 1x16000
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from idp_deploy import documents

SECOND = 16_000  # of sound, at the rate that these models are trained with
STEPS, PICTURE = 32, 224
_SEVERAL = ("text_config", "vision_config", "audio_config", "encoder", "decoder")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")


def configuration_beside(weights: Path) -> Mapping[str, object]:
    """What config.json in the folder of the weights says, nothing where there is none."""
    try:
        said = documents.parse_json(documents.read_bytes(weights.with_name("config.json"), limit=1 << 20))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def input_of(said: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """(input or "", what tells it or why nothing does).

    >>> input_of({"image_size": 64, "num_channels": 1}, {})
    ('1x1x64x64', 'as image_size in config.json is')
    >>> input_of({"vocab_size": 90, "max_position_embeddings": 24}, {})
    ('1x24:int64', '24 steps: any number up to 24 will do')
    >>> input_of({"vocab_size": 90, "is_encoder_decoder": True}, {})[0]
    ''
    """
    if said.get("is_encoder_decoder") is True or sum(isinstance(said.get(name), dict) for name in _SEVERAL) > 1:
        return "", "a model of that kind takes several inputs: a function that returns a tuple of them"
    if isinstance(said.get("conv_dim"), list) and isinstance(said.get("conv_stride"), list):
        return f"1x{SECOND}", "a second of sound, 16,000 samples: any number will do"
    channels = next((said[name] for name in ("num_channels", "in_channels", "in_chans") if name in said), None)
    size = said.get("image_size")
    first = next((shape for shape in shapes.values() if len(shape) == 4 and shape[1] == channels), None)
    if isinstance(channels, int) and (size is not None or first):
        sides = size if isinstance(size, list) else [size, size] if isinstance(size, int) else [PICTURE, PICTURE]
        why = "as image_size in config.json is" if size is not None else "a usual size: nothing asks for another"
        return "x".join(map(str, (1, channels, *sides))), why
    if isinstance(said.get("vocab_size"), int):
        most = next((said[name] for name in _POSITIONS if isinstance(said.get(name), int)), None)
        steps = min(STEPS, most) if isinstance(most, int) and most > 0 else STEPS
        return f"1x{steps}:int64", f"{steps} steps: any number {f'up to {most} ' if most else ''}will do"
    return "", "config.json does not tell it"
