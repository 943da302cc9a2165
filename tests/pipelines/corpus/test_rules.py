"""The rules on single pages: URLs, fingerprints, split, paragraphs, languages."""

import dataclasses
import hashlib
import math
import re
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.flows.prefect.form_fields import describe
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.fingerprints import (
    fingerprint,
    fingerprint_lines,
    unpack,
    unpack_column,
)
from mswitch.pipelines.corpus.output_shards import Places
from mswitch.pipelines.corpus.recipes import (
    MC4,
    BadWords,
    Decontaminate,
    GopherQuality,
    IdentifyLanguage,
    MaxLength,
    NearDedup,
    Paragraphs,
    UrlDedup,
)
from mswitch.pipelines.corpus.validation_split import compute_modulo, is_validation
from mswitch.pipelines.crawl.text_lines import normalize_lines
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import mc4_codes
from mswitch.pipelines.records import Page


@given(st.lists(st.text(max_size=20), max_size=20), st.integers(1, 1000))
def test_halves_are_the_numbers_of_md5(texts, divisor):
    halves = unpack(b"".join(map(fingerprint, texts)))
    numbers = [int(hashlib.md5(text.encode()).hexdigest(), 16) for text in texts]
    assert [(int(high) << 64) + int(low) for high, low in halves] == numbers
    assert halves.dtype == np.uint64
    assert compute_modulo(halves, divisor).tolist() == [number % divisor for number in numbers]


def test_fingerprints_are_read_from_slices_and_chunks_without_python_objects():
    values = [fingerprint(str(number)) for number in range(5000)]
    ids = pa.array(values, pa.binary(16))
    halves = unpack(b"".join(values))
    for first, last in ((0, 5000), (7, 4000), (9, 9)):
        assert (unpack_column(ids[first:last]) == halves[first:last]).all()
    chunks = pa.chunked_array([ids[3:9], ids[:0], ids[4000:]])
    assert (unpack_column(chunks) == np.concatenate([halves[3:9], halves[4000:]])).all()
    assert unpack_column(pa.chunked_array([], pa.binary(16))).shape == (0, 2)
    tracemalloc.start()
    try:
        Places(pa.record_batch({"id": ids}), (), CorpusConfig())
        assert tracemalloc.get_traced_memory()[1] < 4.5 * ids.nbytes
    finally:
        tracemalloc.stop()


def test_split_is_mc4s():
    urls = [f"example.org/{i}" for i in range(5000)]
    validation = is_validation(unpack(b"".join(map(fingerprint, urls))), 1)
    expected = [int(hashlib.md5(url.encode()).hexdigest(), 16) % 1000 == 0 for url in urls]
    assert validation.tolist() == expected
    assert 0 < sum(expected) < 20


def test_lines_differ_in_more_than_case():
    hashes = unpack(fingerprint_lines("Ein Haus\nein HAUS\nein Hauss"))
    assert (hashes[0] == hashes[1]).all()
    assert (hashes[0] != hashes[2]).any()
    assert fingerprint_lines("é") == hashlib.md5("é".encode()).digest()
    assert unpack(b"").shape == (0, 2)


@given(st.lists(st.text(st.sampled_from("aΣσςİIıﬁÀ.'\u00ad\u0301\u2028 ")), min_size=1))
def test_lower_casing_a_page_is_lower_casing_its_lines(lines):
    text = normalize_lines("\n".join(lines).encode()).decode()
    expected = [hashlib.md5(line.strip().lower().encode()).digest() for line in text.split("\n")]
    assert fingerprint_lines(text) == b"".join(expected)


def page(text: str) -> Page:
    return Page("", text.encode(), "", 0, "", "")


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([200, 200, 200], None),
        ([500, 1, 300, 2, 200], None),
        ([500, 199, 300], "short_lines"),
        ([5000, 5000], "too_few_lines"),
        ([1] * 50, "short_lines"),
    ],
)
def test_paragraph_rule(lengths, expected):
    for character in "xäह𐍈":
        text = "\n".join(character * length for length in lengths)
        assert Paragraphs().reason(page(text)) == expected


def test_paragraph_rule_of_short_pages():
    assert Paragraphs(min_lines=1, min_long_line_characters=1).reason(page("x")) is None
    assert Paragraphs(2, 5).reason(page("x" * 9 + "\nx")) == "short_lines"


def test_length_rule():
    assert MaxLength().reason(page("ü" * 190_000)) is None
    assert MaxLength().reason(page("ü" * 190_001)) == "too_long"


