"""Lines deduplicated within a language (`--dedup-scope language`)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import crawl_files as crawl
import pytest
from corpus_builds import LENIENT, documents
from trees import data_bytes

from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
from mswitch.pipelines.corpus.fingerprints import fingerprint_lines
from mswitch.pipelines.corpus.recipes import MC4_BY_LANGUAGE
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest

SHARED = "Copyright 2024 Example Media Group"
Builder = Callable[[str, CorpusConfig], Path]


@pytest.fixture
def by_language() -> CorpusConfig:
    return dataclasses.replace(LENIENT, dedup_scope="language", keep_und=False)


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """Builds two files of pages in two languages; all pages have one line in common."""

    def page(template: list[str], seed: int, host: str) -> bytes:
        text = f"{crawl.prose(template, seed, 6)}\n{SHARED}"
        return crawl.record(text, f"http://{host}.example/{seed}")

    inputs = []
    for name, seeds in (("a", range(4)), ("b", range(2, 8))):
        records = [page(crawl.GERMAN, seed, f"de-{name}") for seed in seeds]
        records += [page(crawl.ENGLISH, seed, f"en-{name}") for seed in seeds]
        inputs.append(str(crawl.write(tmp_path / "in" / f"{name}.warc.wet.gz", records)))

    def build(name: str, config: CorpusConfig) -> Path:
        build_corpus(inputs, tmp_path / name, config)
        return tmp_path / name

    return build


def lines_by_language(corpus: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in documents(corpus).values():
        found.setdefault(row["lang"], []).extend(row["text"].split("\n"))
    counted = load_stats(corpus)["lines"]
    assert counted["out"] == sum(map(len, found.values()))
    assert counted["in"] == counted["out"] + sum(counted["dropped"].values())
    return found


def test_each_language_keeps_a_shared_line(builder, by_language):
    whole = builder("global", dataclasses.replace(by_language, dedup_scope=None))
    everywhere = lines_by_language(whole)
    assert sum(lines.count(SHARED) for lines in everywhere.values()) == 1
    corpus = builder("language", by_language)
    within = lines_by_language(corpus)
    assert set(within) == {"de", "en"}
    for lines in within.values():
        assert lines.count(SHARED) == 1
        assert len(lines) == len(set(lines)) == 8 * 6 + 1
    stages = [stage["name"] for stage in load_stats(corpus)["stages"]]
    assert stages == list(MC4_BY_LANGUAGE.stages)
    assert read_manifest(corpus, "corpus")["config"]["dedup_scope"] == "language"


def test_languages_are_pruned_before_the_shuffles(builder, by_language):
    both = builder("both", by_language)
    german = builder("de", dataclasses.replace(by_language, languages=("de",)))
    # What a language holds does not depend on the others.
    assert data_bytes(german / "data" / "de") == data_bytes(both / "data" / "de")
    assert not (german / "data" / "en").exists()
    few, all_ = (load_stats(corpus)["shuffled_bytes"] for corpus in (german, both))
    # (What is chosen is a bit each, in whole bytes.)
    for name in ("url_dedup", "line_dedup"):
        assert 0 < 2 * few[name] == pytest.approx(all_[name], abs=1)
    stages = {stage["name"]: stage for stage in load_stats(german)["stages"]}
    assert stages["language"]["dropped"] == {"other_language": 10}


def test_keys_of_lines():
    text = f"{SHARED}\n{SHARED.upper()}\nother"
    german, english = fingerprint_lines(text, "de"), fingerprint_lines(text, "en")
    assert german[:16] == german[16:32] != german[32:]
    assert len({german[:16], english[:16], fingerprint_lines(SHARED)}) == 3


@pytest.mark.parametrize(("profile", "scope"), [("mc4", "none"), ("modern", "global")])
def test_scopes_of_the_profiles(profile, scope):
    with pytest.raises(UserError, match=f"dedup_scope is {scope}: profile {profile} has"):
        CorpusConfig(profile=profile, dedup_scope=scope)
