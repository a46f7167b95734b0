"""Tasks written when the defaults stood, of nets that no other task has; nothing is chosen on them."""

from __future__ import annotations

from functools import partial

from bench.suite import data, modern
from bench.suite.small import SmallTask

UNSEEN = {
    "patches-fresh": SmallTask(
        "figures, a vision transformer from fresh weights, AdamW",
        partial(modern.Patches, 16, 4, 32, 2, 8),
        partial(data.shapes, 6000, 0.1),
        (0.9,),
        rate=3e-3,
        steps=700,
        adamw=True,
    ),
    "patches-tuned": SmallTask(
        "waves, a vision transformer, fine-tuned, AdamW",
        partial(modern.Patches, 16, 4, 32, 2, 20),
        partial(data.gratings, 6000, 1.0),
        (0.95,),
        rate=3e-3,
        steps=400,
        adamw=True,
        trained=600,
    ),
    "convnext-fresh": SmallTask(
        "grey characters, blocks of ConvNeXt, AdamW",
        partial(modern.convnext, 32, 3, 36),
        partial(data.characters, 8000, 0.2),
        (0.95,),
        rate=5e-3,
        steps=1200,
        adamw=True,
    ),
    "grouped-shapes": SmallTask(
        "figures, residual blocks with group norm and SiLU, SGD",
        partial(modern.Grouped, 1, 24, 2, 8),
        partial(data.shapes, 6000, 0.2),
        (0.95,),
        rate=0.05,
    ),
    "mixer-digits": SmallTask(
        "real digits (1,200), an MLP-Mixer, AdamW",
        partial(modern.Mixer, 8, 2, 32, 2, 10),
        data.digits,
        (0.95,),
        rate=5e-3,
        adamw=True,
    ),
    "squeezed-colour": SmallTask(
        "coloured characters, inverted residuals with gates, fine-tuned, SGD",
        partial(modern.Squeezed, 3, 24, 2, 36),
        partial(data.coloured, 6000, 0.05),
        (0.9,),
        steps=400,
        trained=600,
    ),
    "gated-keywords": SmallTask(
        "sequences, a WaveNet without norms, AdamW",
        partial(modern.Gated, 4, 24, 4, 16),
        partial(data.keywords, 6000, 0.5),
        (0.9,),
        rate=5e-3,
        adamw=True,
    ),
    "gated-momentum": SmallTask(
        "the same with less noise and SGD",
        partial(modern.Gated, 4, 24, 4, 16),
        partial(data.keywords, 6000, 0.3),
        (0.95,),
        rate=0.05,
        steps=700,
    ),
    "cleaner": SmallTask(
        "noise out of images, a U-Net without norms, AdamW",
        partial(modern.Cleaner, 16),
        partial(data.noisy, 3000, 0.5),
        (0.95,),
        rate=3e-3,
        adamw=True,
        kind="values",
    ),
    "autoencoder": SmallTask(
        "real digits (1,200) through a waist of eight, AdamW",
        partial(modern.autoencoder, 64, (96, 48, 8)),
        data.copies,
        (0.9,),
        rate=3e-3,
        steps=800,
        adamw=True,
        kind="values",
    ),
    "glyphs-long": SmallTask(
        "grey characters, residual blocks with group norm, three times as long, SGD",
        partial(modern.Grouped, 1, 16, 2, 36),
        partial(data.characters, 8000, 0.2),
        (0.98,),
        rate=0.05,
        steps=1500,
    ),
}
