"""The text recipe end to end, its tables, tokens and weights, and what they say to data that is wrong."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from idp_deploy.errors import FileError, MissingDependencyError, UsageError
from sample_models import bert
from sample_models.recipes import bert_weights, fresh, wordpiece
from sample_models.recipes.tables import read_rows
from sample_models.recipes.text_pairs import LABELS, TextPairs
from tests.test_recipes import call, small_configuration

SUBJECTS = ("dogs", "cats", "birds")


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """Pairs whose label is in the hypothesis, a vocabulary, and the same rows as Parquet."""
    from pyarrow import Table, parquet

    folder, dice = tmp_path / "mnli", random.Random(0)
    folder.mkdir()
    words = {"entailment": "exist", "neutral": "might", "contradiction": "never"}
    for name, count in (("train", 96), ("dev_matched", 30)):
        rows = []
        for number in range(count):
            label = LABELS[number % 3]
            subject = dice.choice(SUBJECTS)
            rows.append(
                {"premise": f"All {subject} run.", "hypothesis": f"{subject} {words[label]}", "label": number % 3}
            )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
        parquet.write_table(Table.from_pylist(rows), folder / f"{name}.parquet")
    pieces = [*wordpiece.SPECIAL, "all", "run", ".", "##s", "dog", "cat", "bird", *words.values()]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return folder


def test_text_end_to_end(sentences: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sentences.parent)
    factory = "sample_models.bert:build(vocabulary=14, width=16, layers=1, heads=2, length=16)"
    task = "sample_models.recipes.text_pairs:task(length=12, learning_rate=3e-3)"
    small_configuration("bert_mnli.toml", factory, task, Path("small.toml"))
    assert fresh.main([factory, "-o", "bert.pt"]) == 0
    assert call("prune", "bert.pt", "--config", "small.toml") == 0
    saved = torch.load("bert.pruned.pt", weights_only=True)
    assert {name.split(".")[0] for name in saved["masks"]} == {"layers"}
    assert saved["recipe"]["options"]["distill"] == 0.95
    weights = torch.cat([saved["state_dict"][name].flatten() for name in saved["masks"]])
    assert int((weights == 0).sum()) == round(0.9 * weights.numel())


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_json_lines_and_parquet_hold_the_same(sentences: Path) -> None:
    columns = ("premise", "hypothesis", "label")
    rows = read_rows(sentences / "train.jsonl", columns)
    assert len(rows) == 96
    assert rows == read_rows(sentences / "train.parquet", columns)
    (sentences / "train.jsonl").unlink()
    assert TextPairs(str(sentences), length=12).train.examples == [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": \n', "x.jsonl line 2 is not JSON"),
        ("x.jsonl", b'{"a": 1}\n{"b": 1, "c": 2}\n', "has no 'a', only b, c"),
        ("x.jsonl", b"[1, 2]\n", "line 1 is '[1, 2]', not a JSON object"),
        ("x.jsonl", b"\n\n", "holds no rows"),
        ("x.jsonl", b'{"a": "\xff"}\n', "is not UTF-8"),
        ("x.parquet", b"PAR1 and no more", "x.parquet is not a readable Parquet file"),
        ("x.parquet", b"", "x.parquet is not a readable Parquet file"),
        ("y.jsonl", None, "no such file"),
    ],
)
def test_a_broken_table_is_named(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError) as caught:
        read_rows(tmp_path / name, ("a",))
    assert words in str(caught.value)


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither \.jsonl nor \.parquet"):
        read_rows(tmp_path / "x.csv", ("a",))


def test_parquet_without_pyarrow_says_what_to_install(sentences: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'pyarrow'.*pip install 'idp-deploy\[recipes\]'"):
        read_rows(sentences / "train.parquet", ("label",))


# ── text ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"label": "maybe"}, "label 'maybe' is none of entailment, neutral, contradiction, nor a number from 0 to 2"),
        ({"label": -1}, "label -1 is none of"),
        ({"label": True}, "label True is none of"),
        ({"label": 3}, "label 3 is none of"),
        ({"label": [1]}, "label [1] is none of"),
        ({"premise": None}, "premise is None, not a text"),
    ],
)
def test_a_wrong_row_is_named(row: dict[str, Any], words: str, sentences: Path) -> None:
    good = {"premise": "all dogs", "hypothesis": "dogs", "label": "neutral"}
    lines = [json.dumps(good), json.dumps(good | row)]
    (sentences / "train.jsonl").write_text("\n".join(lines))
    with pytest.raises(FileError) as caught:
        TextPairs(str(sentences))
    assert words in str(caught.value)
    assert "train.jsonl row 2" in str(caught.value)


def test_wrong_columns_say_which_there_are(
    sentences: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(sentences.parent)
    factory = "sample_models.bert:build(vocabulary=14, width=16, layers=1, heads=2, length=16)"
    fresh.main([factory, "-o", "bert.pt"])
    task = "sample_models.recipes.text_pairs:task(premise='sentence1')"
    assert call("prune", "bert.pt", "--model", factory, "--task", task) == 3
    said = capsys.readouterr().err
    assert "line 1 of mnli/train.jsonl has no 'sentence1', only premise, hypothesis, label" in said
    assert "premise='sentence1'" in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocabulary": "missing.txt"}, "no such vocabulary"),
        ({"vocabulary": "train.jsonl"}, r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        ({"folder": "nowhere"}, "there is no folder nowhere"),
        ({"length": 4}, "length 4 holds no two words"),
        ({"train": "trian"}, "no such file: .*trian.jsonl"),
    ],
)
def test_wrong_text_settings_are_named(settings: dict[str, Any], words: str, sentences: Path) -> None:
    with pytest.raises((FileError, UsageError), match=words):
        TextPairs(**{"folder": str(sentences), **settings})


VOCABULARY = [*wordpiece.SPECIAL, *string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase), "the", "##ing",
              "un", "##known", ".", ",", "!", "中", "é", "##é", "0", "##1", "’", "ß"]  # fmt: skip

# scripts that did not change lately: the reference brings Unicode tables of its own
LETTERS = st.characters(max_codepoint=0x24F) | st.characters(min_codepoint=0x391, max_codepoint=0x44F, categories=["L"])


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=300)
@given(text=st.text(LETTERS, max_size=30) | st.text("theunknowing .,!中éÉİß’\t\u00ad\u2028\x0b\x85#", max_size=30))
@example(text="known[PAD], [SEP] [sep] [MASK]")
def test_wordpiece_agrees_with_the_reference(lowercase: bool, text: str) -> None:
    from tokenizers import BertWordPieceTokenizer

    ids = {token: number for number, token in enumerate(VOCABULARY)}
    reference = BertWordPieceTokenizer(ids, lowercase=lowercase)
    ours = wordpiece.WordPiece(VOCABULARY, lowercase=lowercase).tokens(text)
    assert ours == reference.encode(text, add_special_tokens=False).tokens


@settings(max_examples=100)
@given(st.text("abc .", max_size=40), st.text("abc .", max_size=40), st.integers(5, 30))
def test_a_pair_is_cut_and_padded_as_by_the_reference(first: str, second: str, length: int) -> None:
    from tokenizers import BertWordPieceTokenizer

    reference = BertWordPieceTokenizer({token: number for number, token in enumerate(VOCABULARY)})
    reference.enable_truncation(length)
    reference.enable_padding(length=length)
    made = reference.encode(first, second)
    ids, segments, attention = wordpiece.WordPiece(VOCABULARY).pair(first, second, length)
    assert (ids, segments, attention) == (made.ids, made.type_ids, made.attention_mask)


def test_a_tokenizer_json_gives_the_same(tmp_path: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    BertWordPieceTokenizer(ids).save(str(tmp_path / "tokenizer.json"))
    one, other = (wordpiece.load(tmp_path / name) for name in ("vocab.txt", "tokenizer.json"))
    assert one.pair("The unknown.", "thing", 16) == other.pair("The unknown.", "thing", 16)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(FileError, match="is not a tokenizer"):
        wordpiece.load(tmp_path / "broken.json")


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_published_bert_weights_compute_the_same(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=12, num_labels=3, layer_norm_eps=1e-5,
    )  # fmt: skip
    published = BertForSequenceClassification(config).eval()
    torch.save(published.state_dict(), tmp_path / "published.bin")
    assert bert_weights.main([str(tmp_path / "published.bin"), "-o", str(tmp_path / "bert.pt")]) == 0
    ours = bert.build(vocabulary=30, width=16, layers=2, heads=2, length=12).eval()
    ours.load_state_dict(torch.load(tmp_path / "bert.pt", weights_only=True))
    tokens, segments = torch.randint(0, 30, (4, 9)), torch.randint(0, 2, (4, 9))
    attention = (torch.arange(9) < torch.tensor([[9], [5], [7], [2]])).long()
    wanted = published(tokens, attention_mask=attention, token_type_ids=segments).logits
    torch.testing.assert_close(ours(tokens, segments, attention), wanted, atol=1e-5, rtol=1e-4)


def test_an_encoder_without_a_classifier_gets_one_and_heads_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    ours = bert.build(vocabulary=9, width=8, layers=1, heads=2, length=4).state_dict()
    published = {
        "bert.embeddings.word_embeddings.weight": ours["tokens.weight"],
        "bert.encoder.layer.0.intermediate.dense.weight": ours["layers.0.up.weight"],
        "bert.pooler.dense.weight": ours["pooler.weight"],
        "bert.embeddings.LayerNorm.gamma": ours["norm.weight"],
        "cls.predictions.bias": torch.zeros(9),
    }
    state, left = bert_weights.convert(published, classes=5)
    assert left == ["cls.predictions.bias"]
    assert state["classifier.weight"].shape == (5, 8)
    assert torch.equal(state["norm.weight"], ours["norm.weight"])
    assert torch.equal(state["classifier.weight"], bert_weights.convert(published, classes=5)[0]["classifier.weight"])


def test_weights_that_are_no_bert_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    assert bert_weights.main([str(tmp_path / "other.pt"), "-o", str(tmp_path / "bert.pt")]) == 3
    assert "not those of a BERT: no tokens.weight" in capsys.readouterr().err
    torch.save([1, 2], tmp_path / "list.pt")
    assert bert_weights.main([str(tmp_path / "list.pt")]) == 3
    assert not (tmp_path / "bert.pt").exists()


def test_a_wrong_factory_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fresh.main(["sample_models.mobilenet_v1:biuld", "-o", str(tmp_path / "m.pt")]) == 2
    assert "did you mean 'build'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
