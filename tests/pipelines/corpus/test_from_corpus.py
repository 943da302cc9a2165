"""Building a corpus from the documents of another."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import crawl_files as crawl
import pytest
from corpus_builds import (
    LENIENT,
    SHOUTING,
    build,
    build_elsewhere,
    documents,
    english,
    modern_settings,
    stages,
)
from corpus_files import read_json
from trees import data_bytes

from mswitch.flows.cli.main import main
from mswitch.pipelines.corpus.build import CorpusConfig
from mswitch.pipelines.corpus.removal import remove_pages
from mswitch.pipelines.corpus.verify import verify_corpus
from mswitch.pipelines.errors import UserError

ITEM = "Which of the rivers that pass through the old capital also pass through the harbour town?"
CONFIG = dataclasses.replace(
    LENIENT, validation_per_mille=300, min_validation_documents=2, shard_bytes=1500
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    first = [crawl.record(english(n), f"http://en.example/{n}") for n in range(12)]
    first += [
        crawl.record(f"{english(4, 1)} " * 20, "http://en.example/again"),
        crawl.record(f"{english(20)} {ITEM}", "http://en.example/leak"),
        crawl.record(f"{english(21)} {english(22, 1) * 4}", "http://en.example/twice"),
        crawl.record(english(3), "http://blocked.example/", date=crawl.LATER),
    ]
    second = [
        crawl.record(crawl.prose(crawl.GERMAN, n, 8).replace("\n", " "), f"http://de.example/{n}")
        for n in range(6)
    ]
    return crawl.write_all(tmp_path_factory.mktemp("in"), (first, second))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("sets") / "quiz.jsonl"
    path.write_text(json.dumps({"question": ITEM}))
    return f"decontamination.evaluation_sets={path}"


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory, pages: list[Path]) -> Path:
    """A corpus in profile `modern`; no test may change it."""
    out = tmp_path_factory.mktemp("modern") / "corpus"
    build(pages, out, modern_settings())
    return out


def again(
    source: Path, out: Path, config: CorpusConfig, inputs: Sequence[Path] = (), **options: Any
) -> dict[str, Any]:
    return build(inputs, out, config, source_corpus=source, **options)


def data(corpus: Path) -> dict[str, bytes]:
    return {name: held for name, held in data_bytes(corpus).items() if name.startswith("data/")}


def test_rules_after_deduplication_give_the_corpus_of_the_crawl(tmp_path, pages, modern, sets):
    config = modern_settings(sets)
    summary = again(modern, tmp_path / "again", config)
    build(pages, tmp_path / "whole", config)
    assert data(tmp_path / "again") == data(tmp_path / "whole") != data(modern)
    assert summary["records"] == len(documents(modern)) == len(documents(tmp_path / "again")) + 1
    assert stages(tmp_path / "again")["decontamination"] == {"evaluation_item": 1}
    reports = [read_json(tmp_path / name / "decontamination.json") for name in ("again", "whole")]
    assert reports[0] == reports[1]
    assert verify_corpus(tmp_path / "again")["problems"] == []
    assert again(modern, tmp_path / "again", config)["reused"]


def test_languages_and_bad_words_of_mc4(tmp_path, pages):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "en").write_text("harbour town\n")
    source = tmp_path / "corpus"
    build(pages, source, CONFIG)
    config = dataclasses.replace(CONFIG, languages=("en",), badwords_filter_fraction=1)
    again(source, tmp_path / "again", config, badwords=tmp_path / "words")
    build(pages, tmp_path / "whole", config, badwords=tmp_path / "words")
    assert data(tmp_path / "again") == data(tmp_path / "whole")
    found = stages(tmp_path / "again")
    assert (found["language"], found["badwords"]) == ({"other_language": 6}, {"bad_words": 1})
    stricter = dataclasses.replace(CONFIG, language_threshold=1.0)
    again(source, tmp_path / "sure", stricter)
    build(pages, tmp_path / "whole-sure", stricter)
    assert data(tmp_path / "sure") == data(tmp_path / "whole-sure")
    # Of uncertain pages, words were not looked for in any language.
    config = dataclasses.replace(CONFIG, badwords_filter_fraction=1)
    uncertain = dataclasses.replace(config, language_threshold=1.0)
    build(pages, tmp_path / "uncertain", uncertain, badwords=tmp_path / "words")
    again(tmp_path / "uncertain", tmp_path / "certain", config, badwords=tmp_path / "words")
    build(pages, tmp_path / "whole-certain", config, badwords=tmp_path / "words")
    assert data(tmp_path / "certain") == data(tmp_path / "whole-certain")
    assert stages(tmp_path / "certain")["badwords"] == {"bad_words": 1}


def test_columns_and_urls_are_enough(tmp_path, modern, capsys):
    """A limit on quality is compared with what the crawl's text had, a blocklist with the URL."""
    (tmp_path / "block.txt").write_text("blocked.example\n")
    before = documents(modern)
    most = sorted(row["q_duplicate_5gram_share"] for row in before.values())[-2]
    config = modern_settings(
        f"quality.max_duplicate_ngram_shares={most},0.9,0.9,0.9,0.9,0.9",
        f"blocklist.blocklists={tmp_path}/block.txt",
    )
    again(modern, tmp_path / "again", config)
    stays = {
        url: row
        for url, row in before.items()
        if row["q_duplicate_5gram_share"] <= most and "blocked" not in url
    }
    assert documents(tmp_path / "again") == stays
    assert len(before) - len(stays) == 2
    found = stages(tmp_path / "again")
    assert found["read"] == {"blocked_url": 1}
    assert found["quality"] == {"repeated_ngrams": 1}
    said = capsys.readouterr().err
    assert "rule quality judges again (max_duplicate_ngram_shares)" in said
    assert "a build from the crawl might keep twins of the pages that it drops" in said