def test_languages():
    rule = IdentifyLanguage(language_threshold=0.95)
    german = (
        "Der Ausschuss hat gestern über den Haushalt des kommenden Jahres beraten. Nach einer "
        "langen Aussprache wurde er mit großer Mehrheit beschlossen und tritt im Januar in Kraft."
    )
    assert rule.identify(page(german))[0] == "de"
    assert rule.identify(page(german))[1] > 0.95
    assert rule.identify(page("Hallo"))[0] == "und"
    assert rule.identify(page(""))[0] == "und"
    assert rule.identify(page("a\0b" * 100))[0] == "und"
    assert IdentifyLanguage(language_threshold=1.0).identify(page(german))[0] == "und"
    hebrew = "הוועדה דנה אתמול בתקציב והחליטה לאשר אותו לאחר דיון ארוך ומפורט בין חבריה הרבים."
    assert rule.identify(page(hebrew))[0] == "iw"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CorpusConfig(shard_bytes=0), "--shard-bytes must be at least 1 and at most 1,073"),
        (lambda: CorpusConfig(min_lines=0), "--min-lines must be at least 1, not 0"),
        (lambda: CorpusConfig(mc4_release="2"), "--mc4-release 2 is unknown: choose 3.0.1 or"),
        (lambda: CorpusConfig(url_winner="oldest"), "--url-winner oldest is unknown: choose lar"),
        (lambda: CorpusConfig(languages=("xx",)), "unknown language 'xx'"),
        (lambda: CorpusConfig(languages=(), keep_und=False), "no language is chosen: give"),
        (lambda: CorpusConfig(language_threshold=1.5), "--language-threshold must be at least"),
        (lambda: CorpusConfig(language_threshold=math.nan), "--language-threshold must be a fin"),
        (lambda: CorpusConfig(validation_per_mille=1000), "--validation-per-mille must be"),
        (lambda: CorpusConfig(max_record_bytes=-1), "--max-record-bytes must be"),
        (lambda: CorpusConfig(badwords_filter_fraction=1.01), "--badwords-filter-fraction must be"),
        (lambda: Decontaminate(contamination_share=0), "decontamination.contamination_share must"),
        (lambda: NearDedup(bands=0), "near_dedup.bands must be at least 1 and at most 255"),
        (lambda: GopherQuality(max_words=math.nan), "quality.max_words must be a finite"),
        (
            lambda: IdentifyLanguage(language_max_bytes=100),
            "--language-max-bytes 100 must be above",
        ),
    ],
)
def test_bounds_name_the_option(make, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("quality.min_word=5", "no quality.min_word: did you mean quality.min_words or"),
        ("blocklists=a", "no blocklists: did you mean blocklist.blocklists?"),
        ("zzz.yyy=1", "no zzz.yyy: it has "),
        ("quality.min_words=many", "quality.min_words=many: give a whole number"),
        ("quality.max_digit_share=x", "quality.max_digit_share=x: give a number"),
        ("personal_data.mask_personal_data=no", "give true or false"),
        ("quality.max_top_ngram_shares=a", "give numbers separated by commas"),
        ("quality.max_top_ngram_shares=1,1", "quality.max_top_ngram_shares needs 3 limits"),
    ],
)
def test_wrong_changes_of_rules_are_refused(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        CorpusConfig(profile="modern", set=(change,))


def test_rules_are_changed_by_their_names():
    changes = (
        "quality.min_words=40",
        "quality.max_mean_word_length=14",
        "opt_out.robots=,",
        "blocklist.blocklists=a.txt,b.txt",
        "personal_data.mask_personal_data=false",
    )
    recipe = CorpusConfig(profile="modern", set=changes).load()
    steps = {step.name: step for step in recipe.steps}
    assert steps["quality"] == GopherQuality(min_words=40)
    # As it is written in the identity.
    assert isinstance(steps["quality"].max_mean_word_length, int)
    assert steps["opt_out"].robots == ()
    assert steps["blocklist"].blocklists == ("a.txt", "b.txt")
    assert not steps["personal_data"].mask_personal_data
    assert (
        CorpusConfig(set=("paragraphs.min_lines=5",)).load().find_first(Paragraphs).min_lines == 5
    )


def thresholds(config: CorpusConfig) -> tuple[float, str, float]:
    """What the releases of mC4 differ in."""
    language, urls, words = map(config.load().find_first, (IdentifyLanguage, UrlDedup, BadWords))
    return language.language_threshold, urls.url_winner, words.badwords_filter_fraction


def kept(config: CorpusConfig) -> frozenset[str]:
    return config.load().find_first(IdentifyLanguage).kept


def test_config_defaults_are_mc4s():
    config = CorpusConfig()
    assert kept(config) == {*mc4_codes(), "und"}
    recipe = config.load()
    assert recipe.find_first(MaxLength).max_page_characters == 190_000
    assert recipe.find_first(Paragraphs) == Paragraphs(min_lines=3, min_long_line_characters=200)
    assert thresholds(config) == (0.95, "newest", 0.999)


def test_an_explicit_option_wins_over_the_release():
    config = CorpusConfig(mc4_release="3.0.1")
    assert thresholds(config) == (0.7, "largest_hash", 1.0)
    config = dataclasses.replace(config, language_threshold=0.5, url_winner="newest")
    assert thresholds(config) == (0.5, "newest", 1.0)
    assert thresholds(dataclasses.replace(config, mc4_release="3.1.0"))[0] == 0.5
    assert thresholds(CorpusConfig(badwords_filter_fraction=0.0))[2] == 0


def test_languages_have_aliases_and_uncertain_text_is_kept_unless_they_are_chosen():
    assert CorpusConfig(languages=("sw,de", "he")).languages == ("de", "iw", "sw")
    assert "und" in kept(CorpusConfig())
    assert kept(CorpusConfig(languages=("de",))) == {"de"}
    assert kept(CorpusConfig(languages=("de",), keep_und=True)) == {"de", "und"}


def test_the_help_of_an_option_names_the_recipes_threshold():
    docs = describe(CorpusConfig)
    named = {
        option: re.search(r"\(mC4: ([\d,]+)\)", docs[option])
        for option in ("max_page_characters", "min_lines", "min_long_line_characters",
                       "language_min_bytes", "language_max_bytes")
    }  # fmt: skip
    for option, found in named.items():
        assert found, option
        values = {getattr(step, option) for step in MC4.steps if hasattr(step, option)}
        assert values == {int(found[1].replace(",", ""))}
