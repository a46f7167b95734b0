"""Labels of pictures as the fonts of this machine can write them: no mathematics, no boxes in place of letters."""

from __future__ import annotations

from functools import lru_cache

FONT = "DejaVu Sans"  # comes with matplotlib
_OTHERS = (  # for what it lacks, where they are installed
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "Hiragino Sans",
    "PingFang SC", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Unifont",
)  # fmt: skip


@lru_cache(maxsize=1)
def families() -> tuple[str, ...]:
    """Names of fonts, the first that has a letter writes it."""
    from matplotlib.font_manager import fontManager

    return (FONT, *(name for name in _OTHERS if name in set(fontManager.get_font_names())))


def written(label: str) -> str:
    """With the code of each letter that no font here has, as Python spells it.

    >>> written("größe, $5"), written("\\ue123")
    ('größe, \\\\$5', '\\\\ue123')
    """
    kept = label if label.isascii() else "".join(c if ord(c) in _letters() else ascii(c)[1:-1] for c in label)
    return kept.replace("$", r"\$")


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(code for family in families() for code in FT2Font(findfont(family)).get_charmap())
