"""Samples of Debian's packages, which stand in a folder here."""

import json
from collections import Counter

import pytest
from corpus_files import read_json
from debian_packages import add_cldr, make_mirror, needs_dpkg

from mswitch.flows.cli.app import run
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import languages
from mswitch.pipelines.supervised.build import SupervisedConfig, build_supervised
from mswitch.pipelines.supervised.samples import names
from mswitch.pipelines.supervised.samples.names import (
    choose_facts,
    read_emoji,
    read_names,
    write_names,
)
from mswitch.pipelines.vocabulary.train import VocabularyConfig
from mswitch.tasks.batches.examples import open_examples

EMOJI = """# group: Smileys & Emotion
1F600 ; fully-qualified # grinning face
263A FE0F ; fully-qualified # smiling face
# group: People & Body
1F44B 1F3FB ; fully-qualified # waving hand: light skin tone
1F44B ; fully-qualified # waving hand
# group: Component
1F3FB ; component # light skin tone
"""
NAMES = """<!DOCTYPE ldml SYSTEM "x.dtd"><annotations>
<annotation cp="😀">keywords | of it</annotation>
<annotation cp="😀" type="tts">Q &amp; A</annotation>
<annotation cp="☺" type="tts">smiling</annotation>
<annotation cp="👋" type="tts">Smiling!</annotation>
<annotation cp="👋🏻" type="tts">light hand</annotation>
<annotation cp="🏻" type="tts">light</annotation>
<annotation cp="_" type="tts">underscore</annotation></annotations>"""


def test_names_are_those_of_emoji_once_in_a_language():
    folder = "usr/share/unicode/cldr/common/annotations"
    files = {f"{folder}/{locale}.xml": NAMES.encode() for locale in ("he", "pt_PT", "sr_Latn")}
    files[f"{folder}Derived/he.xml"] = NAMES.replace("Smiling!", "hand").encode()
    rows = list(read_names(files, read_emoji(EMOJI)))
    assert [row["lang"] for row in rows] == ["iw", "iw", "sr-Latn", "sr-Latn", "iw"]
    assert [(row["emoji"], row["name"]) for row in rows if row["lang"] == "iw"] == [
        ("1f600", "Q & A"),
        ("263a", "smiling"),
        ("1f44b", "hand"),
    ]


def test_facts_are_of_concepts_and_languages_that_have_most_names(monkeypatch):
    monkeypatch.setattr(names, "CONCEPTS", 2)
    monkeypatch.setattr(names, "LANGUAGES", 2)
    known = {
        "de": {"1": "eins", "2": "zwei", "9": "ohne Englisch"},
        "en": {"1": "one", "2": "two", "3": "three", "4": "four"},
        "fr": {"2": "deux", "3": "x" * 41, "4": "quatre"},
        "sw": {"1": "moja", "2": "mbili", "3": "tatu"},
        "yo": {"1": "ọ̀kan", "3": "x" * 41},
    }
    rows = [
        {"lang": lang, "emoji": emoji, "name": name}
        for lang, of_lang in known.items()
        for emoji, name in of_lang.items()
    ]
    found = choose_facts(rows)
    assert sorted((row["lang"], row["en"], row["text"]) for row in found) == [
        *(("de", "one", "eins"), ("de", "two", "zwei")),
        *(("sw", "one", "moja"), ("sw", "two", "mbili")),
    ]
    assert len({row["id"] for row in found}) == 4


@needs_dpkg
def test_names_of_things_all_train_and_some_are_evaluated(tmp_path, monkeypatch):
    add_cldr(make_mirror(tmp_path, monkeypatch), ["en", "de", "sw"], 30)
    monkeypatch.setattr(names, "VOCABULARY", VocabularyConfig(size=420))
    out = tmp_path / "names"
    assert write_names(out)["rows"] == 60
    assert "| unicode-data | unicode-data_1_all.deb |" in (out / "SOURCES.md").read_text()
    assert (out / "licences/unicode-cldr-core").read_bytes() == b"Licence: Unicode"
    assert not (out / ".downloads").exists()
    train, evaluated = (
        [json.loads(line) for line in (out / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in ("train", "validation")
    )
    assert Counter(row["lang"] for row in train) == {"de": 30, "sw": 30}
    assert Counter(row["lang"] for row in evaluated) == {"de": 20, "sw": 20}
    assert all(row in train for row in evaluated)
    config = SupervisedConfig(inputs_length=64, targets_length=64, allow_overlap=True)
    build_supervised(out / "task.toml", out / "sentencepiece.model", tmp_path / "ex", config)
    manifest = read_json(tmp_path / "ex/manifest.json")
    assert manifest["rows"]["kept"] == 100
    assert manifest["vocabulary_size"] == 420
    source = open_examples(tmp_path / "ex").sources["train"]["sw"]
    read = {
        tuple(example[f"{side}_pretokenized"][0].decode() for side in ("inputs", "targets"))
        for example in map(source.read, range(len(source)))
    }
    assert read == {(f"sw: {row['en']}", row["text"]) for row in train if row["lang"] == "sw"}
    assert write_names(out)["reused"]


def test_languages_have_the_names_that_t5_translates_by():
    """T5 takes them from Babel; these are WMT's."""
    babel = pytest.importorskip("babel")
    codes = ["cs", "de", "es", "et", "fi", "fr", "gu", "hi", "hu", "is", "ja", "kk", "km", "lt"]
    for code in [*codes, "lv", "pl", "ps", "ro", "ru", "ta", "tr", "zh"]:
        assert languages()[code].name == babel.Locale(code).english_name


@needs_dpkg
def test_a_package_that_is_not_there(tmp_path, monkeypatch):
    make_mirror(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="apt-get cannot find package unicode-cldr-core"):
        run(["sample", "supervised", "names", "--out", str(tmp_path / "out")])
