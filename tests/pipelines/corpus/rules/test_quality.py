import collections
import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mswitch.pipelines.corpus.rules.quality import (
    COLUMNS,
    DUPLICATE_NGRAMS,
    TOP_NGRAMS,
    GopherQuality,
    measure_quality,
)
from mswitch.pipelines.corpus.rules.stop_words import STOP_WORDS
from mswitch.pipelines.corpus.rules.words import cut
from mswitch.pipelines.samples.gflanguages import GFLANGUAGES_IDS


def columns_of(text: str, lang: str = "xx") -> dict[str, float]:
    return {name: column[0].item() for name, column in measure_quality(cut([text]), [lang]).items()}


def repetition_by_definition(words: list[str]) -> dict[str, float]:
    """Gopher's shares, n-gram by n-gram."""
    total = sum(map(len, words))
    shares = {}
    for n in (*TOP_NGRAMS, *DUPLICATE_NGRAMS):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = collections.Counter(grams)
        if n in TOP_NGRAMS:
            taken = [count * len("".join(gram)) for gram, count in counts.items() if count > 1]
            shares[f"top_{n}gram_share"] = min(1.0, max(taken, default=0) / max(total, 1))
        else:
            covered: set[int] = set()
            seen = set()
            for start, gram in enumerate(grams):
                if gram in seen:
                    covered.update(range(start, start + n))
                seen.add(gram)
            inside = sum(len(words[i]) for i in covered)
            shares[f"duplicate_{n}gram_share"] = inside / max(total, 1)
    return shares


VOCABULARY = st.sampled_from(["a", "bb", "ccc"])
PAGE = st.one_of(
    st.lists(VOCABULARY, max_size=40),
    st.lists(VOCABULARY, min_size=8, max_size=12).map(lambda words: words * 3),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PAGE, min_size=1, max_size=4))
def test_repetition_is_as_defined_whatever_page_stands_beside(pages):
    found = measure_quality(cut([" ".join(words) for words in pages]), ["xx"] * len(pages))
    for page, words in enumerate(pages):
        for name, expected in repetition_by_definition(words).items():
            assert found[name][page] == pytest.approx(expected, rel=1e-6), name


def test_signals_of_a_page():
    text = (
        "• First item #1…\n- second item...\nRunning text ends here.\n(He said “so.”)\n"
        "Running text ends here.\n1234 5678"
    )
    found = columns_of(text)
    words = 3 + 2 + 4 + 3 + 4 + 2
    assert found["words"] == words
    assert found["symbol_ratio"] == pytest.approx(3 / words)
    assert found["bullet_line_share"] == pytest.approx(2 / 6)
    assert found["ellipsis_line_share"] == pytest.approx(2 / 6)
    # An ellipsis is not the end of a sentence that was finished, but it is punctuation.
    assert found["terminal_line_share"] == pytest.approx(5 / 6)
    assert found["alphabetic_word_share"] == pytest.approx((words - 3) / words)
    assert found["duplicate_line_share"] == pytest.approx(1 / 6)
    characters = len(text.replace("\n", ""))
    assert found["duplicate_line_character_share"] == pytest.approx(23 / characters)
    visible = sum(not character.isspace() for character in text)
    assert found["digit_share"] == pytest.approx(9 / visible)
    assert found["stop_words"] == -1


@pytest.mark.parametrize(
    "line",
    ["a.", "है।", "完了。", "「終。」", "انتهى؟", "ختم۔", "ተፈጸመ።", "អស់។", "Վերջ։", "စာ။", "End.)”"],
)
def test_sentences_end_in_every_script(line):
    assert columns_of(line)["terminal_line_share"] == 1
    assert columns_of(line.rstrip(".।。」؟۔።។։။)”"))["terminal_line_share"] == 0


def test_words_and_repetition_without_spaces():
    found = columns_of("汉" * 160)
    assert found["words"] == 100
    assert found["mean_word_length"] == 0
    assert columns_of("ไทย" * 40)["words"] == 30
    assert columns_of("word " * 30)["mean_word_length"] == 4
    sentence = "这是一个没有空格的句子而且它在页面上出现了很多次"
    assert columns_of(sentence * 5)["duplicate_10gram_share"] > 0.7
    assert columns_of(sentence)["duplicate_5gram_share"] == 0


def test_dots_in_a_row_are_one_ellipsis():
    assert columns_of("a ........ b")["symbol_ratio"] == pytest.approx(1 / 2)
    assert columns_of("a .. b")["symbol_ratio"] == 0


def test_stop_words_are_counted_once_each_and_by_language():
    text = "The house and the garden and the dog"
    found = measure_quality(cut([text, text, "Das Haus"]), ["en", "de", "de"])["stop_words"]
    assert found.tolist() == [2, 0, 1]


