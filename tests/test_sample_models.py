"""Sample models and tasks: shapes at any width, seeded data, labels that are right, training that learns."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from idp_deploy.configuration import load
from idp_deploy.tasks import Task, evaluate
from sample_models import bert, characters, digits, entailment, keywords, mcu, mobilenet_v1, resnet18
from sample_models.training import train


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [32, 65])
def test_mobilenet_takes_any_width_and_size(width: float, size: int) -> None:
    module = mobilenet_v1.build(width, classes=7).eval()
    assert module(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_mobilenet_is_the_one_of_the_paper() -> None:
    convolutions = [m for m in mobilenet_v1.build().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 27
    stem = convolutions[0]
    assert (stem.kernel_size, stem.stride, stem.padding, stem.in_channels) == ((3, 3), (2, 2), (1, 1), 3)
    assert [c.stride[0] for c in convolutions[1::2]] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    assert all(c.groups == c.in_channels and c.kernel_size == (3, 3) for c in convolutions[1::2])
    assert all(c.groups == 1 and c.kernel_size == (1, 1) for c in convolutions[2::2])


def test_mobilenet_keeps_detail_of_small_images() -> None:
    features = mobilenet_v1.build(0.25, small_images=True).features
    assert features(torch.randn(2, 3, 32, 32)).shape[2:] == (4, 4)
    assert mobilenet_v1.build(0.25).features(torch.randn(2, 3, 32, 32)).shape[2:] == (1, 1)


def test_demo_model_is_large_enough_to_be_worth_pruning() -> None:
    assert sum(p.numel() for p in mobilenet_v1.build_half().parameters()) > 800_000


@pytest.mark.parametrize("small_images", [True, False])
def test_resnet_takes_any_width(small_images: bool) -> None:
    module = resnet18.build(0.125, classes=5, small_images=small_images).eval()
    assert module(torch.randn(2, 3, 48, 48)).shape == (2, 5)


def test_bert_ignores_padding_and_reads_tokens() -> None:
    torch.manual_seed(0)
    module = bert.build(width=32, heads=2).eval()
    tokens, segments = torch.randint(3, 60, (2, 16)), torch.zeros(2, 16, dtype=torch.int64)
    attention = torch.ones(2, 16, dtype=torch.int64)
    attention[:, 10:] = 0
    logits = module(tokens, segments, attention)
    padded = tokens.clone()
    padded[:, 10:] = 0
    assert torch.equal(module(padded, segments, attention), logits)
    changed = tokens.clone()
    changed[:, 5] += 1
    assert not torch.allclose(module(changed, segments, attention), logits)


def test_bert_attention_equals_torch() -> None:
    torch.manual_seed(0)
    ours = bert.Attention(32, 4)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    theirs.out_proj = ours.output  # type: ignore[assignment]
    x = torch.randn(3, 7, 32)
    expected, _ = theirs(x, x, x)
    assert torch.allclose(ours(x, torch.zeros(1, 1, 1, 7)), expected, atol=1e-6)


SMALL_TASKS = {
    "digits": digits.task,
    "characters": lambda: characters.task(samples=144, validation=72),
    "entailment": lambda: entailment.task(samples=192, validation=60),
}


@pytest.mark.parametrize("make", SMALL_TASKS.values(), ids=SMALL_TASKS)
def test_tasks_are_seeded_and_well_formed(make: object) -> None:
    task, again = make(), make()  # type: ignore[operator]
    assert isinstance(task, Task)
    first, same, other = (next(iter(t.train_loader(seed))) for t, seed in ((task, 1), (again, 1), (task, 2)))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[-1].dtype == torch.int64
    examples = task.example_inputs()
    assert all(len(x) == 1 for x in examples)
    assert len(task.calibration_inputs(5)) == 5


def test_digits_are_normalised_real_images() -> None:
    images, labels = digits.load()
    assert images.shape == (1797, 3, 32, 32)
    assert abs(float(images.mean())) < 1e-3
    assert abs(float(images.std()) - 1) < 1e-2
    assert labels.bincount().min() > 170
    task = digits.task()
    assert len(task.validation) == 540
    assert len(task.train) == 3 * 1257
    seen = {bytes(x.numpy().tobytes()) for x, _ in task.validation}
    assert not any(bytes(x.numpy().tobytes()) in seen for x, _ in task.train)


def test_shifted_copies_move_by_two_pixels() -> None:
    images = torch.zeros(2, 3, 8, 8)
    images[:, :, 4, 4] = 1
    copies = digits.with_shifted(images)
    assert [tuple(map(int, x[0].nonzero()[0])) for x in copies] == [(4, 4), (4, 4), (6, 4), (4, 6), (2, 4), (4, 2)]


def test_characters_show_their_label() -> None:
    """Without noise, rotation and distractors an image is ground and ink, and no two classes look the same."""
    images, labels = characters.render(72, noise=0.0, rotation=0.0, distractors=0, seed=3)
    grey = images.mean(1).flatten(1)
    shapes = (grey - grey[:, :1]).abs() > 0.1
    assert shapes.float().mean(1).min() > 0.01
    assert len({tuple(s.tolist()) for s in shapes}) > 60
    assert sorted(labels.tolist()) == sorted(list(range(36)) * 2)


def test_characters_get_harder_with_noise_and_distractors() -> None:
    clean, labels = characters.render(36, noise=0.0, rotation=0.0, distractors=0, seed=0)
    noisy, same = characters.render(36, noise=0.3, rotation=0.0, distractors=0, seed=0)
    crossed, _ = characters.render(36, noise=0.0, rotation=0.0, distractors=5, seed=0)
    assert torch.equal(labels, same)
    assert float((noisy - clean).std()) == pytest.approx(0.3 / 0.33, rel=0.05)
    assert not torch.equal(crossed, clean)


def test_entailment_labels_are_proved() -> None:
    """Against a second derivation: subsets of three named things instead of kinds of things."""
    things = list(product((False, True), repeat=3))

    def holds(quantifier: str, noun: tuple[bool, ...], verb: tuple[bool, ...]) -> bool:
        inside = [v for n, v in zip(noun, verb, strict=True) if n]
        return {"every": all(inside), "some": any(inside), "no": not any(inside), "not_every": not all(inside)}[
            quantifier
        ]

    def fits(how: str, a: tuple[bool, ...], b: tuple[bool, ...]) -> bool:
        below, above = (all(y or not x for x, y in zip(p, q, strict=True)) for p, q in ((a, b), (b, a)))
        return {"=": a == b, "⊂": below, "⊃": above, "?": True}[how]

    full = [t for t in things if any(t)]
    for nouns, verbs in product("=⊂⊃?", repeat=2):
        worlds = [
            (n, m, v, w) for n, m, v, w in product(full, repeat=4) if fits(nouns, n, m) and fits(verbs, v, w)
        ]  # fmt: skip
        for first, second in product(entailment.QUANTIFIERS, repeat=2):
            seen = {holds(second, m, w) for n, m, v, w in worlds if holds(first, n, v)}
            expected = "neutral" if len(seen) == 2 else "entailment" if True in seen else "contradiction"
            assert entailment.relation(first, second, nouns, verbs) == expected, (first, second, nouns, verbs)


def test_entailment_is_balanced_and_fits_the_sequence() -> None:
    tokens, segments, attention, labels = entailment.generate(300, seed=5)
    assert labels.bincount().tolist() == [100, 100, 100]
    assert tokens.shape == segments.shape == attention.shape == (300, entailment.LENGTH)
    assert tokens.max() < len(entailment.VOCABULARY) <= 128
    assert torch.equal(attention == 0, tokens == 0)


@pytest.mark.parametrize(
    ("premise", "hypothesis", "length", "words"),
    [("every unicorn runs", "some dog runs", 16, "'unicorn'"), ("every dog runs", "some dog runs", 8, "9 tokens")],
)
def test_tokenizer_names_what_does_not_fit(premise: str, hypothesis: str, length: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        entailment.tokenize(premise, hypothesis, length)


def test_training_learns_and_leaves_argument_and_random_state_alone() -> None:
    torch.manual_seed(0)
    task = digits.task()
    module = mobilenet_v1.build(0.25)
    before, random_state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    history: list[tuple[int, float, float]] = []
    trained = train(module, task, epochs=2, seed=1, progress=lambda *row: history.append(row))
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [row[0] for row in history] == [1, 2]
    assert history[-1][2] == evaluate(trained, task) > 0.6
    assert not trained.training


def test_training_is_reproducible_with_the_tasks_own_optimizer() -> None:
    torch.manual_seed(0)
    task = entailment.task(samples=640, validation=60)
    module = bert.build(width=32, heads=2, layers=1, dropout=0.1)
    first, second, other = (train(module, task, epochs=1, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_the_same_seed_makes_the_same_sounds_and_silence_is_silent() -> None:
    spectra, labels = keywords.sounds(60, noise=0.0)
    again, _ = keywords.sounds(60, noise=0.0)
    assert torch.equal(spectra, again)
    assert spectra.shape == (60, 1, keywords.FRAMES, keywords.BANDS)
    assert set(labels.tolist()) == set(range(keywords.CLASSES))
    quiet = spectra[labels == keywords.SILENCE]
    assert float(quiet.max()) == float(spectra.min())
    assert float(spectra[labels != keywords.SILENCE].amax((1, 2, 3)).min()) > float(spectra.min())


def test_the_keyword_net_learns_and_fits_a_microcontroller() -> None:
    module = keywords.build()
    assert sum(p.numel() for p in module.parameters()) < 25_000
    task = keywords.Keywords(1000, 200, noise=0.3)
    torch.manual_seed(0)
    assert evaluate(train(module, task, epochs=4), task) > 0.5


@pytest.mark.parametrize("name", mcu.NETS)
def test_the_samples_for_microcontrollers_are_configured_and_gated(name: str) -> None:
    path = Path(mcu.__file__).with_name(f"mcu_{name}.toml")
    configured = load(path, environment={})
    build, make_task = mcu.NETS[name]
    assert configured.model == f"{build.__module__}:{build.__name__}"
    assert configured.task == f"{make_task.__module__}:{make_task.__name__}"
    assert configured.quantize.scheme == "int8"
    metrics = {budget.metric for budget in configured.budget_list()}
    assert metrics >= ({"flash", "sram", "cpu_operators"} if name == "keywords" else {"flash", "arena"})
