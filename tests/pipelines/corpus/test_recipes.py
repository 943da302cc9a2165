"""Recipes that users write: on the command line, in Python, in a pipeline of their own."""

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import crawl_files as crawl
import pyarrow.parquet as pq
import pytest
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to
from corpus_builds import english

from flows.cli.main import main
from pipelines.corpus.build import CorpusConfig, build_corpus
from pipelines.corpus.job import open_job
from pipelines.corpus.ledger import check_accounts
from pipelines.corpus.pipeline import (
    ClusterNearDuplicates,
    DeduplicateUrls,
    FindFiles,
    FinishPages,
    IngestCrawl,
    OwnLines,
    ReadDocuments,
)
from pipelines.corpus.recipes import (
    BadWords,
    IdentifyLanguage,
    IdentifyLanguageAndScript,
    LineDedup,
    MaskPersonalData,
    MaxLength,
    NearDedup,
    Page,
    Paragraphs,
    Recipe,
    Rule,
    UrlDedup,
)
from pipelines.corpus.stats import load_stats
from pipelines.errors import UserError

SHOUTING = """
from pipelines.corpus.recipes import IdentifyLanguage, LineDedup, Paragraphs, Recipe, Rule, UrlDedup


class Shouting(Rule):
    name = "shouting"
    columns = {"capitals": "float32"}

    def reason(self, page):
        page.columns["capitals"] = sum(map(str.isupper, page.text)) / len(page.text)
        return "shouting" if page.columns["capitals"] > 0.3 else None


language = IdentifyLanguage(language_threshold=0.7)
CALM = Recipe("calm", [Paragraphs(1, 1), language, Shouting()], [UrlDedup(), LineDedup("language")])
"""

#: What comes before a rule in a recipe with one more rule in it.
FRAME = """
from pipelines.corpus.recipes import IdentifyLanguage, Recipe, Rule

class Mine(Rule):
    name = "mine"
    columns = {{"mine": "int32"}}
    {rule}

MINE = Recipe("mine_too", [Mine(), IdentifyLanguage(language_threshold=0.7)], {options})
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    german = [
        crawl.record(crawl.prose(crawl.GERMAN, page), f"http://de.example/{page}")
        for page in range(8)
    ]
    loud = [
        crawl.record(crawl.prose(crawl.ENGLISH, page).upper(), f"http://en.example/{page}")
        for page in range(3)
    ]
    english = [
        crawl.record(crawl.prose(crawl.ENGLISH, page), f"http://en.example/{page}")
        for page in range(10, 16)
    ]
    return [
        crawl.write(tmp_path / "in" / f"{name}.warc.wet.gz", records)
        for name, records in {"a": german, "b": [*loud, *english]}.items()
    ]


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], str]:
    """Write a recipe's file."""

    def write(text: str) -> str:
        path = tmp_path / "my_recipe.py"
        path.write_text(text)
        return str(path)

    return write


def build(files: list[Path], out: Path, recipe: str, **options: object) -> list[dict]:
    config = CorpusConfig(recipe=recipe, **options)
    build_corpus([str(path) for path in files], out, config)
    rows = [row for path in out.glob("data/*/*") for row in pq.read_table(path).to_pylist()]
    check_accounts(load_stats(out)["stages"], len(rows))
    return rows


def stages(out: Path) -> dict[str, dict[str, int]]:
    return {stage["name"]: stage["dropped"] for stage in load_stats(out)["stages"]}


def test_a_rule_of_ten_lines(files, tmp_path, recipe):
    out = tmp_path / "corpus"
    rows = build(files, out, recipe(SHOUTING))
    assert stages(out) == {
        "read": {},
        "paragraphs": {},
        "language": {},
        "shouting": {"shouting": 3},
        "url_dedup": {},
        "line_dedup": {},
        "write": {},
    }
    assert len(rows) == 8 + 6
    assert all(0 < row["capitals"] < 0.3 for row in rows)
    [loud] = {json.loads(line)["lang"] for line in (out / "rejected/shouting.jsonl").open()}
    assert loud == "en"
    card = (out / "README.md").read_text()
    assert "| `capitals` | float | found by `shouting` |" in card
    assert "`paragraphs`, `language`, `shouting`, `url_dedup`, `line_dedup`, in this order" in card


