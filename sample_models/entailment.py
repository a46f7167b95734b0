"""A text task, generated: does a sentence follow from another, contradict it, or neither?

A sentence is quantifier + noun phrase + verb phrase, as in "no small dog runs outside". A noun or verb has narrower
and wider words (puppy ⊂ dog ⊂ animal, sprints ⊂ runs ⊂ moves), and an adjective or adverb narrows what it stands at.
Words of different families say nothing about each other. The label is not a rule of thumb but a proof: the sets of two
sentences are enumerated over every way the world may be (`relation`), so that "every animal moves" entails "some dog
moves" and is contradicted by "not_every puppy moves". To solve it a network must learn the lexicon and that `every`
and `no` turn the direction of inclusion around in the noun.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.tasks import Task

LABELS = ("entailment", "contradiction", "neutral")
QUANTIFIERS = ("every", "some", "no", "not_every")
NOUNS = (  # each family from narrow to wide
    ("puppy", "dog", "animal"), ("rose", "flower", "plant"), ("violin", "instrument", "object"),
    ("toddler", "child", "person"), ("sedan", "car", "vehicle"), ("cottage", "house", "building"),
    ("salmon", "fish", "swimmer"), ("novel", "book", "text"),
)  # fmt: skip
VERBS = (
    ("sprints", "runs", "moves"), ("whispers", "speaks", "sounds"), ("shines", "glows", "changes"),
    ("shatters", "breaks", "ends"), ("ripens", "grows", "lives"), ("burns", "heats", "acts"),
)  # fmt: skip
ADJECTIVES = ("small", "old", "red", "quiet", "heavy", "new")
ADVERBS = ("outside", "slowly", "often", "today", "alone", "twice")
SPECIAL = ("[pad]", "[cls]", "[sep]")
VOCABULARY = (
    *SPECIAL, *QUANTIFIERS, *(w for family in (*NOUNS, *VERBS) for w in family), *ADJECTIVES, *ADVERBS,
)  # fmt: skip
LENGTH = 16  # [cls] + two sentences of at most six words + two [sep], and one to spare

# A phrase is (family, width 0–2, modifiers): the set of things it names shrinks with every modifier.
Phrase = tuple[int, int, frozenset[str]]


class Entailment(Task):
    """Batches of (tokens, segments, attention, labels), the first three int64 (N, 16), for `sample_models.bert`.

    Args:
        samples: training pairs; `validation` further ones are held out. Labels are balanced.
        seed: of every pair; the training order has its own seed.
    """

    epochs = 12
    learning_rate = 1e-3

    def __init__(self, samples: int = 12000, validation: int = 2000, seed: int = 0, batch_size: int = 64) -> None:
        columns = generate(samples + validation, seed)
        self.train = TensorDataset(*(column[:samples] for column in columns))
        self.validation = TensorDataset(*(column[samples:] for column in columns))
        self.batch_size = batch_size

    def train_loader(self, seed: int) -> DataLoader[Any]:
        """Training pairs shuffled by `seed`; the incomplete last batch is dropped."""
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, generator=generator)

    def validation_loader(self) -> DataLoader[Any]:
        """Pairs drawn after the training pairs."""
        return DataLoader(self.validation, 250)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """AdamW, as encoders are trained."""
        return torch.optim.AdamW(module.parameters(), self.learning_rate, weight_decay=0.01)


def task(**settings: Any) -> Entailment:
    """The task with its default size, or with other arguments of `Entailment`."""
    return Entailment(**settings)


def tokenize(premise: str, hypothesis: str, length: int = LENGTH) -> tuple[list[int], list[int], list[int]]:
    """Word ids, segment ids and attention of "[cls] premise [sep] hypothesis [sep]", padded to `length`.

    >>> tokens, segments, attention = tokenize("every dog runs", "some dog moves", 12)
    >>> [VOCABULARY[t] for t in tokens[:5]]
    ['[cls]', 'every', 'dog', 'runs', '[sep]']
    >>> segments, attention
    ([0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0])

    Raises:
        ValueError: a word outside `VOCABULARY`, or more than `length` tokens.
    """
    first = ["[cls]", *premise.split(), "[sep]"]
    words = [*first, *hypothesis.split(), "[sep]"]
    if unknown := [w for w in words if w not in VOCABULARY]:
        raise ValueError(f"{unknown[0]!r} is not in the vocabulary")
    if len(words) > length:
        raise ValueError(f"{len(words)} tokens do not fit into {length}")
    padding = [0] * (length - len(words))
    tokens = [VOCABULARY.index(w) for w in words] + padding
    segments = [0] * len(first) + [1] * (len(words) - len(first)) + padding
    return tokens, segments, [1] * len(words) + padding


def generate(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, segments, attention (count, 16) and labels (count,), drawn until every label has its share."""
    dice = random.Random(seed)
    rows: list[tuple[list[int], list[int], list[int]]] = []
    labels = [i % 3 for i in range(count)]
    dice.shuffle(labels)
    for label in labels:
        while True:
            premise, hypothesis, found = draw(dice)
            if LABELS.index(found) == label:
                break
        rows.append(tokenize(premise, hypothesis))
    tokens, segments, attention = (torch.tensor([row[i] for row in rows]) for i in range(3))
    return tokens, segments, attention, torch.tensor(labels)