def test_rules_of_ones_own_judge_again_when_their_code_changes(tmp_path, pages):
    recipe = tmp_path / "calm.py"
    config = CorpusConfig(recipe=str(recipe))
    late = SHOUTING.replace(", Shouting()]", "]").replace(
        '"language")])', '"language")], [Shouting()])'
    )
    recipe.write_text(late)
    build(pages, tmp_path / "corpus", config)
    recipe.write_text(late.replace("> 0.3", "> 0.02"))
    again(tmp_path / "corpus", tmp_path / "again", config)
    before, after = documents(tmp_path / "corpus"), documents(tmp_path / "again")
    assert after == {url: row for url, row in before.items() if row["capitals"] <= 0.02}
    assert 0 < len(after) < len(before)
    # What it dropped since is gone, and what it judged before lines went is not there.
    recipe.write_text(late)
    with pytest.raises(
        UserError, match=r"rule shouting: its code may have changed: .*dropped pages"
    ):
        again(tmp_path / "again", tmp_path / "back", config)
    recipe.write_text(SHOUTING)
    with pytest.raises(UserError, match=r"rule shouting: .*changed later \(line_dedup\)"):
        again(tmp_path / "corpus", tmp_path / "early", config)


def test_the_new_corpus_grows_and_forgets_nothing(tmp_path, pages, modern, sets):
    source = Path(shutil.copytree(modern, tmp_path / "corpus"))
    new = [[crawl.record(english(n), f"http://en.example/{n}")] for n in (201, 202)]
    later = crawl.write_all(tmp_path / "later", new)
    build(later[:1], source, modern_settings(), append=True)
    (tmp_path / "ids.txt").write_text(documents(source)["http://en.example/5"]["id"])
    remove_pages(source, ids=str(tmp_path / "ids.txt"))
    again(source, tmp_path / "again", modern_settings(sets))
    assert (tmp_path / "again/removals/key").stat().st_mode & 0o077 == 0
    before = documents(tmp_path / "again")
    build(pages, tmp_path / "again", modern_settings(sets), append=True)
    assert documents(tmp_path / "again") == before
    build(later[1:], tmp_path / "again", modern_settings(sets), append=True)
    assert documents(tmp_path / "again").keys() - before.keys() == {"http://en.example/202"}
    build(later, tmp_path / "again", modern_settings(sets), append=True)
    assert len(documents(tmp_path / "again")) == len(before) + 1
    assert verify_corpus(tmp_path / "again")["problems"] == []
    (tmp_path / "ids.txt").write_text(before["http://en.example/6"]["id"])
    found = remove_pages(source, ids=str(tmp_path / "ids.txt"), search=[str(tmp_path)])
    assert found["held_by"] == [str(tmp_path / "again")]


@pytest.mark.kill
def test_killed_and_continued(tmp_path, modern, sets):
    again(modern, tmp_path / "whole" / "corpus", modern_settings(sets))
    for fault in ("corpus.after_finish", "corpus.after_shards", "corpus.after_fingerprints"):
        out = tmp_path / fault / "corpus"
        out.parent.mkdir()
        given = ((), out, modern_settings(sets))
        build_elsewhere(*given, fault, source_corpus=str(modern))
        build_elsewhere(*given, source_corpus=str(modern))
        assert data_bytes(out) == data_bytes(tmp_path / "whole" / "corpus")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            modern_settings("near_dedup.bands=7"),
            "rule near_dedup: bands is 7, and 14 in the corpus: it runs only when a crawl is "
            "read: restore the old setting, or build from the crawl with --input",
        ),
        (modern_settings("personal_data.mask_personal_data=false"), "rule personal_data: mask"),
        (modern_settings("opt_out.honour=noai"), r'rule opt_out: honour is \["noai"\], and \["tdm'),
        (
            dataclasses.replace(modern_settings(), html_main_content=False),
            "the input: html_main_content is false, and true in the corpus: ",
        ),
        (
            dataclasses.replace(modern_settings(), min_long_line_characters=200),
            r"rule paragraphs: min_long_line_characters is 200, and 100 in the corpus: the text "
            r"that it judged was changed later \(personal_data\); rule quality can judge the "
            "same from its column q_third_longest_line: ",
        ),
        (
            modern_settings("quality.min_words=10"),
            "rule quality: min_words is 10, and 20 in the co",
        ),
        (modern_settings("quality.drop=false"), "rule quality: .* 1 dropped pages, which"),
        (LENIENT, "it was built with --profile modern, and --profile mc4 has other rules, which"),
    ],
)
def test_what_documents_cannot_tell_is_refused(tmp_path, modern, config, message):
    with pytest.raises(UserError, match=message):
        again(modern, tmp_path / "again", config)
    assert not (tmp_path / "again").exists()


def test_nothing_left_and_unclear_sources_are_refused(tmp_path, modern, capsys):
    config = modern_settings("quality.min_words=99999")
    with pytest.raises(UserError, match="no document survived"):
        again(modern, tmp_path / "again", config)
    for options in (["--from", str(modern), "--append"], []):
        assert main(["corpus", "build", "--out", str(tmp_path / "no"), *options]) == 2
    assert capsys.readouterr().err.count("give --input (crawl files) or --from") == 2