def test_the_source_is_part_of_a_corpus_identity(files, tmp_path, recipe):
    inputs, out = [str(path) for path in files], tmp_path / "corpus"
    build(files[:1], out, recipe(SHOUTING))
    assert build_corpus(inputs[:1], out, CorpusConfig(recipe=recipe(SHOUTING)))["reused"]
    changed = CorpusConfig(recipe=recipe(SHOUTING.replace("0.3", "0.2")))
    with pytest.raises(UserError, match="changed: recipe"):
        build_corpus(inputs[:1], out, changed)
    with pytest.raises(UserError, match="changed: recipe"):
        build_corpus(inputs[1:], out, changed, append=True)
    grown = build_corpus(inputs[1:], out, CorpusConfig(recipe=recipe(SHOUTING)), append=True)
    assert grown["documents"] == 8 + 6


def test_options_set_fields_of_its_rules(files, tmp_path, recipe, capsys):
    with pytest.raises(UserError, match="short_lines 17"):
        build(files, tmp_path / "long", recipe(SHOUTING), min_long_line_characters=10_000)
    said = "[corpus] --min-long-line-characters 10000 replaces the recipe's 1 (paragraphs)\n"
    assert capsys.readouterr().err.startswith(said)
    with pytest.raises(UserError, match=r"^max_page_characters: recipe calm has no rule for it"):
        build(files, tmp_path / "corpus", recipe(SHOUTING), max_page_characters=5)
    with pytest.raises(UserError, match=r"^profile chooses a built-in recipe"):
        CorpusConfig(recipe="my_recipe.py", profile="modern")


def test_modules_too(files, tmp_path, monkeypatch):
    package = tmp_path / "mypackage_of_rules"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "recipes.py").write_text(SHOUTING)
    monkeypatch.syspath_prepend(tmp_path)
    config = CorpusConfig(recipe="mypackage_of_rules.recipes:CALM")
    assert config.load(config.source()).stages[3] == "shouting"
    with pytest.raises(UserError, match="cannot import no_such_package"):
        CorpusConfig(recipe="no_such_package.recipes:CALM").source()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has 0 recipes"),
        ("import no_such_module", "line 1: ModuleNotFoundError"),
        ("\ndef f(:", "line 2: SyntaxError"),
        (SHOUTING + "\nother = CALM.change({})", "has 2 recipes"),
        (SHOUTING.replace('"calm"', '"mc4"'), "is called like a profile"),
        (SHOUTING.replace("language, Shouting()", "Shouting()"), "needs one rule that identifies"),
        (SHOUTING.replace('"shouting"\n', '"language"\n'), "two steps are called language"),
        (SHOUTING.replace('"capitals": ', '"url": '), "adds column url, which there is already"),
        (SHOUTING.replace('"float32"', '"floaty"'), "shouting gives its column capitals the type"),
        (SHOUTING.replace('"float32"', "[]"), r"the type \[\], which Arrow does not know"),
        (SHOUTING.replace("UrlDedup(), Line", "Line"), "dedup begins with UrlDedup"),
        (SHOUTING.replace("Shouting()]", "Shouting]"), "cannot be part of ingest"),
    ],
)
def test_recipes_that_are_refused(text, message, recipe):
    config = CorpusConfig(recipe=recipe(text))
    with pytest.raises(UserError, match=message):
        config.load(config.source())


def test_order_of_steps_is_checked():
    language, mask = IdentifyLanguage(), MaskPersonalData()
    for lists, message in {
        (((mask, language),), "edits at the end"),
        (((language,), (UrlDedup(), LineDedup(), NearDedup())), "ends with LineDedup"),
        ((((MaxLength(),)), (UrlDedup(), LineDedup("language")), (language,)), "by language"),
        (((language,), (Paragraphs(), UrlDedup())), "before all deduplication"),
    }:
        with pytest.raises(UserError, match=message):
            Recipe("mine", *lists)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("def reason(self, page): raise ValueError('no')", "raised ValueError: no, at a.warc.wet"),
        ("def reason(self, page): return 'Too Loud'", "'Too Loud' is not a name"),
        ("def reason(self, page): return True", "reason True is not a name"),
        ("def reasons(self, pages): return []", "0 reasons for 1 pages"),
        ("def reason(self, page): return None", "did not set its column mine"),
        ("def reason(self, page): page.columns['mine'] = 'x'", "another type"),
        (
            "def reason(self, page): page.columns |= {'mine': 1, '_own': 2, 'more': 3}",
            r"^mine of recipe mine_too sets page\.columns\['more'\], which its columns do not",
        ),
    ],
)
def test_a_rule_that_fails_ends_the_build(rule, error, files, tmp_path, recipe):
    with pytest.raises(UserError, match=error):
        build(files[:1], tmp_path / "corpus", recipe(FRAME.format(rule=rule, options="")))


