"""Pairs of sentences with a label, as in MNLI: (premise, hypothesis) → entailment, neutral or contradiction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from idp_deploy.errors import FileError
from idp_deploy.tasks import Task
from sample_models.recipes import wordpiece
from sample_models.recipes.classes import check_classes
from sample_models.recipes.tables import read_rows

LABELS = ("entailment", "neutral", "contradiction")  # in the order of MNLI's numbers


class TextPairs(Task):
    """Batches of (tokens, segments, attention, labels), the first three int64 (N, length), for `sample_models.bert`.

    Args:
        folder: where the files below are.
        train, validation: .jsonl or .parquet; without a suffix, whichever there is.
        vocabulary: a `vocab.txt` or `tokenizer.json` that belongs to the model.
        premise, hypothesis, label: names of the columns. A label is a name in `labels` or its number.
        labels: in the order of the model's outputs, which published models do not agree on.
        length: of every sequence; longer pairs are cut.
        lowercase: what the vocabulary wants: True for "uncased" models.

    Raises:
        FileError: a file or column that is missing, a text that is none, a label that is not in `labels`.
    """

    epochs = 20
    learning_rate: float

    def __init__(
        self,
        folder: str = "mnli",
        train: str = "train",
        validation: str = "dev_matched",
        vocabulary: str = "vocab.txt",
        premise: str = "premise",
        hypothesis: str = "hypothesis",
        label: str = "label",
        labels: Sequence[str] = LABELS,
        length: int = 128,
        batch_size: int = 32,
        learning_rate: float = 3e-5,
        lowercase: bool = True,
    ) -> None:
        wordpiece.check_length(length)
        place = Path(folder)
        if not place.is_dir():
            raise FileError(f"there is no folder {place}", way_out="pass task(folder='…') with the data in it")
        self.labels, self.learning_rate = tuple(labels), learning_rate
        tokenizer = wordpiece.load(place / vocabulary, lowercase=lowercase)
        columns = (premise, hypothesis, label)
        self.train, self.validation = (
            Pairs(_examples(_table(place, name), columns, self.labels), tokenizer, length)
            for name in (train, validation)
        )
        self.batch_size = min(batch_size, len(self.train))

    def train_loader(self, seed: int) -> DataLoader[Any]:
        """Training pairs shuffled by `seed`; the incomplete last batch is dropped."""
        order = torch.Generator().manual_seed(seed)
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, generator=order)

    def validation_loader(self) -> DataLoader[Any]:
        """Every validation pair."""
        return DataLoader(self.validation, 2 * self.batch_size)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Cross entropy."""
        check_classes(outputs, self.labels)
        return super().loss(outputs, batch)

    def score(self, outputs: Any, batch: Any) -> tuple[float, int]:
        """(pairs whose likeliest label is right, pairs)."""
        check_classes(outputs, self.labels)
        return super().score(outputs, batch)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """AdamW; biases and norms do not decay."""
        decays = [p for p in module.parameters() if p.dim() > 1]
        others = [p for p in module.parameters() if p.dim() < 2]
        groups = [{"params": decays, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=self.learning_rate)


task = TextPairs


class Pairs(Dataset[tuple[Tensor, Tensor, Tensor, int]]):
    """Pairs turned into token ids as they are asked for."""

    def __init__(self, examples: Sequence[tuple[str, str, int]], tokenizer: wordpiece.Tokenizer, length: int) -> None:
        self.examples, self.tokenizer, self.length = examples, tokenizer, length

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, int]:
        premise, hypothesis, label = self.examples[index]
        ids, segments, attention = map(torch.tensor, self.tokenizer.pair(premise, hypothesis, self.length))
        return ids, segments, attention, label


def _table(folder: Path, name: str) -> Path:
    """`name` in `folder`; without a suffix, as JSON lines or Parquet."""
    known = [folder / f"{name}{suffix}" for suffix in (".jsonl", ".parquet")]
    return folder / name if Path(name).suffix else next((path for path in known if path.is_file()), known[0])


def _examples(path: Path, columns: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str, int]]:
    found = []
    for row, (premise, hypothesis, label) in enumerate(read_rows(path, columns), 1):
        for column, text in zip(columns, (premise, hypothesis), strict=False):
            if not isinstance(text, str):
                raise FileError(f"{path} row {row}: {column} is {text!r}, not a text", way_out="mend or remove the row")
        found.append((premise, hypothesis, _number(path, row, label, labels)))
    return found


def _number(path: Path, row: int, label: Any, labels: Sequence[str]) -> int:
    if label in labels:
        return labels.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(labels):
        return label
    raise FileError(
        f"{path} row {row}: label {label!r} is none of {', '.join(labels)}, nor a number from 0 to {len(labels) - 1}",
        way_out="remove rows without a label, or name yours in order: labels=('yes', 'no')",
    )
