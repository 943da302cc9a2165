"""Spans of raw text: the same for every vocabulary, and lossless."""

import numpy as np
import pytest
from example_files import restore, stored
from hypothesis import example, given
from hypothesis import strategies as st

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.examples.byte_spans import cut_spans, cut_windows, make_byte_examples
from mswitch.pipelines.examples.span_corruption import ExampleKey, span_corruption
from mswitch.pipelines.vocabulary.model import MODEL_FILE, load_vocabulary
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary

TEXT = st.text(st.sampled_from("ab é中\n 🙂"), min_size=1, max_size=300)


@given(TEXT, st.integers(4, 60))
def test_windows_are_lossless_and_bounded(text, size):
    found = list(cut_windows(text, size))
    assert "".join(found) == text
    assert max(len(window.encode()) for window in found) <= size


@given(TEXT, st.integers(0, 2**32 - 1))
def test_spans_alternate_and_lose_nothing(text, seed):
    found = cut_spans(text, ExampleKey(seed, 1, 2, 0), 0.15)
    assert "".join(piece for piece, _ in found) == text
    kinds = [masked for _, masked in found]
    assert kinds == [number % 2 == 1 for number in range(len(kinds))]


def test_a_share_of_the_text_is_masked():
    text = "Words of a text that goes on and on, in lines of some length. " * 200
    found = cut_spans(text, ExampleKey(0, 1, 2, 0), 0.15)
    masked = [len(piece.encode()) for piece, masked in found if masked]
    assert sum(masked) / len(text) == pytest.approx(0.15, abs=0.01)
    assert np.mean(masked) == pytest.approx(10, abs=1.5)


@pytest.fixture(scope="module")
def larger(small_corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("larger") / "vocabulary"
    train_vocabulary(small_corpus, out, VocabularyConfig(size=1000, character_coverage=0.99))
    return out


def test_two_vocabularies_get_the_same_spans(small_corpus, small_vocabulary, larger, tmp_path):
    config = ExamplesConfig(inputs_length=64, validation_spans="bytes")
    found = []
    for name, vocabulary in (("one", small_vocabulary), ("other", larger)):
        build_examples(small_corpus, vocabulary, tmp_path / name, config)
        model = load_vocabulary(vocabulary / MODEL_FILE)
        rows = []
        for lang in ("ar", "bg", "en", "ko", "sw", "zh"):
            for record in stored(tmp_path / name, lang, "validation"):
                inputs, targets = (record[key].astype(np.int32) for key in ("inputs", "targets"))
                assert inputs.size <= 64
                text = restore(inputs, targets, model.GetPieceSize())
                pieces = "".join(model.DecodeIds(text.tolist()).split())
                rows.append((lang, record["document"][0], int(record["target_bytes"][0]), pieces))
        found.append(rows)
    one, other = ([row[:3] for row in rows] for rows in found)
    assert one == other
    assert len({size for *_, size in one}) > 3
    # What no piece has is unknown to one vocabulary and not to the other.
    same = sum(a == b for (*_, a), (*_, b) in zip(*found, strict=True))
    assert same > len(one) / 2


def test_a_window_that_does_not_fit_is_refused(vocabulary):
    text = "Words of a text that goes on and on. " * 40
    given = {"seed": 0, "window_bytes": 1000}
    with pytest.raises(
        UserError, match="more than inputs_length 64: give a smaller --window-bytes"
    ):
        list(make_byte_examples("x", text, vocabulary, span_corruption(64), **given))
    with pytest.raises(UserError, match="--window-bytes needs"):
        ExamplesConfig(window_bytes=100)
    with pytest.raises(UserError, match="needs --objective spans"):
        ExamplesConfig(inputs_length=64, objective="ul2", validation_spans="bytes")


@given(st.text(min_size=1, max_size=400))
@example("\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM} " * 30)
def test_as_many_bytes_as_positions_always_fit(vocabulary, text):
    """What no piece has is a token a byte, and some characters stand for many others."""
    lengths = span_corruption(64)
    made = make_byte_examples("x", text, vocabulary, lengths, seed=1, window_bytes=64)
    for inputs, targets, size in made:
        assert inputs.size <= lengths.inputs_length
        assert targets.size <= lengths.inputs_length
        assert size > 0