def test_a_rule_that_fails_may_drop_the_page(files, tmp_path, recipe):
    rule = "def reason(self, page): page.columns['mine'] = 1 // (not page.url.endswith('3'))"
    out = tmp_path / "corpus"
    text = FRAME.format(rule=rule, options="on_error='drop'")
    assert len(build(files[:1], out, recipe(text))) == 7
    assert stages(out)["mine"] == {"rule_error": 1}
    said = "rule mine of recipe mine_too raised ZeroDivisionError"
    [sample] = map(json.loads, (out / "rejected/rule_error.jsonl").open())
    assert sample["detail"].startswith(said)
    # As a rule between deduplications, and for all pages.
    text = text.replace("[Mine(), ", "[").replace("on_error", "[UrlDedup(), Mine()], on_error")
    text = text.replace("IdentifyLanguage, R", "IdentifyLanguage, UrlDedup, R")
    assert len(build(files[:1], tmp_path / "marked", recipe(text))) == 7
    [sample] = map(json.loads, (tmp_path / "marked/rejected/rule_error.jsonl").open())
    assert sample["detail"].startswith(said)
    strings = text.replace('"int32"', '"string"').replace("= 1 //", "= 'x' * (1 //")
    assert len(build(files[:1], tmp_path / "strings", recipe(strings.replace("'))", "')))")))) == 7
    text = text.replace("1 // (not page.url.endswith('3'))", "1 // 0")
    with pytest.raises(UserError, match=rf"\(rule_error 8\): a\.warc\.wet\.gz@\d+: {said}"):
        build(files[:1], tmp_path / "none", recipe(text))


def test_rules_may_stand_between_deduplications(files, tmp_path, recipe):
    text = SHOUTING.replace(", Shouting()]", "]").replace(
        "[UrlDedup(),", "[UrlDedup(), Shouting(),"
    )
    first, second = tmp_path / "first", tmp_path / "second"
    before, after = build(files, first, recipe(SHOUTING)), build(files, second, recipe(text))
    assert list(stages(second))[3:6] == ["url_dedup", "shouting", "line_dedup"]
    assert stages(second)["shouting"] == {"shouting": 3}
    assert after == before


def test_a_model_given_as_a_path_travels_to_workers(files, tmp_path, recipe):
    """A rule that loads it once and asks it about many pages at a time."""
    model = tmp_path / "model.json"
    model.write_text(json.dumps({"der": 1.0, "die": 1.0, "the": -1.0}))
    text = f"""
import dataclasses, functools, json
from pipelines import storage
from pipelines.corpus.recipes import IdentifyLanguage, Recipe, Rule

@dataclasses.dataclass(frozen=True)
class Scored(Rule):
    name = "scored"
    columns = {{"score": "float32"}}
    files = ("model",)
    model: str = {str(model)!r}

    @functools.cached_property
    def weights(self):
        assert self.model != {str(model)!r}  # workers have a copy of their own
        return json.loads(storage.read_bytes(self.model))

    def reasons(self, pages):
        for page in pages:
            words = page.text.lower().split()
            page.columns["score"] = sum(self.weights.get(word, 0.0) for word in words)
        return [None if page.columns["score"] > 0 else "low_score" for page in pages]

SCORED = Recipe("scored_by", [Scored(), IdentifyLanguage(language_threshold=0.7)])
"""
    out = tmp_path / "corpus"
    rows = build(files, out, recipe(text))
    assert rows
    assert {row["lang"] for row in rows} == {"de"}
    assert all(row["score"] > 0 for row in rows)
    # The model is known by its content.
    model.write_text(json.dumps({"der": 2.0}))
    with pytest.raises(UserError, match="changed: steps"):
        build(files, out, recipe(text))
    model.unlink()
    with pytest.raises(UserError, match=r"cannot read the file of rule scored .*model\.json"):
        build(files, out, recipe(text))


