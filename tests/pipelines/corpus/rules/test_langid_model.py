"""Languages by a fastText model, and languages that only a recipe knows."""

import dataclasses

import gflanguages
import pyarrow.parquet as pq
import pytest
import seqio
from corpus_builds import build_with, documents
from fasttext_models import train_model
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.recipes import IdentifyLanguageByModel
from mswitch.pipelines.corpus.rules.language_labels import map_label
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.build import ExamplesConfig, build_examples
from mswitch.pipelines.languages import UNDETERMINED, languages
from mswitch.pipelines.own_tables import read_own_table
from mswitch.pipelines.records import Page
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_vocabulary
from mswitch.tasks.batches.mixtures import find_mixture
from mswitch.tasks.batches.training import TrainBatches
from mswitch.tasks.seqio import pretrain

LABELS = {"de": "deu_Latn", "en": "eng_Latn", "fr": "fra_Latn", "ast": "ast_Latn"}


def text_of(code: str) -> str:
    names = {"de": "de_Latn", "en": "en_Latn", "fr": "fr_Latn", "ast": "ast_Latn"}
    sample = gflanguages.LoadLanguages()[names[code]].sample_text
    fields = (field.name for field in sample.DESCRIPTOR.fields)
    return "\n".join(" ".join(getattr(sample, name).split()) for name in fields)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "small.bin"
    return str(train_model(path, {LABELS[code]: text_of(code) for code in LABELS}))


def page(text: str) -> Page:
    return Page("http://a.example/", text.encode(), "", 0, "a@0", "")


def test_pages_get_code_score_and_margin(model):
    rule = IdentifyLanguageByModel(model=model, language_threshold=0.5)
    for code, kept in (("de", True), ("en", True), ("fr", True), ("ast", False)):
        one = page(text_of(code))
        assert (rule.reason(one) is None) == kept
        assert one.lang == ("ast-Latn" if code == "ast" else code)
        assert 0.5 <= one.lang_score <= 1
        assert 0 < one.columns["lang_margin"] <= 1
    every = IdentifyLanguageByModel(model=model, other_languages=True)
    assert every.reason(page(text_of("ast"))) is None
    chosen = IdentifyLanguageByModel(model=model, other_languages=True, languages=("de",))
    assert chosen.reason(page(text_of("ast"))) == "other_language"


def test_labels_of_one_language_count_together(tmp_path):
    """Of neither dialect is the model sure."""
    words = {"arb_Arab": "a b", "arz_Arab": "a b", "fra_Latn": "c d"}
    rule = IdentifyLanguageByModel(model=str(train_model(tmp_path / "m.bin", words)))
    one = page("a b a b")
    assert rule.reason(one) is None
    assert one.lang == "ar"
    assert one.lang_score > 0.99
    assert one.columns["lang_margin"] > 0.99


def test_languages_may_be_chosen_that_mc4_lacks(model):
    rule = IdentifyLanguageByModel(model=model, languages=("ast_latn", "he"))
    assert rule.languages == ("ast-Latn", "iw")
    assert rule.reason(page(text_of("ast"))) is None
    assert rule.reason(page(text_of("de"))) == "other_language"


def test_text_that_says_nothing_is_undetermined(model):
    """The model itself is sure of a language for each of them, or refuses it."""
    rule = IdentifyLanguageByModel(model=model, language_threshold=0.9, keep_und=False)
    for text in ("", " \n\t ", "\0", "12345", "\ud800".encode("utf-8", "surrogatepass").decode(
            "utf-8", "replace")):  # fmt: skip
        one = page(text)
        assert rule.reason(one) == "undetermined_language"
        assert (one.lang, 0 <= one.columns["lang_margin"] <= 1) == (UNDETERMINED, True)


@given(st.text(max_size=200))
def test_any_text_has_a_score(model, text):
    one = Page("http://a.example/", text.encode("utf-8", "replace"), "", 0, "a@0", "")
    code, score = IdentifyLanguageByModel(model=model).identify(one)
    assert 0 <= score <= 1
    assert code in {UNDETERMINED, "de", "en", "fr", "ast-Latn"}


