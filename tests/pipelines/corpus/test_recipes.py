"""Recipes that users write: what they may say, and what a corpus of theirs is."""

import json
from typing import Any

import pytest
from corpus_builds import SHOUTING, build, build_with, stages

from mswitch.pipelines.corpus.build import CorpusConfig
from mswitch.pipelines.corpus.recipes import (
    IdentifyLanguage,
    LineDedup,
    MaskPersonalData,
    MaxLength,
    NearDedup,
    Paragraphs,
    Recipe,
    UrlDedup,
)
from mswitch.pipelines.errors import UserError


def test_a_rule_of_ten_lines(files, tmp_path, recipe):
    out = tmp_path / "corpus"
    rows = build_with(files, out, recipe(SHOUTING))
    names = ("read", "paragraphs", "language", "shouting", "url_dedup", "line_dedup", "write")
    assert stages(out) == {name: {} for name in names} | {"shouting": {"shouting": 3}}
    assert list(stages(out)) == list(names)
    assert len(rows) == 8 + 6
    assert all(0 < row["capitals"] < 0.3 for row in rows)
    [loud] = {json.loads(line)["lang"] for line in (out / "rejected/shouting.jsonl").open()}
    assert loud == "en"
    card = (out / "README.md").read_text()
    assert "| `capitals` | float | found by `shouting` |" in card
    assert "`paragraphs`, `language`, `shouting`, `url_dedup`, `line_dedup`, in this order" in card


def test_the_source_is_part_of_a_corpus_identity(files, tmp_path, recipe):
    out = tmp_path / "corpus"
    build_with(files[:1], out, recipe(SHOUTING))
    assert build(files[:1], out, CorpusConfig(recipe=recipe(SHOUTING)))["reused"]
    changed = CorpusConfig(recipe=recipe(SHOUTING.replace("0.3", "0.2")))
    for inputs, append in ((files[:1], False), (files[1:], True)):
        with pytest.raises(UserError, match="changed: recipe"):
            build(inputs, out, changed, append=append)
    grown = build(files[1:], out, CorpusConfig(recipe=recipe(SHOUTING)), append=True)
    assert grown["documents"] == 8 + 6


def test_options_set_fields_of_its_rules(files, tmp_path, recipe, capsys):
    with pytest.raises(UserError, match="short_lines 17"):
        build_with(files, tmp_path / "long", recipe(SHOUTING), min_long_line_characters=10_000)
    said = "[corpus] --min-long-line-characters 10000 replaces the recipe's 1 (paragraphs)\n"
    assert capsys.readouterr().err.startswith(said)
    with pytest.raises(UserError, match=r"^--max-page-characters: recipe calm has no rule for it"):
        build_with(files, tmp_path / "corpus", recipe(SHOUTING), max_page_characters=5)
    with pytest.raises(UserError, match=r"^--profile chooses a built-in recipe"):
        CorpusConfig(recipe="my_recipe.py", profile="modern")


@pytest.mark.parametrize("field", ["lambda text: len(text)", "re.compile('a').search"])
def test_a_rule_may_hold_functions_and_what_can_be_written_down(field, files, tmp_path, recipe):
    text = "import re\n" + SHOUTING
    text = text.replace(
        "    def reason", f"    def __init__(self):\n        self.size = {field}\n\n    def reason"
    )
    text = text.replace("/ len(page.text)", "/ self.size(page.text)")
    if field.startswith("lambda"):
        assert len(build_with(files[:1], tmp_path / "corpus", recipe(text))) == 8
    else:
        with pytest.raises(UserError, match=r"^rule shouting has a builtin_method in size"):
            build_with(files[:1], tmp_path / "corpus", recipe(text))


def test_recipes_of_a_running_program_are_refused_in_one_line(files, tmp_path):
    mine: Any = Recipe("mine", [IdentifyLanguage()])
    for config in (lambda: mine, lambda: CorpusConfig(recipe=mine)):
        with pytest.raises(UserError, match=r"a Recipe.*: give CorpusConfig\(recipe=FILE\)"):
            build(files[:1], tmp_path / "corpus", config())


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
        ("import no_such_module", "line 1: ModuleNotFoundError.*: workers get only this file"),
        ("from . import neighbour", "line 1: ImportError.*: workers get only this file"),
        ("\ndef f(:", "line 2: SyntaxError"),
        (SHOUTING + "\nother = CALM.change({})", "has 2 recipes"),
        (SHOUTING.replace('"calm"', '"mc4"'), "has the name of a profile"),
        (
            SHOUTING.replace("language, Shouting()", "Shouting()"),
            "needs exactly one rule for languages",
        ),
        (SHOUTING.replace('"shouting"\n', '"language"\n'), "two steps have the name language"),
        (SHOUTING.replace('"capitals": ', '"url": '), "adds column url, which already exists"),
        (SHOUTING.replace('"float32"', '"floaty"'), "shouting gives its column capitals the type"),
        (SHOUTING.replace('"float32"', "[]"), r"the type \[\], which Arrow does not know"),
        (SHOUTING.replace("UrlDedup(), Line", "Line"), "dedup must begin with UrlDedup"),
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
        (((language,), (UrlDedup(), LineDedup(), NearDedup())), "have LineDedup last"),
        ((((MaxLength(),)), (UrlDedup(), LineDedup("language")), (language,)), "needs languages"),
        (((language,), (Paragraphs(), UrlDedup())), "before all deduplication"),
    }:
        with pytest.raises(UserError, match=message):
            Recipe("mine", *lists)


@pytest.mark.parametrize("dedup", ["LineDedup", "NearDedup"])
def test_rules_may_stand_between_deduplications(files, tmp_path, recipe, dedup):
    first = SHOUTING.replace('LineDedup("language")', f"{dedup}()").replace(
        "LineDedup,", f"{dedup},"
    )
    text = first.replace(", Shouting()]", "]").replace("[UrlDedup(),", "[UrlDedup(), Shouting(),")
    rows = build_with(files, tmp_path / "second", recipe(text))
    assert rows == build_with(files, tmp_path / "first", recipe(first))
    found = stages(tmp_path / "second")
    assert list(found)[3:5] == ["url_dedup", "shouting"]
    assert found["shouting"] == {"shouting": 3}


def test_a_model_given_as_a_path_travels_to_workers(files, tmp_path, recipe):
    """A rule that loads it once and asks it about many pages at a time."""
    model = tmp_path / "model.json"
    model.write_text(json.dumps({"der": 1.0, "die": 1.0, "the": -1.0}))
    text = f"""
import dataclasses, functools, json
from mswitch.pipelines import storage
from mswitch.pipelines.corpus.recipes import IdentifyLanguage, Recipe, Rule

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
    rows = build_with(files, out, recipe(text))
    assert rows
    assert {row["lang"] for row in rows} == {"de"}
    assert all(row["score"] > 0 for row in rows)
    # The model is known by its content.
    model.write_text(json.dumps({"der": 2.0}))
    with pytest.raises(UserError, match="changed: steps"):
        build_with(files, out, recipe(text))
    model.unlink()
    with pytest.raises(UserError, match=r"cannot read the file of rule scored .*model\.json"):
        build_with(files, out, recipe(text))