def test_transforms_work_in_a_pipeline_of_ones_own(files, tmp_path, recipe):
    source = CorpusConfig(recipe=recipe(SHOUTING)).source()
    assert source
    expected = [
        (row["url"], row["capitals"]) for row in build(files, tmp_path / "c", recipe(SHOUTING))
    ]
    job = open_job(str(tmp_path / "work"), Recipe(
        "mine",
        [Paragraphs(1, 1), IdentifyLanguage(language_threshold=0.7), Capitals()],
        [UrlDedup(), LineDedup("language")],
        [BadWords()],
    ))  # fmt: skip
    with test_pipeline.TestPipeline() as pipeline:
        documents = (
            pipeline
            | FindFiles([str(path) for path in files])
            | IngestCrawl(job)
            | DeduplicateUrls(job)
            | OwnLines(job)
            | FinishPages(job)
            | ReadDocuments(job)
        )
        found = documents | "Key" >> _map(lambda row: (row["url"], row["capitals"]))
        assert_that(found, equal_to(expected))


class Capitals(Rule):
    name = "shouting"
    columns = {"capitals": "float32"}  # noqa: RUF012

    def reason(self, page: Page) -> str | None:
        page.columns["capitals"] = sum(map(str.isupper, page.text)) / len(page.text)
        return "shouting" if page.columns["capitals"] > 0.3 else None


def _map(function: Callable) -> object:
    import apache_beam as beam

    return beam.Map(function)


def test_near_duplicates_in_a_pipeline_of_ones_own(tmp_path):
    text = english(1, 40)
    pages = [(f"{text} Again.", "http://a.example/"), (text, "http://b.example/"),
             (english(2, 40), "http://c.example/")]  # fmt: skip
    for number, page in enumerate(pages):
        crawl.write(tmp_path / "in" / f"{number}.warc.wet.gz", [crawl.record(*page)])
    job = open_job(
        str(tmp_path / "work"),
        Recipe("modern", [IdentifyLanguageAndScript()], [UrlDedup(), NearDedup()]),
    )
    with test_pipeline.TestPipeline() as pipeline:
        documents = (
            pipeline
            | FindFiles([str(tmp_path / "in" / "*")])
            | IngestCrawl(job)
            | DeduplicateUrls(job)
            | ClusterNearDuplicates(job)
            | FinishPages(job)
            | ReadDocuments(job)
        )
        sizes = documents | "Key" >> _map(lambda row: (row["url"], row["cluster_size"]))
        assert_that(sizes, equal_to([("http://a.example/", 2), ("http://c.example/", 1)]))


def test_a_rule_that_cannot_be_pickled_is_named(tmp_path):
    rule = Capitals()
    rule.opened = (tmp_path / "file").open("w")
    with pytest.raises(UserError, match="recipe mine: shouting cannot be pickled"):
        open_job(str(tmp_path / "work"), Recipe("mine", [rule, IdentifyLanguage()]))
    with pytest.raises(UserError, match="recipe mine has no LineDedup"):
        OwnLines(open_job(str(tmp_path / "work"), Recipe("mine", [IdentifyLanguage()])))


