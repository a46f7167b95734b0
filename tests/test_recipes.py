"""The image recipes end to end on small generated data, and what they say to data that is wrong."""

from __future__ import annotations

import doctest
import json
import random
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from idp_deploy.cli.app import _run
from idp_deploy.configuration import load
from idp_deploy.errors import UsageError
from idp_deploy.pruning import paper_schedule
from idp_deploy.pruning.options import check_options
from sample_models.recipes import bert_weights, fresh
from sample_models.recipes.image_folder import ImageFolder, Images, centre, normalised, random_part

RECIPES = Path(bert_weights.__file__).parent
COLOURS = {"blue": (20, 30, 220), "green": (30, 200, 40), "red": (220, 30, 20)}


# ── small data ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three classes of noisy coloured images of many sizes, two formats and three colour spaces."""
    folder, dice = tmp_path / "imagenet", np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 6)):
        for name, colour in COLOURS.items():
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                height, width = dice.integers(32, 65, 2)
                noise = dice.normal(0, 30, (height, width, 3))
                image = Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))
                if number % 3 == 1:
                    image.save(folder / part / name / f"{number}.png")
                else:
                    image.convert("CMYK" if number % 3 else "RGB").save(folder / part / name / f"{number}.JPEG")
    (folder / "train" / "red" / "notes.txt").write_text("no image")
    (folder / "train" / ".DS_Store").write_text("")
    return folder


def call(*arguments: str) -> int:
    return _run(list(arguments), debug=False)


def small_configuration(recipe: str, model: str, task: str, path: Path, **changed: object) -> None:
    """The recipe as it is shipped, but for model, task, epochs and the epochs that the schedule counts."""
    text = (RECIPES / recipe).read_text()
    lines = []
    for line in text.splitlines():
        key = line.partition("=")[0].strip()
        values = {"model": f'"{model}"', "task": f'"{task}"', "epochs": "3", "start": "1", "rate": "0.6", **changed}
        lines.append(f"{key} = {values[key]}" if key in values else line)
    path.write_text("\n".join(lines) + "\n")


# ── as shipped ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.toml")))
def test_every_recipe_is_valid_and_says_what_the_paper_says(recipe: str) -> None:
    prune = load(RECIPES / recipe, environment={}).prune
    check_options(prune.method, prune.mode, prune.options)
    assert (prune.method, prune.mode, prune.allocation) == ("idp", "paper", "global")
    assert prune.options["temperature"] == 1e-4
    assert f"{float(prune.target):.1%}".replace("%", " %") in (RECIPES / "__init__.py").read_text().replace(
        "90 %", "90.0 %"
    )
    assert prune.epochs is not None
    start, rate = prune.options["start"], prune.options["rate"]
    assert isinstance(start, int)
    assert isinstance(rate, float)
    schedule = paper_schedule(prune.epochs, 1, start=start, rate=rate)
    full = next(epoch for epoch in range(prune.epochs) if schedule.ratio(epoch) == 1)
    assert full / prune.epochs == pytest.approx(0.82, abs=0.02)


@pytest.mark.wide
@pytest.mark.parametrize(
    ("recipe", "factory", "target"),
    [
        ("mobilenet_v1.toml", "sample_models.mobilenet_v1:build(classes=3, width=0.25)", 0.866),
        ("resnet18.toml", "sample_models.resnet18:build(classes=3, width=0.125, small_images=False)", 0.855),
    ],
)
def test_images_end_to_end(
    recipe: str,
    factory: str,
    target: float,
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photographs.parent)
    task = "sample_models.recipes.image_folder:task(size=32, batch_size=12, workers=0, learning_rate=0.02)"
    small_configuration(recipe, factory, task, Path("small.toml"))
    assert fresh.main([factory, "-o", "model.pt", "--seed", "1"]) == 0
    assert call("prune", "model.pt", "--config", "small.toml", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    saved = torch.load("model.pruned.pt", weights_only=True)
    assert saved["recipe"]["mode"] == "paper"
    assert saved["recipe"]["options"]["temperature"] == 1e-4
    masks = saved["masks"]
    entries = sum(np.prod(mask["shape"]) for mask in masks.values())
    kept = sum(int(np.unpackbits(mask["bits"].numpy()).sum()) for mask in masks.values())
    assert entries - kept == round(target * entries)
    assert (report["zeros"], report["prunable"]) == (entries - kept, entries)
    assert set(report["accuracy"]) == {"dense", "hardened"}


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_classes_are_numbered_by_name_and_every_colour_space_is_read(photographs: Path) -> None:
    task = ImageFolder(str(photographs), size=32, workers=0)
    assert task.classes == ["blue", "green", "red"]
    assert (len(task.train), len(task.validation)) == (36, 18)
    for images, labels in task.validation_loader():
        assert images.dtype == torch.float32
        assert images.shape[1:] == (3, 32, 32)
        assert torch.equal(images.mean((2, 3)).argmax(1), 2 - labels)  # the class's own colour is the strongest
    (example,) = task.example_inputs()
    assert torch.equal(example[0], next(iter(task.validation_loader()))[0][0])


def test_what_is_drawn_depends_on_the_seed_alone(photographs: Path) -> None:
    def batches(workers: int, seed: int) -> list[torch.Tensor]:
        task = ImageFolder(str(photographs), size=24, batch_size=5, workers=workers)
        return [tensor for batch in task.train_loader(seed) for tensor in batch]

    random.seed(1)
    alone = batches(0, 3)
    random.seed(2)
    assert len(alone) == 14
    assert all(torch.equal(a, b) for a, b in zip(alone, batches(2, 3), strict=True))
    assert not torch.equal(alone[0], batches(0, 4)[0])


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 2**32))
def test_any_image_can_be_cut(width: int, height: int, size: int, seed: int) -> None:
    image = Image.new("RGB", (width, height), (10, 20, 30))
    for cut in (random_part(image, size, random.Random(seed)), centre(image, size)):
        assert cut.size == (size, size)
        assert set(map(tuple, np.asarray(cut).reshape(-1, 3).tolist())) == {(10, 20, 30)}


