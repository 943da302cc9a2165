import json

import corpus_files
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece_models import train_model

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import languages
from mswitch.pipelines.vocabulary.inspection import (
    RATIOS,
    TextCounts,
    TokenCounter,
    count_words,
    format_inspection,
    inspect_vocabulary,
)
from mswitch.pipelines.vocabulary.model import MODEL_FILE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("Don't panic -- it is 42 !", 5),
        ("  tabs\tand\nlines\u00a0too\u3000here ", 5),
        ("सभी मनुष्य", 2),
        ("ሰው፡ሁሉ፡ነጻ፡ሆኖ", 4),
        ("___ ... ---", 0),
        ("." * 100_000, 0),
    ],
)
def test_words_stand_between_spaces_and_have_letters(text, words):
    assert count_words(text) == words


@given(text=st.text())
def test_counts_are_those_of_sentencepiece(small_vocabulary, vocabulary, text):
    counts = TextCounts()
    TokenCounter((small_vocabulary / MODEL_FILE).read_bytes()).add(text, counts)
    tokens = vocabulary.EncodeAsIds(text)
    assert (counts.documents, counts.tokens) == (1, len(tokens))
    assert (counts.characters, counts.bytes) == (len(text), len(text.encode()))
    assert counts.byte_tokens == sum(map(vocabulary.IsByte, tokens))
    assert counts.unknown_tokens == 0  # what has no piece is spelt in bytes
    assert counts.words <= len(text)


def test_the_table_of_a_corpus(small_corpus, small_vocabulary, vocabulary):
    found = inspect_vocabulary(small_vocabulary, small_corpus)
    texts = corpus_files.small_texts()
    rows = {row["lang"]: row for row in found["languages"]}
    assert list(rows) == sorted(lang for lang in texts if "validation" in texts[lang])
    assert found["without_text"] == ["de"]
    assert (found["vocabulary_size"], found["sentinels"], found["byte_pieces"]) == (1200, 100, 256)
    assert not found["sentinels_added"]
    for lang, row in rows.items():
        documents = texts[lang]["validation"]
        tokens = sum(len(vocabulary.EncodeAsIds(document)) for document in documents)
        assert (row["documents"], row["tokens"]) == (len(documents), tokens)
        assert row["bytes"] == sum(len(document.encode()) for document in documents)
        assert row["tokens_per_byte"] == tokens / row["bytes"]
        assert row["tokens_per_character"] == tokens / row["characters"]
        assert row["byte_share"] == row["byte_tokens"] / tokens
        words = sum(len(document.split()) for document in documents)
        assert row["words"] is None or row["words"] == pytest.approx(words, rel=0.1)
    assert rows["zh"]["words"] is rows["zh"]["tokens_per_word"] is None
    assert rows["en"]["tokens_per_word"] == rows["en"]["tokens"] / rows["en"]["words"]
    per_word = [row["tokens_per_word"] for row in rows.values() if row["tokens_per_word"]]
    assert found["mean"]["tokens_per_word"] == pytest.approx(sum(per_word) / len(per_word))
    assert json.loads(json.dumps(found)) == found
    table = format_inspection(found).splitlines()
    assert [line.split()[0] for line in table[2:-2]] == list(rows)
    assert table[-2].startswith("mean")
    assert table[-1] == "without validation text: de"
    assert table[2 + list(rows).index("zh")].split()[2] == "-"


def test_languages_without_spaces_have_no_words(small_vocabulary, tmp_path):
    texts = {
        "th": "มนุษย์ทั้งหลาย เกิดมา",
        "my": "လူတိုင်းသည် တူညီ",
        "ja": "すべての人間は",
        "ko": "모든 인간은",
    }
    texts = {lang: {"train": [text]} for lang, text in texts.items()}
    corpus = corpus_files.write_corpus(tmp_path / "corpus", texts)
    found = inspect_vocabulary(small_vocabulary, corpus, split="train")
    words = {row["lang"]: row["words"] for row in found["languages"]}
    assert words == {"th": None, "my": None, "ja": None, "ko": 2}
    # Scripts this vocabulary never saw are spelt in bytes, one or more to a character.
    shares = {row["lang"]: row["byte_share"] for row in found["languages"]}
    assert min(shares["th"], shares["my"]) > 0.8
    assert set(words) <= set(languages())


def test_a_vocabulary_without_byte_fallback_shows_what_it_does_not_know(small_corpus, tmp_path):
    lines = ["all human beings are born free and equal in dignity"] * 20
    (tmp_path / "english.model").write_bytes(train_model(lines, 40, byte_fallback=False))
    found = inspect_vocabulary(tmp_path / "english.model", small_corpus, only=("en", "zh"))
    rows = {row["lang"]: row for row in found["languages"]}
    assert found["sentinels_added"]
    assert found["byte_pieces"] == 0
    assert found["mean"]["byte_share"] == 0
    assert rows["zh"]["unknown_share"] > 0.4
    assert rows["en"]["unknown_share"] < rows["zh"]["unknown_share"]


def test_the_budget_ends_a_language_and_the_sample_is_always_the_same(
    small_corpus, small_vocabulary
):
    whole = inspect_vocabulary(small_vocabulary, small_corpus, split="train")
    some = inspect_vocabulary(small_vocabulary, small_corpus, split="train", max_bytes=300)
    assert some == inspect_vocabulary(small_vocabulary, small_corpus, split="train", max_bytes=300)
    by_lang = {row["lang"]: row for row in whole["languages"]}
    cut = 0
    for row in some["languages"]:
        full = by_lang[row["lang"]]
        assert row["bytes"] >= min(300, full["bytes"])
        assert row["documents"] <= full["documents"]
        cut += row["documents"] < full["documents"]
    assert cut >= 4
    first = inspect_vocabulary(small_vocabulary, small_corpus, split="train", max_bytes=1)
    assert {row["documents"] for row in first["languages"]} == {1}


def test_documents_after_the_budget_are_not_read(small_vocabulary, tmp_path):
    texts = {"es": {"train": [f"documento {number} " * 20 for number in range(40)]}}
    corpus = corpus_files.write_corpus(tmp_path / "corpus", texts, shards=2)
    last = sorted((corpus / "data" / "es").iterdir())[-1]
    last.write_bytes(b"damaged")
    found = inspect_vocabulary(small_vocabulary, corpus, split="train", max_bytes=500)
    assert found["languages"][0]["bytes"] < 1000
    with pytest.raises(UserError, match=rf"{last.name} is damaged"):
        inspect_vocabulary(small_vocabulary, corpus, split="train")


def test_bad_input_is_named(small_corpus, small_vocabulary, tmp_path):
    for vocabulary, corpus, options, message in (
        (small_vocabulary, small_corpus, {"only": ("de",)}, "of de: try another --split"),
        (small_vocabulary, small_corpus, {"max_bytes": 0}, "max_bytes is 0"),
        (small_vocabulary, small_vocabulary, {}, "stage vocabulary, not of corpus"),
        (tmp_path / "none.model", small_corpus, {}, r"none\.model does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            inspect_vocabulary(vocabulary, corpus, **options)
    part = inspect_vocabulary(small_vocabulary, small_corpus, only=("de", "en"))
    assert ([row["lang"] for row in part["languages"]], part["without_text"]) == (["en"], ["de"])
    assert set(RATIOS) == set(part["mean"])