@pytest.mark.parametrize(
    ("label", "text", "code"),
    [
        ("__label__de", "", "de"),
        ("__label__deu_Latn", "", "de"),
        ("__label__arz_Arab", "", "ar"),
        ("__label__cmn_Hani", "", "zh"),
        ("__label__als_Latn", "", "sq"),
        ("__label__als", "", "als"),  # Alemannic, in lid.176
        ("__label__he", "", "iw"),
        ("__label__nn", "", "no"),
        ("__label__sr", "Ово је", "sr"),
        ("__label__sr", "Ovo je", "sr-Latn"),
        ("__label__yue_Hani", "", "yue-Hani"),
        ("__label__", "", UNDETERMINED),
        ("__label__zxx_Zxxx", "", UNDETERMINED),
        ("__label__und_Latn", "", UNDETERMINED),
        ("__label__rus_Latn", "", "ru-Latn"),
        ("__label__../x", "", UNDETERMINED),
    ],
)
def test_labels_have_codes(label, text, code):
    assert map_label(label, text) == code


def test_every_row_of_the_table_is_a_language():
    rows = read_own_table("corpus/rules/model_labels.csv")
    assert len({row["label"] for row in rows}) == len(rows)
    assert {row["code"] for row in rows} <= languages().keys()
    assert len({map_label(row["label"]) for row in rows}) > 100


def test_what_is_no_model_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "no.bin").write_bytes(b"text")
    with pytest.raises(UserError, match=r"no\.bin is not a fastText model .*: give a \.bin"):
        IdentifyLanguageByModel(model=str(tmp_path / "no.bin")).reason(page("text"))
    # Before it is copied to where workers see it, under another name.
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/no\.bin is not a fastText model: give a \.bin"
    ):
        IdentifyLanguageByModel(model=str(tmp_path / "no.bin")).prepare(str(tmp_path / "work"))
    monkeypatch.setitem(__import__("sys").modules, "fasttext", None)
    with pytest.raises(UserError, match=r"pip install 'mswitch\[fasttext\]'"):
        IdentifyLanguageByModel(model=str(tmp_path / "other.bin")).reason(page("text"))


RECIPE = """
from mswitch.pipelines.corpus.recipes import (
    IdentifyLanguageByModel, NearDedup, Paragraphs, Recipe, UrlDedup
)
MINE = Recipe(
    "mine_by_model",
    [Paragraphs(1, 1), IdentifyLanguageByModel(model={model!r}, other_languages=True)],
    [UrlDedup(), NearDedup()],
)
"""


def test_unlisted_languages_stay_when_labels_alone_judge(model):
    """As `reason` keeps them, where only what is kept has changed since the corpus was built."""
    pages = [dataclasses.replace(page("text"), lang=lang) for lang in ("ast-Latn", "de", "und")]
    rule = IdentifyLanguageByModel(model=model, other_languages=True, keep_und=False)
    assert rule.known_reasons(pages, {"keep_und"}) == [None, None, "undetermined_language"]


def test_a_language_that_mc4_lacks_has_a_directory_and_a_task(tmp_path, model):
    """From the crawl to seqio, past near-duplicates."""
    import crawl_files as crawl

    lines = [line for line in text_of("ast").split("\n") if len(line) > 40]
    records = [
        crawl.record("\n".join([*lines[n:], *lines[:n]]), f"http://ast.example/{n}")
        for n in range(len(lines))
    ]
    records += [crawl.record(text_of("de"), f"http://de.example/{n}") for n in range(2)]
    wet = crawl.write(tmp_path / "a.warc.wet.gz", records)
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(model=model))
    corpus = tmp_path / "corpus"
    options = {"validation_per_mille": 300, "min_validation_documents": 1}
    build_with([wet], corpus, str(recipe), **options)
    found = documents(corpus)
    assert {row["lang"] for row in found.values()} == {"ast-Latn", "de"}
    assert [row["cluster_size"] for row in found.values() if row["lang"] == "de"] == [2]
    assert "lang_margin" in pq.read_schema(next(corpus.glob("data/ast-Latn/*"))).names
    vocabulary, examples = tmp_path / "vocabulary", tmp_path / "examples"
    train_vocabulary(corpus, vocabulary, VocabularyConfig(size=500, character_coverage=0.99))
    build_examples(corpus, vocabulary, examples, ExamplesConfig(inputs_length=32))
    assert (examples / "mswitch.ast_Latn" / "COMPLETED").exists()
    assert find_mixture("mswitch.ast_Latn").languages == ("ast-Latn",)
    pretrain.register(["ast-Latn"])
    seqio.add_global_cache_dirs([str(examples)])
    task = seqio.get_mixture_or_task("mswitch.ast_Latn")
    dataset = task.get_dataset({"inputs": 32, "targets": 16}, "train", use_cached=True)
    assert len(list(dataset.as_numpy_iterator())) > 0
    batches = TrainBatches(examples, 4)
    seen = {int(one) for step in range(20) for one in batches.batch(step)["language"]}
    assert {batches.languages[one] for one in seen} == {"ast-Latn", "de"}
