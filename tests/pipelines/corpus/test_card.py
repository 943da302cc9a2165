"""The data card of a corpus: what Hugging Face and Arrow make of the directory."""

import dataclasses
import json
import re
import shutil
import string
from pathlib import Path

import crawl_files as crawl
import pyarrow.dataset
import pytest
import yaml
from corpus_builds import LENIENT, build
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.corpus.build import CorpusConfig
from mswitch.pipelines.corpus.card import escape_markdown, render_card
from mswitch.pipelines.corpus.recipes import MC4, MODERN
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.records import COLUMN_MEANINGS, DOCUMENT_SCHEMA

HOSTILE_NAME = "a|b<script>alert(1)<!--`*[x](javascript:y)\n# top\u202e.warc.wet.gz"


@pytest.fixture(scope="module")
def corpus(hostile_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of several shards a split, from files of which one has a hostile name."""
    work = tmp_path_factory.mktemp("card")
    shutil.copytree(hostile_files[0].parent, work / "in")
    evil = crawl.record("<h1>evil</h1>" + "x" * 200_000, "http://evil.example/<img src=x>")
    crawl.write(work / "in" / HOSTILE_NAME, [evil])
    # By a glob: a path with brackets would be taken for one.
    config = dataclasses.replace(LENIENT, min_validation_documents=2, shard_bytes=2000)
    build([work / "in" / "*"], work / "corpus", config)
    return work / "corpus"


def front_matter(card: str) -> dict:
    start, header, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(header)


def documents(stats: dict) -> dict[tuple[str, str], int]:
    return {
        (lang, split): counts["documents"]
        for lang, splits in stats["languages"].items()
        for split, counts in splits.items()
    }


def test_configurations_find_every_document(corpus):
    header = front_matter((corpus / "README.md").read_text())
    found = {}
    for config in header["configs"]:
        for entry in config["data_files"]:
            paths = sorted(corpus.glob(entry["path"]))
            assert paths
            dataset = pyarrow.dataset.dataset(paths)
            assert dataset.schema.equals(DOCUMENT_SCHEMA)
            found[config["config_name"], entry["split"]] = dataset.count_rows()
    expected = documents(load_stats(corpus))
    assert len(list(corpus.glob("data/en/train-*.parquet"))) > 1
    for split in ("train", "validation"):
        everything = sum(count for (_, name), count in expected.items() if name == split)
        assert found.pop(("default", split)) == everything
    assert found == expected


def test_the_whole_directory_is_one_table(corpus):
    dataset = pyarrow.dataset.dataset(corpus / "data", format="parquet")
    expected = documents(load_stats(corpus))
    assert dataset.schema.equals(DOCUMENT_SCHEMA)
    assert dataset.count_rows() == sum(expected.values())
    german = dataset.count_rows(filter=pyarrow.dataset.field("lang") == "de")
    assert german == expected["de", "train"] + expected["de", "validation"]


def card_from(stats: dict) -> str:
    """The card of a corpus of mC4's settings."""
    return render_card(CorpusConfig().settings(), {"inputs": [], "shards": []}, stats)


def stats_of(*langs: str) -> dict:
    size = {"documents": 3, "characters": 30, "bytes": 40}
    return {
        "languages": {lang: {"train": size} for lang in langs},
        "stages": [{"name": "read", "in": 9, "out": 9, "dropped": {}}],
        "lines": {"in": 9, "out": 9, "dropped": {}},
    }


def test_codes_are_what_the_hub_wants():
    card = card_from(stats_of("no", "iw", "ru", "ru-Latn", "und"))
    header = front_matter(card)
    # Unquoted, YAML would read Norwegian as false.
    assert header["language"] == ["he", "no", "ru", "und"]
    assert header["language_bcp47"] == ["ru-Latn"]
    names = [entry["config_name"] for entry in header["configs"]]
    assert names == ["default", "iw", "no", "ru", "ru-Latn", "und"]
    assert all(
        [entry["split"] for entry in config["data_files"]] == ["train"]
        for config in header["configs"]
    )
    assert header["license"] == "other"
    assert header["size_categories"] == ["n<1K"]
    assert "Latin transcription" in card


def test_the_examples_load_what_there_is():
    stats = stats_of("de", "sw")
    card = card_from(stats)
    assert 'load_dataset(corpus, "de", split="train")' in card
    assert 'splits=["train"]' in card
    of_sw = stats["languages"]["sw"]
    of_sw["validation"] = of_sw["train"]
    card = card_from(stats)
    assert 'load_dataset(corpus, "sw", split="validation")' in card
    assert 'splits=["train", "validation"]' in card


@pytest.mark.parametrize(
    ("count", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**12, "n>1T")]
)
def test_size_category(count, category):
    stats = stats_of("de")
    stats["languages"]["de"]["train"]["documents"] = count
    assert front_matter(card_from(stats))["size_categories"] == [category]