def test_inspect_says_what_each_rule_says(files, recipe, capsys, monkeypatch):
    path = recipe(SHOUTING)
    command = ["corpus", "inspect", "http://en.example/1", "--input", str(files[1])]
    assert main([*command, "--recipe", path]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\nshouting    drop: shouting\n              capitals 0\.[4-9]", said)
    assert said.endswith("dropped by shouting: shouting\n")
    assert main([*command, "--recipe", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dropped_by"] == {"step": "shouting", "reason": "shouting"}
    assert [step["step"] for step in found["steps"]] == [
        *("paragraphs", "language", "shouting", "url_dedup", "line_dedup"),
    ]
    language = found["steps"][1]
    assert language["values"]["lang"] == "en"
    assert language["limits"]["lang_score"] == [0.7, None]
    # By its place, by a profile, and as text.
    place = f"{files[1].parent}/{found['source']}"
    assert main(["corpus", "inspect", place, "--profile", "modern", "--json"]) == 0
    steps = {step["step"]: step for step in json.loads(capsys.readouterr().out)["steps"]}
    assert steps["paragraphs"]["reason"] == "short_lines"
    assert steps["quality"]["limits"]["q_words"] == [50, 100_000]

    class Stdin:
        buffer = files[0].open("rb")

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert main(["corpus", "inspect", "-"]) == 0
    assert "paragraphs  drop: short_lines" in capsys.readouterr().out
    assert main([*command[:2], "http://no.example/", "--input", str(files[1])]) == 2
    assert "no page http://no.example/ in" in capsys.readouterr().err


def test_inspect_names_a_rule_that_raises(files, recipe, capsys):
    command = ["corpus", "inspect", f"{files[0]}@0", "--recipe"]
    rule = "def reason(self, page): raise ValueError('no')"
    assert main([*command, recipe(FRAME.format(rule=rule, options=""))]) == 2
    assert re.fullmatch(
        r"mswitch: rule mine of recipe mine_too raised ValueError: no, at .*: fix the rule, or "
        r"give the recipe on_error='drop'\n",
        capsys.readouterr().err,
    )
    assert main([*command, recipe(FRAME.format(rule=rule, options="on_error='drop'"))]) == 0
    assert "dropped by mine: rule_error" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ("url_reason", "def url_reason(self, url): raise KeyError('no')"),
        ("response_reason", "def response_reason(self, headers, html): raise KeyError('no')"),
        ("describe", "def describe(self, page): raise KeyError('no')"),
    ],
)
def test_other_methods_that_raise_are_named_too(tmp_path, recipe, capsys, method, rule):
    path = crawl.write(tmp_path / "a.warc.gz", [crawl.response("<p>A", "http://html.example/1")])
    mine = recipe(FRAME.format(rule=f"reason = lambda self, page: None\n    {rule}", options=""))
    commands = [["inspect", f"{path}@0"]]
    if method != "describe":
        commands.append(["build", "--input", str(path), "--out", str(tmp_path / "out")])
    for command in commands:
        assert main(["corpus", *command, "--recipe", mine]) == 2
        err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mswitch")]
        assert len(err) == 1
        assert f"rule mine of recipe mine_too raised KeyError: 'no' in {method}, at " in err[0]
        assert err[0].endswith(": fix the rule")


def test_a_rule_that_fails_is_one_line(files, tmp_path, recipe, capfd):
    rule = recipe(FRAME.format(rule="def reason(self, page): raise ValueError('no')", options=""))
    command = ["corpus", "build", "--out", str(tmp_path / "out"), "--recipe", rule, "--input"]
    assert main([*command, *map(str, files)]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("[")]
    assert line.endswith("fix the rule, or give the recipe on_error='drop'")


def test_inspect_says_what_is_not_judged(capsys, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"xq zv wk\n" * 3)

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert main(["corpus", "inspect", "-", "--profile", "modern"]) == 0
    said = capsys.readouterr().out
    assert "q_stop_words not applicable\n" in said
    assert "keep as und\n" in said
    assert main(["corpus", "inspect", "-"]) == 2
    assert "standard input has no text" in capsys.readouterr().err
    assert main(["corpus", "inspect", "page.txt"]) == 2
    assert "`mswitch corpus inspect - < page.txt`" in capsys.readouterr().err


def test_inspect_asks_what_judges_records(tmp_path, capsys):
    page = crawl.response("<meta name=robots content=noai><p>Short.</p>", "http://html.example/1")
    path = crawl.write(tmp_path / "a.warc.gz", [page])
    assert main(["corpus", "inspect", f"{path}@0", "--profile", "modern", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    before = [(step["step"], step["reason"], step["of"]) for step in found["steps"][:3]]
    assert before == [
        ("blocklist", None, "url_reason"),
        ("opt_out", "opt_out_noai", "response_reason"),
        ("length", None, "text"),
    ]
    assert found["dropped_by"] == {"step": "opt_out", "reason": "opt_out_noai"}
