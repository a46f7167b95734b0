"""How many channels a runtime computes together: widths between two whole numbers of vectors save nothing.

onnxruntime leaves its fast layout for a convolution whose outputs do not divide by 4, and pads what does to whole
registers; XNNPACK pads to its tiles. A separable net of 42 channels takes 1.7 times as long as one of 44
(`python -m bench.widths`). A convolution in groups stays in that layout only where every group fills whole registers:
eight groups of 28 channels take 1.3 times as long as eight of 32.
"""

from __future__ import annotations

FEWEST = 4  # what onnxruntime's layout asks for
REGISTERS = (16, 8)  # floats of an AVX-512 register; of an AVX2 register, or of XNNPACK's tile on ARM


def vector(channels: int, each: int = 1, *, grouped: bool = False) -> int:
    """What a narrowed layer's width should be a multiple of: the largest that leaves at least eight steps.

    Args:
        each: outputs side by side that go with one channel: whole heads are wide enough to go one by one. Those of a
            convolution in groups are apart from each other, and what every group keeps is what counts.
        grouped: whether such a convolution makes or reads them; it is narrow in each group, so two steps are enough.

    >>> [vector(channels) for channels in (6, 8, 24, 64, 100, 128, 2048)], vector(12, each=64)
    ([1, 4, 4, 8, 8, 16, 16], 1)
    >>> [vector(channels, grouped=True) for channels in (4, 8, 16, 32, 48)]
    [1, 4, 8, 16, 16]
    """
    if channels < 2 * FEWEST or each >= FEWEST:
        return 1
    steps = 2 if grouped else 8
    return next((width for width in REGISTERS if steps * width <= channels), FEWEST)


def kept_channels(channels: int, share: float, each: int = 1, *, grouped: bool = False) -> int:
    """How many of `channels` stay where about `share` of them should, in whole vectors.

    >>> [kept_channels(64, share) for share in (1.0, 0.7, 0.1)], kept_channels(6, 0.5), kept_channels(50, 0.99)
    ([64, 48, 8], 3, 48)
    """
    step = vector(channels, each, grouped=grouped)
    kept = round(channels * share / step) * step
    return channels if share >= 1 or kept > channels else max(step, kept)