def test_nothing_hostile_is_in_the_card(corpus):
    card = (corpus / "README.md").read_text()
    assert "evil" not in card
    assert "\u202e" not in card
    line = next(line for line in card.splitlines() if "script" in line and line.startswith("- "))
    assert line.startswith("- a\\|b\\<script\\>alert\\(1\\)\\<\\!\\-\\-\\`\\*\\[x\\]\\(javascript")
    assert "\\u000a" in line


@given(st.text())
def test_escaped_text_holds_no_markup(text):
    escaped = escape_markdown(text)
    assert escaped.isprintable()
    # Backslash and the character after it are one unit; no other punctuation stands by itself.
    bare = re.sub(r"\\[!-/:-@[-`{-~]", "", escaped)
    assert not set(bare) & set(string.punctuation)


def test_every_column_is_explained():
    for recipe in (MC4, MODERN):
        assert set(recipe.documents.names) <= set(COLUMN_MEANINGS)


def card_of(config: CorpusConfig, langs: tuple[str, ...] = ("de",), badwords: str = "") -> str:
    written = json.loads(json.dumps(config.settings()))
    recipe = config.load(badwords=badwords)
    card = render_card(written, {"inputs": [], "shards": []}, stats_of(*langs), recipe)
    return " ".join(card.split())


def test_the_card_says_what_was_done():
    mc4 = card_of(CorpusConfig())
    assert (
        "CLD3 identified languages, page by page. Pages with a probability below 0.95 are in `und`"
        in mc4
    )
    assert "nothing was masked" in mc4
    assert "opt-out signal was checked in this build" in mc4
    assert "once in the whole corpus" in mc4
    assert "Offensive pages were not searched for" in mc4
    scoped = card_of(CorpusConfig(dedup_scope="language", keep_und=False), badwords="lists")
    assert "page by page, before lines were removed" in scoped
    assert "are left out" in scoped
    assert "each line once in its language" in scoped
    assert "pages with words on lists of bad words were dropped" in scoped


def test_the_card_of_profile_modern(tmp_path):
    modern = card_of(CorpusConfig(profile="modern"), ("de", "hr"))
    assert "nothing was masked" not in modern
    assert "phone numbers were masked" in modern
    assert "(`tdm_reservation`, `noai`, `train_ai`)" in modern
    assert "CLD2 identified languages, and CLD3 if" in modern
    assert "after mC4" not in modern
    assert "each line once" not in modern.lower()
    assert "No evaluation set was excluded" in modern
    assert "mC4 lacks hr." in modern
    assert "number of pages that this one represents" in modern
    (tmp_path / "quiz.txt").write_text("A question\n")
    (tmp_path / "block.txt").write_text("bad.example\n")
    bare = (
        "opt_out.honour=",
        "personal_data.mask_personal_data=false",
        f"decontamination.evaluation_sets={tmp_path}/quiz.txt",
        f"blocklist.blocklists={tmp_path}/block.txt",
    )
    card = card_of(CorpusConfig(profile="modern", set=bare, dedup_scope="language"))
    assert "nothing was masked" in card
    assert "opt-out signal was checked in this build" in card
    assert "items of 1 evaluation set were dropped" in card
    assert "pages of sites on blocklists were dropped" in card
    assert "each line once in its language" in card