def draw(dice: random.Random) -> tuple[str, str, str]:
    """One premise, one hypothesis on nearby phrases, and the label."""
    first, second = dice.choice(QUANTIFIERS), dice.choice(QUANTIFIERS)
    noun, verb = _phrase(dice, NOUNS, ADJECTIVES), _phrase(dice, VERBS, ADVERBS)
    other_noun, other_verb = _near(dice, noun, NOUNS, ADJECTIVES), _near(dice, verb, VERBS, ADVERBS)
    label = relation(first, second, _compare(noun, other_noun), _compare(verb, other_verb))
    return _words(first, noun, verb), _words(second, other_noun, other_verb), label


@cache
def relation(first: str, second: str, nouns: str, verbs: str) -> str:
    """Label of "first N V" against "second N' V'", given how N stands to N' and V to V' (= ⊂ ⊃ or ?).

    Proved by enumeration: a world says which of the combinations of N, N', V, V' exist; worlds that break an inclusion,
    or in which one of the four sets is empty, are left out. Of a world only eight facts count, so worlds that agree on
    them are taken together: adding a kind of thing to a world adds its facts.

    >>> relation("every", "some", "=", "⊂"), relation("no", "some", "⊃", "="), relation("some", "every", "=", "=")
    ('entailment', 'contradiction', 'neutral')
    """
    worlds: set[frozenset[str]] = {frozenset()}
    for n, m, v, w in product((False, True), repeat=4):
        if _allowed(nouns, n, m) and _allowed(verbs, v, w):
            found = {"N": n, "M": m, "V": v, "W": w, "NV": n and v, "N-": n and not v, "MW": m and w, "M-": m and not w}
            facts = frozenset(fact for fact, there in found.items() if there)
            worlds |= {world | facts for world in worlds}
    verdicts = {
        _holds(second, "MW" in world, "M-" in world)
        for world in worlds
        if world >= {"N", "M", "V", "W"} and _holds(first, "NV" in world, "N-" in world)
    }
    return "neutral" if len(verdicts) == 2 else LABELS[0 if True in verdicts else 1]


def _holds(quantifier: str, inside: bool, outside: bool) -> bool:
    """Whether "quantifier N V" is true where some N are `inside` V and some are `outside`."""
    return {"every": not outside, "some": inside, "no": not inside, "not_every": outside}[quantifier]


def _allowed(relation: str, first: bool, second: bool) -> bool:
    return {"=": first == second, "⊂": second or not first, "⊃": first or not second, "?": True}[relation]


def _compare(first: Phrase, second: Phrase) -> str:
    """How the set of one phrase stands to that of another: = ⊂ ⊃ or ? (nothing known).

    >>> _compare((0, 1, frozenset({"small"})), (0, 2, frozenset()))
    '⊂'
    """
    within = first[0] == second[0] and first[1] <= second[1] and first[2] >= second[2]
    around = first[0] == second[0] and first[1] >= second[1] and first[2] <= second[2]
    return "=" if within and around else "⊂" if within else "⊃" if around else "?"


def _phrase(dice: random.Random, families: Sequence[Any], modifiers: Sequence[str]) -> Phrase:
    extra = frozenset({dice.choice(modifiers)}) if dice.random() < 0.4 else frozenset()
    return dice.randrange(len(families)), dice.randrange(3), extra


def _near(dice: random.Random, phrase: Phrase, families: Sequence[Any], modifiers: Sequence[str]) -> Phrase:
    """The same phrase, a wider or narrower one, one with another modifier, or now and then another family."""
    family, width, extra = phrase
    change = dice.random()
    if change < 0.3:
        return phrase
    if change < 0.65:
        return family, dice.choice([w for w in range(3) if w != width]), extra
    if change < 0.9:
        return family, width, frozenset() if extra else frozenset({dice.choice(modifiers)})
    return _phrase(dice, families, modifiers)


def _words(quantifier: str, noun: Phrase, verb: Phrase) -> str:
    return " ".join([quantifier, *noun[2], NOUNS[noun[0]][noun[1]], VERBS[verb[0]][verb[1]], *verb[2]])