def test_every_list_of_stop_words_meets_its_language():
    import gflanguages

    from mswitch.pipelines.languages import languages

    excerpts = gflanguages.LoadLanguages()
    checked = 0
    for lang in STOP_WORDS:
        if lang not in languages():
            continue
        name = GFLANGUAGES_IDS.get(lang, f"{lang}_{languages()[lang].script}")
        sample = excerpts[name].sample_text
        text = f"{sample.specimen_16}\n{sample.specimen_21}\n{sample.specimen_36}"
        assert columns_of(text, lang)["stop_words"] >= 3, lang
        checked += 1
    assert checked >= 40


@given(st.lists(st.text(st.sampled_from("ab #.…•-1 \n我ไ「।"), max_size=30), max_size=6))
def test_columns_are_shares_and_do_not_depend_on_company(texts):
    together = measure_quality(cut(texts), ["en"] * len(texts))
    assert list(together) == list(COLUMNS)
    for page, text in enumerate(texts):
        alone = measure_quality(cut([text]), ["en"])
        for name, kind in COLUMNS.items():
            assert together[name].dtype == kind
            assert together[name][page] == alone[name][0]
            if name.endswith("_share"):
                assert 0 <= together[name][page] <= 1


PROSE = (
    "The committee met in the town hall to talk about the budget of the coming year, and after a "
    "long debate it was adopted by a clear majority of those present. Nobody had expected that "
    "the vote would be over before noon; most members stayed for lunch and then walked home "
    "through the rain. A report with all the figures is kept in the library for anyone to read."
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("Too short a page.", "too_few_words"),
        (PROSE.replace(" ", " x y z w "), "word_length"),
        (
            " ".join(f"Krakow{chr(97 + i % 26)} Berlin{chr(97 + i // 26)}" for i in range(60)),
            "no_stop_words",
        ),
        (PROSE.replace("the", "the #"), "symbols"),
        ("• " + PROSE.replace(" ", "\n• "), "bullet_lines"),
        (PROSE.replace(" ", "\n", 3) + "...\nand so...\nand on...", "ellipsis_lines"),
        (PROSE.replace(" ", " 12 34 ", 50), "not_alphabetic"),
        (f"{PROSE}\n" + "Read more in the archive\n" * 4, "duplicate_lines"),
        ((PROSE[:170] + " ") * 4, "repeated_ngrams"),
    ],
)
def test_the_reason_to_drop_a_page(text, reason):
    assert GopherQuality().judge(measure_quality(cut([text]), ["en"])) == [reason]


def test_limits_that_are_off_can_be_set():
    policy = GopherQuality(min_terminal_line_share=0.5, min_words=1, min_stop_words=0)
    columns = measure_quality(cut(["Menu\nHome\nAbout us\nThe end."]), ["en"])
    assert policy.judge(columns) == ["unfinished_lines"]
    policy = dataclasses.replace(policy, max_digit_share=0.1, min_terminal_line_share=0)
    assert policy.judge(measure_quality(cut(["page 123 of"]), ["en"])) == ["not_alphabetic"]


def test_a_limit_is_within_what_is_allowed():
    columns = {
        name: np.array([0.3 if kind is np.float32 else 100], kind) for name, kind in COLUMNS.items()
    }
    columns["mean_word_length"][:] = 14
    columns["alphabetic_word_share"][:] = 0.8
    policy = GopherQuality(
        max_symbol_ratio=0.3,
        max_duplicate_line_character_share=0.3,
        max_top_ngram_shares=(0.3,) * 3,
        max_duplicate_ngram_shares=(0.3,) * 6,
        max_digit_share=0.3,
        min_terminal_line_share=0.3,
    )
    assert policy.judge(columns) == [None]


def test_a_hostile_page_takes_no_longer_than_its_length():
    """A page of one word, and one of all different words: sorts, not squares."""
    same, different = "a " * 95_000, " ".join(map(str, itertools.islice(itertools.count(), 30_000)))
    found = measure_quality(cut([same, different]), ["en", "en"])
    assert found["duplicate_10gram_share"].tolist() == [pytest.approx(1, abs=1e-3), 0]


def test_each_reason_knows_the_settings_that_decide_it():
    rule = GopherQuality(min_terminal_line_share=0.5, min_third_longest_line=8)
    for reason in {reason for reason, *_ in rule.each_limit()}:
        moved = set()
        for name in rule.find_settings(reason):
            value = getattr(rule, name)
            half = tuple(x / 2 for x in value) if isinstance(value, tuple) else value / 2
            moved |= rule.find_moved(name, half).keys()
        assert moved == {f"q_{column}" for of, column, *_ in rule.each_limit() if of == reason}
    assert GopherQuality().find_settings("short_lines") == []
    assert GopherQuality(thresholds="a.csv").find_settings("short_lines") == ["thresholds"]
