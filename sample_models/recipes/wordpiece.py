"""Text to token ids as BERT takes them, from a vocabulary in a file; nothing is fetched."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from idp_deploy.errors import FileError, UsageError, require

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_WRITTEN_OUT = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")
LONGEST_WORD = 100  # characters; what is longer is unknown

Encoded = tuple[list[int], list[int], list[int]]  # ids, segments (0 or 1), attention (1 = a token)


class Tokenizer(Protocol):
    """Whatever turns two texts into one sequence of a fixed length."""

    def pair(self, first: str, second: str, length: int) -> Encoded:
        """ "[CLS] first [SEP] second [SEP]", the longer one cut until it fits, padded to `length`."""


def load(path: Path, *, lowercase: bool = True) -> Tokenizer:
    """The tokenizer of a `vocab.txt` (WordPiece, one token a line), or of a `tokenizer.json`.

    Args:
        lowercase: for a `vocab.txt`: fold case and drop accents, as "uncased" models want. A `tokenizer.json` says so
            itself.

    Raises:
        FileError: no such file, not UTF-8, not a tokenizer, or without the special tokens.
        MissingDependencyError: a `tokenizer.json`, and no `tokenizers`.
    """
    if not path.is_file():
        raise FileError(f"no such vocabulary: {path}", way_out="copy the vocab.txt of the model beside its data")
    if path.suffix == ".json":
        return _FromJson(path)
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise FileError(f"{path} is not UTF-8 text", way_out="give a vocab.txt with one token a line") from None
    tokens = [token.rstrip("\r") for token in tokens]
    if missing := [token for token in SPECIAL if token not in tokens]:
        raise FileError(f"{path} lacks {', '.join(missing)}", way_out="give the vocab.txt of a BERT")
    return WordPiece(tokens, lowercase=lowercase)


class WordPiece:
    """Words split at spaces and punctuation, then greedily into the longest known pieces (Devlin et al. 2018,
    arXiv 1810.04805; the pieces after Wu et al. 2016, arXiv 1609.08144).

    >>> pieces = WordPiece([*SPECIAL, "un", "##know", "##n", "word", ","])
    >>> pieces.tokens("Unknown, wörd"), pieces.tokens("unseen")
    (['un', '##know', '##n', ',', 'word'], ['[UNK]'])
    """

    def __init__(self, vocabulary: Sequence[str], *, lowercase: bool = True) -> None:
        self.ids = {token: number for number, token in enumerate(vocabulary)}
        self.lowercase = lowercase

    def tokens(self, text: str) -> list[str]:
        """Known pieces of `text`; a special token that is written out in it is itself."""
        found: list[str] = []
        for part in _WRITTEN_OUT.split(text):
            if _WRITTEN_OUT.fullmatch(part) and part in self.ids:
                found.append(part)
            else:
                found += [piece for word in _words(part, self.lowercase) for piece in self._pieces(word)]
        return found

    def pair(self, first: str, second: str, length: int) -> Encoded:
        """See `Tokenizer`."""
        a, b = self.tokens(first), self.tokens(second)
        first_is_longer = len(a) > len(b)
        while len(a) + len(b) > length - 3:
            # between equals the one that was longer stays, as the package `tokenizers` has it
            (a if len(a) > len(b) or (len(a) == len(b) and not first_is_longer) else b).pop()
        words = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
        padding = length - len(words)
        ids = [self.ids[word] for word in words] + [self.ids["[PAD]"]] * padding
        segments = [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * padding
        return ids, segments, [1] * len(words) + [0] * padding

    def _pieces(self, word: str) -> list[str]:
        if len(word) > LONGEST_WORD:
            return ["[UNK]"]
        found: list[str] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            stop = next((s for s in range(len(word), start, -1) if mark + word[start:s] in self.ids), 0)
            if not stop:
                return ["[UNK]"]
            found.append(mark + word[start:stop])
            start = stop
        return found


class _FromJson:
    """A `tokenizer.json`, run by the package `tokenizers`."""

    def __init__(self, path: Path) -> None:
        require("tokenizers", "recipes")
        from tokenizers import Tokenizer as Fast

        try:
            self.fast = Fast.from_file(str(path))
        except Exception as error:  # the package raises plain ones
            raise FileError(f"{path} is not a tokenizer: {error}", way_out="give a vocab.txt instead") from None
        self.pad = self.fast.token_to_id("[PAD]")
        if self.pad is None:
            raise FileError(f"{path} has no [PAD]", way_out="give the tokenizer of a BERT")

    def pair(self, first: str, second: str, length: int) -> Encoded:
        """See `Tokenizer`."""
        self.fast.enable_truncation(length)
        self.fast.enable_padding(length=length, pad_id=self.pad, pad_token="[PAD]")
        made = self.fast.encode(first, second)
        return made.ids, made.type_ids, made.attention_mask


def _words(text: str, lowercase: bool) -> list[str]:
    """Words and single marks of punctuation."""
    text = "".join(" " if c in "\t\n\r" else c for c in text if c in "\t\n\r" or not _is_control(c))
    if lowercase:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn").lower()
    return "".join(f" {c} " if _is_mark(c) else c for c in text).split()


def _is_control(character: str) -> bool:
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co")


def _is_mark(character: str) -> bool:
    """Punctuation, an ASCII symbol, or a Chinese character: each stands alone."""
    code = ord(character)
    if code < 128:
        return character.isprintable() and not character.isalnum() and not character.isspace()
    return unicodedata.category(character)[0] == "P" or any(low <= code <= high for low, high in _CHINESE)


_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def check_length(length: int) -> None:
    """Refuse a sequence too short for two words and the special tokens.

    Raises:
        UsageError: below 5.
    """
    if length < 5:
        raise UsageError(f"length {length} holds no two words", way_out="give at least 5; BERT takes up to 512")