def test_pixels_are_normalised() -> None:
    grey = normalised(Image.new("RGB", (2, 2), (124, 116, 104)))
    assert grey.shape == (3, 2, 2)
    assert grey.abs().max() < 0.01  # ImageNet's mean


def lost(folder: Path) -> None:
    (folder / "train").rename(folder / "training")


def flat(folder: Path) -> None:
    for path in (folder / "val").rglob("*.*"):
        path.rename(folder / "val" / f"{path.parent.name}{path.name}")
    for name in COLOURS:
        (folder / "val" / name).rmdir()


def empty(folder: Path) -> None:
    for path in (folder / "train" / "red").glob("*.[Jp]*"):
        path.unlink()


def stranger(folder: Path) -> None:
    (folder / "val" / "blue").rename(folder / "val" / "bleu")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lost, "there is no folder imagenet/train — lay images out as train/<class>/*.jpg"),
        (flat, "imagenet/val holds no folder, so no class"),
        (empty, "class folder imagenet/train/red holds no image — images end in .jpg"),
        (stranger, "class 'bleu' of imagenet/val is not in train"),
    ],
)
def test_a_wrong_folder_is_named(
    damage: Callable[[Path], None],
    words: str,
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photographs.parent)
    damage(photographs)
    fresh.main(["sample_models.mobilenet_v1:build(classes=3, width=0.25)", "-o", "model.pt"])
    model = ["--model", "sample_models.mobilenet_v1:build(classes=3, width=0.25)"]
    assert call("prune", "model.pt", *model, "--task", "sample_models.recipes.image_folder:task") == 3
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("workers", "content"),
    [(0, b""), (1, b"\xff\xd8\xff\xe0 not a photograph"), (0, "half")],
    ids=["empty", "junk", "half"],
)
def test_a_corrupt_image_is_named_whoever_decodes_it(
    workers: int,
    content: Any,
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photographs.parent)
    target = Path("imagenet/train/green/0.JPEG")
    target.write_bytes(target.read_bytes()[:400] if content == "half" else content)
    factory = "sample_models.mobilenet_v1:build(classes=3, width=0.25)"
    fresh.main([factory, "-o", "model.pt"])
    task = f"sample_models.recipes.image_folder:task(size=32, batch_size=36, workers={workers})"
    assert call("prune", "model.pt", "--model", factory, "--task", task, "--epochs", "1") == 3
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: imagenet/train/green/0.JPEG cannot be decoded as an image: ")
    assert said.endswith("— replace or remove it")
    assert not Path("model.pruned.pt").exists()


def test_another_number_of_classes_is_named(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photographs.parent)
    factory = "sample_models.mobilenet_v1:build(width=0.25)"
    fresh.main([factory, "-o", "model.pt"])
    task = "sample_models.recipes.image_folder:task(size=32, workers=0)"
    assert call("prune", "model.pt", "--model", factory, "--task", task) == 2
    assert "the model has 10 outputs and the data 3 classes (blue, green, red)" in capsys.readouterr().err


@pytest.mark.parametrize("setting", [{"size": 0}, {"batch_size": 0}, {"workers": -1}])
def test_impossible_sizes_are_refused(setting: dict[str, int], photographs: Path) -> None:
    with pytest.raises(UsageError, match="sizes begin at 1"):
        ImageFolder(str(photographs), **setting)


def test_a_dataset_item_is_the_same_twice(photographs: Path) -> None:
    task = ImageFolder(str(photographs))
    one, two = (Images(task.train, 40, seed=9)[3][0] for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("module", sorted(path.stem for path in RECIPES.glob("[a-z]*.py")))
def test_the_examples_in_docstrings_hold(module: str) -> None:
    assert doctest.testmod(import_module(f"sample_models.recipes.{module}")).failed == 0
    assert f"sample_models.recipes.{module}" in sys.modules
